"""Risk-coverage curves of several methods: how often each errs on the share of examples that it is most sure of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robcal.report import formatting
from robcal.report.axes import unit_axis, value_axis
from robcal.report.figures import MARKERS
from robcal.report.plotted import Series
from robcal.report.svg import WIDTH, add_axes, colour, draw_svg, label, method_role

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_risk_coverage(series: Sequence[Series], *, key: str, title: str, scale: Sequence[Series] = ()) -> str:
    """Draw the error rate of the most confident examples against their share (Geifman & El-Yaniv 2017).

    Args:
        series: x: coverage, y: risk, both shares.
        key: prefix of the ids.
        title: what it shows.
        scale: further curves that the vertical axis must hold (other figures', so that they compare).

    Returns:
        An inline SVG element.
    """

    def draw(figure: Figure) -> None:
        axes = add_axes(figure, left=44, bottom=39, top=26, right=12)
        for one in series:
            role = colour(method_role(one.method))
            axes.plot(one.x, one.y, color=role, linewidth=1.6)
            axes.plot(one.x[3::6], one.y[3::6], linestyle="none", marker=MARKERS[one.method % len(MARKERS)],
                      color=role, markersize=5)  # fmt: skip
        value_axis(axes, [*series, *scale], percent=True)
        unit_axis(axes, "x")
        axes.set_xlim(0, 1)
        label(figure, 4, 236, "Error rate of the examples kept")
        label(figure, WIDTH - 12, 7, "share kept, the most confident first", align="right")

    ends = [one.y[-1] for one in series]
    description = f"At full coverage between {formatting.percent(min(ends))} and {formatting.percent(max(ends))}."
    return draw_svg(draw, key=key, height=254, title=title, description=description)
