"""Results of a comparison → its figures: main outcomes as dots, boxes by severity, curves of risk and coverage."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from robcal.base.metrics import mean_of, metric_of
from robcal.base.results import VARIANTS, MethodResult, Results, Variant
from robcal.base.types import Estimate
from robcal.calibration.intervals import within_range
from robcal.report import figures, formatting
from robcal.report.layout import Panel
from robcal.report.plotted import NAN, Series, series_of, shift_boxes, side_by_side
from robcal.report.sections import legend_of
from robcal.report.study_notes import study_of
from robcal.report.svg import WIDTH, theme_colours

#: The outcomes shown in the file, each a panel.
PANELS = ("ece", "shift_ece", "nll", "shift_nll", "level_ece", "aurc", "accuracy", "shift_accuracy")
#: The outcomes drawn on top of the page.
GLANCE = ("ece", "shift_ece", "nll", "accuracy")
_NAMES: Mapping[Variant, str] = {"raw": "raw", "scaled": "temperature-scaled"}
_WHEN: Mapping[Variant, str] = {"raw": "without any post-hoc step", "scaled": "after temperature scaling"}


def figure_svg(results: Results) -> str:
    """Return one SVG file: means over seeds with their 95% intervals, a panel an outcome that was measured."""
    return svg_file([(drawn, height) for _, drawn, height in _panels(results, PANELS)])


def glance_panels(results: Results) -> list[Panel]:
    """Return the main outcomes of every label as dots with 95% intervals."""
    return [
        Panel(metric_of(metric).short, f"{'Lower' if metric_of(metric).lower else 'Higher'} is better.", svg)
        for metric, svg, _ in _panels(results, GLANCE)
    ]


def shift_panels(results: Results) -> list[Panel]:
    """Return box plots over the corruptions of the ECE by severity, on one scale, raw and scaled."""
    boxes = {variant: shift_boxes(_variants(results, variant), "ece") for variant in VARIANTS}
    frame = figures.Frame("shift", "ECE by severity", "ECE", "severity of the corruption")
    return _raw_and_scaled(results, boxes, figures.draw_boxes, frame)


def risk_panels(results: Results) -> list[Panel]:
    """Return risk-coverage curves (Geifman & El-Yaniv 2017), mean over seeds, raw and scaled, where there are some."""
    curves = {variant: _curves(results, variant) for variant in VARIANTS}
    x_label, y_label = "share kept, the most confident first", "Error rate of the examples kept"
    frame = figures.Frame("risk", "Risk and coverage", y_label, x_label, percent=True)
    return _raw_and_scaled(results, curves, figures.draw_curves, frame)


def _panels(results: Results, metrics: Sequence[str]) -> list[tuple[str, str, float]]:
    """Draw the outcomes that were measured: (metric, inline SVG of its means with intervals, height) of each."""
    labels, made = [one.title for one in results.methods], []
    for metric in metrics:
        known = metric_of(metric)
        every = [
            series_of(n, [_estimate(one, metric) for one in _variants(results, variant)])
            for n, variant in enumerate(VARIANTS)
        ]
        if not any(math.isfinite(value) for one in every for value in one.y):
            continue
        series = every[:1] if known.percent else every
        write = formatting.percent if known.percent else formatting.number
        legend = tuple(_NAMES.values()) if len(series) > 1 else ()
        frame = figures.Frame(metric.replace("_", "-"), known.short, known.short, "")
        drawn = figures.draw_rows(series, frame, labels, write, legend=legend)
        made.append((metric, drawn, figures.rows_height(len(labels), len(series), known.short)))
    return made


def _estimate(method: MethodResult, metric: str) -> Estimate:
    return within_range(metric, method.metrics.get(metric, Estimate(NAN)))


def _variants(results: Results, variant: Variant) -> tuple[MethodResult, ...]:
    return tuple(one.variant(variant) for one in results.methods)


def _raw_and_scaled(
    results: Results, drawn: Mapping[Variant, Sequence[Series]], draw: Callable[..., str], frame: figures.Frame
) -> list[Panel]:
    """Draw a panel a variant, all on one scale; of as many methods as have colours, the others in further panels."""
    made, every = [], [one for found in drawn.values() for one in found]
    for number, part in enumerate(side_by_side(sorted({one.method for one in every}))):
        for variant, found in drawn.items():
            if shown := [one for one in found if one.method in part]:
                key, heading = f"{frame.key}-{variant}-{number}", f"{frame.title}, {_WHEN[variant]}"
                svg = draw(shown, replace(frame, key=key, title=heading, scale=every))
                made.append(Panel(heading, "", svg, legend_of(results, part)))
    return made


def _curves(results: Results, variant: Variant) -> list[Series]:
    coverages = study_of(results).coverages
    return [
        Series(position, coverages, tuple(mean_of(found) for found in zip(*one.risk, strict=True)))
        for position, one in enumerate(_variants(results, variant))
        if one.risk and coverages
    ]


def svg_file(figures: Sequence[tuple[str, float]], *, columns: int = 2) -> str:
    """Put inline figures of known heights in rows, as one SVG file in the light theme that needs nothing else."""
    gap, parts, top = 12.0, [], 12.0
    columns = min(columns, len(figures))
    for start in range(0, len(figures), columns):
        row = figures[start : start + columns]
        for n, (element, height) in enumerate(row):
            place = f'<svg x="{gap + n * (WIDTH + gap):g}" y="{top:g}" width="{WIDTH:g}" height="{height:g}" '
            parts.append(element.replace("<svg ", place, 1))
        top += max(height for _, height in row) + gap
    width, colours = gap + columns * (WIDTH + gap), theme_colours(0)
    body = re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: colours[match[1]], "\n".join(parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top:g}" width="{width:g}" height="{top:g}" '
        f'font-family="DejaVu Sans, Helvetica, Arial, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="{colours["surface"]}"/>\n{body}\n</svg>\n'
    )
