"""Measured runs and plain arrays as results with intervals: `collect` puts runs side by side, `audit` looks at one.

It imports `runs`, `report` and what lies below, and reads what runs have measured.
"""
