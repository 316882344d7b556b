"""The numbers behind every figure, computed before anything is drawn: pure functions of `Results`, no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from robcal.base.results import MethodResult, Results
from robcal.base.types import EpochRow, Estimate, GroupRow, ReliabilityBin
from robcal.calibration.intervals import within_range
from robcal.report.formatting import clean_text

NAN = float("nan")
#: At most so many methods stand side by side in a figure or a table; more come in parts.
MOST_TOGETHER = 4
#: What the parts of a box plot are.
BOXES = "Box: middle half of the corruptions; bar: median; ring: mean; dots: outliers."


@dataclass(frozen=True)
class Series:
    """What every figure draws: values over positions, of one method or one level; NaN where a value is unknown."""

    method: int  # position of the method in `Results.methods` (its colour and marker), or the number of the level
    x: tuple[float, ...]  # positions, increasing; of a box its severity
    y: tuple[float, ...]  # values
    low: tuple[float, ...] = ()  # lower ends of the intervals, where there are some
    high: tuple[float, ...] = ()  # upper ends


def filled_bins(method: MethodResult) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty bins of the reliability diagram."""
    return tuple(
        one
        for one in method.reliability
        if one.count > 0 and math.isfinite(one.confidence) and math.isfinite(one.accuracy.value)
    )


def shares(bins: Sequence[ReliabilityBin]) -> tuple[float, ...]:
    """Return the share of the examples in each bin."""
    total = sum(one.count for one in bins)
    return tuple(one.count / total for one in bins)


def level_series(results: Results, quantity: str) -> tuple[Series, ...]:
    """Return a quantity of every robustness level, one series a method that has levels with a finite value."""
    rows = enumerate(method.levels for method in results.methods)
    return _with_values(series_of(position, _estimates(levels, quantity)) for position, levels in rows)


def level_ticks(results: Results) -> tuple[str, ...]:
    """Return the names of the levels: those of the method with the most of them."""
    longest = max((method.levels for method in results.methods), key=len, default=())
    return tuple(clean_text(row.group) for row in longest)


def shared_score_ranges(results: Results) -> tuple[tuple[float, float], ...]:
    """Return (lowest, highest) distance of every level, or () where unknown or not the same for all methods."""
    ranges = {
        tuple((_end(row.score_low), _end(row.score_high)) for row in method.levels)
        for method in results.methods
        if method.levels
    }
    if len(ranges) != 1:
        return ()
    (only,) = ranges
    return () if any(math.isnan(end) for pair in only for end in pair) else only


def group_names(results: Results, grouping: str, *, limit: int) -> tuple[tuple[str, ...], bool]:
    """Return the groups to draw, in the results' order, and whether all are: beyond `limit`, those of largest |gap|."""
    largest: dict[str, float] = {}
    for method in results.methods:
        for row in method.groups.get(grouping, ()):
            size = abs(row.gap.value)
            largest[row.group] = max(largest.get(row.group, 0.0), size if math.isfinite(size) else 0.0)
    chosen = set(sorted(largest, key=lambda name: -largest[name])[:limit])
    return tuple(name for name in largest if name in chosen), len(chosen) == len(largest)


def group_series(results: Results, grouping: str, names: Sequence[str], quantity: str) -> tuple[Series, ...]:
    """Return a quantity of the named groups, one series a method that has any of them; NaN where it lacks one."""
    collected = []
    for position, method in enumerate(results.methods):
        rows = method.groups.get(grouping, ())
        found = dict(zip((row.group for row in rows), _estimates(rows, quantity), strict=True))
        collected.append(series_of(position, [found.get(name, Estimate(NAN)) for name in names]))
    return _with_values(collected)


def history_course(history: Sequence[EpochRow], quantity: str) -> tuple[Series, ...]:
    """Return a quantity over the epochs, a series a level from level 0; none where no epoch has a finite value."""
    by_level = zip_longest(*(getattr(row, quantity) for row in history), fillvalue=NAN)
    epochs = [row.epoch for row in history]
    found = tuple(series_of(level, list(map(Estimate, values)), epochs) for level, values in enumerate(by_level))
    return found if _with_values(found) else ()


def curve_series(results: Results, quantity: str) -> tuple[Series, ...]:
    """Return a validation or training quantity over the epochs, one series a method with a history."""
    found = []
    for position, method in enumerate(results.methods):
        values = [Estimate(getattr(row, quantity)) for row in method.history]
        found.append(series_of(position, values, [row.epoch for row in method.history]))
    return _with_values(found)


def thinned(count: int, limit: int) -> tuple[int, ...]:
    """Return at most `limit` of the positions 0 … count - 1, evenly spread, always with the first and the last."""
    if count <= limit:
        return tuple(range(count))
    return tuple(int(position) for position in np.linspace(0, count - 1, limit).round())


def shift_boxes(methods: Sequence[MethodResult], quantity: str) -> tuple[Series, ...]:
    """Return what box plots show, the values of a method at a severity, a corruption each; cells must be finite."""
    boxes = []
    for severity in sorted({cell.severity for method in methods for cell in method.shift}):
        for position, method in enumerate(methods):
            values = [getattr(cell, quantity) for cell in method.shift if cell.severity == severity]
            boxes.append(Series(position, (severity,), tuple(filter(math.isfinite, values))))
    return tuple(box for box in boxes if box.y)


def side_by_side(positions: Sequence[int], most: int = MOST_TOGETHER) -> tuple[tuple[int, ...], ...]:
    """Cut methods into parts of at most `most`, for readable figures; the first is in each, to compare with."""
    if len(positions) <= most:
        return (tuple(positions),) if positions else ()
    first, others = positions[0], positions[1:]
    return tuple((first, *others[at : at + most - 1]) for at in range(0, len(others), most - 1))


def shift_by_corruption(method: MethodResult, quantity: str) -> dict[str, dict[int, float]]:
    """Return corruption → severity → value, in the results' order."""
    cells: dict[str, dict[int, float]] = {}
    for cell in method.shift:
        cells.setdefault(cell.corruption, {})[cell.severity] = getattr(cell, quantity)
    return cells


def dodge(count: int, position: int, width: float) -> float:
    """Return the offset of one of `count` marks that stand side by side within `width`, centred on 0."""
    return (position - (count - 1) / 2) * width / count


def series_of(method: int, estimates: Sequence[Estimate], x: Sequence[float] | None = None) -> Series:
    """Return the values of a method at positions 0, 1, … or `x`."""
    return Series(
        method=method,
        x=tuple(map(float, range(len(estimates)) if x is None else x)),
        y=tuple(estimate.value if math.isfinite(estimate.value) else NAN for estimate in estimates),
        low=tuple(_end(estimate.low) for estimate in estimates),
        high=tuple(_end(estimate.high) for estimate in estimates),
    )


def _estimates(rows: Sequence[GroupRow], quantity: str) -> list[Estimate]:
    """Return a quantity of every row, its interval kept where the quantity can be."""
    return [within_range(quantity, getattr(row, quantity)) for row in rows]


def _with_values(found: Iterable[Series]) -> tuple[Series, ...]:
    """Return those that have a finite value."""
    return tuple(series for series in found if np.isfinite(series.y).any())


def _end(value: float | None) -> float:
    """Return an end of an interval, NaN where unknown."""
    return NAN if value is None else float(value)
