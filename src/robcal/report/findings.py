"""What the numbers say, in sentences: computed from `Results`, and never more certain than the intervals allow."""

from __future__ import annotations

import math

from robcal.base.types import Estimate, GroupRow, MethodResult, Results, TrendTest
from robcal.report import formatting
from robcal.report.compared import MOST_TOLD, comparison_headline, comparisons
from robcal.report.formatting import clean_text, has_interval
from robcal.report.plotted import reliability_points
from robcal.report.verdicts import titles

#: Trend tests above this two-sided p-value are called indistinguishable from chance.
SIGNIFICANCE = 0.05


def headline(results: Results) -> str:
    """The answer: which methods are better calibrated, if the numbers can tell; of one, how well it is."""
    return _single_headline(results) if len(results.methods) == 1 else comparison_headline(results)


def answer(results: Results) -> tuple[str, ...]:
    """The paragraphs below the headline: what differs between methods, then where the model is wrongly sure."""
    baseline, *others = results.methods
    if not others:
        return tuple(filter(None, (_single_direction(baseline), wrongly_sure(baseline, "It"))))
    return tuple(filter(None, (*comparisons(results), place(results))))


def place(results: Results) -> str:
    """Where the first of several methods is wrongly sure, and what the others say there."""
    baseline, *others = results.methods
    name = titles(results)[baseline.name]
    sentences = [wrongly_sure(baseline, name), *(_same_place(results, baseline, one) for one in others[:MOST_TOLD])]
    return " ".join(filter(None, [*sentences, _most_robust(baseline, name)]))


def wrongly_sure(method: MethodResult, name: str) -> str:
    """Where the method claims more than it achieves: by robustness level if there are levels, else by confidence."""
    if method.levels:
        row = most_overconfident(method)
        if row is not None:
            return (
                f"{name} is most clearly wrongly sure in {_level_name(method, row)}: there it states a confidence of "
                f"{formatting.percent(row.confidence.value)} and is right {formatting.percent(row.accuracy.value)} of "
                f"the time, {_points(row.gap.value)} too sure {_points_interval(row.gap)}."
            ).replace(" .", ".")
        if any(has_interval(row.gap) for row in method.levels):
            return f"{name} shows no robustness level whose over-confidence can be told from chance."
    return _wrong_bin(method, name)


def most_overconfident(method: MethodResult) -> GroupRow | None:
    """The level with the largest positive gap among those whose interval excludes zero.

    Without any interval, the level with the largest positive gap; None where no level is over-confident.
    """
    positive = [row for row in method.levels if row.gap.value > 0]
    if any(has_interval(row.gap) for row in method.levels):
        positive = [row for row in positive if has_interval(row.gap) and row.gap.low is not None and row.gap.low > 0]
    return max(positive, key=lambda row: row.gap.value, default=None)


def trend_sentence(trend: TrendTest) -> str:
    """One trend test in words.

    Example:
        >>> trend_sentence(TrendTest("gap", -0.21, 0.0005, 1999))
        'The gap falls as robustness grows (statistic −0.210, p ≤ 0.0005, 1,999 permutations).'
    """
    quantity = clean_text(trend.quantity)
    if math.isnan(trend.statistic) or math.isnan(trend.p_value):
        return f"The trend of the {quantity} over the levels could not be computed."
    how = f"statistic {formatting.signed(trend.statistic, 3)}, {formatting.p_value(trend.p_value, trend.permutations)}"
    how += f", {trend.permutations:,} permutations" if trend.permutations else ""
    if trend.p_value > SIGNIFICANCE:
        return f"The {quantity} shows no trend over the levels that can be told from chance ({how})."
    return f"The {quantity} {'falls' if trend.statistic < 0 else 'grows'} as robustness grows ({how})."


