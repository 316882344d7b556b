"""Draws the figures of the report from the numbers of `plotted`: each function returns one inline SVG element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean as mean
from typing import TYPE_CHECKING

import numpy as np

from robcal.base.types import ReliabilityBin
from robcal.report import axes as scales
from robcal.report import formatting
from robcal.report.plotted import Series, dodge, shares, thinned
from robcal.report.svg import FONT_SIZE, WIDTH, add_axes, colour, draw_svg, label, level_role, method_role, placeholder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One marker a method, so that colour is never the only difference.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_LEFT, _TOP = 40.0, 26.0


def draw_reliability(bins: Sequence[ReliabilityBin], *, key: str, title: str) -> str:
    """Draw accuracy against mean confidence of bins that are not empty, with intervals, and their histogram.

    The gap is the line from the diagonal to the point, at the bin's mean confidence.
    """

    def draw(figure: Figure) -> None:
        axes = add_axes(figure, left=_LEFT, bottom=96, top=_TOP, right=12)
        axes.plot([0, 1], [0, 1], color=colour("muted"), linewidth=1, dashes=(3, 3))
        for one in bins:
            _draw_bin(axes, one)
        for side, x, y, align in (("under", 0.03, 0.93, "left"), ("over", 0.98, 0.04, "right")):
            axes.text(x, y, f"{side}-confident", color=colour(side), fontsize=FONT_SIZE, ha=align)
        scales.unit_axis(axes, "y")
        axes.set(xlim=(0, 1.0), ylim=(-0.02, 1.02), xticks=[])
        axes.spines["bottom"].set_visible(False)
        label(figure, 4, 318, "Accuracy")
        _draw_histogram(figure, bins)

    gaps = sum(share * abs(one.gap) for one, share in zip(bins, shares(bins), strict=True))
    description = (
        f"{len(bins)} non-empty bins; the gap between confidence and accuracy, weighted by the bins' shares, is "
        f"{formatting.number(gaps)}."
    )
    return draw_svg(draw, key=key, height=336, title=f"Reliability diagram of {title}", description=description)


@dataclass(frozen=True)
class Frame:
    """What stands around the values of a figure over a horizontal axis."""

    key: str  # prefix of the ids, unique on the page
    title: str
    y_label: str
    x_label: str = "epoch"
    percent: bool = False
    scale: Sequence[Series] = ()  # further values that the axis must hold, so that figures beside each other compare

    def draw(
        self,
        fill: Callable[[Figure, Axes], None],
        values: Sequence[Series],
        description: str,
        *,
        names: Sequence[str] = (),
        margins: tuple[float, float, float] = (_LEFT + 4, 39.0, 8.0),
        **options: bool,
    ) -> str:
        """Return the figure: what `fill` draws, within an axis that holds the `values`; options are of `value_axis`.

        Margins are on the left, below and on the right, in user units.
        """
        left, bottom, right = margins

        def draw(figure: Figure) -> None:
            axes = add_axes(figure, left=left, bottom=bottom, top=_TOP, right=right)
            fill(figure, axes)
            scales.value_axis(axes, (*values, *self.scale), percent=self.percent, **options)
            label(figure, 4, 236, self.y_label)
            label(figure, WIDTH - right, 7, self.x_label, align="right")

        return draw_svg(draw, key=self.key, height=254, title=self.title, description=description, names=names)

    def written(self, value: float) -> str:
        """Write a value."""
        return (formatting.percent if self.percent else formatting.number)(value)

    def describe(self, series: Sequence[Series]) -> str:
        """Describe the range of the values."""
        found = [value for one in series for value in one.y if math.isfinite(value)]
        ends = f"{self.written(min(found))} and {self.written(max(found))}"
        return f"{self.y_label} of {len(series)} method{'s' * (len(series) > 1)}, between {ends}."


def draw_series(series: Sequence[Series], frame: Frame, ticks: Sequence[str], second_ticks: Sequence[str] = ()) -> str:
    """Draw a quantity over named positions, methods side by side, intervals as bars; below one or two rows of names."""

    def fill(figure: Figure, axes: Axes) -> None:
        for position, one in enumerate(series):
            offset = dodge(len(series), position, 0.6)
            _draw_estimates(axes, [x + offset for x in one.x], one)
        scales.named_ticks(axes, ticks, second_ticks)

    margins = _LEFT + 4, 24.0 + 15 * (1 + bool(second_ticks)), 8.0
    return frame.draw(fill, series, frame.describe(series), names=scales.tick_names(ticks), margins=margins)


def draw_accuracy_confidence(accuracy: Series, confidence: Series, frame: Frame, ticks: Sequence[str]) -> str:
    """Draw accuracy and confidence of one method over the levels, with the gap between them shaded by its sign."""

    def fill(figure: Figure, axes: Axes) -> None:
        x, says, right = (np.array(values) for values in (accuracy.x, confidence.y, accuracy.y))
        for sign, role in ((1, "over"), (-1, "under")):
            axes.fill_between(
                x, says, right, where=sign * (says - right) > 0, interpolate=True, color=colour(role), alpha=0.22, lw=0
            )
        axes.plot(x, says, color=colour("ink"), linewidth=1.4, dashes=(3, 2), marker="o", markersize=4.5,
                  markerfacecolor=colour("surface"), markeredgewidth=1.2, clip_on=False)  # fmt: skip
        _draw_estimates(axes, list(accuracy.x), accuracy)
        scales.named_ticks(axes, ticks, ())

    gaps = [c - a for a, c in zip(accuracy.y, confidence.y, strict=True) if math.isfinite(c - a)]
    low, high = (formatting.signed(end(gaps, default=None), 3) for end in (min, max))
    description = f"Confidence minus accuracy lies between {low} and {high} over {len(gaps)} levels."
    return frame.draw(fill, (accuracy, confidence), description, names=scales.tick_names(ticks), from_zero=False)


def draw_rows(
    series: Sequence[Series],
    frame: Frame,
    names: Sequence[str],
    write: Callable[[float | None, int], str],
    *,
    legend: Sequence[str] = (),
    zero: bool = False,
) -> str:
    """Draw a quantity of named rows as dots with intervals, the first row on top, `rows_height` user units high.

    The frame's `y_label` stands above the rows; a legend tells the names of the series in the figure itself.
    """
    shown = [scales.shortened(formatting.clean_text(name), 26) for name in names]
    above, height = _above(frame.y_label), rows_height(len(names), len(series), frame.y_label)
    left = 16 + 5.6 * max(map(len, shown))

    def draw(figure: Figure) -> None:
        axes = add_axes(figure, left=left, bottom=_BELOW_ROWS, top=above, right=14)
        axes.grid(visible=False)
        axes.grid(axis="x", color=colour("grid"), linewidth=0.8)
        for position, one in enumerate(series):
            offset = dodge(len(series), position, 0.6)
            _draw_estimates(axes, [y + offset for y in one.x], one, horizontal=True)
        axes.set_yticks(range(len(names)), [placeholder(at) for at in range(len(names))], color=colour("ink"))
        axes.set_ylim(len(names) - 0.5, -0.5)
        ends = [v for one in (*series, *frame.scale) for values in (one.y, one.low, one.high) for v in values]
        low, high = (end([v for v in ends if math.isfinite(v)] or [0.0]) for end in (min, max))
        if zero:
            axes.axvline(0, color=colour("muted"), linewidth=1)
        if zero or low < 0.5 * high:
            low, high = min(low, 0.0), max(high, 0.0 if zero else high)
        places, texts = scales.nice_ticks(low, max(high, low + 0.01), 4, write)
        axes.set_xlim(places[0], places[-1])
        axes.set_xticks(places, texts)
        label(figure, 4, height - FONT_SIZE - 3, frame.y_label, role="ink")
        label(figure, WIDTH - 14, 7, frame.x_label, align="right")
        for position, name in enumerate(legend):
            sign = "●■"[position % 2]
            label(figure, left + 50 * position, height - above + 8, f"{sign} {name}", role=method_role(position))

    each = (f"{name} {write(value, 4)}" for name, value in zip(shown, series[0].y, strict=True))
    description = f"{legend[0] if legend else frame.title}: {', '.join(each)}."
    return draw_svg(draw, key=frame.key, height=height, title=frame.title, description=description, names=shown)


_BELOW_ROWS = 38.0


def _above(heading: str) -> float:
    return 40.0 if heading else 10.0


def rows_height(count: int, series: int, heading: str = "") -> float:
    """Return the height in user units of a figure with so many rows of so many dots, and a heading or none."""
    return max(114.0, _above(heading) + _BELOW_ROWS + max(17.0, 8.0 * series) * count)


def draw_course(lines: Sequence[Series], frame: Frame) -> str:
    """Draw a quantity of every level over the epochs: lines in a sequential palette, a colour bar as legend."""
    num_levels, epochs = len(lines), lines[0].x

    def fill(figure: Figure, axes: Axes) -> None:
        for line in reversed(lines):
            _draw_line(axes, line, level_role(line.method, num_levels))
        scales.epoch_axis(axes, epochs)
        if num_levels > 1:
            _draw_level_bar(figure, num_levels)

    description = (
        f"After epoch {epochs[0]:.0f} from {_ends(lines, 0)} over {num_levels} levels; after epoch {epochs[-1]:.0f} "
        f"from {_ends(lines, -1)}; level 0, the least robust, ends at {formatting.number(lines[0].y[-1], 3)}."
    )
    margins = _LEFT + 8, 39.0, 46.0 if num_levels > 1 else 12.0
    return frame.draw(fill, lines, description, margins=margins, zero_line=True)


def draw_curves(series: Sequence[Series], frame: Frame) -> str:
    """Draw a quantity over the epochs, or over shares, one line a method."""
    by_epoch = frame.x_label == "epoch"

    def fill(figure: Figure, axes: Axes) -> None:
        for one in series:
            _draw_line(axes, one, method_role(one.method))
            some = list(thinned(len(one.x), 6))
            axes.plot(
                np.array(one.x)[some], np.array(one.y)[some], linestyle="none", markersize=5, clip_on=False,
                marker=MARKERS[one.method % len(MARKERS)], color=colour(method_role(one.method)),
            )  # fmt: skip
        if by_epoch:
            scales.epoch_axis(axes, [x for one in series for x in one.x])
        else:
            scales.unit_axis(axes, "x")
            axes.set_xlim(0, 1)

    from_zero, margins = not (frame.percent and by_epoch), (_LEFT + 4, 39.0, 12.0)
    return frame.draw(fill, series, frame.describe(series), margins=margins, from_zero=from_zero)


def draw_boxes(boxes: Sequence[Series], frame: Frame) -> str:
    """Draw box plots over the corruptions by severity, methods side by side; a ring marks the mean."""
    severities = sorted({box.x[0] for box in boxes})
    methods = sorted({box.method for box in boxes})
    names = [f"{severity:g}" for severity in severities]

    def fill(figure: Figure, axes: Axes) -> None:
        for box in boxes:
            x = severities.index(box.x[0]) + dodge(len(methods), methods.index(box.method), 0.76)
            _draw_box(axes, box, x, 0.6 / len(methods))
        scales.named_ticks(axes, names, ())

    means = [mean(box.y) for box in boxes]
    description = (
        f"Means over the corruptions lie between {frame.written(min(means))} and {frame.written(max(means))}, "
        f"severities {names[0]} to {names[-1]}."
    )
    return frame.draw(fill, boxes, description, names=names, from_zero=not frame.percent)


def _draw_bin(axes: Axes, one: ReliabilityBin) -> None:
    role = "over" if one.gap > 0 else "under"
    accuracy, x = one.accuracy, one.confidence
    if accuracy.ends is not None:
        axes.fill_between([one.lower, one.upper], *accuracy.ends, color=colour(role), alpha=0.16, lw=0)
    axes.plot([x, x], [x, accuracy.value], color=colour(role), linewidth=2, solid_capstyle="butt")
    axes.plot([x], [accuracy.value], marker="o", markersize=5.5, color=colour("ink"), clip_on=False,
              markeredgecolor=colour("surface"), markeredgewidth=0.8)  # fmt: skip


def _draw_histogram(figure: Figure, bins: Sequence[ReliabilityBin]) -> None:
    """Draw the share of the examples in each bin, below the diagram, on the same horizontal axis."""
    axes = add_axes(figure, left=_LEFT, bottom=36, top=336 - 80, right=12)
    for one, share in zip(bins, shares(bins), strict=True):
        inset = 0.06 * (one.upper - one.lower)
        width = one.upper - one.lower - 2 * inset
        axes.bar([one.lower + inset], [share], width, align="edge", color=colour("muted"), alpha=0.75)
    top = max(shares(bins))
    axes.set(xlim=(0, 1.0), ylim=(0, top * 1.05))
    axes.set_yticks([0, top], ["0", formatting.percent(top, 0)])
    scales.unit_axis(axes, "x")
    label(figure, WIDTH - 12, 7, "confidence (bars: share of examples)", align="right")


def _draw_estimates(axes: Axes, places: Sequence[float], one: Series, *, horizontal: bool = False) -> None:
    """Draw points with interval bars, joined by a thin line where they follow an order."""
    tint = colour(method_role(one.method))
    values, low, high = (np.array(part) for part in (one.y, one.low, one.high))
    known = np.isfinite(low) & np.isfinite(high)
    at = np.array(places)
    bars = axes.hlines if horizontal else axes.vlines
    bars(at[known], low[known], high[known], color=tint, linewidth=2, alpha=0.55)
    if not horizontal:
        axes.plot(at, values, color=tint, linewidth=1, alpha=0.8)
    x, y = (values, at) if horizontal else (at, values)
    axes.plot(x, y, linestyle="none", marker=MARKERS[one.method % len(MARKERS)], markersize=5.5, color=tint,
              markeredgecolor=colour("surface"), markeredgewidth=0.7, clip_on=False)  # fmt: skip


def _draw_line(axes: Axes, one: Series, role: str) -> None:
    """Draw a line; a single point where there is but one epoch."""
    lonely = len(one.x) == 1
    axes.plot(one.x, one.y, color=colour(role), linewidth=1.6, marker="o" if lonely else "", markersize=5)


def _draw_box(axes: Axes, box: Series, x: float, width: float) -> None:
    """Draw a box plot after Tukey: quartiles, whiskers within 1.5 interquartile ranges, outliers, and the mean."""
    from matplotlib.cbook import boxplot_stats

    tint, (stats,) = colour(method_role(box.method)), boxplot_stats(box.y)
    for start, end in ((stats["whislo"], stats["q1"]), (stats["q3"], stats["whishi"])):
        axes.plot([x, x], [start, end], color=tint, linewidth=1.2)
    axes.bar([x], [stats["q3"] - stats["q1"]], width, bottom=stats["q1"], color=tint, alpha=0.28, linewidth=0)
    axes.plot([x - width / 2, x + width / 2], [stats["med"]] * 2, color=tint, linewidth=2.2, solid_capstyle="butt")
    axes.plot([x], [stats["mean"]], marker="o", markersize=4.5, color=colour("surface"), markeredgecolor=tint)
    axes.plot([x] * len(stats["fliers"]), stats["fliers"], linestyle="none", marker=".", markersize=4, color=tint)


def _draw_level_bar(figure: Figure, num_levels: int) -> None:
    """Draw the legend of the levels: a colour bar from the least robust (bottom) to the most robust."""
    bottom, height, left = 62.0, 130.0, WIDTH - 30
    axes = add_axes(figure, left=left, bottom=bottom, top=254 - bottom - height, right=20)
    axes.set_axis_off()
    for level in range(num_levels):
        axes.bar([0], [1], 1, bottom=level, color=colour(level_role(level, num_levels)), linewidth=0)
    axes.set(xlim=(-0.5, 0.5), ylim=(0, num_levels))
    label(figure, left - 8, bottom + height + 6, "level")
    cell = height / num_levels
    for level in scales.bar_ticks(num_levels):
        label(figure, left + 14, bottom + (level + 0.5) * cell - 4, str(level))


def _ends(lines: Sequence[Series], at: int) -> str:
    """Write the least and the largest finite value at one epoch."""
    finite = [line.y[at] for line in lines if math.isfinite(line.y[at])]
    return " to ".join(formatting.number(end(finite, default=None), 3) for end in (min, max))
