"""How far two assignments of levels to the same examples agree: of two sources, or of one source an epoch apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from robcal.checks import check_labels, check_same_length


@dataclass(frozen=True)
class LevelAgreement:
    """How far two assignments of levels agree.

    Attributes:
        same_level: share of the examples in the same level (independent levels of equal size: 1 / R).
        within_one: share whose levels differ by at most one (independent: (3R - 2) / R²).
        spearman: rank correlation of the levels, ties averaged; NaN where either holds one level only.
    """

    same_level: float
    within_one: float
    spearman: float


def level_agreement(first: Any, second: Any) -> LevelAgreement:
    """Compare two assignments of levels to the same examples, in one order.

    Args:
        first: (N,) integers.
        second: (N,) integers.

    Returns:
        LevelAgreement; symmetric in its arguments.

    Raises:
        InputError: if they are no integers, empty, or of different lengths.

    Example:
        >>> level_agreement([0, 0, 1, 1], [0, 2, 2, 0])
        LevelAgreement(same_level=0.25, within_one=0.75, spearman=0.0)
    """
    one, other = check_labels(first, name="first"), check_labels(second, name="second")
    check_same_length(len(one), len(other), "the first levels", "the second")
    off = np.abs(one - other)
    return LevelAgreement(float((off == 0).mean()), float((off <= 1).mean()), rank_correlation(one, other))


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's correlation of two numbers an example, ties averaged; NaN where either is constant.

    Args:
        first: (N,) numbers, +inf allowed.
        second: (N,) numbers likewise.

    Example:
        >>> rank_correlation([0.1, 0.2, 0.3], [3.0, 5.0, float("inf")])
        1.0
    """
    ranks = [rankdata(values) for values in (first, second)]
    varied = all(np.ptp(rank) > 0 for rank in ranks)
    return float(np.asarray(np.corrcoef(ranks)).item(1)) if varied else float("nan")
