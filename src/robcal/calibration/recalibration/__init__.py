"""Recalibration of a trained classifier: maps of its logits, fitted on validation data and chosen by cross-fitting.

`recalibrator.py` is what users touch; `selection.py` cross-fits and chooses; `stages.py` and `score_temperature.py`
fit; `maps.py` holds what was fitted. Arrays in, numbers out: no torch here, and probmetrics only to fit `svs` or `sms`.
"""

from robcal.calibration.recalibration.recalibrator import LEAST_EXAMPLES, Recalibrator, cross_fitted, load_recalibrator
from robcal.calibration.recalibration.selection import METHODS, CandidateResult

__all__ = ["LEAST_EXAMPLES", "METHODS", "CandidateResult", "Recalibrator", "cross_fitted", "load_recalibrator"]
