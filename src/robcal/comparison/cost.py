"""What a method costs next to the plain one: seconds of training and of predicting the test split, as ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Key of a method's seconds in results.json → heading.
COSTS = {"seconds": "Training x", "inference_seconds": "Inference x"}
NOTE = (
    "Training x, inference x: seconds relative to {reference}, over the seeds that both have. Training includes the "
    "reference model and its scores where a method needs them, and every member of an ensemble; choosing "
    "hyper-parameters is not in it. Inference is the test split once, the least of a few passes. The seconds are wall "
    "time of tasks that ran beside each other, so on a shared machine ratios within some tens of percent of 1 say "
    "nothing; those of separate comparisons are not to be compared."
)


def reference_label(record: Mapping[str, Any]) -> str | None:
    """Return the first method that is plain cross-entropy and one network and was measured, or None."""
    plain = (
        one["label"] for one in record["methods"] if one["method"] == "vanilla" and one["members"] == 1 and one["seeds"]
    )
    return next(plain, None)


def cost_ratios(record: Mapping[str, Any], key: str) -> dict[str, float]:
    """Label → seconds of its runs over those of the plain runs of the same seeds; NaN where not measured.

    Args:
        record: results.json.
        key: of `COSTS`.

    Returns:
        Σ_s seconds_s(label) / Σ_s seconds_s(plain); empty if nothing is plain.
    """
    label = reference_label(record)
    if label is None:
        return {}
    by_label = {
        one["label"]: {
            seed: float("nan") if found is None else float(found)
            for seed, found in zip(one["seeds"], one.get(key) or [None] * len(one["seeds"]), strict=True)
        }
        for one in record["methods"]
    }
    plain, ratios = by_label[label], {}
    for name, times in by_label.items():
        shared = [seed for seed in times if math.isfinite(times[seed] + plain.get(seed, math.nan))]
        below = math.fsum(plain[seed] for seed in shared) if shared else 0.0
        ratios[name] = math.fsum(times[seed] for seed in shared) / below if below else math.nan
    return ratios
