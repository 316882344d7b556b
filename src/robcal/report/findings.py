"""What the numbers say, in sentences: computed from `Results`, and never more certain than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from robcal.base.results import MethodResult, Results
from robcal.base.types import Estimate, GroupRow, TrendTest
from robcal.report import diagnosis, formatting
from robcal.report.formatting import clean_text
from robcal.report.verdicts import SIDES, Verdict, better, compare, extreme_row, paired_difference, row_gap, titles
from robcal.report.wording import Wording, level_name, wording

#: Metrics that sentences tell of, and what these call them.
TOLD = {"ece": "ECE", "nll": "NLL", "brier": "Brier score", "shift_ece": "ECE under shift", "accuracy": "accuracy"}
#: With more methods than these beside the first, sentences tell of the one with the lowest ECE only.
MOST_TOLD = 3
#: Trend tests above this two-sided p-value are called indistinguishable from chance.
SIGNIFICANCE = 0.05


def headline(results: Results) -> str:
    """Answer in a sentence or two: which methods are better calibrated, if the numbers can tell; of one, how it is."""
    if len(results.methods) > 1:
        return comparison_headline(results)
    (method,) = results.methods
    return diagnosis.headline_of_one(method, titles(results)[method.name])


def answer(results: Results) -> tuple[str, ...]:
    """Write the paragraphs below the headline: what differs between methods, then where a model is miscalibrated."""
    method, *others = results.methods
    if others:
        return tuple(filter(None, (*comparisons(results), place(results))))
    where = _places(method, "It", wording(results))
    paragraphs = diagnosis.overall_sentences(method), where, diagnosis.group_sentences(method)
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
    """Put one trend test in words."""
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
    return diagnosis.level_sentences(method, name, words) or diagnosis.bin_sentences(method, name)


def _there(row: GroupRow, where: str, method: MethodResult, name: str) -> str:
    """Say what another method states in the level where the first one is worst; "" where it has no such level."""
    other = next((candidate for candidate in method.levels if candidate.group == row.group), None)
    if other is None or math.isnan(other.gap.value):
        return ""
    sure = "too sure" if other.gap.value > 0 else "too unsure"
    apart = f"{diagnosis.points(abs(other.gap.value))} {sure}{diagnosis.gap_interval(row_gap(other))}"
    return f"In {where}, {name} {diagnosis.states(other)}: {apart}."


def comparison_headline(results: Results) -> str:
    """Return which methods are better calibrated than the first, which worse, and which cannot be told from it."""
    baseline, *others = results.methods
    known = [method for method in others if is_known(method)]
    if not (known and is_known(baseline)):
        return "No calibration error was measured for both methods, so they cannot be compared."
    by_verdict: dict[Verdict, list[MethodResult]] = {}
    for method in known:
        by_verdict.setdefault(compare(results, "ece", method.name, baseline.name), []).append(method)
    return " ".join(_told(results, by_verdict[kind], kind) for kind in _ORDER if kind in by_verdict)


def comparisons(results: Results) -> tuple[str, ...]:
    """Write a sentence a pair of methods that is compared: each with the first, then the further pairs."""
    baseline, *others = results.methods
    told = others if len(others) <= MOST_TOLD else [lowest_ece(others)]
    pairs = [(method.name, baseline.name) for method in told]
    rivals = [(one.name, other) for one in results.methods for other in one.minus if other != baseline.name]
    pairs += rivals[:MOST_TOLD]
    return tuple(sentence for pair in pairs if (sentence := comparison(results, *pair)))


def comparison(results: Results, first: str, second: str, metrics: Iterable[str] = tuple(TOLD)) -> str:
    """Return what the first of two methods is better in, what it is worse in, by how much, and what cannot be told.

    The sentence is "" where none of the metrics was measured of both.
    """
    parts: dict[str, list[str]] = {}
    for metric in metrics:
        difference = _difference(results, metric, first, second)
        if difference is not None:
            verdict = compare(results, metric, first, second)
            side = "better" if better(metric, verdict) else "worse"
            if verdict in ("unclear", "unknown"):
                side = verdict
            if difference.value == difference.low == difference.high == 0:  # as of the accuracy under a temperature
                side = "same"
            parts.setdefault(side, []).append(_phrase(metric, side, difference))
    if not parts:
        return ""
    names = titles(results)
    clauses = [f"{opening} {formatting.joined(parts[side])}" for side, opening in _OPENINGS.items() if side in parts]
    return f"{names[first]} against {names[second]}: {'; '.join(clauses)}."


_ORDER: tuple[Verdict, ...] = ("lower", "unclear", "higher", "unknown")
_OPENINGS = {
    "better": "better",
    "worse": "worse",
    "unclear": "no difference can be told",
    "same": "the same",
    "unknown": "without intervals, what differs may be chance",
}


def _told(results: Results, methods: list[MethodResult], verdict: Verdict) -> str:
    """Tell in one sentence of the methods whose ECE compares alike with that of the first."""
    names, baseline, many = titles(results), results.methods[0], len(methods) > 1
    subject = some_of([names[method.name] for method in methods])
    be, their = ("are", "their") if many else ("is", "its")
    if verdict == "unclear":
        return f"{subject} {be} not distinguishable from {names[baseline.name]} in calibration."
    misses = (
        f"{their} confidence misses {their} accuracy by {_points(methods)} instead of {_points([baseline])} percentage "
        "points on average"
    )
    if verdict == "unknown":
        return (
            f"{subject} {be} not the same as {names[baseline.name]}: {misses}; without intervals, this may be chance."
        )
    word = "better" if better("ece", verdict) else "worse"
    return f"{subject} {be} {word} calibrated than {names[baseline.name]}: {misses}."


def some_of(names: Sequence[str]) -> str:
    """Join the names of methods; of many, the first and how many more there are."""
    more = len(names) - MOST_TOLD
    return formatting.joined([*names[:MOST_TOLD], f"{more} more"] if more > 0 else names)


def _points(methods: list[MethodResult]) -> str:
    """Return the ECE of some methods in percentage points: each, or of many the range."""
    values = [method.metrics["ece"].value for method in methods]
    if len(values) > MOST_TOLD:
        return f"{formatting.number(100 * min(values), 1)} to {formatting.number(100 * max(values), 1)}"
    return formatting.joined([formatting.number(100 * value, 1) for value in values])


def _difference(results: Results, metric: str, first: str, second: str) -> Estimate | None:
    """Return the paired difference, else that of the two values; None where there is none to tell."""
    found = paired_difference(results, metric, first, second)
    if found is None:
        values = {method.name: method.metrics.get(metric) for method in results.methods}
        a, b = values.get(first), values.get(second)
        found = None if a is None or b is None else Estimate(a.value - b.value)
    return found if found is not None and math.isfinite(found.value) else None


def _phrase(metric: str, side: str, difference: Estimate) -> str:
    """Say by how much a metric differs, without a sign where the direction is told: 'in ECE by 0.03 [0.02, 0.04]'."""
    if side == "same":
        return f"in {TOLD[metric]}"
    if side in ("unclear", "unknown"):
        ends = formatting.difference_interval(metric, difference)
        return f"in {TOLD[metric]} ({_with_unit(formatting.difference(metric, difference.value), ends)})"
    size = abs(difference.value)
    ends = formatting.difference_interval(metric, _magnitude(difference)).replace("+", "")
    return f"in {TOLD[metric]} by {_with_unit(formatting.difference(metric, size).removeprefix('+'), ends)}"


def _magnitude(difference: Estimate) -> Estimate:
    """Return the difference without its sign, which is that of both ends."""
    ends = (difference.low, difference.high)
    low, high = sorted(abs(end) for end in ends if end is not None) if None not in ends else (None, None)
    return Estimate(abs(difference.value), low, high)


def _with_unit(value: str, ends: str) -> str:
    """Return '+0.50 [−0.10, +1.10] pp' of '+0.50 pp' and the interval; the value alone without one."""
    number, _, unit = value.partition(" ")
    return " ".join(filter(None, (number, ends, unit)))


def is_known(method: MethodResult) -> bool:
    """Return whether its ECE was measured."""
    return "ece" in method.metrics and math.isfinite(method.metrics["ece"].value)


def lowest_ece(methods: list[MethodResult]) -> MethodResult:
    """Return the method with the lowest ECE."""
    return min(methods, key=lambda method: method.metrics["ece"].value if is_known(method) else math.inf)
