"""Calibration for Hugging Face's `evaluate`: a metric in a local script, `evaluate.load("…/robcal_calibration.py")`.

`robcal.integrations.evaluate_script()` returns the path of this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.base.checks import check_labels
from robcal.base.extras import import_extra
from robcal.calibration import calibration_noise_floor
from robcal.calibration.binning import summarise
from robcal.calibration.weighted import METRICS, weighted_metric

evaluate: Any = import_extra("evaluate", "evaluate", "robcal.integrations.robcal_calibration")
datasets: Any = import_extra("datasets", "evaluate", "robcal.integrations.robcal_calibration")

_DESCRIPTION = "How well the probabilities of a classifier are calibrated, over all and level by level."
_CITATION = "Qin, Wang, Beutel, Chi: Improving Calibration through the Relationship with Adversarial Robustness, 2021."
_INPUTS = """
Args:
    predictions: (N, Z) probabilities, not logits; rows sum to 1.
    references: (N,) true classes, integers in 0 … Z - 1.
    levels: (N,) integers from 0, the level of each example; adds "level_gaps", the signed gap of each level.
    bins: number of bins of the calibration errors; default 15.
Returns:
    A dictionary: "ece", "nll", "brier", … as `robcal.calibration.overall_metrics` names them, and "ece_floor", the ECE
    that a perfectly calibrated model with these confidences measures on average.
"""


class RobcalCalibration(evaluate.Metric):  # type: ignore[misc]
    """Measure calibration: the numbers of `robcal.calibration`, without their intervals."""

    def _info(self) -> Any:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2006.16375"],
        )

    def _compute(self, predictions: Any, references: Any, levels: Any = None, bins: int = 15) -> dict[str, Any]:
        """Return the metrics of all examples that were added.

        Raises:
            InputError: on bad probabilities, labels or levels.
        """
        probs, equal = np.asarray(predictions), np.ones(len(references))
        found: dict[str, Any] = {name: weighted_metric(name, probs, references, bins=bins)(equal) for name in METRICS}
        found["ece_floor"] = calibration_noise_floor(probs, bins=bins)
        if levels is not None:
            top, level = summarise(probs, references), check_labels(levels, n=len(references), name="levels")
            apart = top.confidence - top.correct
            found["level_gaps"] = [float(apart[level == number].mean()) for number in np.unique(level)]
        return found