def _single_headline(results: Results) -> str:
    method = results.methods[0]
    ece = method.metrics.get("ece")
    if ece is None or math.isnan(ece.value):
        return f"{titles(results)[method.name]}: no calibration error was measured."
    ends = formatting.interval(ece, formatting.number)
    suffix = f", interval {ends}" if ends else "; no interval is known"
    return (
        f"The stated confidence misses the accuracy by {_points(ece.value)} on average "
        f"(ECE {formatting.number(ece.value)}{suffix})."
    )


def _single_direction(method: MethodResult) -> str:
    gap, accuracy = method.metrics.get("gap"), method.metrics.get("accuracy")
    parts = [] if accuracy is None else [f"It classifies {formatting.percent(accuracy.value)} of the examples right"]
    if gap is not None and math.isfinite(gap.value):
        unclear = has_interval(gap) and gap.low is not None and gap.high is not None and gap.low <= 0 <= gap.high
        if unclear:
            parts.append("over all it is neither clearly over- nor under-confident")
        else:
            direction = "over-confident" if gap.value > 0 else "under-confident"
            parts.append(f"over all it is {direction} by {_points(abs(gap.value))}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _same_place(results: Results, baseline: MethodResult, rival: MethodResult) -> str:
    """The compared method at the level where the first one is most over-confident."""
    row = most_overconfident(baseline)
    name = titles(results)[rival.name]
    if row is None:
        return wrongly_sure(rival, name) if rival.levels else ""
    other = next((candidate for candidate in rival.levels if candidate.group == row.group), None)
    if other is None or math.isnan(other.gap.value):
        return ""
    direction = "too sure" if other.gap.value > 0 else "too unsure"
    return (
        f"There {name} states {formatting.percent(other.confidence.value)} and is right "
        f"{formatting.percent(other.accuracy.value)} of the time: {_points(abs(other.gap.value))} {direction} "
        f"{_points_interval(other.gap)}."
    ).replace(" .", ".")


def _most_robust(method: MethodResult, name: str) -> str:
    """The gap of the most robust level, where the least robust one is the most over-confident."""
    if not method.levels or most_overconfident(method) != method.levels[0]:
        return ""
    row = method.levels[-1]
    return (
        f"In {_level_name(method, row)} {name} is {_points(abs(row.gap.value))} too "
        f"{'sure' if row.gap.value > 0 else 'unsure'} {_points_interval(row.gap)}."
    ).replace(" .", ".")


def _wrong_bin(method: MethodResult, name: str) -> str:
    """The confidence bin whose over-confidence weighs most, among those whose interval excludes calibration."""
    points = [point for point in reliability_points(method) if point.gap > 0 and point.high < point.confidence]
    if not points:
        known = [point for point in reliability_points(method) if math.isfinite(point.high)]
        return f"{name} shows no range of confidence that is over-confident beyond chance." if known else ""
    worst = max(points, key=lambda point: point.share * point.gap)
    return (
        f"{name} is most clearly wrongly sure where it states {formatting.percent(worst.lower, 0)} to "
        f"{formatting.percent(worst.upper, 0)} ({formatting.percent(worst.share)} of the examples): there it is right "
        f"{formatting.percent(worst.accuracy)} of the time instead of {formatting.percent(worst.confidence)}."
    )


def _level_name(method: MethodResult, row: GroupRow) -> str:
    count = len(method.levels)
    place = method.levels.index(row)
    fraction = {4: "quarter", 5: "fifth", 10: "tenth", 20: "twentieth"}.get(count)
    if place == 0:
        return f"its least robust {fraction} of the examples" if fraction else f"the least robust of its {count} levels"
    if place == count - 1:
        return f"its most robust {fraction} of the examples" if fraction else f"the most robust of its {count} levels"
    return f"robustness level {clean_text(row.group)} (of {count}, the first is the least robust)"


def _points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{formatting.number(100 * value, 1)} percentage points"


def _points_interval(gap: Estimate) -> str:
    ends = formatting.interval(gap, lambda end: formatting.signed(None if end is None else 100 * end, 1))
    return f"(interval of the gap {ends})" if ends else ""
