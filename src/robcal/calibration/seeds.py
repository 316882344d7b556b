"""Averages over runs with different seeds; intervals for both sources of chance, the runs and the test examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from robcal.base.checks import FloatArray, check_choice, check_fraction, check_positive_int, refuse
from robcal.base.types import Estimate
from robcal.calibration.row_order import canonical_order
from robcal.calibration.weighted import MEAN_METRICS, METRICS, Weighted, example_values, weighted_metric


def seed_mean_interval(values_per_seed: Any, test_variance: float = 0.0, *, confidence: float = 0.95) -> Estimate:
    """Mean over seeds, with an interval for another training run evaluated on another test set.

    mean ± t_{S-1} √(s²/S + v), where s² is the variance between the S seeds and v the variance that resampling the
    shared test examples gives to the seed mean. Student's t with S - 1 degrees of freedom is exact for v = 0 and
    conservative otherwise.

    Args:
        values_per_seed: (S,) values of one metric.
        test_variance: v >= 0, for instance from `paired_bootstrap_variance`.
        confidence: nominal coverage, strictly between 0 and 1.

    Returns:
        Mean, interval and the values. One seed says nothing about the spread of seeds: the interval then covers
        the test examples only (normal), and is absent without `test_variance`.

    Raises:
        InputError: if there are no values, one is not finite, or the variance is negative.

    >>> estimate = seed_mean_interval([0.1, 0.2, 0.3])
    >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
    (0.2, -0.048, 0.448)
    """
    check_fraction(confidence, "confidence")
    values = np.asarray(values_per_seed, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        refuse(f"values_per_seed is {values_per_seed!r}", "it must hold one finite number a seed", "Pass a list")
    if not (np.isfinite(test_variance) and test_variance >= 0):
        refuse(f"test_variance is {test_variance!r}", "a variance is a finite number of at least 0", "Change it")
    mean, per_seed = float(values.mean()), tuple(values.tolist())
    if len(values) == 1 and test_variance == 0:
        return Estimate(mean, per_seed=per_seed)
    between = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    tail = (1 + confidence) / 2
    quantile = stdtrit(len(values) - 1, tail) if len(values) > 1 else ndtri(tail)
    half = float(quantile * np.sqrt(between + test_variance))
    return Estimate(mean, mean - half, mean + half, per_seed)


def average_over_seeds(estimates: Sequence[Estimate], *, confidence: float = 0.95) -> Estimate:
    """Average the same quantity of several seeds, each with an interval for the test examples.

    The seeds share their test examples, so averaging does not shrink that part: with the mean interval of half-width h
    around its own middle m, the result is m ± √(h² + (t_{S-1} s / √S)²). For where the predictions themselves are no
    longer at hand, or the interval is not symmetric (accuracy, ECE).

    Args:
        estimates: S >= 1 estimates; those without an interval count only as values.
        confidence: nominal coverage, that of the estimates.

    Returns:
        Mean, interval and the values; NaN values (an empty group in a seed) are left out.

    Raises:
        InputError: if there are no estimates.
    """
    if not estimates:
        refuse("no estimates were given", "at least one is needed", "Pass one estimate a seed")
    per_seed = tuple(estimate.value for estimate in estimates)
    present = [estimate for estimate in estimates if np.isfinite(estimate.value)]
    if not present:
        return Estimate(float("nan"), per_seed=per_seed)
    between = seed_mean_interval([estimate.value for estimate in present], confidence=confidence)
    ends = [(e.low, e.high) for e in present if e.low is not None and e.high is not None]
    if not ends:
        return Estimate(between.value, between.low, between.high, per_seed)
    low, high = np.mean(ends, axis=0)
    spread = 0.0 if between.high is None else between.high - between.value
    half = float(np.hypot((high - low) / 2, spread))
    middle = float(low + high) / 2
    return Estimate(between.value, middle - half, middle + half, per_seed)


def paired_bootstrap_variance(
    metric: str,
    probs_per_seed: Sequence[Any],
    labels: Any,
    *,
    other: Sequence[Any] | None = None,
    bins: int = 15,
    resamples: int = 400,
    seed: int = 0,
) -> float:
    """Variance of the seed mean of a metric over resamples of the test examples, the same resample for every seed.

    Metrics that are means need no resampling: it is the variance of the per-example seed means over N. The others
    are computed on `resamples` draws of N examples with replacement, with their bins held fixed.

    Args:
        metric: a key of `robcal.base.types.METRIC_TITLES`, without those under shift.
        probs_per_seed: S arrays of (N, Z) probabilities, or one (S, N, Z) array.
        labels: (N,) integers in 0 … Z - 1, shared.
        other: the same of another method: the variance is then that of the difference of the two seed means.
        bins: number of bins, where the metric has bins.
        resamples: number of resamples; 400 give the standard deviation to about 4%.
        seed: seed of the resampling.

    Returns:
        A variance >= 0.

    Raises:
        InputError: on bad input or an unknown metric.

    >>> probs = [[[0.4, 0.6]] * 4]
    >>> round(paired_bootstrap_variance("accuracy", probs, [1, 1, 1, 0]), 6)  # var (ddof 1) of 1, 1, 1, 0, over 4
    0.0625
    """
    check_choice(metric, METRICS, "metric")
    check_positive_int(resamples, "resamples", minimum=20)
    first, second = _runs(probs_per_seed, "probs_per_seed"), _runs(other, "other") if other is not None else []
    if metric in MEAN_METRICS:
        values = _mean_values(metric, first, labels, bins)
        if second:
            values = values - _mean_values(metric, second, labels, bins)
        return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
    ours = [weighted_metric(metric, probs, labels, bins=bins) for probs in first]
    theirs = [weighted_metric(metric, probs, labels, bins=bins) for probs in second]
    rng, n, order = np.random.default_rng(seed), len(labels), canonical_order(labels, *first, *second)
    means = np.empty(resamples)
    for r in range(resamples):
        counts = np.bincount(order[rng.integers(n, size=n)], minlength=n).astype(np.float64)
        means[r] = _mean(ours, counts) - _mean(theirs, counts)
    return float(means.var(ddof=1))


def paired_difference(
    metric: str,
    probs_per_seed: Sequence[Any],
    other: Sequence[Any],
    labels: Any,
    *,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """Difference of a metric between two methods, first minus second, on the same test examples and the same seeds.

    The differences of the S pairs of seeds and the variance of their mean over the shared test examples go to
    `seed_mean_interval`. A bias that both methods share, such as the noise in an ECE, largely cancels.

    Args:
        metric: a key of `robcal.base.types.METRIC_TITLES`, without those under shift.
        probs_per_seed: S arrays of (N, Z) probabilities of the first method.
        other: S arrays of the second, in the same order of seeds.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins, where the metric has bins.
        confidence: nominal coverage.
        resamples: number of resamples of the test examples.
        seed: seed of the resampling.

    Returns:
        Mean difference, interval and the difference of each seed.

    Raises:
        InputError: on bad input, an unknown metric, or different numbers of seeds.
    """
    first, second = _runs(probs_per_seed, "probs_per_seed"), _runs(other, "other")
    if len(first) != len(second):
        refuse(f"{len(first)} and {len(second)} seeds were given", "seeds are compared in pairs", "Pass the same seeds")
    check_choice(metric, METRICS, "metric")
    ones = np.ones(len(labels))
    differences = [
        weighted_metric(metric, a, labels, bins=bins)(ones) - weighted_metric(metric, b, labels, bins=bins)(ones)
        for a, b in zip(first, second, strict=True)
    ]
    variance = paired_bootstrap_variance(metric, first, labels, other=second, bins=bins, resamples=resamples, seed=seed)
    return seed_mean_interval(differences, variance, confidence=confidence)


def _runs(probs_per_seed: Sequence[Any], name: str) -> list[Any]:
    runs = list(probs_per_seed)
    if not runs or np.ndim(runs[0]) != 2:
        refuse(f"{name} holds {len(runs)} runs", "it must hold at least one (N, Z) array", "Pass [probs] for one seed")
    return runs


def _mean_values(metric: str, runs: Sequence[Any], labels: Any, bins: int) -> FloatArray:
    mean: FloatArray = np.mean([example_values(metric, probs, labels, bins=bins) for probs in runs], axis=0)
    return mean


def _mean(metrics: Sequence[Weighted], counts: FloatArray) -> float:
    return sum(metric(counts) for metric in metrics) / max(len(metrics), 1)
