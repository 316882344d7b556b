"""Averages over runs with different seeds; intervals for both sources of chance, the runs and the test examples.

A value of seed s is y_s = truth + a_s + c + e_s: a_s varies with the training run; c is what the finite test split does
to all runs alike, and e_s what it does to this run alone (the interaction of run and test example). The spread s²
between runs holds a_s and e_s, so only the variance v of c is to be added to s²/S (`shared_variance`). s² is known from
few runs and v from many examples, so each part gets its own quantile:

    mean ± √(t² s²/S + z² (v + b²)),   t of S - 1 degrees of freedom, z normal,

exact where either part is 0 (Howe 1974; the same as the limits of Zou & Donner 2008). Simulated coverage of 95%
intervals at any mixture of the parts: .949 to .986 with 2 runs, .949 to .977 with 3, .948 to .965 with 5; with
Welch-Satterthwaite degrees of freedom .874 with 2 and .923 with 3 where s² happens to be small. b is what may be left
of the bias of a corrected calibration error (`robcal.calibration.corrected`), 0 otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robcal.base.array_hints import softmax_of
from robcal.base.checks import (
    FloatArray,
    IntArray,
    as_numbers,
    check_fraction,
    check_labels,
    check_positive_int,
    check_same_length,
    check_seed,
    precision_of,
    refuse,
)
from robcal.base.special import normal_quantile, student_quantile
from robcal.base.types import Estimate
from robcal.calibration.corrected import BinGaps
from robcal.calibration.prob_rows import canonical_order
from robcal.calibration.weighted import RunMetric, compared_metric, run_metric


def seed_mean_interval(
    values_per_seed: Any, test_variance: float = 0.0, bias_left: float = 0.0, *, confidence: float = 0.95
) -> Estimate:
    """Return the mean over seeds, with an interval for another training run evaluated on another test set.

    Args:
        values_per_seed: (S,) values of one metric.
        test_variance: v >= 0, the variance of what the shared test examples do to all values alike, for instance from
            `shared_variance`; of a single value its whole variance.
        bias_left: b >= 0, by how much all values may be off in one direction, as a standard deviation.
        confidence: nominal coverage, strictly between 0 and 1.

    Returns:
        Mean and interval (see the module's docstring), with the three arguments, from which they can be computed again.
        One seed says nothing about the spread of seeds: the interval then covers the test examples only (normal), and
        is absent without `test_variance`.

    Raises:
        InputError: if there are no values, one is not finite, or the variance or the bias is negative.

    >>> estimate = seed_mean_interval([0.1, 0.2, 0.3])
    >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
    (0.2, -0.048, 0.448)
    """
    check_fraction(confidence, "confidence")
    values = np.asarray(values_per_seed, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        fix = "Pass a list of one number a seed, without the seeds that have none"
        refuse(f"values_per_seed is {values_per_seed!r}", "it must hold one finite number a seed", fix)
    for name, given in (("test_variance", test_variance), ("bias_left", bias_left)):
        if not (np.isfinite(given) and given >= 0):
            fix = "Pass a variance or standard deviation, or leave it out where it is not known"
            refuse(f"{name} is {given!r}", "it is a finite number of at least 0", fix)
    mean, per_seed, count = float(values.mean()), tuple(values.tolist()), len(values)
    if count == 1 and test_variance == 0:
        return Estimate(mean, per_seed=per_seed)
    tail = (1 + confidence) / 2
    between = student_quantile(count - 1, tail) ** 2 * values.var(ddof=1) / count if count > 1 else 0.0
    half = float(np.sqrt(between + normal_quantile(tail) ** 2 * (test_variance + bias_left**2)))
    return Estimate(mean, mean - half, mean + half, per_seed, float(test_variance), float(bias_left))


def average_over_seeds(estimates: Sequence[Estimate], *, shared: float = 1.0, confidence: float = 0.95) -> Estimate:
    """Average the same quantity of several seeds, each with an interval for the test examples.

    The seeds share their test examples, so averaging does not shrink the part of the noise that all seeds have in
    common: with the mean interval of half-width h around its own middle m, the result is
    m ± √(shared h² + (t_{S-1} s / √S)²). For where the interval is not symmetric (accuracy, ECE). Where that leaves the
    mean itself out, though the mean interval holds it (all examples of a level are right), its two sides are shortened
    about the mean, each by itself, and added.

    Args:
        estimates: S >= 1 estimates; those without an interval count only as values.
        shared: share of the variance of a seed's test noise that all seeds have in common (`shared_part`). What a seed
            has for itself is in s² already. 1, where it is not known, gives an interval that is rather too wide.
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
    scale = float(np.sqrt(shared if len(present) > 1 else 1.0))
    return Estimate(between.value, *_shortened(between.value, float(low), float(high), scale, spread), per_seed)


def _shortened(value: float, low: float, high: float, scale: float, spread: float) -> tuple[float, float]:
    """Shorten an interval about its middle; where that leaves out the value, which it held, about the value too."""
    middle, half = (low + high) / 2, float(np.hypot(scale * (high - low) / 2, spread))
    ends = middle - half, middle + half
    if not low <= value <= high or ends[0] <= value <= ends[1]:
        return ends
    below, above = (float(np.hypot(scale * side, spread)) for side in (value - low, high - value))
    return min(ends[0], value - below), max(ends[1], value + above)


def shared_variance(replicates: Any) -> float:
    """Return the variance of what resampled test examples do to all seeds alike.

    Two-way analysis of variance: v = var_b(mean_s r_sb) - e/S, where e is the variance of what is left of r_sb without
    the means of its seed and of its resample. Of a single seed it is the whole variance.

    Args:
        replicates: (S, B) the metric of each seed on each resample, the same resamples for all; or each example's value
            of a metric that is a mean over examples (then divide by their number).

    Returns:
        A variance >= 0.

    >>> shared_variance([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])  # all seeds move alike
    1.0
    >>> shared_variance([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])  # what moves them apart is in their spread already
    0.0
    """
    values = np.asarray(replicates, dtype=np.float64)
    seeds, draws = values.shape
    if draws < 2:
        return 0.0
    common = values.mean(0)
    if seeds == 1:
        return float(common.var(ddof=1))
    left = values - values.mean(1, keepdims=True) - (common - common.mean())
    own = float((left**2).sum() / ((seeds - 1) * (draws - 1)))
    return max(0.0, float(common.var(ddof=1)) - own / float(seeds))


def shared_part(replicates: Any) -> float:
    """Return the share of a seed's test noise that all have in common, from replicates (S, B); 1 of a single seed.

    >>> shared_part([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    1.0
    """
    values = np.asarray(replicates, dtype=np.float64)
    whole = float(values.var(axis=1, ddof=1).mean()) if values.shape[1] > 1 else 0.0
    return min(1.0, shared_variance(values) / whole) if whole > 0 else 1.0


@dataclass(frozen=True)
class Replicated:
    """A metric of one run with what its interval needs."""

    value: float  # the metric
    replicates: FloatArray  # (B,) the metric on resampled test examples; of a mean over examples their (N,) values do
    gaps: BinGaps | None = None  # the bins of an error whose bias was removed, else None
    examples: int = 1  # N in the latter case, by which the variance of the values is divided


def over_seeds(
    runs: Sequence[Replicated], others: Sequence[Replicated] = (), weight: float = 1.0, *, confidence: float = 0.95
) -> Estimate:
    """Return the mean over seeds of a metric, or of its difference to `weight` times another method's, seed by seed."""
    pairs = list(zip(runs, others, strict=True)) if others else []
    values = [a.value - weight * b.value for a, b in pairs] if pairs else [run.value for run in runs]
    replicates = [a.replicates - weight * b.replicates for a, b in pairs] or [run.replicates for run in runs]
    if pairs:
        left = [a.gaps.bias_left_of_difference(b.gaps, weight) if a.gaps and b.gaps else 0.0 for a, b in pairs]
    else:
        left = [run.gaps.bias_left if run.gaps else 0.0 for run in runs]
    variance = shared_variance(replicates) / runs[0].examples
    return seed_mean_interval(values, variance, float(np.mean(left)), confidence=confidence)


def run_variance(true_class: Any) -> FloatArray:
    """Return (N,) variances over runs of the true class's probability (S, N), Σ_s (p_s - p̄)² / (S - 1)."""
    probs, precision = as_numbers(true_class, "true_class"), precision_of(true_class)
    if probs.ndim != 2 or len(probs) < 2 or probs.shape[1] == 0:
        refuse(
            f"true_class has shape {probs.shape}",
            "it must be (S, N): one row a run, at least two runs",
            "With `runs` the (N, Z) probabilities of each: "
            "`np.stack([probs[np.arange(len(labels)), labels] for probs in runs])`",
        )
    if not ((probs >= -precision.of_entry) & (probs <= 1 + precision.of_entry)).all():
        refuse(
            "true_class holds values outside [0, 1]",
            "they are probabilities",
            f"Of logits take the softmax first, over all classes: {softmax_of('logits')}",
        )
    return np.asarray(probs.var(axis=0, ddof=1))


def group_means(values: Any, groups: Any) -> FloatArray:
    """Return the mean of values (N,) in each of the groups 0 … R - 1; NaN where a group is empty."""
    found, of = as_numbers(values, "values"), check_labels(groups, name="groups")
    check_same_length(len(found), len(of), "values", "groups")
    counts = np.bincount(of).astype(np.float64)
    return np.bincount(of, found) / np.where(counts > 0, counts, np.nan)


def seed_mean(
    metric: str,
    probs_per_seed: Sequence[Any],
    labels: Any,
    *,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """Return the mean over seeds of a metric as measured, with its interval.

    The interval is of what the metric measures on average. Of errors that noise biases (ECE, equal-mass and classwise
    ECE, MCE) this is more than the true error, of which the interval of "ece_corrected" is.

    Args:
        metric: a key of `robcal.base.metrics.METRIC_LIST`, without those under shift.
        probs_per_seed: S arrays of (N, Z) probabilities, or one (S, N, Z) array.
        labels: (N,) integers in 0 … Z - 1, shared.
        bins: number of bins, where the metric has bins.
        confidence: nominal coverage.
        resamples: number of resamples of the test examples; 400 give the standard deviation to about 4%. Metrics that
            are means need none.
        seed: seed of the resampling.

    Returns:
        Mean, interval and the value of each seed.

    Raises:
        InputError: on bad input or an unknown metric.
    """
    probs = _runs(probs_per_seed, "probs_per_seed")
    runs = [run_metric(metric, one, labels, bins=bins) for one in probs]
    return over_seeds(_replicated(runs, [labels, *probs], resamples, seed), confidence=confidence)


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
    """Return the difference of a metric between two methods, first minus second, on the same examples and seeds.

    Calibration errors are compared after most of the bias is removed that noise gives them (`compared_metric`): it is
    not the same for both methods where one is nearly calibrated, so it does not cancel. What may be left of it widens
    the interval. The difference is thus not that of the values as measured. docs/coverage.md holds simulated coverage.

    Args:
        metric: a key of `robcal.base.metrics.METRIC_LIST`, without those under shift.
        probs_per_seed: S arrays of (N, Z) probabilities of the first method.
        other: S arrays of the second, in the same order of seeds.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins, where the metric has bins.
        confidence: nominal coverage.
        resamples: number of resamples of the test examples.
        seed: seed of the resampling.

    Returns:
        Mean difference, interval and the difference of each seed. The maximum calibration error has no interval: the
        bias of a largest gap is not known well enough.

    Raises:
        InputError: on bad input, an unknown metric, or different numbers of seeds.
    """
    first, second = _runs(probs_per_seed, "probs_per_seed"), _runs(other, "other")
    if len(first) != len(second):
        refuse(
            f"{len(first)} and {len(second)} seeds were given",
            "seeds are compared in pairs",
            "Pass the arrays of the seeds that both have, in one order",
        )
    runs = [compared_metric(metric, one, labels, bins=bins) for one in (*first, *second)]
    if metric == "mce":
        differences = [a.value - b.value for a, b in zip(runs[: len(first)], runs[len(first) :], strict=True)]
        return Estimate(float(np.mean(differences)), per_seed=tuple(differences))
    made = _replicated(runs, [labels, *first, *second], resamples, seed)
    return over_seeds(made[: len(first)], made[len(first) :], confidence=confidence)


def _replicated(runs: Sequence[RunMetric], rows: Sequence[Any], resamples: int, seed: int) -> list[Replicated]:
    """Return the runs with what their interval needs; `rows`: arrays with a row an example."""
    check_positive_int(resamples, "resamples", minimum=20)
    if all(run.examples is not None for run in runs):
        return [
            Replicated(run.value, run.examples, run.gaps, len(run.examples)) for run in runs if run.examples is not None
        ]
    order = canonical_order(*rows)
    return [Replicated(run.value, run.at(_counts(order, resamples, seed)), run.gaps) for run in runs]


def _counts(order: IntArray, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each of N examples is drawn in each resample, the same for a seed, (N,) each."""
    rng, n = np.random.default_rng(check_seed(seed)), len(order)
    for _ in range(resamples):
        yield np.bincount(order[rng.integers(n, size=n)], minlength=n).astype(np.float64)


def _runs(probs_per_seed: Sequence[Any], name: str) -> list[Any]:
    runs = list(probs_per_seed)
    if not runs or np.ndim(runs[0]) != 2:
        fix = f"For one seed pass `[{name}]`" if np.ndim(probs_per_seed) == 2 else "Pass a list of one array a seed"
        refuse(f"{name} is no list of runs", "it must hold at least one (N, Z) array of probabilities", fix)
    return runs
