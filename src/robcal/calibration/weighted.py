"""Every over-all metric as a function of example weights: what resampling the test examples needs.

A resample is a vector of counts, the same for every model, so models stay paired. Bins are found once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, check_bins, check_choice
from robcal.calibration import metrics
from robcal.calibration.binning import BinSums, Scheme, bin_index, bin_sums, summarise, total
from robcal.calibration.corrected import BinGaps, corrected_mean, mean_deviation
from robcal.calibration.prob_rows import checked
from robcal.calibration.selective import aurc_values

Weighted = Callable[[FloatArray], float]

#: Metrics that are means over examples (the last three to first order: their bins and ranks are held fixed).
MEAN_METRICS = ("accuracy", "gap", "nll", "brier", "brier_refinement", "classwise_ece", "aurc")
#: Metrics that are functions of bin sums: key → (scheme, norm).
BIN_METRICS: dict[str, tuple[Scheme, metrics.Norm]] = {
    "ece": ("width", "l1"),
    "ece_corrected": ("width", "l1"),
    "ece_mass": ("mass", "l1"),
    "ece_debiased": ("mass", "l2"),
    "mce": ("width", "max"),
    "brier_calibration": ("width", "l2"),
}
#: All names, the keys of `robcal.base.metrics.METRIC_LIST` without those under shift.
METRICS = (*MEAN_METRICS, *BIN_METRICS)


@dataclass(frozen=True)
class RunMetric:
    """A metric of one run's predictions, with what an interval needs."""

    value: float  # the metric
    weighted: Callable[[FloatArray], Any] | None = None
    examples: FloatArray | None = None  # (N,) whose resampled mean varies as the metric does
    gaps: BinGaps | None = None  # the bins of an error whose bias was removed

    def at(self, weights: Iterable[FloatArray], *, variance: float = 2.0) -> FloatArray:
        """Return the metric at each of B weights (N,) of the examples, (B,); `variance` as of `corrected_mean`."""
        assert self.weighted is not None, "a mean over examples has no need of weights"
        found = np.array([self.weighted(one) for one in weights])
        return found if self.gaps is None else corrected_mean(found[:, None], self.gaps.floor, variance=variance)


def weighted_metric(metric: str, probs: Any, labels: Any, *, bins: int = 15) -> Weighted:
    """Return a function of (N,) weights of the examples that gives a metric: at equal ones the metric itself."""
    run = run_metric(metric, probs, labels, bins=bins)
    if run.examples is not None:
        values = run.examples
        return lambda weights: float(weights @ values / weights.sum())
    return lambda weights: float(run.at([weights], variance=1.0)[0])


def run_metric(metric: str, probs: Any, labels: Any, *, bins: int = 15) -> RunMetric:
    """Return a metric of one run as tables show it: what was measured."""
    check_choice(metric, METRICS, "metric")
    check_bins(bins)
    if metric == "ece_corrected":
        return _corrected_bins(metric, probs, labels, bins)
    if metric in MEAN_METRICS:
        values = example_values(metric, probs, labels, bins=bins)
        return RunMetric(float(values.mean()), examples=values)
    return _weighted_bins(metric, probs, labels, bins, functools.partial(value_of_bins, metric))


def compared_metric(metric: str, probs: Any, labels: Any, *, bins: int = 15) -> RunMetric:
    """Return a metric as differences between methods need it: ECEs and Brier calibration without the bias of noise."""
    if metric in ("ece", "ece_corrected", "ece_mass"):
        return _corrected_bins(metric, probs, labels, bins)
    if metric == "classwise_ece":
        cells = metrics.class_bins(*checked(probs, labels), bins=bins, scheme="width")
        floor = mean_deviation(cells.count, cells.mass, cells.variance)
        gaps = BinGaps(cells.residual / len(cells.share), floor / len(cells.share))  # each class's bins as a diagram
        return RunMetric(gaps.corrected, examples=cells.share, gaps=gaps)
    if metric == "brier_calibration":
        return _weighted_bins(metric, probs, labels, bins, metrics.debiased_square)
    return run_metric(metric, probs, labels, bins=bins)


def example_values(metric: str, probs: Any, labels: Any, *, bins: int = 15) -> FloatArray:
    """Return (N,) values whose mean is the metric, one of `MEAN_METRICS`."""
    if metric in ("nll", "brier", "classwise_ece"):
        rows, truth = checked(probs, labels)
        if metric == "classwise_ece":
            return metrics.class_bins(rows, truth, bins=bins, scheme="width").share
        return metrics.losses_of("nll" if metric == "nll" else "brier", rows, truth)
    top = summarise(probs, labels)
    if metric == "brier_refinement":
        return metrics.refinement_losses(top, bins=bins)
    if metric == "aurc":
        return aurc_values(top)
    return top.correct if metric == "accuracy" else top.residual


def value_of_bins(metric: str, sums: BinSums) -> float:
    """Return the value of one of `BIN_METRICS` from bin sums of its scheme."""
    if metric == "ece_corrected":
        return BinGaps.of(sums).corrected
    if metric == "ece_debiased":
        return metrics.debiased(sums)
    error = metrics.norm_of_gaps(sums, BIN_METRICS[metric][1])
    return error**2 if metric == "brier_calibration" else error


def _weighted_bins(metric: str, probs: Any, labels: Any, bins: int, value: Callable[[BinSums], float]) -> RunMetric:
    top = summarise(probs, labels)
    index = bin_index(top.confidence, bins=bins, scheme=BIN_METRICS[metric][0])
    confidence = top.confidence.astype(np.float64)

    def weighted(weights: FloatArray) -> float:
        count, correct = total(index, weights, bins), total(index, weights * top.correct, bins)
        return value(BinSums(count, total(index, weights * confidence, bins), np.zeros(bins), correct))

    return RunMetric(weighted(np.ones(len(top))), weighted)


def _corrected_bins(metric: str, probs: Any, labels: Any, bins: int) -> RunMetric:
    top, scheme = summarise(probs, labels), BIN_METRICS[metric][0]
    index, residual = bin_index(top.confidence, bins=bins, scheme=scheme), top.residual
    gaps = BinGaps.of(bin_sums(top, bins=bins, index=index))
    return RunMetric(gaps.corrected, lambda weights: total(index, weights * residual, bins) / weights.sum(), gaps=gaps)
