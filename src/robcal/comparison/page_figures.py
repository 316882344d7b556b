"""results.json of a comparison → the figures of its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robcal.comparison.blocks import mean_of
from robcal.comparison.figure import panels
from robcal.comparison.plan import OUTCOMES
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
    """The main outcomes of every label as dots with 95% intervals."""
    return [
        Panel(OUTCOMES[metric][0], f"{'Lower' if OUTCOMES[metric][1] else 'Higher'} is better.", svg)
        for metric, svg, _ in panels(record, GLANCE)
    ]


def shift_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Box plots over the corruptions of the ECE by severity, on one scale, raw and after temperature scaling."""
    boxes = {variant: _boxes(record, variant) for variant in VARIANTS}
    every = [box for found in boxes.values() for box in found]
    made = []
    for number, part in enumerate(side_by_side(sorted({box.method for box in every}), METHOD_COLOURS)):
        for variant, found in boxes.items():
            shown = [box for box in found if box.method in part]
            key, title = f"shift-{variant}-{number}", f"ECE by severity, {_VARIANTS[variant]}"
            if shown:
                svg = figures.draw_boxes(shown, key=key, title=title, y_label="ECE", scale=every)
                made.append(Panel(title, "", svg, _legend(record, part)))
    return made


def risk_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Risk-coverage curves, mean over seeds, raw and after temperature scaling; none in results without them."""
    curves = {variant: _curves(record, variant) for variant in VARIANTS}
    every = [one for found in curves.values() for one in found]
    made = []
    for number, part in enumerate(side_by_side(sorted({one.method for one in every}), METHOD_COLOURS)):
        for variant, found in curves.items():
            shown = [one for one in found if one.method in part]
            title = f"Risk and coverage, {_VARIANTS[variant]}"
            if shown:
                svg = draw_risk_coverage(shown, key=f"risk-{variant}-{number}", title=title, scale=every)
                made.append(Panel(title, "", svg, _legend(record, part)))
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
