"""Calibration of probabilities: arrays in, numbers out. No model, no torch.

`metrics` holds the numbers, `intervals` what they are worth, `conditional` the same per robustness level or group,
`selective` the ranking quality of the confidence, `seeds` the averages over runs, `temperature` the one-number repair.
"""
