"""One quantity of many methods side by side as dots with intervals, and a file of its own for such figures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robcal.base.types import Estimate
from robcal.report import formatting
from robcal.report.axes import nice_ticks, shortened
from robcal.report.palette import theme_colours
from robcal.report.svg import FONT_SIZE, WIDTH, add_axes, colour, draw_svg, label, method_role, placeholder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _TOP, _BOTTOM, _LEFT = 17.0, 40.0, 30.0, 158.0
#: Style of each series: marker, face, vertical offset.
_STYLES = (("o", True, 0.16), ("s", False, -0.16))


@dataclass(frozen=True)
class Dots:
    """A series of one quantity: its name, and an estimate for each row (None where it was not measured)."""

    name: str
    estimates: Sequence[Estimate | None]


def draw_dots(rows: Sequence[str], series: Sequence[Dots], *, key: str, title: str, percent: bool = False) -> str:
    """Draw rows of dots with their intervals; one or two series.

    Args:
        rows: names, the first on top.
        series: at least one, at most two; all as long as `rows`.
        key: prefix of the ids.
        title: what is shown.
        percent: whether the values are shares.

    Returns:
        An inline SVG element of `dots_height(len(rows))` user units.
    """
    names = tuple(shortened(formatting.clean_text(row), 26) for row in rows)

    def draw(figure: Figure) -> None:
        axes = add_axes(figure, left=_LEFT, bottom=_BOTTOM, top=_TOP, right=14)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=colour("grid"), linewidth=0.8)
        for number, (one, (marker, filled, offset)) in enumerate(zip(series, _STYLES, strict=False)):
            role = colour(method_role(number))
            for row, estimate in enumerate(one.estimates):
                if estimate is None or not math.isfinite(estimate.value):
                    continue
                y = len(rows) - 1 - row + (offset if len(series) > 1 else 0.0)
                if formatting.has_interval(estimate):
                    axes.plot([estimate.low or 0.0, estimate.high or 0.0], [y, y], color=role, linewidth=1.4)
                face = role if filled else colour("surface")
                axes.plot([estimate.value], [y], marker, color=role, markerfacecolor=face, markersize=5)
            x, anchor = _LEFT + 50 * number, dots_height(len(rows)) - 32
            if len(series) > 1:
                label(figure, x, anchor, ("● " if filled else "□ ") + one.name, role=method_role(number))
        axes.set_yticks(range(len(rows)), [placeholder(len(rows) - 1 - at) for at in range(len(rows))])
        for text in axes.get_yticklabels():
            text.set_color(colour("ink"))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        _value_ticks(axes, series, percent=percent)
        label(figure, 4, dots_height(len(rows)) - FONT_SIZE - 3, title, role="ink")

    found = [f"{name} {_words(series[0].estimates[n], percent)}" for n, name in enumerate(names)]
    description = f"{series[0].name}: " + ", ".join(found) + "."
    return draw_svg(draw, key=key, height=dots_height(len(rows)), title=title, description=description, names=names)


def dots_height(count: int) -> float:
    """Return the height in user units of a figure with so many rows."""
    return _TOP + _BOTTOM + _ROW * count


def svg_file(figures: Sequence[tuple[str, float]], *, columns: int = 2) -> str:
    """Put inline figures in rows, as one SVG file in the light theme that needs nothing else.

    Args:
        figures: (SVG element of a figure, its height in user units) each, at least one.
        columns: figures side by side.
    """
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


def _value_ticks(axes: Axes, series: Sequence[Dots], *, percent: bool) -> None:
    present = [one for dots in series for one in dots.estimates if one is not None and math.isfinite(one.value)]
    ends = [end for one in present for end in (one.low, one.high, one.value) if end is not None and math.isfinite(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    low = min(low, 0.0) if low < 0.5 * high else low
    high = high if high - low > 1e-9 else low + 0.01
    places, names = nice_ticks(low, high, 4, formatting.percent if percent else formatting.number)
    axes.set_xticks(places, names)
    axes.set_xlim(places[0], places[-1])


def _words(estimate: Estimate | None, percent: bool) -> str:
    write = formatting.percent if percent else formatting.number
    return formatting.NOTHING if estimate is None else write(estimate.value)
