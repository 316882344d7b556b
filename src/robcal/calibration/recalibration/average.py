"""The average of several recalibrations: their probabilities, weighed by what cross-fitting says of them together.

Stacking of predictive distributions (Yao, Vehtari, Simpson and Gelman 2018, equation 4): with p_k(y_i) what method k,
fitted without row i, gives to the true class,

    maximise  Σ_i log Σ_k w_k p_k(y_i)   over   w_k >= 0,  Σ_k w_k = 1,

which is concave in w. One of K methods that is picked by its cross-fitted NLL is worse than the best of them by as much
as chance makes it look better; an average has no such winner, and is often better than each of its members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, minimize

from robcal.base.checks import FloatArray
from robcal.calibration.recalibration.maps import Affine, Isotonic, Map, Temperature, apply
from robcal.calibration.recalibration.score_temperature import ScoreTemperature

#: Members with a smaller weight are left out: they change no probability by more than this.
LEAST_WEIGHT = 0.01

_MAPS: dict[str, Any] = {kind.kind: kind for kind in (Temperature, ScoreTemperature, Affine, Isotonic)}


@dataclass(frozen=True)
class Average:
    """Average the probabilities of several methods; returns log-probabilities.

    Attributes:
        methods: names of the members.
        members: for each, its maps in order.
        weights: (K,) positive, they sum to 1.
    """

    methods: tuple[str, ...]
    members: tuple[tuple[Map, ...], ...]
    weights: FloatArray
    kind: ClassVar[str] = "average"
    keeps_prediction: ClassVar[bool] = False

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return log Σ_k w_k p_k."""
        return pooled([apply(maps, logits, scores) for maps in self.members], self.weights)

    def told(self) -> str:
        """Return a sentence on the members and their weights."""
        parts = sorted(zip(self.weights, self.methods, strict=True), reverse=True)
        return "The average is of " + ", ".join(f"{weight:.2f} {name}" for weight, name in parts) + "."

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, as plain numbers and lists."""
        members = [{"method": name, "maps": [stored(one) for one in maps]}
                   for name, maps in zip(self.methods, self.members, strict=True)]  # fmt: skip
        return {"members": members, "weights": self.weights.tolist()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Average:
        """Return the map that `to_dict` described."""
        names = tuple(str(one["method"]) for one in stored["members"])
        members = tuple(tuple(read_map(two) for two in one["maps"]) for one in stored["members"])
        return cls(names, members, np.array(stored["weights"], float))


def stored(one: Map) -> dict[str, Any]:
    """Return a map as plain numbers and lists."""
    return {"kind": one.kind, **one.to_dict()}


def read_map(stored: dict[str, Any]) -> Map:
    """Return the map that `stored` described.

    Raises:
        KeyError: if there is no map of that kind, or something is missing.
    """
    kind = Average if stored["kind"] == Average.kind else _MAPS[stored["kind"]]
    found: Map = kind.from_dict(stored)
    return found


def single(maps: Iterable[Map]) -> Iterator[Map]:
    """Yield the maps, and in place of an average those of its members."""
    for one in maps:
        if isinstance(one, Average):
            for member in one.members:
                yield from single(member)
        else:
            yield one


def pooled(log_probs: list[FloatArray], weights: FloatArray) -> FloatArray:
    """Return log Σ_k w_k p_k of K arrays of log-probabilities, all of one shape."""
    total: FloatArray = log_probs[0] + np.log(weights[0])
    for logs, weight in zip(log_probs[1:], weights[1:], strict=True):
        np.logaddexp(total, logs + np.log(weight), out=total)
    return total


def stacked_weights(losses: FloatArray) -> FloatArray:
    """Return the weights (K,) that maximise the likelihood of the average; those below `LEAST_WEIGHT` are 0.

    Args:
        losses: (K, N) cross-fitted NLL of each row by each method.
    """
    number = len(losses)
    probs = np.exp(losses.min(axis=0) - losses)  # of each row by the best method for it: 1

    def objective(weights: FloatArray) -> tuple[float, FloatArray]:
        mixed = np.maximum(weights @ probs, np.finfo(float).tiny)
        return float(-np.log(mixed).mean()), -(probs / mixed).mean(axis=1)

    found = minimize(
        objective,
        np.full(number, 1 / number),
        jac=True,
        method="SLSQP",
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(np.ones((1, number)), 1.0, 1.0),
        options={"maxiter": 200, "ftol": 1e-10},
    )
    weights: FloatArray = np.where(found.x < LEAST_WEIGHT, 0.0, found.x)
    weights /= weights.sum()
    return weights
