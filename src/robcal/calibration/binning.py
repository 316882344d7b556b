"""The top label of every example, and sums over confidence bins: what every calibration number is made of.

A confidence that equals an edge must fall into the same bin whatever its precision. The edges are k/K rounded once to
the precision in which the probabilities came (float32 probabilities meet float32 edges), so 0.6 in float32, which is
0.60000002 in float64, still lies *on* the edge 9/15 and belongs to the bin below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from robcal.base.checks import (
    FloatArray,
    IntArray,
    check_bins,
    check_choice,
    check_flags,
    check_same_rows,
    check_scores,
    precision_of,
    refuse,
)
from robcal.calibration.prob_rows import ProbRows, check_rows, checked

Scheme = Literal["width", "mass"]
Edges = Literal["guo", "torchmetrics"]
AnyFloatArray = npt.NDArray[np.floating[Any]]

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
EDGES: tuple[Edges, ...] = get_args(Edges)


@dataclass(frozen=True)
class TopLabel:
    """The most probable class of N examples, computed once and used by every top-label number."""

    confidence: AnyFloatArray  #: (N,) probability of the predicted class, in the precision of the probabilities
    prediction: IntArray  #: (N,) int64, the predicted class; the lowest index among equals
    correct: FloatArray  #: (N,) float64, 1 where the prediction is the true class, else 0

    def __len__(self) -> int:
        return len(self.correct)

    def subset(self, index: IntArray) -> TopLabel:
        """Return the summary of the examples `index`, in that order."""
        return TopLabel(self.confidence[index], self.prediction[index], self.correct[index])

    @property
    def residual(self) -> FloatArray:
        """(N,) confidence - correct: its mean over any set of examples is that set's signed gap."""
        return self.confidence.astype(np.float64) - self.correct


@dataclass(frozen=True)
class BinSums:
    """Sums over the examples of each of K bins, (K,) each."""

    count: FloatArray  # number of examples
    confidence: FloatArray  # sum of the confidences
    squared: FloatArray  # sum of the squared confidences
    correct: FloatArray  # number of examples classified right

    @property
    def weight(self) -> FloatArray:
        """n_k / N."""
        weight: FloatArray = self.count / self.count.sum()
        return weight

    @property
    def gap(self) -> FloatArray:
        """Mean confidence - accuracy of each bin; 0 where a bin is empty."""
        return (self.confidence - self.correct) / np.maximum(self.count, 1)

    def occupied(self) -> BinSums:
        """Return the same without the empty bins."""
        keep = self.count > 0
        return BinSums(self.count[keep], self.confidence[keep], self.squared[keep], self.correct[keep])


def top_label(probs: Any) -> tuple[AnyFloatArray, IntArray]:
    """Return each example's confidence and predicted class: c(x) = max p, ŷ(x) = argmax p.

    Args:
        probs: (N, Z) probabilities.

    Returns:
        Confidence, (N,) in the floating dtype of `probs` (float64 for anything else), and prediction, (N,) int64. Among
        equal probabilities the lowest index is predicted.

    Raises:
        InputError: if `probs` are not probabilities.

    >>> confidence, prediction = top_label([[0.2, 0.8], [0.5, 0.5]])
    >>> confidence.tolist(), prediction.tolist()
    ([0.8, 0.5], [1, 0])
    """
    return _top(check_rows(probs))


def summarise(probs: Any, labels: Any) -> TopLabel:
    """Return the top label of every example and whether it is right; a summary that was made before as it is."""
    if isinstance(probs, TopLabel):
        return probs
    return top_of(*checked(probs, labels))


def top_of(probs: ProbRows, labels: IntArray) -> TopLabel:
    """Return the summary of checked probabilities and labels."""
    confidence, prediction = _top(probs)
    return TopLabel(confidence, prediction, (prediction == labels).astype(np.float64))


