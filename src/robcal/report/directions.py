"""Is a classifier over- or under-confident, over all and where? What the intervals say, before it is put in words.

Rows of a table are looked at together: a verdict on one of them is taken from intervals that hold for all rows at once
(Bonferroni). With single 95% intervals a calibrated model shows a "significant" level in two of five tables of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from robcal.base.results import MethodResult
from robcal.base.types import Estimate, GroupRow, ReliabilityBin
from robcal.report.verdicts import Verdict, side

Side = Literal["over", "under"]
Direction = Literal["over", "under", "unclear", "unknown"]
SIDES: tuple[Side, ...] = ("over", "under")


def direction_of(gap: Estimate | None) -> Direction:
    """Tell on which side of zero the interval of a signed gap lies; "unknown" without an interval.

    >>> direction_of(Estimate(0.1, 0.05, 0.15)), direction_of(Estimate(0.1, -0.05, 0.25)), direction_of(Estimate(0.1))
    ('over', 'unclear', 'unknown')
    """
    sides: dict[Verdict, Direction] = {"lower": "under", "higher": "over", "unclear": "unclear", "unknown": "unknown"}
    return sides["unknown" if gap is None else side(gap)]


def row_gap(row: GroupRow) -> Estimate:
    """Return the gap that a verdict on this row is taken from: with the interval that holds for all rows at once."""
    return row.gap if row.joint_gap is None else row.joint_gap


def row_direction(row: GroupRow) -> Direction:
    """Tell whether a level or a group is over- or under-confident, looked at together with the others."""
    return direction_of(row_gap(row))


def bin_direction(one: ReliabilityBin) -> Direction:
    """Tell whether a bin of the confidence is over- or under-confident, looked at together with the others."""
    ends = (one.joint or one.accuracy).ends
    return direction_of(ends and Estimate(one.gap, one.confidence - ends[1], one.confidence - ends[0]))


def extreme_row(rows: Sequence[GroupRow], wanted: Side) -> GroupRow | None:
    """Find the row with the largest gap to this side among those that are clearly on it; None if there is none.

    Where no row has an interval, the row with the largest gap to this side.
    """
    known = any(row_direction(row) != "unknown" for row in rows)
    sign = 1.0 if wanted == "over" else -1.0
    found = [row for row in rows if (row_direction(row) == wanted if known else sign * row.gap.value > 0)]
    return max(found, key=lambda row: sign * row.gap.value, default=None)


def overall_direction(method: MethodResult) -> Direction | Literal["both"]:
    """Tell the direction over all from the signed gap; "both" where gaps of both signs cancel in it.

    "both": the gap's interval holds zero but the ECE's does not. That is read from an interval by test inversion only,
    which starts at 0 where the data agree with perfect calibration; runs with seeds have another one.
    """
    direction = direction_of(method.metrics.get("gap"))
    ece = method.metrics.get("ece")
    if direction != "unclear" or ece is None or method.seeds:
        return direction
    return "both" if ece.ends and ece.ends[0] > 0 else direction


def half_width(gap: Estimate) -> float:
    """Return half of the interval's width: a true gap of that size is told from zero about half of the time."""
    return float("nan") if gap.ends is None else (gap.ends[1] - gap.ends[0]) / 2


def typical_half_width(rows: Sequence[GroupRow]) -> float:
    """Return the median over rows of what half of the interval that holds for all rows at once is wide."""
    return median(half_width(row_gap(row)) for row in rows)


def examples_of(method: MethodResult) -> int:
    """Count the examples that were measured; 0 where that is not known."""
    return sum(bin_.count for bin_ in method.reliability) // max(len(method.seeds), 1)
