"""The idea: soft targets whose strength follows the calibration of each level.

`smoother` holds `AdaptiveLabelSmoother`, `controllers` what steers it, `soft_labels` the targets and a loss for them,
`state` how it is saved. It imports `base` only; `methods/ar_adals.py` puts it into training.
"""
