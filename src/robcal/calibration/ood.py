"""Does the ranking by confidence tell in-distribution from other inputs (Hendrycks & Gimpel 2017, section 3)?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, check_scores, refuse


@dataclass(frozen=True)
class OodMetrics:
    """How well a confidence separates in-distribution from out-of-distribution inputs.

    Attributes:
        auroc: chance that an in-distribution input has the higher confidence; ties count one half.
        aupr_in: average precision with in-distribution inputs as the positives.
        aupr_out: average precision with out-of-distribution inputs as the positives (low confidence ranks first).
        fpr95: share of out-of-distribution inputs accepted at the highest threshold that accepts at least 95% of the
            others.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float


class OodRanking:
    """In- and out-of-distribution inputs in one order by their scores, (N,) and (M,): resamples need no other sort."""

    def __init__(self, confidence_in: Any, confidence_out: Any) -> None:
        inside = _finite_scores(confidence_in, "confidence_in")
        outside = _finite_scores(confidence_out, "confidence_out")
        values, place = np.unique(np.concatenate([inside, outside]), return_inverse=True)
        self._inside, self._outside, self._size = place[: len(inside)], place[len(inside) :], len(values)

    def metrics(self, counts_in: Any = None, counts_out: Any = None) -> OodMetrics:
        """Return the four numbers, where input i counts `counts[i]` times, (N,) and (M,); by default once.

        With a_g and b_g the number of in- and out-of-distribution inputs at the g-th smallest score, A and B their
        sums: AUROC = Σ_g a_g (Σ_{h<g} b_h + b_g / 2) / (A B) (Mann-Whitney); average precision Σ_k (R_k - R_{k-1}) P_k
        over the distinct thresholds; FPR at 95% TPR (Liang et al. 2018). Ties never help either side.
        """
        a = np.bincount(self._inside, counts_in, self._size).astype(np.float64)
        b = np.bincount(self._outside, counts_out, self._size).astype(np.float64)
        below_a, below_b = np.cumsum(a), np.cumsum(b)
        above_a, above_b = below_a[-1] - below_a + a, below_b[-1] - below_b + b
        accepted = np.flatnonzero(above_a >= np.ceil(95 * below_a[-1] / 100))[-1]
        return OodMetrics(
            auroc=float(a @ (below_b - b / 2) / (below_a[-1] * below_b[-1])),
            aupr_in=_average_precision(a, above_a, above_b),
            aupr_out=_average_precision(b, below_b, below_a),
            fpr95=float(above_b[accepted] / below_b[-1]),
        )


def ood_metrics(confidence_in: Any, confidence_out: Any) -> OodMetrics:
    """Detect out-of-distribution inputs by their low confidence; see `OodRanking`.

    Args:
        confidence_in: (N,) confidence, or any score that is high for what the model knows, of in-distribution inputs.
        confidence_out: (M,) the same of out-of-distribution inputs.

    Returns:
        The four numbers, each in [0, 1].

    Raises:
        InputError: if a score is empty, not a vector, or not finite.

    >>> ood_metrics([0.9, 0.8, 0.7], [0.7, 0.3]).auroc
    0.9166666666666666
    """
    return OodRanking(confidence_in, confidence_out).metrics()


def _average_precision(found: FloatArray, true: FloatArray, false: FloatArray) -> float:
    """Return Σ precision · found / all, over the thresholds; `true` and `false` are accepted at each."""
    return float((found * true / np.maximum(true + false, 1)).sum() / found.sum())


def _finite_scores(values: Any, name: str) -> FloatArray:
    array = check_scores(values, name=name)
    if np.isinf(array).any():
        refuse(
            f"{name} holds inf", "all must be finite", f"`np.minimum({name}, np.finfo(np.float64).max)` keeps the order"
        )
    return array
