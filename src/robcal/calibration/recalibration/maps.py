"""The maps that a recalibration is made of: each takes logits (N, Z) and scores (N,) and returns logits (N, Z).

All are invariant to a constant that is added to the logits of a row, as softmax is. Their fields are numbers and
arrays, so that a file of them is JSON and reading one runs nothing (`average.stored`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray
from robcal.base.special import log_softmax

#: What stands for a logit of -inf (a masked class): its probability is exactly 0 at any temperature in use.
MASKED = -1e15

#: A log-probability below this is a probability of 0 in float64: the class is masked, whatever number says so.
IMPOSSIBLE = -745.0

_BLOCK = 1 << 17  # entries of logits handled at a time


class Map(Protocol):
    """What every map offers."""

    kind: ClassVar[str]

    @property
    def keeps_prediction(self) -> bool:
        """Tell whether the map can never change a prediction."""

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return the new logits."""


def shifted(logits: FloatArray) -> FloatArray:
    """Return logits whose rows have maximum 0, masked classes at `MASKED`.

    >>> shifted(np.array([[1.0, 3.0, -np.inf]])).tolist()
    [[-2.0, 0.0, -1000000000000000.0]]
    """
    moved: FloatArray = np.maximum(logits - logits.max(axis=1, keepdims=True), MASKED)
    return moved


def logits_of(probs: FloatArray) -> FloatArray:
    """Return the logarithms of probabilities, moved so that each row has maximum 0; -inf where a probability is 0.

    >>> logits_of(np.array([[0.5, 0.0, 0.5]])).tolist()
    [[0.0, -inf, 0.0]]
    """
    with np.errstate(divide="ignore"):
        logs: FloatArray = np.log(probs)
    logs -= logs.max(axis=1, keepdims=True)
    return logs


def margins(logits: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Return the largest logit minus the second largest, (N,) float64; +inf where all others are masked."""
    margin = np.empty(len(logits))
    step = max(1, _BLOCK // logits.shape[1])
    for begin in range(0, len(logits), step):
        two = np.partition(logits[begin : begin + step], -2, axis=1)[:, -2:].astype(np.float64)
        margin[begin : begin + step] = two[:, 1] - two[:, 0]
    return margin


def masks(logits: FloatArray, temperature: float) -> npt.NDArray[np.bool_]:
    """Tell which classes have probability 0 at max(T, 1), (N, Z), as -1e9 and -inf do; rows have maximum 0."""
    return logits < IMPOSSIBLE * max(temperature, 1.0)


@dataclass(frozen=True)
class Temperature:
    """Divide the logits by T > 0."""

    temperature: float
    kind: ClassVar[str] = "temperature"
    keeps_prediction: ClassVar[bool] = True

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return logits / T."""
        return logits / self.temperature


@dataclass(frozen=True)
class Affine:
    """Map log-probabilities x = log((1 - m) softmax(z / T) + m / Z) to W x + b."""

    temperature: float  # T > 0, before the affine map
    weight: FloatArray  # (Z,) of a diagonal W, or (Z, Z)
    bias: FloatArray  # (Z,) b
    mixture: float  # m in [0, 1), the share of the uniform distribution
    least: float | None  # x is at least this
    kind: ClassVar[str] = "affine"
    keeps_prediction: ClassVar[bool] = False

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return W x + b."""
        x = log_softmax(logits / self.temperature)
        if self.mixture:
            x = np.log((1 - self.mixture) * np.exp(x) + self.mixture / x.shape[1])
        if self.least is not None:
            x = np.maximum(x, self.least)
        return (x * self.weight if self.weight.ndim == 1 else x @ self.weight.T) + self.bias

    def masked(self, logits: FloatArray) -> npt.NDArray[np.bool_]:
        """Tell which classes cannot be, (N, Z) bool: W would carry their logit into the other classes."""
        return masks(shifted(logits), self.temperature)


@dataclass(frozen=True)
class Isotonic:
    """Replace the probability of each class by a step function of it, and normalise; returns log-probabilities."""

    inputs: tuple[FloatArray, ...]  # for each class, the (K,) increasing probabilities at which its function is given
    outputs: tuple[FloatArray, ...]  # for each class, the (K,) values there; between them it is linear
    kind: ClassVar[str] = "isotonic"
    keeps_prediction: ClassVar[bool] = False

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return log-probabilities."""
        probs = np.exp(log_softmax(logits))
        columns = zip(probs.T, self.inputs, self.outputs, strict=True)
        values = np.stack([np.interp(p, x, y) for p, x, y in columns], axis=1)
        logs: FloatArray = np.log(values / values.sum(axis=1, keepdims=True))
        return logs

    def masked(self, logits: FloatArray) -> npt.NDArray[np.bool_]:
        """Tell which classes cannot be, (N, Z) bool: of probability 0, where no row of the fit had that."""
        never = np.array([x[0] > 0 for x in self.inputs])
        masked: npt.NDArray[np.bool_] = masks(shifted(logits), 1.0) & never
        return masked


def apply(maps: Iterable[Map], logits: FloatArray, scores: FloatArray | None) -> FloatArray:
    """Return log-probabilities (N, Z) after all maps; -inf where a class is masked."""
    for one in maps:
        logits = one(logits, scores)
    logs = log_softmax(shifted(logits))
    logs[logs < MASKED / 1e6] = -np.inf
    return logs
