"""Confidence intervals of calibration and accuracy metrics of one set of predictions; of errors by `inversion`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, check_bins, check_choice, check_fraction, check_positive_int, check_seed
from robcal.base.metrics import metric_of
from robcal.base.solve import root
from robcal.base.special import beta_quantile, erf, normal_quantile, student_quantile
from robcal.base.types import Estimate
from robcal.calibration.binning import BinSums, Edges, Scheme, TopLabel, bin_sums, check_binning, summarise, top_of
from robcal.calibration.inversion import inverted_interval
from robcal.calibration.metrics import LOSSES, NORMS, ClassBins, Norm, class_bins, losses_of, refinement_losses
from robcal.calibration.prob_rows import checked
from robcal.calibration.selective import aurc_values
from robcal.calibration.weighted import BIN_METRICS, METRICS, value_of_bins

#: Metrics that need no more than each example's confidence and whether it is right.
TOP_LABEL_METRICS = tuple(metric for metric in METRICS if metric not in ("nll", "brier", "classwise_ece"))


def calibration_error_interval(
    probs: Any,
    labels: Any,
    *,
    bins: int = 15,
    scheme: Scheme = "width",
    edges: Edges = "guo",
    norm: Norm = "l1",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the confidence interval of the *true* calibration error of the top label.

    The plug-in error is biased upward, so resampling alone misses a true error of 0 always. By inversion (see
    `robcal.calibration.inversion`) the interval holds the true errors that would make the measured one unsurprising;
    it always contains the measured error. That of the largest gap (norm "max") is made of the bins' own intervals
    (`largest_gap_interval`). Bootstraps are not offered: this table shows how often they miss. Measured
    coverage of 95% intervals of the ECE (K = 15, 300 data sets each, confidences concentrated near 1 unless noted), at
    N = 100 / 1,000 / 10,000:

    | truth                        | ECE   | inversion       | percentile      | basic           |
    | ---------------------------- | ----- | --------------- | --------------- | --------------- |
    | calibrated                   | 0     | .97 / .97 / .96 | .00 / .00 / .00 | .41 / .50 / .54 |
    | over-confident everywhere    | .020  | .97 / .99 / .98 | .00 / .05 / .73 | .78 / .90 / .92 |
    | the same, mid confidences    | .050  | .99 / .99 / .96 | .00 / .73 / .95 | .86 / .88 / .92 |
    | the same, uniform            | .195  | .97 / .95 / .95 | .81 / .94 / .96 | .81 / .95 / .94 |
    | over- and under-, uniform    | .023  | .96 / 1.0 / .96 | .00 / .00 / .66 | .57 / .84 / .92 |
    | only between .6 and .8       | .013  | .98 / .99 / .96 | .00 / .00 / .12 | .69 / .81 / .79 |
    | only in the last bin         | .017  | .93 / .95 / .97 | .00 / .00 / .01 | .59 / .67 / .72 |

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins K.
        scheme: "width" or "mass" (the bins found in the data are then held fixed).
        edges: "guo" or "torchmetrics".
        norm: "l1" (ECE), "l2" or "max" (MCE).
        confidence: nominal coverage, strictly between 0 and 1.
        resamples: simulated data sets.
        seed: seed of the simulation.

    Returns:
        (low, high) in [0, 1]; low is exactly 0 where the data agree with perfect calibration.

    Raises:
        InputError: on bad input or options.

    >>> probs, labels = np.tile([0.3, 0.7], (1000, 1)), np.repeat([1, 0], [700, 300])
    >>> low, high = calibration_error_interval(probs, labels)
    >>> low == 0, 0.02 < high < 0.04
    (True, True)
    """
    check_binning(bins, scheme, edges)
    check_choice(norm, NORMS, "norm")
    check_resampling(confidence, resamples)
    sums = bin_sums(summarise(probs, labels), bins=bins, scheme=scheme, edges=edges)
    return _error_interval(sums, norm, confidence, resamples, seed)


