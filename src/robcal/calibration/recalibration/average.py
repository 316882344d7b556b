"""The average of several recalibrations: their probabilities, weighed by what cross-fitting says of them together.

Stacking of predictive distributions (Yao, Vehtari, Simpson and Gelman 2018, equation 4): with p_k(y_i) what method k,
fitted without row i, gives to the true class,

    maximise  Σ_i log Σ_k w_k p_k(y_i)   over   w_k >= 0,  Σ_k w_k = 1,

which is concave in w. One of K methods that is picked by its cross-fitted NLL is worse than the best of them by as much
as chance makes it look better; an average has no such winner, and is often better than each of its members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray
from robcal.base.encoding import plain, typed
from robcal.calibration.recalibration.maps import Affine, Isotonic, Map, Temperature, apply
from robcal.calibration.recalibration.score_temperature import ScoreTemperature

#: Members with a smaller weight are left out: they change no probability by more than this.
LEAST_WEIGHT = 0.01

#: The search for the weights ends when no weight moves by more than this, or after so many steps; methods that are
#: nearly the same need a small number on the diagonal of the curvature, and its entries are finite because no method
#: counts as worse at a row than the best by more than this many nats.
_SETTLED, _MOST_STEPS, _RIDGE, _LEAST_LOG = 1e-7, 100, 1e-9, -230.0

_MAPS: dict[str, Any] = {kind.kind: kind for kind in (Temperature, ScoreTemperature, Affine, Isotonic)}


@dataclass(frozen=True)
class Average:
    """Average the probabilities of several methods; returns log-probabilities."""

    methods: tuple[str, ...]  # names of the members
    members: tuple[tuple[Map, ...], ...]  # for each, its maps in order
    weights: FloatArray  # (K,) positive, they sum to 1
    kind: ClassVar[str] = "average"

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return log Σ_k w_k p_k."""
        return pooled([apply(maps, logits, scores) for maps in self.members], self.weights)

    @property
    def keeps_prediction(self) -> bool:
        """Tell whether no prediction can change: so where each member keeps the largest probability where it is."""
        return all(one.keeps_prediction for one in single((self,)))

    def told(self) -> str:
        """Return a sentence on the members and their weights."""
        parts = sorted(zip(self.weights, self.methods, strict=True), reverse=True)
        return "The average is of " + ", ".join(f"{weight:.2f} {name}" for weight, name in parts) + "."


def stored(one: Map) -> dict[str, Any]:
    """Return a map as plain numbers and lists."""
    if not isinstance(one, Average):
        return {"kind": one.kind, **plain(one)}
    members = [
        {"method": name, "maps": [stored(two) for two in maps]}
        for name, maps in zip(one.methods, one.members, strict=True)
    ]
    return {"kind": one.kind, "members": members, "weights": plain(one.weights)}


def read_map(found: Mapping[str, Any]) -> Map:
    """Return the map that `stored` described; a KeyError or TypeError says that this is none."""
    if found["kind"] == Average.kind:
        names = tuple(str(one["method"]) for one in found["members"])
        members = tuple(tuple(read_map(two) for two in one["maps"]) for one in found["members"])
        return Average(names, members, np.array(found["weights"], float))
    made: Map = typed(_MAPS[found["kind"]], {name: value for name, value in found.items() if name != "kind"})
    return made


def single(maps: Iterable[Map]) -> Iterator[Map]:
    """Yield the maps, and in place of an average those of its members."""
    for one in maps:
        if isinstance(one, Average):
            for member in one.members:
                yield from single(member)
        else:
            yield one


def pooled(log_probs: Sequence[FloatArray], weights: FloatArray) -> FloatArray:
    """Return log Σ_k w_k p_k of K arrays of log-probabilities, all of one shape; w (K,), or (K, …) one a row."""
    logs = np.log(np.maximum(weights, np.finfo(float).tiny))
    total: FloatArray = log_probs[0] + logs[0]
    for one, log in zip(log_probs[1:], logs[1:], strict=True):
        np.logaddexp(total, one + log, out=total)
    return total


def stacked_weights(losses: FloatArray) -> FloatArray:
    """Return (K,) weights that maximise the average's likelihood, or 0, from cross-fitted losses (K, N)."""
    probs = np.exp(np.maximum(losses.min(axis=0) - losses, _LEAST_LOG))  # of each row by the best method for it: 1
    weights = np.full(len(losses), 1 / len(losses))
    free = weights > 0
    for _ in range(_MOST_STEPS):
        step, slope = _newton_step(weights, probs, free)
        if np.abs(step).max() > _SETTLED:
            weights = _moved(weights, step, slope, probs)
            free = weights > 0
        elif slope.min() < -_SETTLED:
            free[slope.argmin()] = True
        else:
            break
    weights = np.where(weights < LEAST_WEIGHT, 0.0, weights)
    weights /= weights.sum()
    return weights


def weights_without_each(losses: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (K, N) weights that each row has no say in: those of all rows after a Newton step without its likelihood.

    With r_i the ratios p_k(y_i) / Σ_l w_l p_l(y_i), S = Σ_i r_i r_iᵀ and h_i = r_iᵀ S⁻¹ r_i, the step for the objective
    of `stacked_weights` leads to (1 + 1/N) w - (1 - 1/N) / (1 - h_i) S⁻¹ r_i (Sherman and Morrison 1950).
    """
    size = losses.shape[1]
    ratios = np.exp(-losses - pooled(list(-losses), weights))
    moved = np.linalg.solve(ratios @ ratios.T + size * _RIDGE * np.eye(len(weights)), ratios)
    rest = np.maximum(1 - (ratios * moved).sum(axis=0), 1 / size)
    without: FloatArray = np.maximum((1 + 1 / size) * weights[:, np.newaxis] - (1 - 1 / size) / rest * moved, 0.0)
    without /= without.sum(axis=0)
    return without


def _newton_step(weights: FloatArray, probs: FloatArray, free: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Return Newton's step of the weights that are free, and the slope, of Σ w_k - mean log Σ_k w_k p_k.

    Where that is lowest over w >= 0, Σ w_k is 1 without being told (Kim, Carbonetto, Stephens and Anitescu 2020).
    """
    ratios = probs / (weights @ probs)
    slope = 1 - ratios.mean(axis=1)
    part = ratios[free]
    step = np.zeros(len(weights))
    step[free] = -np.linalg.solve(part @ part.T / probs.shape[1] + _RIDGE * np.eye(len(part)), slope[free])
    return step, slope


def _moved(weights: FloatArray, step: FloatArray, slope: FloatArray, probs: FloatArray) -> FloatArray:
    """Return weights >= 0 after as much of the step as lowers the objective; what it takes to 0 is 0."""
    falling = step < 0
    size = min(1.0, float((weights[falling] / -step[falling]).min(initial=np.inf)))
    before = _objective(weights, probs)
    while size > _SETTLED and _objective(weights + size * step, probs) > before + 1e-4 * size * float(slope @ step):
        size /= 2
    moved = weights + size * step
    moved[moved < _SETTLED] = 0.0
    return moved


def _objective(weights: FloatArray, probs: FloatArray) -> float:
    return float(weights.sum() - np.log(weights @ probs).mean())
