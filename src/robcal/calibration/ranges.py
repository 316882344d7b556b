"""Where a metric can lie: the ends of an interval are kept there, as approximations reach beyond."""

from __future__ import annotations

from dataclasses import replace

from robcal.base.metrics import metric_of
from robcal.base.types import Estimate


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
