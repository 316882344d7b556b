"""What the numbers can tell, before it is put in words: which method is better, is a classifier over-confident, where?

Rows of a table are looked at together: a verdict on one of them is taken from intervals that hold for all rows at once
(Bonferroni). With single 95% intervals a calibrated model shows a "significant" level in two of five tables of ten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from robcal.base.metrics import metric_of
from robcal.base.results import MethodResult, Results
from robcal.base.types import Estimate, GroupRow, ReliabilityBin
from robcal.report.formatting import clean_text

Verdict = Literal["lower", "higher", "unclear", "unknown"]
Mark = Literal["", "best", "tied"]
Side = Literal["over", "under"]
Direction = Literal["over", "under", "unclear", "unknown"]
SIDES: tuple[Side, ...] = ("over", "under")


def titles(results: Results) -> dict[str, str]:
    """Return what each method is called on the page, by its name; a title used twice gets the name behind it."""
    plain = [clean_text(method.title or method.name) for method in results.methods]
    return {
        method.name: title if plain.count(title) == 1 else f"{title} ({clean_text(method.name)})"
        for method, title in zip(results.methods, plain, strict=True)
    }


def remarks(results: Results) -> tuple[str, ...]:
    """Return what a reader must know of single methods, each with the method's title in front."""
    names = titles(results)
    return tuple(
        f"{names[method.name]}: {clean_text(remark)}" for method in results.methods for remark in method.remarks
    )


def paired_difference(results: Results, metric: str, first: str, second: str) -> Estimate | None:
    """Return the paired difference first - second, where the results hold it or its opposite."""
    found = _held(results, metric, first, second)
    if found is not None:
        return found
    opposite = _held(results, metric, second, first)
    return None if opposite is None else negated(opposite)


def _held(results: Results, metric: str, first: str, second: str) -> Estimate | None:
    return results.method(first).minus.get(second, {}).get(metric)


def compare(results: Results, metric: str, first: str, second: str) -> Verdict:
    """Tell whether the metric of `first` is lower or higher than that of `second`.

    The interval of the paired difference decides; without one, whether the two intervals overlap (which is stricter).
    """
    paired = paired_difference(results, metric, first, second)
    if paired is not None and (told := side(paired)) != "unknown":
        return told
    a, b = (results.method(name).metrics.get(metric) for name in (first, second))
    if a is None or b is None or a.ends is None or b.ends is None:
        return "unknown"
    if a.ends[1] < b.ends[0]:
        return "lower"
    return "higher" if a.ends[0] > b.ends[1] else "unclear"


def better(metric: str, verdict: Verdict) -> bool:
    """Return whether the verdict is in the good direction of the metric."""
    return verdict == ("lower" if metric_of(metric).lower else "higher")


def best_method(results: Results, metric: str) -> MethodResult | None:
    """Return the method with the best finite value, or None where fewer than two have one or the metric has no best."""
    sign = 1.0 if metric_of(metric).lower else -1.0
    ranked = [
        (sign * method.metrics[metric].value, position)
        for position, method in enumerate(results.methods)
        if metric in method.metrics and math.isfinite(method.metrics[metric].value)
    ]
    if len(ranked) < 2 or not metric_of(metric).ranked:
        return None
    return results.methods[min(ranked)[1]]


def marks(results: Results, metric: str) -> tuple[Mark, ...]:
    """Mark each method: "best", "tied" (not distinguishable from the best), or ""."""
    best = best_method(results, metric)
    if best is None:
        return tuple("" for _ in results.methods)
    tied = (method.name for method in results.methods if compare(results, metric, method.name, best.name) == "unclear")
    marked: dict[str, Mark] = {**dict.fromkeys(tied, "tied"), best.name: "best"}
    return tuple(marked.get(method.name, "") for method in results.methods)


def side(estimate: Estimate, bound: float = 0.0) -> Verdict:
    """Tell where an interval lies: below the bound, above it, or around it; without an interval that is unknown."""
    if estimate.ends is None:
        return "unknown"
    low, high = estimate.ends
    return "lower" if high < bound else "higher" if low > bound else "unclear"


def difference_mark(metric: str, verdict: Verdict) -> str:
    """Mark a difference of a metric: "better", "worse", "unclear", or "" where that is not known or not ranked."""
    if verdict == "unclear":
        return verdict
    if verdict == "unknown" or not metric_of(metric).ranked:
        return ""
    return "better" if better(metric, verdict) else "worse"


def negated(estimate: Estimate) -> Estimate:
    """Return the opposite of a difference."""
    low, high = estimate.low, estimate.high
    return Estimate(-estimate.value, None if high is None else -high, None if low is None else -low)


def direction_of(gap: Estimate | None) -> Direction:
    """Tell on which side of zero the interval of a signed gap lies; "unknown" without an interval."""
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
    """Find the row of the largest gap among those clearly on this side (without intervals among all); None without."""
    known = any(row_direction(row) != "unknown" for row in rows)
    sign = 1.0 if wanted == "over" else -1.0
    found = [row for row in rows if (row_direction(row) == wanted if known else sign * row.gap.value > 0)]
    return max(found, key=lambda row: sign * row.gap.value, default=None)


def overall_direction(method: MethodResult) -> Direction | Literal["both"]:
    """Tell the direction over all from the signed gap; "both" where its interval holds zero but the ECE's does not.

    That is read from an interval by test inversion only, which starts at 0 where the data agree with perfect
    calibration; runs with seeds have another one.
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