def metric_interval(
    metric: str,
    probs: Any,
    labels: Any,
    *,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return any over-all metric with its confidence interval, by the method that suits it.

    Accuracy: Jeffreys. Gap: accuracy and confidence combined (`gap_interval`). NLL, Brier, Brier refinement: Student's
    t of the mean. ECE (as measured, and with its bias removed: the interval is of the true error, one for both),
    equal-mass ECE, debiased l2 error, Brier calibration: test inversion. MCE: the intervals of its bins
    (`largest_gap_interval`). Classwise ECE: test inversion in closed form (`classwise_interval`). AURC: its influence
    function, on the logarithmic scale. The intervals of NLL, Brier and AURC are too narrow where fewer than about ten
    examples are wrong: see "What robcal does not do" (docs/limits.md).

    Args:
        metric: a key of `robcal.base.metrics.METRIC_LIST`, without those under shift.
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins, where the metric has bins.
        confidence: nominal coverage, strictly between 0 and 1.
        resamples: simulated or resampled data sets.
        seed: seed of the simulation.

    Returns:
        Value and interval.

    Raises:
        InputError: on bad input or an unknown metric.

    >>> estimate = metric_interval("accuracy", [[0.3, 0.7]] * 10, [1] * 7 + [0] * 3)
    >>> round(estimate.value, 2), round(estimate.low, 2), round(estimate.high, 2)
    (0.7, 0.39, 0.91)
    """
    return metric_intervals([metric], probs, labels, bins=bins, confidence=confidence, resamples=resamples, seed=seed)[
        metric
    ]


def metric_intervals(
    metrics: Sequence[str],
    probs: Any,
    labels: Any,
    *,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return what `metric_interval` does of several metrics, by name; predictions are checked and reduced once."""
    for metric in metrics:
        check_choice(metric, METRICS, "metric")
    check_bins(bins)
    check_resampling(confidence, resamples)
    rows, truth = checked(probs, labels)
    found = top_label_intervals(
        [metric for metric in metrics if metric in TOP_LABEL_METRICS],
        top_of(rows, truth),
        bins=bins,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    if "classwise_ece" in metrics:
        cells = class_bins(rows, truth, bins=bins, scheme="width")
        found["classwise_ece"] = classwise_interval(cells, confidence=confidence)
    for metric in LOSSES:
        if metric in metrics:
            found[metric] = mean_interval(losses_of(metric, rows, truth), confidence=confidence)
    return {metric: found[metric] for metric in metrics}


def top_label_intervals(
    metrics: Sequence[str], top: TopLabel, *, bins: int, confidence: float, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Return those of `TOP_LABEL_METRICS` that are asked for, from a summary; arguments are checked."""
    sums: dict[Scheme, BinSums] = {}
    found = {}
    for metric in metrics:
        if metric in BIN_METRICS:
            scheme, norm = BIN_METRICS[metric]
            if scheme not in sums:
                sums[scheme] = bin_sums(top, bins=bins, scheme=scheme)
            low, high = _error_interval(sums[scheme], norm, confidence, resamples, seed)
            if metric == "brier_calibration":
                low, high = low**2, high**2
            value = value_of_bins(metric, sums[scheme])
            found[metric] = Estimate(value, min(low, value), max(high, value))
        elif metric == "accuracy":
            found[metric] = accuracy_interval(top, confidence)
        elif metric == "gap":
            found[metric] = gap_interval(top, confidence)
        elif metric == "aurc":
            found[metric] = _log_interval(aurc_values(top), top, confidence)
        else:
            found[metric] = mean_interval(refinement_losses(top, bins=bins), confidence=confidence)
    return found


def jeffreys_interval(successes: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the quantiles of Beta(x + 1/2, n - x + 1/2), but 0 at x = 0 and 1 at x = n (Brown et al. 2001, 3.1.3)."""
    tail, x = (1 - confidence) / 2, float(successes)
    low = 0.0 if x == 0 else beta_quantile(x + 0.5, n - x + 0.5, tail)
    high = 1.0 if x == n else beta_quantile(x + 0.5, n - x + 0.5, 1 - tail)
    return low, high


def clopper_pearson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """Return the share of successes with the interval of Clopper & Pearson (1934), which never covers too seldom.

    >>> round(clopper_pearson(0, 10).high, 6), round(1 - 0.025**0.1, 6)
    (0.308497, 0.308497)
    """
    tail = (1 - confidence) / 2
    low = beta_quantile(successes, n - successes + 1, tail) if successes else 0.0
    high = beta_quantile(successes + 1, n - successes, 1 - tail) if successes < n else 1.0
    return Estimate(successes / n, low, high)


def accuracy_interval(top: TopLabel, confidence: float = 0.95) -> Estimate:
    """Return accuracy with its Jeffreys interval."""
    return Estimate(float(top.correct.mean()), *jeffreys_interval(top.correct.sum(), len(top), confidence=confidence))


def mean_interval(values: FloatArray, *, confidence: float = 0.95) -> Estimate:
    """Return the mean of (N,) values with Student's t interval, mean ± t_{N-1} s / √N (no interval for N = 1)."""
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean)
    half = float(student_quantile(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def gap_interval(top: TopLabel, confidence: float = 0.95) -> Estimate:
    """Return the signed gap, mean confidence - accuracy, with an interval that holds where every example is right.

    The t interval of the residuals would have almost no width there. The intervals of both means (t and Jeffreys) are
    combined as in Zou (2007) and Zou & Donner (2008), with their correlation: low = d - √(a² + b² - 2 r a b), where a
    and b are the distances from each mean to the end that matters. Of k wrong (or right) examples, whichever are fewer,
    r is taken as k / (k + 1) of itself [choice]: where one example is wrong and has the lowest confidence r is nearly
    1 by chance, and with it the interval held the truth in 69% of samples. For large N it is the t interval.
    """
    values = top.confidence.astype(np.float64)
    mean, right = mean_interval(values, confidence=confidence), accuracy_interval(top, confidence)
    gap = mean.value - right.value
    spread = values.std() * top.correct.std()
    fewer = min(top.correct.sum(), len(top) - top.correct.sum())
    r = float(((values - mean.value) * (top.correct - right.value)).mean() / spread) if spread > 1e-12 else 0.0
    r *= fewer / (fewer + 1)
    a = (mean.high or mean.value) - mean.value
    below, above = right.value - (right.low or 0.0), (1.0 if right.high is None else right.high) - right.value
    low = gap - np.sqrt(max(0.0, a**2 + above**2 - 2 * r * a * above))
    high = gap + np.sqrt(max(0.0, a**2 + below**2 - 2 * r * a * below))
    return Estimate(gap, float(max(-1.0, low)), float(min(1.0, high)))


def classwise_interval(cells: ClassBins, *, confidence: float = 0.95) -> Estimate:
    """Return the classwise ECE with an interval by test inversion in closed form.

    As in `inversion`, with one cell for each class and bin, whose gap is normal: its size has the mean of a folded
    normal (2 p (1 - p) at least where a cell holds one example), and the error's own variance is that of the shares.
    """
    size, value = len(cells.share) * len(cells.residual), float(cells.share.mean())
    half = float(normal_quantile((1 + confidence) / 2) * cells.share.std() / np.sqrt(len(cells.share)))
    gap, sd = cells.residual.ravel(), np.sqrt(np.maximum(cells.variance.ravel(), 1e-300))
    shrunk = gap * np.maximum(0, 1 - 4 * sd**2 / np.maximum(gap**2, 1e-300))

    def true_error(direction: FloatArray, target: float) -> float:
        unit = direction / max(float(np.abs(direction).sum()), 1e-300)

        def excess(t: float) -> float:
            mean = t * size * unit
            folded = sd * np.sqrt(2 / np.pi) * np.exp(-((mean / sd) ** 2) / 2) + mean * erf(mean / sd / np.sqrt(2))
            return float(np.maximum(folded, single).sum()) / size - target

        return 0.0 if excess(0.0) >= 0 else root(excess, 0.0, target + 1e-9, 1e-12)

    single = np.where(cells.count.ravel() == 1, 2 * cells.variance.ravel(), 0)
    chance = float(np.maximum(sd * np.sqrt(2 / np.pi), single).sum()) / size
    low = true_error(shrunk if shrunk.any() else gap, value - half)
    return Estimate(value, min(low, value), max(true_error(gap, max(value, chance) + half), value))


def largest_gap_interval(sums: BinSums, confidence: float) -> tuple[float, float]:
    """Return the interval of the largest |mean confidence - accuracy| of the bins that hold examples.

    Test inversion is no help: with the same gap in all bins, noise makes the largest one larger whatever the truth is.
    The upper end is the largest that any bin's interval reaches, each at half of the error: it is enough that the
    interval of the bin with the largest true gap holds. For the lower end, the largest that any interval leaves out,
    all must hold, and share the other half (Bonferroni).
    """
    bins, error = sums.occupied(), (1 - confidence) / 2
    low, high, measured = 0.0, 0.0, np.abs(bins.gap).max()
    for n, right, stated in zip(bins.count, bins.correct, bins.confidence / bins.count, strict=True):
        outer, inner = (
            clopper_pearson(int(right), int(n), confidence=1 - share) for share in (error, error / len(bins.count))
        )
        high = max(high, stated - outer.low, outer.high - stated)
        low = max(low, stated - inner.high, inner.low - stated)
    return float(min(low, measured)), float(min(max(high, measured), 1.0))  # which rounding may put beside it


def _error_interval(sums: BinSums, norm: Norm, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(check_seed(seed))
    if norm == "max":
        return largest_gap_interval(sums, confidence)
    return inverted_interval(sums, norm=norm, confidence=confidence, resamples=resamples, rng=rng)


def _log_interval(values: FloatArray, top: TopLabel, confidence: float) -> Estimate:
    """Return the interval of a positive mean on the logarithmic scale; without any error, up to the error rate's."""
    value = float(values.mean())
    if top.correct.all():
        return Estimate(0.0, 0.0, 1 - jeffreys_interval(len(top), len(top), confidence=confidence)[0])
    width = float(normal_quantile((1 + confidence) / 2) * values.std() / np.sqrt(len(values)) / value)
    return Estimate(value, value * float(np.exp(-width)), min(1.0, value * float(np.exp(min(width, 700)))))


def check_resampling(confidence: float, resamples: int) -> None:
    """Refuse a coverage outside (0, 1), and fewer than 20 resamples."""
    check_fraction(confidence, "confidence")
    check_positive_int(resamples, "resamples", minimum=20)


def metric_range(metric: str) -> tuple[float, float]:
    """Return the least and the largest value that a metric can have."""
    return metric_of(metric).least, metric_of(metric).most


def within_range(metric: str, estimate: Estimate) -> Estimate:
    """Keep the interval of a metric where the metric can be: with two seeds Student's t reaches far beyond."""
    least, most = metric_range(metric)
    if metric.endswith("ece_corrected"):
        least = min(least, estimate.value)  # its bias is removed, and its noise goes both ways
    return _clipped(estimate, least, most)


def difference_within_range(metric: str, estimate: Estimate) -> Estimate:
    """Keep the interval of a difference of two values of a metric where it can be."""
    low, high = metric_range(metric)
    return _clipped(estimate, low - high, high - low)


def _clipped(estimate: Estimate, least: float, most: float) -> Estimate:
    low, high = estimate.low, estimate.high
    return replace(
        estimate,
        low=None if low is None else min(max(low, least), most),
        high=None if high is None else max(min(high, most), least),
    )
