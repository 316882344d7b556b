"""robcal: robustness-guided calibration.

Find the inputs a classifier is wrongly sure about (`score`, `assign_levels`, `audit`), and train it not to be
(`ARAdaLS`, `AdaptiveLabelSmoother`). Nothing is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # keep in step with pyproject.toml: a test compares them

if TYPE_CHECKING:
    from robcal.base.checks import InputError
    from robcal.base.levels import assign_levels
    from robcal.base.storage import load_scores, save_scores
    from robcal.base.types import Scores
    from robcal.calibration.corrected import calibration_noise_floor
    from robcal.calibration.intervals import calibration_error_interval
    from robcal.calibration.metrics import brier_score, calibration_error, negative_log_likelihood
    from robcal.calibration.prediction_sets import audit_sets, prediction_sets
    from robcal.calibration.recalibration import Recalibrator, load_recalibrator
    from robcal.calibration.temperature import TemperatureScaling
    from robcal.calibration.threshold import selective_threshold
    from robcal.results.audit import Audit, audit, audit_confidence
    from robcal.robustness.scoring import score
    from robcal.runs.export import export
    from robcal.smoothing.own_loop import ARAdaLS
    from robcal.smoothing.smoother import AdaptiveLabelSmoother
    from robcal.smoothing.soft_labels import level_statistics, soft_cross_entropy
    from robcal.training.loop import fit
    from robcal.training.running import RunningLevels
    from robcal.training.settings import Recipe

_HOMES = {
    "ARAdaLS": "robcal.smoothing.own_loop",
    "AdaptiveLabelSmoother": "robcal.smoothing.smoother",
    "Audit": "robcal.results.audit",
    "InputError": "robcal.base.checks",
    "Recalibrator": "robcal.calibration.recalibration",
    "Recipe": "robcal.training.settings",
    "RunningLevels": "robcal.training.running",
    "Scores": "robcal.base.types",
    "TemperatureScaling": "robcal.calibration.temperature",
    "assign_levels": "robcal.base.levels",
    "audit": "robcal.results.audit",
    "audit_confidence": "robcal.results.audit",
    "audit_sets": "robcal.calibration.prediction_sets",
    "brier_score": "robcal.calibration.metrics",
    "calibration_error": "robcal.calibration.metrics",
    "compare_models": "robcal.results.against",
    "export": "robcal.runs.export",
    "calibration_error_interval": "robcal.calibration.intervals",
    "calibration_noise_floor": "robcal.calibration.corrected",
    "fit": "robcal.training.loop",
    "level_statistics": "robcal.smoothing.soft_labels",
    "load_recalibrator": "robcal.calibration.recalibration",
    "load_scores": "robcal.base.storage",
    "negative_log_likelihood": "robcal.calibration.metrics",
    "prediction_sets": "robcal.calibration.prediction_sets",
    "save_scores": "robcal.base.storage",
    "score": "robcal.robustness.scoring",
    "selective_threshold": "robcal.calibration.threshold",
    "soft_cross_entropy": "robcal.smoothing.soft_labels",
}

__all__ = [
    "ARAdaLS",
    "AdaptiveLabelSmoother",
    "Audit",
    "InputError",
    "Recalibrator",
    "Recipe",
    "RunningLevels",
    "Scores",
    "TemperatureScaling",
    "assign_levels",
    "audit",
    "audit_confidence",
    "audit_sets",
    "brier_score",
    "calibration_error",
    "calibration_error_interval",
    "calibration_noise_floor",
    "export",
    "fit",
    "level_statistics",
    "load_recalibrator",
    "load_scores",
    "negative_log_likelihood",
    "prediction_sets",
    "save_scores",
    "score",
    "selective_threshold",
    "soft_cross_entropy",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'robcal' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
