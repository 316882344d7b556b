"""Ticks and limits of the figures' axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robcal.report import formatting
from robcal.report.plotted import Series
from robcal.report.svg import FONT_SIZE, colour, placeholder

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def named_ticks(axes: Axes, ticks: Sequence[str], second: Sequence[str]) -> None:
    """Put placeholders of the names below the axis, and a second row of numbers, thinned where they would touch."""
    longest = max((len(name) for name in (*tick_names(ticks), *second)), default=1)
    places = thinned_evenly(len(ticks), max(int(300 / (6.5 * longest + 8)), 2))
    axes.set_xticks(list(places), [placeholder(at) for at in places])
    for at in places if second else ():
        axes.annotate(
            second[at], (at, 0), (0, -8 - 2 * FONT_SIZE), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", color=colour("muted"),
        )  # fmt: skip
    axes.set_xlim(-0.5, len(ticks) - 0.5)


def epoch_axis(axes: Axes, epochs: Sequence[float]) -> None:
    """Name whole epochs, the first one too."""
    first, last = int(min(epochs)), int(max(epochs))
    step = max(round(nice_step(0, last, 6)), 1)
    places = sorted({first, *range(step, last + 1, step)})
    if len(places) > 1 and places[1] - places[0] < step / 2:
        places.pop(1)
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xlim(first - 0.02 * max(last - first, 1), last + 0.02 * max(last - first, 1))


def value_axis(
    axes: Axes, series: Sequence[Series], *, percent: bool, from_zero: bool = True, zero_line: bool = False
) -> None:
    """Set limits and ticks that hold every value and interval."""
    found = [v for one in series for values in (one.y, one.low, one.high) for v in values if math.isfinite(v)]
    low, high = min(found), max(found)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9:
        low, high = (low - 0.01, low) if percent and low >= 1 else (low, low + (0.01 if low < 1 else abs(low) * 0.1))
    places, names = nice_ticks(low, high, 5, formatting.percent if percent else formatting.number)
    bottom, top = places[0], places[-1]
    if percent and top > 1 + 1e-9:
        places, names, top = places[:-1], names[:-1], 1.0
    axes.set_yticks(places, names)
    axes.set_ylim(bottom - 0.02 * (top - bottom), top + 0.02 * (top - bottom))
    if bottom < 0 or zero_line:
        axes.axhline(0, color=colour("muted"), linewidth=1)


def unit_axis(axes: Axes, which: str) -> None:
    """Set ticks of a share from 0 to 1, on the axis "x" or "y"."""
    axes.set(**{f"{which}ticks": [0, 0.25, 0.5, 0.75, 1], f"{which}ticklabels": ["0", "25%", "50%", "75%", "100%"]})
    if which == "x":
        axes.get_xticklabels()[-1].set_horizontalalignment("right")


def bar_ticks(num_levels: int) -> tuple[int, ...]:
    """Return the levels to name: evenly spaced, with the first and the last where that gives three to six of them."""
    steps = (step for step in range(1, num_levels) if (num_levels - 1) % step == 0)
    step = next((step for step in steps if 2 <= (num_levels - 1) / step <= 5), 0)
    return tuple(range(0, num_levels, step)) if step else thinned_evenly(num_levels, 6)


def thinned_evenly(count: int, limit: int) -> tuple[int, ...]:
    """Return positions 0, s, 2s, … with the smallest step s that gives at most `limit` of them."""
    return tuple(range(0, count, max(-(-count // max(limit, 1)), 1)))


def nice_ticks(
    low: float, high: float, count: int, write: Callable[[float | None, int], str]
) -> tuple[list[float], list[str]]:
    """Return places that hold a range in about `count` steps, as `nice_step` makes them, and their names."""
    step = nice_step(low, high, count)
    places = np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1) * step
    decimals = step_decimals(100 * step if write is formatting.percent else step)
    return places.tolist(), [write(place, decimals) for place in places]


def nice_step(low: float, high: float, count: int) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that covers the range in at most `count` steps."""
    rough = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))


def step_decimals(step: float) -> int:
    """Return decimals that tell multiples of `step` apart."""
    return next((d for d in range(9) if abs(round(step, d) - step) < 1e-9 * abs(step)), 9)


def tick_names(ticks: Sequence[str]) -> tuple[str, ...]:
    """Return the names that `named_ticks` makes room for."""
    return tuple(shortened(tick, 12) for tick in ticks)


def shortened(text: str, length: int) -> str:
    """Return `text`, cut with an ellipsis where it is longer than `length`."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
