"""The numbers behind every figure, computed before anything is drawn: pure functions of `Results`, no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robcal.base.checks import FloatArray
from robcal.base.types import EpochRow, Estimate, GroupRow, MethodResult, Results
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
class ReliabilityPoint:
    """One non-empty bin of a reliability diagram.

    Attributes:
        lower: lower edge of the bin.
        upper: upper edge.
        count: number of examples, summed over seeds.
        share: count over the sum of all counts.
        confidence: mean confidence of the bin: where the point is drawn, and what its gap is measured against.
        accuracy: share classified right.
        low: lower end of the accuracy's interval (NaN where unknown).
        high: upper end.
        gap: confidence - accuracy.
        joint_low: lower end of the accuracy's interval that holds for all bins at once (NaN where unknown).
        joint_high: its upper end.
    """

    lower: float
    upper: float
    count: int
    share: float
    confidence: float
    accuracy: float
    low: float
    high: float
    gap: float
    joint_low: float = NAN
    joint_high: float = NAN


@dataclass(frozen=True)
class Series:
    """One method's values over some positions.

    Attributes:
        method: position of the method in `Results.methods` (its colour and marker).
        x: positions, increasing.
        y: values, NaN where undefined.
        low: lower ends of the intervals, NaN where unknown.
        high: upper ends.
    """

    method: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class LevelCourse:
    """A quantity of every level over the epochs of one training run.

    Attributes:
        epochs: (E,) numbers of finished epochs.
        values: (E, R) float64, level 0 (least robust) in column 0; NaN where an epoch has no value.
    """

    epochs: tuple[int, ...]
    values: FloatArray


@dataclass(frozen=True)
class Box:
    """A box plot of one method at one severity, over the corruptions.

    Attributes:
        method: position of the method in `Results.methods`.
        severity: of the corruptions, 1 … 5.
        n: number of corruptions.
        mean: their mean.
        q1: lower quartile (linear interpolation).
        median: of the values.
        q3: upper quartile.
        low: end of the lower whisker: the smallest value within 1.5 interquartile ranges of the box.
        high: end of the upper whisker.
        outliers: values beyond the whiskers, increasing.
    """

    method: int
    severity: int
    n: int
    mean: float
    q1: float
    median: float
    q3: float
    low: float
    high: float
    outliers: tuple[float, ...]


def reliability_points(method: MethodResult) -> tuple[ReliabilityPoint, ...]:
    """Return the non-empty bins of the reliability diagram, each with the gap at the bin's mean confidence.

    Example:
        >>> from robcal.base.types import ReliabilityBin
        >>> bins = (ReliabilityBin(0.5, 1.0, 4, 0.9, Estimate(0.75)), ReliabilityBin(0, 0.5, 0, NAN, Estimate(NAN)))
        >>> [(p.share, round(p.gap, 2)) for p in reliability_points(MethodResult("a", "A", reliability=bins))]
        [(1.0, 0.15)]
    """
    total = sum(bin_.count for bin_ in method.reliability)
    return tuple(
        ReliabilityPoint(
            lower=bin_.lower,
            upper=bin_.upper,
            count=bin_.count,
            share=bin_.count / total,
            confidence=bin_.confidence,
            accuracy=bin_.accuracy.value,
            low=_end(bin_.accuracy.low),
            high=_end(bin_.accuracy.high),
            gap=bin_.confidence - bin_.accuracy.value,
            joint_low=_end((bin_.joint or bin_.accuracy).low),
            joint_high=_end((bin_.joint or bin_.accuracy).high),
        )
        for bin_ in method.reliability
        if bin_.count > 0 and math.isfinite(bin_.confidence) and math.isfinite(bin_.accuracy.value)
    )


def level_series(results: Results, quantity: GroupQuantity) -> tuple[Series, ...]:
    """Return a quantity of every robustness level, one series a method that has levels with a finite value."""
    found = (
        _series(position, range(len(method.levels)), _estimates(method.levels, quantity))
        for position, method in enumerate(results.methods)
    )
    return tuple(series for series in found if np.isfinite(series.y).any())


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
        estimates = [found.get(name, Estimate(NAN)) for name in names]
        collected.append(_series(position, range(len(names)), estimates))
    return tuple(series for series in collected if np.isfinite(series.y).any())


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
    found = (
        _series(
            position,
            [row.epoch for row in method.history],
            [Estimate(getattr(row, quantity)) for row in method.history],
        )
        for position, method in enumerate(results.methods)
    )
    return tuple(series for series in found if np.isfinite(series.y).any())


def thinned(count: int, limit: int) -> tuple[int, ...]:
    """Return at most `limit` of the positions 0 … count - 1, evenly spread, always with the first and the last.

    Example:
        >>> thinned(10, 4), thinned(3, 4)
        ((0, 3, 6, 9), (0, 1, 2))
    """
    if count <= limit:
        return tuple(range(count))
    return tuple(int(position) for position in np.linspace(0, count - 1, limit).round())


def box_of(values: Sequence[float], *, method: int = 0, severity: int = 0) -> Box:
    """Return the statistics of a box plot after Tukey: quartiles, whiskers within 1.5 interquartile ranges, outliers.

    Args:
        values: at least one finite number.
        method: position of the method.
        severity: of the corruptions.

    Example:
        >>> box = box_of([1, 2, 3, 4, 100])
        >>> box.q1, box.median, box.q3, box.low, box.high, box.outliers
        (2.0, 3.0, 4.0, 1.0, 4.0, (100.0,))
    """
    array = np.sort(np.asarray(values, dtype=np.float64))
    q1, median, q3 = (float(q) for q in np.quantile(array, [0.25, 0.5, 0.75]))
    reach = 1.5 * (q3 - q1)
    inside = array[(array >= q1 - reach) & (array <= q3 + reach)]
    outside = array[(array < q1 - reach) | (array > q3 + reach)]
    return Box(
        method=method,
        severity=severity,
        n=len(array),
        mean=float(array.mean()),
        q1=q1,
        median=median,
        q3=q3,
        low=min(float(inside[0]), q1),
        high=max(float(inside[-1]), q3),
        outliers=tuple(float(value) for value in outside),
    )


def shift_boxes(methods: Sequence[MethodResult], quantity: ShiftQuantity) -> tuple[Box, ...]:
    """Return box plots over the corruptions, by severity and then by method; cells must be finite."""
    boxes = []
    for severity in sorted({cell.severity for method in methods for cell in method.shift}):
        for position, method in enumerate(methods):
            values = [getattr(cell, quantity) for cell in method.shift if cell.severity == severity]
            finite = [value for value in values if math.isfinite(value)]
            if finite:
                boxes.append(box_of(finite, method=position, severity=severity))
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


def _series(method: int, x: Sequence[float], estimates: Sequence[Estimate]) -> Series:
    return Series(
        method=method,
        x=tuple(float(position) for position in x),
        y=tuple(estimate.value if math.isfinite(estimate.value) else NAN for estimate in estimates),
        low=tuple(_end(estimate.low) for estimate in estimates),
        high=tuple(_end(estimate.high) for estimate in estimates),
    )


def _end(value: float | None) -> float:
    """Return an end of an interval, NaN where unknown."""
    return NAN if value is None else float(value)
