"""The numbers behind every figure, computed before anything is drawn: pure functions of `Results`, no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robcal.base.checks import FloatArray
from robcal.base.results import MethodResult, Results
from robcal.base.types import EpochRow, Estimate, GroupRow, ReliabilityBin
from robcal.calibration.ranges import within_range
from robcal.report.formatting import clean_text

GroupQuantity = Literal["ece", "accuracy", "confidence", "gap"]
HistoryQuantity = Literal["epsilon", "gap"]
CurveQuantity = Literal["val_ece", "val_accuracy", "val_nll", "train_loss"]
ShiftQuantity = Literal["ece", "accuracy", "nll", "brier"]

NAN = float("nan")
#: At most so many methods stand side by side in a figure or a table; more come in parts.
MOST_TOGETHER = 4
#: What the parts of a box plot are.
BOXES = "Box: middle half of the corruptions; bar: median; ring: mean; dots: outliers."


@dataclass(frozen=True)
class Series:
    """One method's values over some positions."""

    method: int  # position of the method in `Results.methods` (its colour and marker)
    x: tuple[float, ...]  # positions, increasing
    y: tuple[float, ...]  # values, NaN where undefined
    low: tuple[float, ...]  # lower ends of the intervals, NaN where unknown
    high: tuple[float, ...]  # upper ends


@dataclass(frozen=True)
class LevelCourse:
    """A quantity of every level over the epochs of one training run."""

    epochs: tuple[int, ...]  # (E,) numbers of finished epochs
    values: FloatArray  # (E, R) float64, level 0 (least robust) in column 0; NaN where an epoch has no value


@dataclass(frozen=True)
class Box:
    """What a box plot shows: the values of one method at one severity, a corruption each."""

    method: int  # position of the method in `Results.methods`
    severity: int  # of the corruptions, 1 … 5
    values: tuple[float, ...]  # at least one finite number


