"""Every over-all metric as a function of example weights: what resampling the test examples needs.

A resample is a vector of counts, the same for every model, so models stay paired. Bins are found once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, check_choice, check_labels, check_positive_int, check_probs, precision_of
from robcal.calibration.binning import BinSums, Scheme, TopLabel, bin_index, summarise, total
from robcal.calibration.metrics import (
    Norm,
    brier_losses,
    class_bins,
    debiased,
    log_losses,
    norm_of_gaps,
    refinement_losses,
)
from robcal.calibration.selective import aurc_values

Weighted = Callable[[FloatArray], float]

#: Metrics that are means over examples (the last three to first order: their bins and ranks are held fixed).
MEAN_METRICS = ("accuracy", "gap", "nll", "brier", "brier_refinement", "classwise_ece", "aurc")
#: Metrics that are functions of bin sums: key → (scheme, norm).
BIN_METRICS: dict[str, tuple[Scheme, Norm]] = {
    "ece": ("width", "l1"),
    "ece_mass": ("mass", "l1"),
    "ece_debiased": ("mass", "l2"),
    "mce": ("width", "max"),
    "brier_calibration": ("width", "l2"),
}
#: All names, the keys of `robcal.base.types.METRIC_TITLES` without those under shift.
METRICS = (*MEAN_METRICS, *BIN_METRICS)


def weighted_metric(metric: str, probs: Any, labels: Any, *, bins: int = 15) -> Weighted:
    """Return the function that computes a metric of these predictions from weights of the examples.

    Args:
        metric: one of `METRICS`.
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins, where the metric has bins.

    Returns:
        A function of (N,) non-negative weights; at equal weights it is the metric itself.

    Raises:
        InputError: on bad input or an unknown metric.

    >>> ece = weighted_metric("ece", [[0.25, 0.75], [0.25, 0.75]], [1, 0])
    >>> ece(np.array([1.0, 1.0])), ece(np.array([3.0, 1.0]))
    (0.25, 0.0)
    """
    check_choice(metric, METRICS, "metric")
    check_positive_int(bins, "bins")
    if metric in MEAN_METRICS:
        values = example_values(metric, probs, labels, bins=bins)
        return lambda weights: float(weights @ values / weights.sum())
    return _weighted_bins(metric, summarise(probs, labels), bins)


def example_values(metric: str, probs: Any, labels: Any, *, bins: int = 15) -> FloatArray:
    """Return (N,) values whose mean is the metric, one of `MEAN_METRICS`."""
    if metric in ("nll", "brier", "classwise_ece"):
        array, precision = check_probs(probs), precision_of(probs)
        truth = check_labels(labels, n=len(array), num_classes=array.shape[1])
        if metric == "classwise_ece":
            return class_bins(array, truth, bins=bins, scheme="width", dtype=precision.dtype).share
        return log_losses(array, truth, precision.cost_of_zero) if metric == "nll" else brier_losses(array, truth)
    top = summarise(probs, labels)
    if metric == "brier_refinement":
        return refinement_losses(top, bins=bins)
    if metric == "aurc":
        return aurc_values(top)
    return top.correct if metric == "accuracy" else top.residual


def value_of_bins(metric: str, sums: BinSums) -> float:
    """Return the value of one of `BIN_METRICS` from bin sums of its scheme."""
    if metric == "ece_debiased":
        return debiased(sums)
    error = norm_of_gaps(sums, BIN_METRICS[metric][1])
    return error**2 if metric == "brier_calibration" else error


def _weighted_bins(metric: str, top: TopLabel, bins: int) -> Weighted:
    index = bin_index(top.confidence, bins=bins, scheme=BIN_METRICS[metric][0])
    confidence = top.confidence.astype(np.float64)

    def value(weights: FloatArray) -> float:
        count, correct = total(index, weights, bins), total(index, weights * top.correct, bins)
        mean_sum = total(index, weights * confidence, bins)
        return value_of_bins(metric, BinSums(count, mean_sum, np.zeros(bins), correct))

    return value
