"""robcal: robustness-guided calibration.

Find the inputs a classifier is wrongly sure about (`score`, `assign_levels`, `audit`), and train it not to be
(`ARAdaLS`, `AdaptiveLabelSmoother`). Nothing is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # keep in step with pyproject.toml: a test compares them

if TYPE_CHECKING:
    from robcal.base.errors import InputError
    from robcal.base.levels import assign_levels
    from robcal.base.storage import load_scores, save_scores
    from robcal.base.types import Scores
    from robcal.calibration.corrected import calibration_noise_floor
    from robcal.calibration.intervals import calibration_error_interval
    from robcal.calibration.metrics import accuracy, brier_score, calibration_error, negative_log_likelihood
    from robcal.calibration.prediction_sets import audit_sets, prediction_sets
    from robcal.calibration.recalibration import Recalibrator, load_recalibrator
    from robcal.calibration.selective import aurc
    from robcal.calibration.temperature import TemperatureScaling
    from robcal.calibration.threshold import selective_threshold
    from robcal.data import Dataset, load_dataset
    from robcal.methods import METHODS, Method, make_method
    from robcal.models import build_model
    from robcal.robustness.scoring import score
    from robcal.runs.against import compare_models
    from robcal.runs.audit import Audit, audit, audit_confidence
    from robcal.runs.directory import open_run
    from robcal.runs.export import export
    from robcal.runs.train import train_run
    from robcal.smoothing.own_loop import ARAdaLS
    from robcal.smoothing.running import logit_margin
    from robcal.smoothing.smoother import AdaptiveLabelSmoother
    from robcal.smoothing.soft_labels import level_statistics, soft_cross_entropy
    from robcal.training.loop import fit
    from robcal.training.running import RunningLevels
    from robcal.training.settings import Recipe, TrainSettings

#: Module → the names that live in it.
_NAMES = {
    "robcal.base.errors": "InputError",
    "robcal.base.levels": "assign_levels",
    "robcal.base.storage": "load_scores save_scores",
    "robcal.base.types": "Scores",
    "robcal.calibration.corrected": "calibration_noise_floor",
    "robcal.calibration.intervals": "calibration_error_interval",
    "robcal.calibration.metrics": "accuracy brier_score calibration_error negative_log_likelihood",
    "robcal.calibration.prediction_sets": "audit_sets prediction_sets",
    "robcal.calibration.recalibration": "Recalibrator load_recalibrator",
    "robcal.calibration.selective": "aurc",
    "robcal.calibration.temperature": "TemperatureScaling",
    "robcal.calibration.threshold": "selective_threshold",
    "robcal.data": "Dataset load_dataset",
    "robcal.methods": "METHODS Method make_method",
    "robcal.models": "build_model",
    "robcal.robustness.scoring": "score",
    "robcal.runs.against": "compare_models",
    "robcal.runs.audit": "Audit audit audit_confidence",
    "robcal.runs.directory": "open_run",
    "robcal.runs.export": "export",
    "robcal.runs.train": "train_run",
    "robcal.smoothing.own_loop": "ARAdaLS",
    "robcal.smoothing.running": "logit_margin",
    "robcal.smoothing.smoother": "AdaptiveLabelSmoother",
    "robcal.smoothing.soft_labels": "level_statistics soft_cross_entropy",
    "robcal.training.loop": "fit",
    "robcal.training.running": "RunningLevels",
    "robcal.training.settings": "Recipe TrainSettings",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "ARAdaLS", "AdaptiveLabelSmoother", "Audit", "Dataset", "InputError", "METHODS", "Method", "Recalibrator",
    "Recipe", "RunningLevels", "Scores", "TemperatureScaling", "TrainSettings", "accuracy", "assign_levels", "audit",
    "audit_confidence", "audit_sets", "aurc", "brier_score", "build_model", "calibration_error",
    "calibration_error_interval", "calibration_noise_floor", "compare_models", "export", "fit", "level_statistics",
    "load_dataset", "load_recalibrator", "load_scores", "logit_margin", "make_method", "negative_log_likelihood",
    "open_run", "prediction_sets", "save_scores", "score", "selective_threshold", "soft_cross_entropy", "train_run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'robcal' has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from robcal.base.extras import refuse_untrainable

        refuse_untrainable(error, f"robcal.{name}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])
