"""Every over-all metric once: what it is called, which direction is good, how it is written, where it can lie.

`robcal.calibration.weighted` computes those of predictions, `robcal.calibration.ood` those of foreign inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """Describe one metric."""

    title: str  # what it is called
    short: str  # heading of a narrow column
    text: str  # one line that says what it is
    lower: bool = True  # whether lower is better
    percent: bool = False  # whether it is a share that reads best as a percentage
    ranked: bool = True  # whether it has a best value: which of two signed gaps is nearer to zero says little
    least: float = 0.0  # the least value that it can have
    most: float = 1.0  # the largest


_SAME_CELLS = "mean over the same corruptions and severities"

#: By name, in the order in which tables show them.
METRIC_LIST: Mapping[str, Metric] = {
    "accuracy": Metric(
        "Accuracy", "Accuracy", "share of examples whose most probable class is the true one", lower=False, percent=True
    ),
    "ece": Metric("ECE", "ECE", "expected calibration error of the top label, 15 equal-width bins (Guo et al. 2017)"),
    "ece_corrected": Metric(
        "ECE, bias removed",
        "ECE corr.",
        "the same with most of the noise taken off that a finite sample adds; below 0 where less than chance is left",
    ),
    "ece_mass": Metric(
        "ECE (equal mass)", "ECE mass", "the ECE with bins of equal numbers of examples; ties are never split"
    ),
    "ece_debiased": Metric(
        "l2 error, debiased",
        "l2 deb.",
        "another error than the ECE: root of the debiased mean squared gap of 15 equal-mass bins (Kumar et al. 2019)",
    ),
    "mce": Metric("MCE", "MCE", "largest calibration error of any of the 15 equal-width bins"),
    "classwise_ece": Metric("Classwise ECE", "ECE class.", "mean over classes of the ECE of that class's probability"),
    "gap": Metric(
        "Signed gap", "Gap", "mean confidence minus accuracy; positive is over-confident", ranked=False, least=-1.0
    ),
    "nll": Metric("NLL", "NLL", "mean negative log-likelihood of the true class, in nats", most=math.inf),
    "brier": Metric(
        "Brier", "Brier", "mean squared distance of the probability vector from the one-hot label", most=2.0
    ),
    "brier_calibration": Metric(
        "Brier, calibration", "Brier cal.", "what shifting each bin by its gap removes of the top label's Brier score"
    ),
    "brier_refinement": Metric("Brier, refinement", "Brier ref.", "what that leaves of the top label's Brier score"),
    "aurc": Metric(
        "AURC", "AURC", "area under the risk-coverage curve of the confidence: error rate of the kept examples"
    ),
    "level_ece": Metric("Mean ECE of the levels", "ECE levels", "mean over robustness levels of the ECE in the level"),
    "level_ece_corrected": Metric(
        "Mean ECE of the levels, bias removed", "ECE lev. corr.", "the same, most of the noise taken off every level"
    ),
    "shift_ece": Metric(
        "Mean ECE under shift", "ECE shift", "ECE of each corruption and severity, then the mean over these cells"
    ),
    "shift_ece_corrected": Metric(
        "Mean ECE under shift, bias removed", "ECE sh. corr.", "the same with most of the noise taken off every cell"
    ),
    "shift_accuracy": Metric("Accuracy under shift", "Acc. shift", _SAME_CELLS, lower=False, percent=True),
    "shift_nll": Metric("NLL under shift", "NLL shift", _SAME_CELLS, most=math.inf),
    "ood_auroc": Metric(
        "OOD AUROC", "OOD AUROC", "chance that a test example has a higher confidence than an OOD input", lower=False
    ),
    "ood_aupr": Metric(
        "OOD AUPR", "OOD AUPR", "average precision of finding OOD inputs (the positives) by low confidence", lower=False
    ),
    "ood_fpr95": Metric("OOD FPR95", "OOD FPR95", "share of OOD inputs accepted where 95% of the test examples are"),
}

#: Out-of-distribution detection by the confidence.
OOD_METRICS = ("ood_auroc", "ood_aupr", "ood_fpr95")
#: What a comparison measures, in the order in which its tables show it; its targets may name these.
OUTCOMES = (
    "accuracy", "nll", "brier", "aurc", "ece", "ece_corrected", "level_ece", "level_ece_corrected", "shift_ece",
    "shift_ece_corrected", "shift_accuracy", "shift_nll", *OOD_METRICS,
)  # fmt: skip
#: Calibration errors → the metric whose differences stand for theirs, because noise biases what is measured.
CORRECTED: Mapping[str, str] = {name: f"{name}_corrected" for name in ("ece", "level_ece", "shift_ece")}


def metric_of(name: str) -> Metric:
    """Return the description of a metric; one that is not known is a share of which less is better.

    >>> metric_of("nll").most, metric_of("mine").title
    (inf, 'mine')
    """
    return METRIC_LIST.get(name, Metric(name, name, ""))


def mean_of(values: Iterable[float | None]) -> float:
    """Return the mean of what is there (neither None nor NaN), NaN of nothing.

    >>> mean_of([1.0, None, 3.0])
    2.0
    """
    known = [float(value) for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
