"""Robustness levels: sort a split by adversarial distance and cut it into groups of equal size (METHOD 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.checks import FloatArray, IntArray, check_num_levels, check_scores, refuse
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


def level_thresholds(scores: Scores | Any, num_levels: int = 10) -> FloatArray:
    """The distances at which `assign_levels` cuts: the smallest distance of every level but the first.

    Args:
        scores: `Scores`, or distances (N,), +inf where censored.
        num_levels: R, from 1 to N.

    Returns:
        (R - 1,) float64, non-decreasing; +inf where a level holds censored examples only.

    Raises:
        InputError: as `assign_levels`.

    Example:
        >>> level_thresholds([0.5, 0.1, float("inf"), 0.3, 0.2], num_levels=2)
        array([0.5])
    """
    distance, order = _ordered(scores, num_levels)
    return np.array([distance[members[0]] for members in np.array_split(order, num_levels)[1:]], dtype=np.float64)


def apply_thresholds(scores: Scores | Any, thresholds: Any) -> IntArray:
    """Levels of one split by the thresholds of another (`cut="train"`, METHOD 3); sizes may then differ.

    An example's level is the number of thresholds that its distance reaches. On the split that gave the thresholds
    this repeats `assign_levels`, save for examples tied with a threshold, which all go to the upper level.

    Args:
        scores: `Scores`, or distances (N,), +inf where censored.
        thresholds: (R - 1,) non-decreasing, from `level_thresholds`.

    Returns:
        (N,) int64 levels from 0 to R - 1.

    Raises:
        InputError: NaN distances, or thresholds that fall or hold NaN.

    Example:
        >>> apply_thresholds([0.5, 0.1, 0.7], [0.2, 0.6])
        array([1, 0, 2])
    """
    distance = check_scores(scores.distance if isinstance(scores, Scores) else scores, name="distances")
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.ndim != 1 or np.isnan(cuts).any() or (cuts[1:] < cuts[:-1]).any():
        refuse(
            f"thresholds are {cuts.tolist()}",
            "they must be (R - 1,) numbers that never fall",
            "Take them from level_thresholds of the training split",
        )
    return np.searchsorted(cuts, distance, side="right").astype(np.int64)


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
