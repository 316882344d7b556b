"""Are the test images like the validation images, which temperature and smoothing are fitted on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robcal.calibration.metrics import accuracy
from robcal.calibration.temperature import TemperatureScaling
from robcal.report import formatting
from robcal.training.predict import softmax
from wide.store import Arrays

COLUMNS = (
    "accuracy, validation",
    "accuracy, test",
    *(f"gap, {split}{after}" for after in ("", ", + T") for split in ("validation", "test")),
)
#: Standard errors of a difference in accuracy beyond which the splits are unlike.
UNLIKE = 4.0


def both_splits(arrays: Arrays) -> list[float]:
    """Return the figures of `COLUMNS` of a run; a gap is mean confidence minus accuracy."""
    labels = {name: arrays[f"{name}_labels"].astype(np.int64) for name in ("val", "test")}
    logits = {name: arrays[name].astype(np.float32) for name in ("val", "test")}
    right = [accuracy(softmax(logits[name]), labels[name]) for name in ("val", "test")]
    found = list(right)
    for temperature in (1.0, TemperatureScaling().fit(logits["val"], labels["val"]).temperature):
        for name, share in zip(("val", "test"), right, strict=True):
            found.append(float(softmax(logits[name] / temperature).max(1).mean()) - share)
    return found


def unlike(runs: Sequence[Sequence[float]], sizes: tuple[int, int]) -> bool:
    """Tell whether the accuracies on both splits differ by more than `UNLIKE` standard errors.

    Args:
        runs: figures of `COLUMNS` of the runs of a recipe: each has its own validation images and the same test images.
        sizes: validation images of a run, and test images.
    """
    val, test = np.mean(runs, axis=0)[:2]
    variance = val * (1 - val) / (sizes[0] * len(runs)) + test * (1 - test) / sizes[1]
    return bool(abs(val - test) > UNLIKE * np.sqrt(variance))


def split_rows(runs: Mapping[str, Sequence[Sequence[float]]], titles: Mapping[str, str]) -> list[list[str]]:
    """Write the rows of a table: means over the seeds of every recipe."""
    rows = []
    for recipe, seeds in runs.items():
        right, gaps = np.split(np.mean(seeds, axis=0), [2])
        cells = [
            *(formatting.short(one) for one in right),
            *(formatting.short(one, 3, formatting.signed) for one in gaps),
        ]
        rows.append([titles[recipe], *cells])
    return rows
