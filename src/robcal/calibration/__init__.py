"""Calibration of probabilities: arrays in, numbers out. No model, no torch.

`metrics` holds the numbers, `selective` how well the confidence ranks,
`ood` whether it tells what the model does not know, `intervals` what they are worth, `conditional`
the same per robustness level or group, `trends` the tests over levels, `seeds` the averages over runs, `temperature`
the one-number repair.
"""

from robcal.calibration.binning import top_label
from robcal.calibration.conditional import (
    group_table,
    level_table,
    overall_metrics,
    reliability_bins,
    top_label_metrics,
)
from robcal.calibration.corrected import calibration_noise_floor, corrected_calibration_error
from robcal.calibration.intervals import calibration_error_interval, metric_interval
from robcal.calibration.metrics import (
    accuracy,
    brier_decomposition,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    debiased_calibration_error,
    negative_log_likelihood,
    signed_gap,
)
from robcal.calibration.ood import OodMetrics, ood_metrics
from robcal.calibration.seeds import (
    average_over_seeds,
    paired_difference,
    seed_mean,
    seed_mean_interval,
    shared_variance,
)
from robcal.calibration.selective import aurc, risk_coverage_curve
from robcal.calibration.temperature import TemperatureScaling
from robcal.calibration.trends import trend_tests

__all__ = [
    "OodMetrics", "TemperatureScaling", "accuracy", "aurc", "average_over_seeds", "brier_decomposition", "brier_score",
    "calibration_error", "calibration_error_interval", "calibration_noise_floor", "classwise_calibration_error",
    "corrected_calibration_error", "debiased_calibration_error", "group_table", "level_table", "metric_interval",
    "negative_log_likelihood", "ood_metrics", "overall_metrics", "paired_difference", "reliability_bins",
    "risk_coverage_curve", "seed_mean", "seed_mean_interval", "shared_variance", "signed_gap", "top_label",
    "top_label_metrics", "trend_tests",
]  # fmt: skip
