"""results.json of a comparison → the figures of its page."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robcal.base.metrics import metric_of
from robcal.comparison.blocks import mean_of
from robcal.comparison.figure import panels
from robcal.comparison.summary import VARIANTS
from robcal.report import figures
from robcal.report.layout import LegendItem, Panel
from robcal.report.plotted import Box, Series, box_of, side_by_side
from robcal.report.risk_coverage import draw_risk_coverage
from robcal.report.svg import METHOD_COLOURS, method_role

#: The outcomes drawn on top of the page.
GLANCE = ("ece", "shift_ece", "nll", "accuracy")
_VARIANTS = {"raw": "without any post-hoc step", "scaled": "after temperature scaling"}


def glance_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Return the main outcomes of every label as dots with 95% intervals."""
    return [
        Panel(metric_of(metric).short, f"{'Lower' if metric_of(metric).lower else 'Higher'} is better.", svg)
        for metric, svg, _ in panels(record, GLANCE)
    ]


def shift_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Box plots over the corruptions of the ECE by severity, on one scale, raw and after temperature scaling."""
    boxes = {variant: _boxes(record, variant) for variant in VARIANTS}
    draw = functools.partial(figures.draw_boxes, y_label="ECE")
    return _raw_and_scaled(record, boxes, draw, key="shift", title="ECE by severity")


def risk_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Risk-coverage curves, mean over seeds, raw and after temperature scaling; none in results without them."""
    curves = {variant: _curves(record, variant) for variant in VARIANTS}
    return _raw_and_scaled(record, curves, draw_risk_coverage, key="risk", title="Risk and coverage")


def _raw_and_scaled(
    record: Mapping[str, Any],
    drawn: Mapping[str, Sequence[Box] | Sequence[Series]],
    draw: Callable[..., str],
    *,
    key: str,
    title: str,
) -> list[Panel]:
    """A panel a variant, all on one scale; of as many methods as have colours, the others in further panels."""
    every = [one for found in drawn.values() for one in found]
    made = []
    for number, part in enumerate(side_by_side(sorted({one.method for one in every}), METHOD_COLOURS)):
        for variant, found in drawn.items():
            shown = [one for one in found if one.method in part]
            heading = f"{title}, {_VARIANTS[variant]}"
            if shown:
                svg = draw(shown, key=f"{key}-{variant}-{number}", title=heading, scale=every)
                made.append(Panel(heading, "", svg, _legend(record, part)))
    return made


def _boxes(record: Mapping[str, Any], variant: str) -> list[Box]:
    """By severity, then by label: over the corruptions, each the mean over seeds."""
    severities: dict[int, list[int]] = {}
    for place, cell in enumerate(record["cells"]):
        severities.setdefault(int(cell.rpartition("-")[2]), []).append(place)
    means = [
        [mean_of(cell) for cell in zip(*method[variant]["cells"].get("ece", []), strict=True)]
        for method in record["methods"]
    ]
    made = []
    for severity, places in sorted(severities.items()):
        for position, cells in enumerate(means):
            values = [cells[place] for place in places if cells and cells[place] == cells[place]]
            if values:
                made.append(box_of(values, method=position, severity=severity))
    return made


def _curves(record: Mapping[str, Any], variant: str) -> list[Series]:
    coverages, made = tuple(record.get("coverages", ())), []
    for position, method in enumerate(record["methods"]):
        seeds = method[variant].get("risk", [])
        if seeds and coverages:
            risk = tuple(mean_of(found) for found in zip(*seeds, strict=True))
            made.append(Series(position, coverages, risk, (), ()))
    return made


def _legend(record: Mapping[str, Any], part: tuple[int, ...]) -> tuple[LegendItem, ...]:
    return tuple(
        LegendItem(
            record["methods"][position]["label"], method_role(position), f"marker-{position % len(figures.MARKERS)}"
        )
        for position in part
    )
