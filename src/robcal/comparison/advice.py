"""results.json of a comparison → what to do: which label to use, raw, after a temperature and under corruption."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from robcal.base.metrics import metric_of
from robcal.comparison.blocks import difference_of, estimate_of
from robcal.comparison.page_grids import best_of
from robcal.report import formatting
from robcal.report.compared import MOST_TOLD
from robcal.report.formatting import clean_text, joined
from robcal.report.next_steps import Step

_WHEN = {
    ("raw", "ece"): "Without a recalibration",
    ("scaled", "ece"): "With a temperature, fitted on validation data",
    ("raw", "shift_ece"): "Where inputs may be corrupted, without a recalibration",
    ("scaled", "shift_ece"): "Where inputs may be corrupted, with a temperature",
}


def advice(record: Mapping[str, Any]) -> list[Step]:
    """Say which label to use in each situation that was measured, with its figures and what could as well be used."""
    found = [(when, *_best(record, metric, variant)) for (variant, metric), when in _WHEN.items()]
    steps = [(f"{when}, use {best}.", figures) for when, best, figures in found if best]
    return [Step(clean_text(do), clean_text(why)) for do, why in (*steps, *_failures(record))]


def _best(record: Mapping[str, Any], metric: str, variant: str) -> tuple[str, str]:
    """The best label of an outcome ("" for none), and its figure, its gain on the reference, and its rivals."""
    best, tied = best_of(record, metric, variant)
    method = next((one for one in record["methods"] if one["label"] == best), None)
    if method is None:
        return "", ""
    write = functools.partial(formatting.metric, metric)
    text = (
        f"{metric_of(metric).title} {formatting.with_interval(estimate_of(method[variant]['metrics'], metric), write)}"
    )
    return best, f"{text}{_gain(record, best, metric, variant)}.{_rivals(tied)}"


def _gain(record: Mapping[str, Any], best: str, metric: str, variant: str) -> str:
    """Its difference to the first reference, where it is not that itself."""
    reference = next(iter(record["differences"]), "")
    labels = record["differences"].get(reference, {})
    difference = difference_of(labels.get(best, {}).get(variant, {}), metric)
    if difference is None:
        return ""
    write = functools.partial(formatting.difference, metric)
    return f"; against {reference} {formatting.with_interval(difference, write)}"


def _rivals(tied: list[str]) -> str:
    if not tied:
        return " It can be told from all others."
    shown = tied if len(tied) <= MOST_TOLD else [*tied[:MOST_TOLD], f"{len(tied) - MOST_TOLD} more"]
    return f" {joined(shown)} cannot be told from it; of these, take the cheapest."


def _failures(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    missing = len(record.get("missing", ()))
    return [("Run the same command again.", f"What could not be measured stands above: {missing}.")] if missing else []
