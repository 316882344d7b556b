"""robcal: robustness-guided calibration."""
