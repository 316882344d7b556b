"""Robustness levels: sort a split by adversarial distance and cut it into groups.

There are two ways to treat examples whose scores are equal. Training needs levels of equal size, so it splits them, at
random where nothing tells them apart. An audit lets them share a level, because a level that a draw or the order of
the rows has made says nothing about the scores.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from robcal.base.checks import FloatArray, IntArray, check_choice, check_num_levels, check_scores, check_seed
from robcal.base.types import Scores

Ties = Literal["split", "share"]
Cut = Literal["split", "train"]
TIES: tuple[Ties, ...] = get_args(Ties)


def assign_levels(scores: Scores | Any, num_levels: int = 10, *, ties: Ties = "split", seed: int = 0) -> IntArray:
    """Cut a split into `num_levels` levels by adversarial distance; level 0 is the least robust.

    Without ties, N = qR + s examples give the s least robust levels q + 1 examples and the others q (which levels get
    one more is a choice). Censored examples (+inf) come last. Equal distances:

    - "split", for training: sizes still differ by at most one. Ties go by the signed logit margin, which only `Scores`
      carry, and what this leaves tied is put in an order drawn at random. The draw depends on the seed and on nothing
      else, so it is independent of labels, predictions and of any order in which the rows were stored. Another order
      of the rows gives every level the same distances and margins.
    - "share", for an audit: examples of equal distance share a level, that of the middle one of them (the lower, where
      two are in the middle). The level of an example then depends on the distances alone, and not on the order of the
      rows at all; sizes may differ, and some levels may stay empty. With equal distances throughout there is one level.

    Args:
        scores: `Scores`, or distances (N,), +inf where censored.
        num_levels: R, from 1 to N.
        ties: "split" or "share".
        seed: of the draw, for "split".

    Returns:
        (N,) int64 levels from 0 to R - 1.

    Raises:
        InputError: NaN distances, more levels than examples, or a number of levels below 1.

    Example:
        >>> assign_levels([0.5, 0.1, float("inf"), 0.3, 0.2], num_levels=2)
        array([1, 0, 1, 0, 0])
        >>> assign_levels([0.5, 0.1, 0.5, 0.5, 0.2, 0.3], num_levels=3, ties="share")
        array([2, 0, 2, 2, 0, 1])
    """
    check_choice(ties, TIES, "ties")
    distance, margin = _checked(scores, num_levels)
    level_of_rank = level_of_ranks(len(distance), num_levels)
    if ties == "share":
        _, group, sizes = np.unique(distance, return_inverse=True, return_counts=True)
        ends = np.cumsum(sizes)
        return np.asarray(level_of_rank[(2 * ends - sizes - 1) // 2][group])
    level = np.empty(len(distance), dtype=np.int64)
    level[_order(distance, margin, check_seed(seed))] = level_of_rank
    return level


def _order(distance: FloatArray, margin: FloatArray, seed: int) -> IntArray:
    """Return the ranking by distance; ties go by margin, then by a draw (which most splits have no need of)."""
    order = np.argsort(distance)
    ranked = distance[order]
    if (ranked[1:] != ranked[:-1]).all():
        return order
    draw = np.random.default_rng(seed).permutation(len(distance))
    return np.lexsort((draw, margin, distance))


def levels_by_thresholds(cut: Scores | Any, levels: IntArray, others: Scores | Any) -> IntArray:
    """Give other examples (M,) levels by the thresholds of a split that was cut: as many as it has, of any size.

    The threshold between two levels is the last example of the lower one, by distance and then by margin: what lies
    beyond it is in the higher level. The split itself gets its own levels back, except where equal examples were split.

    >>> distances = [0.1, 0.2, 0.3, 0.4]
    >>> levels_by_thresholds(distances, assign_levels(distances, num_levels=2), [0.2, 0.25, 0.9, float("inf")])
    array([0, 1, 1, 1])
    """
    (distance, margin), (their_distance, their_margin) = _checked(cut, 1), _checked(others, 1)
    result = np.zeros(len(their_distance), dtype=np.int64)
    for level in range(int(levels.max())):
        inside = np.flatnonzero(levels == level)
        last = inside[np.lexsort((margin[inside], distance[inside]))[-1]]
        beyond = (their_distance == distance[last]) & (their_margin > margin[last])
        result += beyond | (their_distance > distance[last])
    return result


def level_of_ranks(n: int, num_levels: int) -> IntArray:
    """Return the level of each of n ranks, (n,) int64: the first n mod R levels hold one example more.

    >>> level_of_ranks(5, 2)
    array([0, 0, 0, 1, 1])
    """
    size, more = divmod(n, num_levels)
    return np.repeat(np.arange(num_levels), size + (np.arange(num_levels) < more))


def _checked(scores: Scores | Any, num_levels: int) -> tuple[FloatArray, FloatArray]:
    """Return checked distances, and the margins that break their ties (0 where none are known)."""
    if isinstance(scores, Scores):
        distance = check_scores(scores.distance, name="scores.distance")
        margin = np.asarray(scores.margin, dtype=np.float64)
    else:
        distance = check_scores(scores, name="scores")
        margin = np.zeros_like(distance)
    check_num_levels(num_levels, len(distance))
    return distance, margin
