"""Results of a comparison → its figures: main outcomes as dots, boxes by severity, curves of risk and coverage."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from robcal.base.metrics import mean_of, metric_of
from robcal.base.results import VARIANTS, MethodResult, Results, Variant
from robcal.base.types import Estimate
from robcal.calibration.ranges import within_range
from robcal.report import figures
from robcal.report.dots import Dots, dots_height, draw_dots, svg_file
from robcal.report.layout import Panel
from robcal.report.plotted import Box, Series, shift_boxes
from robcal.report.sections import parts_of
from robcal.report.study_tables import study_of

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
    draw = functools.partial(figures.draw_boxes, y_label="ECE")
    return _raw_and_scaled(results, boxes, draw, key="shift", title="ECE by severity")


def risk_panels(results: Results) -> list[Panel]:
    """Return risk-coverage curves (Geifman & El-Yaniv 2017), mean over seeds, raw and scaled, where there are some."""
    curves = {variant: _curves(results, variant) for variant in VARIANTS}
    draw = functools.partial(
        figures.draw_curves,
        y_label="Error rate of the examples kept",
        x_label="share kept, the most confident first",
        percent=True,
        from_zero=True,
    )
    return _raw_and_scaled(results, curves, draw, key="risk", title="Risk and coverage")


def _panels(results: Results, metrics: Sequence[str]) -> list[tuple[str, str, float]]:
    """Draw the outcomes that were measured: (metric, inline SVG of its means with intervals, height) of each."""
    labels, made = [one.title for one in results.methods], []
    for metric in metrics:
        known = metric_of(metric)
        series = [
            Dots(_NAMES[variant], [_estimate(one, metric) for one in _variants(results, variant)])
            for variant in VARIANTS
        ]
        if all(estimate is None for dots in series for estimate in dots.estimates):
            continue
        shown = series[:1] if known.percent else series
        drawn = draw_dots(labels, shown, key=metric.replace("_", "-"), title=known.short, percent=known.percent)
        made.append((metric, drawn, dots_height(len(labels))))
    return made


def _estimate(method: MethodResult, metric: str) -> Estimate | None:
    found = method.metrics.get(metric)
    return None if found is None else within_range(metric, found)


def _variants(results: Results, variant: Variant) -> tuple[MethodResult, ...]:
    return tuple(one.variant(variant) for one in results.methods)


def _raw_and_scaled(
    results: Results,
    drawn: Mapping[Variant, Sequence[Box] | Sequence[Series]],
    draw: Callable[..., str],
    *,
    key: str,
    title: str,
) -> list[Panel]:
    """Draw a panel a variant, all on one scale; of as many methods as have colours, the others in further panels."""
    made, every = [], [one for found in drawn.values() for one in found]
    for number, (part, _, _, legend) in enumerate(parts_of(results, every)):
        for variant, found in drawn.items():
            shown = [one for one in found if one.method in part]
            heading = f"{title}, {_WHEN[variant]}"
            if shown:
                svg = draw(shown, key=f"{key}-{variant}-{number}", title=heading, scale=every)
                made.append(Panel(heading, "", svg, legend))
    return made


def _curves(results: Results, variant: Variant) -> list[Series]:
    coverages = study_of(results).coverages
    return [
        Series(position, coverages, tuple(mean_of(found) for found in zip(*one.risk, strict=True)), (), ())
        for position, one in enumerate(_variants(results, variant))
        if one.risk and coverages
    ]
