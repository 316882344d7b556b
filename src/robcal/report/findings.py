"""What the numbers say, in sentences: computed from `Results`, and never more certain than the intervals allow."""

from __future__ import annotations

import math

from robcal.base.results import MethodResult, Results
from robcal.base.types import GroupRow, TrendTest
from robcal.report import formatting
from robcal.report.compared import MOST_TOLD, comparison_headline, comparisons
from robcal.report.diagnosis import (
    bin_sentences,
    gap_interval,
    group_sentences,
    headline_of_one,
    level_sentences,
    overall_sentences,
    points,
)
from robcal.report.directions import SIDES, extreme_row, row_gap
from robcal.report.formatting import clean_text
from robcal.report.verdicts import titles
from robcal.report.wording import Wording, level_name, wording

#: Trend tests above this two-sided p-value are called indistinguishable from chance.
SIGNIFICANCE = 0.05


def headline(results: Results) -> str:
    """Answer in a sentence or two: which methods are better calibrated, if the numbers can tell; of one, how it is."""
    if len(results.methods) > 1:
        return comparison_headline(results)
    (method,) = results.methods
    return headline_of_one(method, titles(results)[method.name])


def answer(results: Results) -> tuple[str, ...]:
    """Write the paragraphs below the headline: what differs between methods, then where a model is miscalibrated."""
    method, *others = results.methods
    if others:
        return tuple(filter(None, (*comparisons(results), place(results))))
    paragraphs = overall_sentences(method), _places(method, "It", wording(results)), group_sentences(method)
    return tuple(" ".join(sentences) for sentences in paragraphs if sentences)


def place(results: Results) -> str:
    """Say where the first of several methods is over- or under-confident, and what the others say there."""
    words, names = wording(results), titles(results)
    baseline, *others = results.methods
    sentences = _places(baseline, names[baseline.name], words)
    for side in SIDES:
        row = extreme_row(baseline.levels, side)
        if row is not None:
            where = level_name(baseline.levels, row, words)
            sentences += [_there(row, where, method, names[method.name]) for method in others[:MOST_TOLD]]
    return " ".join(filter(None, sentences))


def worst_place(results: Results, other: MethodResult) -> str:
    """Say in which level the first method is most over-confident, else under-confident, and what another says there."""
    words, names = wording(results), titles(results)
    baseline = results.methods[0]
    sentences = _places(baseline, names[baseline.name], words)[:2]
    row = next(filter(None, (extreme_row(baseline.levels, side) for side in SIDES)), None)
    if row is not None:
        sentences.append(_there(row, level_name(baseline.levels, row, words), other, names[other.name]))
    return " ".join(filter(None, sentences))


def trend_sentence(trend: TrendTest, words: Wording) -> str:
    """Put one trend test in words.

    Example:
        >>> from robcal.report.wording import wording_of
        >>> trend_sentence(TrendTest("gap", -0.21, 0.0005, 1999), wording_of("entropy"))
        'The gap falls as the entropy grows (statistic −0.210, p ≤ 0.0005, 1,999 permutations).'
    """
    quantity = clean_text(trend.quantity)
    if math.isnan(trend.statistic) or math.isnan(trend.p_value):
        return f"The trend of the {quantity} over the levels could not be computed."
    how = f"statistic {formatting.signed(trend.statistic, 3)}, {formatting.p_value(trend.p_value, trend.permutations)}"
    how += f", {trend.permutations:,} permutations" if trend.permutations else ""
    if trend.p_value > SIGNIFICANCE:
        return f"The {quantity} shows no trend over the levels that can be told from chance ({how})."
    return f"The {quantity} {'falls' if trend.statistic < 0 else 'grows'} {words.grows} ({how})."


def _places(method: MethodResult, name: str, words: Wording) -> list[str]:
    """Say where the method states more or less than it achieves: by level if there are levels, else by confidence."""
    return level_sentences(method, name, words) or bin_sentences(method, name)


def _there(row: GroupRow, where: str, method: MethodResult, name: str) -> str:
    """Say what another method states in the level where the first one is worst; "" where it has no such level."""
    other = next((candidate for candidate in method.levels if candidate.group == row.group), None)
    if other is None or math.isnan(other.gap.value):
        return ""
    sure = "too sure" if other.gap.value > 0 else "too unsure"
    return (
        f"In {where}, {name} states {formatting.percent(other.confidence.value)} and is right "
        f"{formatting.percent(other.accuracy.value)} of the time: {points(abs(other.gap.value))} {sure}"
        f"{gap_interval(row_gap(other))}."
    )
