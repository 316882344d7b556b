"""Is calibration monotone in the level? Permutation tests that stay valid where levels differ in accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from robcal.base.checks import (
    FloatArray,
    IntArray,
    check_bins,
    check_labels,
    check_positive_int,
    check_same_rows,
    check_seed,
)
from robcal.base.special import normal_cdf
from robcal.base.types import TrendTest
from robcal.calibration.binning import TopLabel, bin_index, top_from, total
from robcal.calibration.prob_rows import canonical_order

QUANTITIES = ("gap", "absolute gap", "accuracy", "ECE")
#: Those tested through an unbiased square.
SQUARED = ("absolute gap", "ECE")
#: More examples than this are not permuted one by one.
MOST_PERMUTED = 200_000
#: Groups of like confidence in a bin, times levels; and how many groups there are at least.
_MOST_CELLS, _LEAST_GROUPS = 320, 8


def trend_tests(
    confidence: Any, correct: Any, levels: Any, *, bins: int = 15, permutations: int = 1000, seed: int = 0
) -> tuple[TrendTest, ...]:
    """Test whether signed gap, absolute gap, accuracy and ECE rise or fall linearly with the level.

    Each statistic is Σ_r (r - r̄) q_r over its estimated standard deviation, so about standard normal if there is no
    trend, and its p-value is the share of permutations of the levels with a statistic at least as large in size. With
    c the confidence and a the correctness, q_r is

    - gap: the sum of c - a in level r; accuracy: the sum of a (the statistic is a studentised correlation with the
      level);
    - absolute gap: N_r times the unbiased estimate of gap², ḡ² - s²/N_r;
    - ECE: N_r times the same, averaged over the level's confidence bins: the unbiased squared calibration error (Kumar
      et al. 2019), because the plug-in ECE grows with noise and noise differs between levels.

    Null hypothesis: (c, a) is independent of the level; then the p-values are exact (gap, accuracy) or conservative
    (the squared ones, where the larger of the permutation's and the normal p-value is taken, as gaps that cancel
    between levels vanish in a permutation). As the statistics are unbiased and studentised, the tests also hold for
    large N under the null of interest, that the quantity has no linear trend although levels differ in accuracy or
    spread (Janssen 1997; DiCiccio & Romano 2017). Measured rejections at 5% with ten levels whose
    accuracy rises from .55 to .95, N = 500 and 3,000, 400 data sets each: calibrated, gap .07 and .06, absolute gap
    .02 and .03, ECE .03 and .04; the same gap of .03 in all levels, .05 and .06, .03 and .05, .02 and .04; gaps of
    ±.04 that cancel, the hardest case, .06 and .07, .07 and .10, .04 and .10; a gap that falls from .12 to 0, .60 and
    1.0, .09 and .99, .06 and .92.

    Of more than `MOST_PERMUTED` examples the permutations are drawn as tables: how many examples of each group of like
    confidence and correctness come to each level has a multivariate hypergeometric law, and the sums follow from these
    numbers. That is the law of permuted rows, of confidences that are rounded to the mean of their group: at least
    `_LEAST_GROUPS` groups of equal size in each confidence bin. What was observed is not rounded.

    Args:
        confidence: (N,) top-label confidence in [0, 1].
        correct: (N,) 1 or True where the prediction is right, else 0.
        levels: (N,) integers from 0; 0 is the least robust.
        bins: number of equal-width bins of the ECE.
        permutations: number of permutations; the smallest p-value is 1 / (permutations + 1).
        seed: seed of the permutations.

    Returns:
        One test each of "gap", "absolute gap", "accuracy" and "ECE"; a negative statistic says that the quantity falls
        as the level rises. With a single level nothing can be tested: statistic 0, p-value 1.

    Raises:
        InputError: on bad input.

    >>> levels = np.repeat([0, 1, 2, 3], 50)
    >>> tests = trend_tests(np.full(200, 0.9), np.arange(200) % 50 < 30 + 5 * levels, levels, permutations=99)
    >>> [(test.quantity, test.p_value) for test in tests if test.quantity == "gap"]
    [('gap', 0.01)]
    """
    top = top_from(confidence, correct, name="confidence")
    check_same_rows(confidence=confidence, correct=correct, levels=levels)
    level = check_labels(levels, n=len(top), name="levels")
    check_bins(bins)
    check_positive_int(permutations, "permutations", minimum=20)
    check_seed(seed)
    observed = _statistics(_summing(top, bins, int(level.max()) + 1)(level))
    draws = _row_permutations if len(top) <= MOST_PERMUTED else _table_permutations
    extreme = np.ones(len(observed))
    for sums in draws(top, level, bins, permutations, np.random.default_rng(seed)):
        extreme += np.abs(_statistics(sums)) >= np.abs(observed) - 1e-9
    p_values = extreme / (permutations + 1)
    normal = np.where(np.isin(QUANTITIES, SQUARED), 2 * normal_cdf(-np.abs(observed)), 0)
    return tuple(
        TrendTest(name, float(statistic), float(p_value), permutations)
        for name, statistic, p_value in zip(QUANTITIES, observed, np.maximum(p_values, normal), strict=True)
    )


class _Sums(NamedTuple):
    """Sums over the examples of each level and occupied confidence bin, (R, K): all that the statistics are made of."""

    number: FloatArray
    residual: FloatArray
    squared: FloatArray
    correct: FloatArray


def _statistics(sums: _Sums) -> FloatArray:
    """Return the four studentised statistics, in the order of `QUANTITIES`."""
    n, rows = sums.number.sum(axis=1), len(sums.number)
    slope = np.arange(rows) - (np.arange(rows) @ n) / n.sum()
    residual, squared, right = (part.sum(axis=1) for part in sums[1:])
    return np.array(
        [
            _linear(slope, n, residual, squared),
            _squared(slope, n[:, None], residual[:, None], squared[:, None]),
            _linear(slope, n, right, right),
            _squared(slope, *sums[:3]),
        ]
    )


def _occupied(top: TopLabel, bins: int) -> IntArray:
    """Return the bin of each example, numbered among the bins that hold any."""
    return np.unique(bin_index(top.confidence, bins=bins), return_inverse=True)[1].astype(np.int64)


def _summing(top: TopLabel, bins: int, rows: int) -> Callable[[IntArray], _Sums]:
    """Return the function that gives the sums for any levels of these examples."""
    bin_of = _occupied(top, bins)
    shape, values = (rows, int(bin_of.max()) + 1), (top.residual, top.residual**2, top.correct)

    def sums(level: IntArray) -> _Sums:
        cell = level * shape[1] + bin_of
        number = np.bincount(cell, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)
        return _Sums(number, *(total(cell, value, shape[0] * shape[1]).reshape(shape) for value in values))

    return sums


def _row_permutations(
    top: TopLabel, level: IntArray, bins: int, permutations: int, rng: np.random.Generator
) -> Iterator[_Sums]:
    """Yield the sums with the levels permuted over the examples."""
    order = canonical_order(top.confidence, top.correct, level)
    top, level = top.subset(order), level[order]
    sums = _summing(top, bins, int(level.max()) + 1)
    for _ in range(permutations):
        yield sums(rng.permutation(level))


def _table_permutations(
    top: TopLabel, level: IntArray, bins: int, permutations: int, rng: np.random.Generator
) -> Iterator[_Sums]:
    """Yield the sums with the levels permuted over examples whose confidences are the mean of their group."""
    sizes = np.bincount(level)
    bin_of = _occupied(top, bins)
    group, first = _groups(top, bin_of, max(_MOST_CELLS // len(sizes), _LEAST_GROUPS))
    count = np.bincount(group)
    residual = total(group, top.residual, len(count)) / count
    right = total(group, top.correct, len(count)) / count
    for _ in range(permutations):
        table, left = np.empty((len(sizes), len(count))), count.copy()
        for row, size in enumerate(sizes[:-1]):
            drawn = rng.multivariate_hypergeometric(left, size, method="marginals")
            table[row], left = drawn, left - drawn
        table[-1] = left
        yield _Sums(*(np.add.reduceat(table * value, first, axis=1) for value in (1.0, residual, residual**2, right)))


def _groups(top: TopLabel, bin_of: IntArray, most: int) -> tuple[IntArray, IntArray]:
    """Cut right and wrong examples of a bin by confidence into equal groups; return these and the first of each bin."""
    order = np.lexsort((top.confidence, top.correct, bin_of))
    stratum = 2 * bin_of + top.correct.astype(np.int64)
    sizes = np.bincount(stratum)
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    part = most * within // np.repeat(sizes, sizes)
    found, group = np.unique(stratum[order] * most + part, return_inverse=True)
    result = np.empty(len(order), dtype=np.int64)
    result[order] = group
    return result, np.searchsorted(found, np.arange(bin_of.max() + 1) * 2 * most)


def _linear(slope: FloatArray, n: FloatArray, sums: FloatArray, squares: FloatArray) -> float:
    """Return the Studentised covariance of a per-example value with the level, from the value's sums per level."""
    mean = sums.sum() / n.sum()
    spread = squares - 2 * mean * sums + n * mean**2
    return _ratio(float(slope @ sums), float(slope**2 @ spread))


def _squared(slope: FloatArray, n: FloatArray, sums: FloatArray, squares: FloatArray) -> float:
    """Return the Studentised slope of the unbiased squared gap, from (R, K) sums by level and bin."""
    enough = n > 1
    size = np.where(enough, n, 2)
    mean = sums / size
    variance = np.maximum(squares / size - mean**2, 0) * size / (size - 1)
    unbiased = mean**2 - variance / size
    square = np.where(enough, n * unbiased, 0).sum(axis=1)
    # Var(n (gap² - s²/n)) = n² (4 gap² s²/n + 2 s⁴ / (n (n - 1))), gap² estimated without bias, so it may be negative.
    chance = np.where(enough, 2 * n * variance**2 / (size - 1), 0).sum(axis=1)
    signal = np.where(enough, 4 * n * unbiased * variance, 0).sum(axis=1)
    error = float(slope**2 @ chance)
    return _ratio(float(slope @ square), max(error + float(slope**2 @ signal), error / 2))


def _ratio(value: float, variance: float) -> float:
    return value / float(np.sqrt(variance)) if variance > 1e-18 else 0.0