def filled_bins(method: MethodResult) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty bins of the reliability diagram."""
    return tuple(
        one
        for one in method.reliability
        if one.count > 0 and math.isfinite(one.confidence) and math.isfinite(one.accuracy.value)
    )


def shares(bins: Sequence[ReliabilityBin]) -> tuple[float, ...]:
    """Return the share of the examples in each bin.

    >>> shares([ReliabilityBin(0.5, 1.0, 3, 0.9, Estimate(0.75)), ReliabilityBin(0, 0.5, 1, 0.4, Estimate(0.5))])
    (0.75, 0.25)
    """
    total = sum(one.count for one in bins)
    return tuple(one.count / total for one in bins)


def level_series(results: Results, quantity: GroupQuantity) -> tuple[Series, ...]:
    """Return a quantity of every robustness level, one series a method that has levels with a finite value."""
    found = (
        series_of(position, _estimates(method.levels, quantity)) for position, method in enumerate(results.methods)
    )
    return _with_values(found)


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


def group_series(results: Results, grouping: str, names: Sequence[str], quantity: GroupQuantity) -> tuple[Series, ...]:
    """Return a quantity of the named groups, one series a method that has any of them; NaN where it lacks one."""
    collected = []
    for position, method in enumerate(results.methods):
        rows = method.groups.get(grouping, ())
        found = dict(zip((row.group for row in rows), _estimates(rows, quantity), strict=True))
        collected.append(series_of(position, [found.get(name, Estimate(NAN)) for name in names]))
    return _with_values(collected)


def history_course(history: Sequence[EpochRow], quantity: HistoryQuantity) -> LevelCourse | None:
    """Return a quantity of every level over the epochs, or None where no epoch has a finite value.

    Example:
        >>> rows = [EpochRow(1, 0.5, 0.9, 0.4, 0.1, epsilon=(0.2, 0.0)), EpochRow(2, 0.4, 0.9, 0.4, 0.1)]
        >>> history_course(rows, "epsilon").values.tolist()
        [[0.2, 0.0], [nan, nan]]
    """
    per_epoch = [getattr(row, quantity) for row in history]
    values = np.full((len(history), max(map(len, per_epoch), default=0)), NAN)
    for row, given in zip(values, per_epoch, strict=True):
        row[: len(given)] = given
    values[~np.isfinite(values)] = NAN
    if not np.isfinite(values).any():
        return None
    return LevelCourse(tuple(row.epoch for row in history), values)


def curve_series(results: Results, quantity: CurveQuantity) -> tuple[Series, ...]:
    """Return a validation or training quantity over the epochs, one series a method with a history."""
    found = []
    for position, method in enumerate(results.methods):
        values = [Estimate(getattr(row, quantity)) for row in method.history]
        found.append(series_of(position, values, [row.epoch for row in method.history]))
    return _with_values(found)


def thinned(count: int, limit: int) -> tuple[int, ...]:
    """Return at most `limit` of the positions 0 … count - 1, evenly spread, always with the first and the last.

    Example:
        >>> thinned(10, 4), thinned(3, 4)
        ((0, 3, 6, 9), (0, 1, 2))
    """
    if count <= limit:
        return tuple(range(count))
    return tuple(int(position) for position in np.linspace(0, count - 1, limit).round())


def shift_boxes(methods: Sequence[MethodResult], quantity: ShiftQuantity) -> tuple[Box, ...]:
    """Return box plots over the corruptions, by severity and then by method; cells must be finite."""
    boxes = []
    for severity in sorted({cell.severity for method in methods for cell in method.shift}):
        for position, method in enumerate(methods):
            values = [getattr(cell, quantity) for cell in method.shift if cell.severity == severity]
            finite = tuple(value for value in values if math.isfinite(value))
            if finite:
                boxes.append(Box(position, severity, finite))
    return tuple(boxes)


def side_by_side(positions: Sequence[int], most: int = MOST_TOGETHER) -> tuple[tuple[int, ...], ...]:
    """Cut methods into parts of at most `most`, for readable figures; the first is in each, to compare with.

    Example:
        >>> side_by_side(range(6), 3), side_by_side(range(3), 3), side_by_side([], 3)
        (((0, 1, 2), (0, 3, 4), (0, 5)), ((0, 1, 2),), ())
    """
    if len(positions) <= most:
        return (tuple(positions),) if positions else ()
    first, others = positions[0], positions[1:]
    return tuple((first, *others[at : at + most - 1]) for at in range(0, len(others), most - 1))


def shift_by_corruption(method: MethodResult, quantity: ShiftQuantity) -> dict[str, dict[int, float]]:
    """Return corruption → severity → value, in the results' order."""
    cells: dict[str, dict[int, float]] = {}
    for cell in method.shift:
        cells.setdefault(cell.corruption, {})[cell.severity] = getattr(cell, quantity)
    return cells


def dodge(count: int, position: int, width: float) -> float:
    """Return the offset of one of `count` marks that stand side by side within `width`, centred on 0.

    Example:
        >>> [dodge(2, i, 0.5) for i in range(2)]
        [-0.125, 0.125]
    """
    return (position - (count - 1) / 2) * width / count


def _estimates(rows: Sequence[GroupRow], quantity: GroupQuantity) -> list[Estimate]:
    """Return a quantity of every row, its interval kept where the quantity can be."""
    return [within_range(quantity, getattr(row, quantity)) for row in rows]


def series_of(method: int, estimates: Sequence[Estimate], x: Sequence[float] | None = None) -> Series:
    """Return the values of a method at positions 0, 1, … or `x`."""
    return Series(
        method=method,
        x=tuple(map(float, range(len(estimates)) if x is None else x)),
        y=tuple(estimate.value if math.isfinite(estimate.value) else NAN for estimate in estimates),
        low=tuple(_end(estimate.low) for estimate in estimates),
        high=tuple(_end(estimate.high) for estimate in estimates),
    )


def _with_values(found: Iterable[Series]) -> tuple[Series, ...]:
    """Return those that have a finite value."""
    return tuple(series for series in found if np.isfinite(series.y).any())


def _end(value: float | None) -> float:
    """Return an end of an interval, NaN where unknown."""
    return NAN if value is None else float(value)
