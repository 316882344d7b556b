"""What a method costs next to the plain one: seconds of training and of predicting the test split, as ratios."""

from __future__ import annotations

import math
from typing import Literal

from robcal.base.results import Results

Cost = Literal["seconds", "inference_seconds"]
#: Field of `Training` → heading.
COSTS: dict[Cost, str] = {"seconds": "Training x", "inference_seconds": "Inference x"}
NOTE = (
    "Training x, inference x: seconds relative to {reference}, over the seeds that both have. Training includes the "
    "reference model and its scores where a method needs them, and every member of an ensemble; choosing "
    "hyper-parameters is not in it. Inference is the test split once, the least of a few passes. The seconds are wall "
    "time of tasks that ran beside each other, so on a shared machine ratios within some tens of percent of 1 say "
    "nothing; those of separate comparisons are not to be compared."
)


def reference_label(results: Results) -> str | None:
    """Return the first method that is plain training of one network and was measured, or None."""
    made = ((one.name, one.training) for one in results.methods if one.seeds)
    return next((name for name, how in made if how and how.method == "vanilla" and how.members == 1), None)


def cost_ratios(results: Results, key: Cost) -> dict[str, float]:
    """Return label → seconds of its runs over those of the plain runs of the same seeds: Σ_s seconds_s / Σ_s plain_s.

    A ratio is NaN where it was not measured; there is none if nothing is plain.
    """
    label = reference_label(results)
    if label is None:
        return {}
    by_label = {
        one.name: dict(zip(one.seeds, getattr(one.training, key, ()) or [math.nan] * len(one.seeds), strict=True))
        for one in results.methods
    }
    plain, ratios = by_label[label], {}
    for name, times in by_label.items():
        shared = [seed for seed in times if math.isfinite(times[seed] + plain.get(seed, math.nan))]
        below = math.fsum(plain[seed] for seed in shared) if shared else 0.0
        ratios[name] = math.fsum(times[seed] for seed in shared) / below if below else math.nan
    return ratios
