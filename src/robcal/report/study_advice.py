"""Results of a comparison → what to do: which label to use, raw, after a temperature and under corruption."""

from __future__ import annotations

import functools

from robcal.base.metrics import metric_of
from robcal.base.results import MethodResult, Results, Variant
from robcal.calibration.ranges import difference_within_range, within_range
from robcal.report import formatting
from robcal.report.compared import MOST_TOLD
from robcal.report.formatting import clean_text, joined
from robcal.report.next_steps import Step
from robcal.report.study_tables import best_of, study_of

_WHEN: dict[tuple[Variant, str], str] = {
    ("raw", "ece"): "Without a recalibration",
    ("scaled", "ece"): "With a temperature, fitted on validation data",
    ("raw", "shift_ece"): "Where inputs may be corrupted, without a recalibration",
    ("scaled", "shift_ece"): "Where inputs may be corrupted, with a temperature",
}


def advice(results: Results) -> list[Step]:
    """Say which label to use in each situation that was measured, with its figures and what could as well be used."""
    steps = []
    for (variant, metric), when in _WHEN.items():
        best, tied = best_of(results, metric, variant)
        if best:
            figures = _figures(results, results.method(best).variant(variant), metric)
            steps.append((f"{when}, use {best}.", f"{figures}.{_rivals(tied)}"))
    if missing := len(study_of(results).missing):
        steps.append(("Run the same command again.", f"What could not be measured stands above: {missing}."))
    return [Step(clean_text(do), clean_text(why)) for do, why in steps]


def _figures(results: Results, best: MethodResult, metric: str) -> str:
    """Return its outcome, and its difference to the first reference, where it is not that itself."""
    found, write = best.metrics.get(metric), functools.partial(formatting.metric, metric)
    known = None if found is None else within_range(metric, found)
    text = f"{metric_of(metric).title} {formatting.with_interval(known, write)}"
    reference = next(iter(study_of(results).references), "")
    minus = best.minus.get(reference, {}).get(metric)
    if minus is None:
        return text
    write = functools.partial(formatting.difference, metric)
    return f"{text}; against {reference} {formatting.with_interval(difference_within_range(metric, minus), write)}"


def _rivals(tied: list[str]) -> str:
    if not tied:
        return " It can be told from all others."
    shown = tied if len(tied) <= MOST_TOLD else [*tied[:MOST_TOLD], f"{len(tied) - MOST_TOLD} more"]
    return f" {joined(shown)} cannot be told from it; of these, take the cheapest."
