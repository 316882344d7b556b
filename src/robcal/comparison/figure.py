"""results.json of a comparison → one SVG file: the main outcomes of every method, raw and after temperature scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robcal.base.metrics import metric_of
from robcal.comparison.blocks import estimate_of
from robcal.comparison.summary import VARIANTS
from robcal.report.dots import Dots, dots_height, draw_dots, svg_file

#: The outcomes shown, each a panel.
PANELS = ("ece", "shift_ece", "nll", "shift_nll", "level_ece", "aurc", "accuracy", "shift_accuracy")
_NAMES = {"raw": "raw", "scaled": "temperature-scaled"}


def figure_svg(record: Mapping[str, Any]) -> str:
    """Means over seeds with their 95% intervals, a panel an outcome that was measured.

    Args:
        record: what results.json holds.

    Returns:
        An SVG file.
    """
    return svg_file([(drawn, height) for _, drawn, height in panels(record, PANELS)])


def panels(record: Mapping[str, Any], metrics: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return (metric, inline SVG of its means with intervals, height) of those outcomes that were measured."""
    labels = [method["label"] for method in record["methods"]]
    figures = []
    for metric in metrics:
        series = [
            Dots(_NAMES[variant], [estimate_of(method[variant]["metrics"], metric) for method in record["methods"]])
            for variant in VARIANTS
        ]
        if all(estimate is None for dots in series for estimate in dots.estimates):
            continue
        shown = series[:1] if metric_of(metric).percent else series
        name = metric_of(metric).short
        drawn = draw_dots(labels, shown, key=metric.replace("_", "-"), title=name, percent=metric_of(metric).percent)
        figures.append((metric, drawn, dots_height(len(labels))))
    return figures
