"""Robustness levels: sort a split by adversarial distance and cut it into groups of equal size (METHOD 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.checks import FloatArray, IntArray, check_num_levels, check_scores
from robcal.types import Scores


def assign_levels(scores: Scores | Any, num_levels: int = 10) -> IntArray:
    """Cut a split into `num_levels` levels of equal size by adversarial distance; level 0 is the least robust.

    Examples are ordered by distance, then by signed logit margin (only `Scores` carry it), then by index: a stable
    total order, in which censored examples (+inf) come last. N = qR + s examples give the s least robust levels q + 1
    examples and the others q (a choice; METHOD 3 asks only that sizes differ by at most one).

    Args:
        scores: `Scores`, or distances (N,), +inf where censored.
        num_levels: R, from 1 to N.

    Returns:
        (N,) int64 levels from 0 to R - 1.

    Raises:
        InputError: NaN distances, more levels than examples, or a number of levels below 1.

    Example:
        >>> assign_levels([0.5, 0.1, float("inf"), 0.3, 0.2], num_levels=2)
        array([1, 0, 1, 0, 0])
    """
    distance, order = _ordered(scores, num_levels)
    level = np.empty(len(distance), dtype=np.int64)
    for number, members in enumerate(np.array_split(order, num_levels)):
        level[members] = number
    return level


def _ordered(scores: Scores | Any, num_levels: int) -> tuple[FloatArray, IntArray]:
    """Checked distances and the stable total order of METHOD 3."""
    if isinstance(scores, Scores):
        distance = check_scores(scores.distance, name="scores.distance")
        margin = np.asarray(scores.margin, dtype=np.float64)
    else:
        distance = check_scores(scores, name="distances")
        margin = np.zeros_like(distance)
    check_num_levels(num_levels, len(distance))
    return distance, np.lexsort((margin, distance)).astype(np.int64)