def top_from(confidence: Any, correct: Any, *, name: str) -> TopLabel:
    """Return the summary of confidences (N,) and whether each is right (N,); which class it was stays unknown (-1)."""
    values, precision = check_scores(confidence, name=name), precision_of(confidence)
    if values.min() < -precision.of_entry or values.max() > 1 + precision.of_entry:
        fix = (
            f"`np.asarray({name}) / 100`"
            if 2 < values.max() <= 100 and values.min() >= 0
            else "Pass `np.max(probs, axis=1)`"
        )
        refuse(f"{name} holds {values.min():.4g} to {values.max():.4g}", "a confidence lies in [0, 1]", fix)
    check_same_rows(**{name: confidence, "correct": correct})
    right = check_flags(correct, n=len(values), name="correct")
    sure = np.clip(values, 0, 1).astype(precision.dtype)
    return TopLabel(sure, np.full(len(sure), -1), right.astype(np.float64))


def check_binning(bins: int, scheme: str, edges: str) -> None:
    """Refuse a number of bins below 1, an unknown scheme or edges, and equal-mass bins with torchmetrics' edges."""
    check_bins(bins)
    check_choice(scheme, SCHEMES, "scheme")
    check_choice(edges, EDGES, "edges")
    if scheme == "mass" and edges == "torchmetrics":
        refuse(
            "edges is 'torchmetrics' with scheme 'mass'", "torchmetrics has equal-width bins only", "Drop one of them"
        )


def bin_index(confidence: AnyFloatArray, *, bins: int = 15, scheme: Scheme = "width", edges: Edges = "guo") -> IntArray:
    """Return the bin of each confidence, (N,) int64 in 0 … K - 1 (0 … K for torchmetrics).

    Equal width, Guo et al. (2017): bin k (from 0) is (k/K, (k+1)/K], with 0 in the first. Equal mass: sorted by
    confidence, a set of equal confidences at positions a … b - 1 goes as a whole to bin ⌊K (a + b) / 2N⌋, the bin of
    its middle. Ties are thus never split, the order of the examples does not matter, bins differ in size by at most
    one if there are no ties, and some stay empty if N < K. `edges="torchmetrics"`: [k/K, (k+1)/K) in float32, where a
    confidence of exactly 1 falls into an extra bin K.
    """
    if scheme == "mass":
        _, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return (bins * (2 * ends - counts) // (2 * len(confidence)))[inverse]
    if edges == "torchmetrics":
        values = confidence.astype(np.float32)
        return np.searchsorted(_torch_linspace(bins), values, side="right").astype(np.int64) - 1
    return np.searchsorted(width_edges(bins, confidence.dtype)[1:-1], confidence, side="left").astype(np.int64)


def width_edges(bins: int, dtype: npt.DTypeLike = np.float64) -> AnyFloatArray:
    """Return the edges 0, 1/K … 1 of equal-width bins, each k/K rounded to the precision `dtype`."""
    return (np.arange(bins + 1) / bins).astype(dtype)


def bin_sums(
    top: TopLabel, *, bins: int = 15, scheme: Scheme = "width", edges: Edges = "guo", index: IntArray | None = None
) -> BinSums:
    """Sum confidence and correctness over bins, empty ones too; `index` (N,) is the bin of each example, if known."""
    if index is None:
        index = bin_index(top.confidence, bins=bins, scheme=scheme, edges=edges)
    size = bins + (edges == "torchmetrics")
    confidence = top.confidence.astype(np.float64)
    return BinSums(
        count=np.bincount(index, minlength=size).astype(np.float64),
        confidence=total(index, confidence, size),
        squared=total(index, confidence**2, size),
        correct=total(index, top.correct, size),
    )


def total(index: IntArray, values: npt.ArrayLike, size: int) -> FloatArray:
    """Return the sum of `values` over each index 0 … size - 1."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def _top(probs: ProbRows) -> tuple[AnyFloatArray, IntArray]:
    confidence = np.empty(len(probs), dtype=probs.precision.dtype)
    prediction = np.empty(len(probs), dtype=np.int64)
    for part, block in probs.blocks():
        prediction[part] = block.argmax(axis=1)
        confidence[part] = block[np.arange(len(block)), prediction[part]]
    return confidence, prediction


def _torch_linspace(bins: int) -> AnyFloatArray:
    """Return float32 edges as torch.linspace(0, 1, bins + 1) rounds them: once, counted from the nearer end."""
    step = np.float64(np.float32(1) / np.float32(bins))
    k = np.arange(bins + 1)
    return np.where(k < (bins + 1) // 2, step * k, 1 - step * (bins - k)).astype(np.float32)
