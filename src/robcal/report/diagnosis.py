"""One classifier in words: over- or under-confident, where, what so few examples could not show, and what is next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from robcal.base.results import MethodResult
from robcal.base.types import Estimate, GroupRow, ReliabilityBin
from robcal.report import formatting, verdicts
from robcal.report.formatting import clean_text, joined
from robcal.report.plotted import filled_bins, shares
from robcal.report.verdicts import SIDES, Side, row_direction, row_gap
from robcal.report.wording import Wording, level_name

#: So many rows are named one by one.
MAX_NAMED = 12


@dataclass(frozen=True)
class Rows:
    """The rows of a table, what they and one of them are called, and of levels the words of their score."""

    rows: Sequence[GroupRow]
    whose: str
    noun: str
    words: Wording | None = None

    def name(self, row: GroupRow) -> str:
        """Name one row, and say where it stands."""
        if self.words is None:
            return f"{self.noun} {_quoted(row.group)}"
        return level_name(self.rows, row, self.words)

    def are(self, rows: Sequence[GroupRow]) -> str:
        """Name several rows as a subject: "level 3 is", "levels 0 to 2 and 5 are", "40 are", "all are"."""
        if len(rows) == len(self.rows) > 1:
            return "all are" if len(rows) > 2 else "both are"
        names = self.which(rows)
        return f"{names or len(rows)} {'are' if len(rows) > 1 else 'is'}"

    def which(self, rows: Sequence[GroupRow]) -> str:
        """Name several rows: "level 3", "levels 0 to 2 and 5"; "" where they are too many."""
        names = [clean_text(row.group) for row in rows]
        if self.words:
            places = [self.rows.index(row) for row in rows]
            names = [names[a] if a == b else f"{names[a]} to {names[b]}" for a, b in _stretches(places)]
        else:
            names = [_quoted(name) for name in names]
        if len(names) > MAX_NAMED:
            return ""
        return f"{self.noun}{'s' if len(rows) > 1 else ''} {joined(names)}"


def headline_of_one(method: MethodResult, name: str) -> str:
    """Say whether a classifier is over- or under-confident, both in turn, or calibrated as far as can be told."""
    gap, ece = method.metrics.get("gap"), method.metrics.get("ece")
    if ece is None or math.isnan(ece.value):
        return f"{name}: no calibration error was measured."
    ends = formatting.interval(ece, formatting.number)
    errors = f"ECE {formatting.number(ece.value)}{f' {ends}' if ends else '; no interval is known'}"
    side = verdicts.overall_direction(method)
    if gap is None or side == "unknown":
        return f"The stated confidence misses the accuracy by {points(ece.value)} on average ({errors})."
    figures = f"signed gap {_signed_points(gap)}; {errors}"
    if side == "both":
        return (
            "Over-confident on some examples and under-confident on others, so that it cancels on average: the stated "
            f"confidence misses the accuracy by {points(ece.value)} ({figures})."
        )
    if side == "unclear":
        return f"Calibrated as far as {counted(verdicts.examples_of(method))} can tell ({figures})."
    word = "above" if side == "over" else "below"
    return (
        f"{side.capitalize()}-confident: the stated confidence is on average {points(abs(gap.value))} {word} the "
        f"accuracy ({figures})."
    )


def overall_sentences(method: MethodResult) -> list[str]:
    """Say what the classifier states and achieves on average, and which gap so few examples could not show."""
    gap, accuracy = method.metrics.get("gap"), method.metrics.get("accuracy")
    if accuracy is None or not math.isfinite(accuracy.value):
        return []
    right = f"{formatting.percent(accuracy.value)} of the"
    if gap is None or not math.isfinite(gap.value):
        return [f"It classifies {right} examples right."]
    stated = formatting.percent(accuracy.value + gap.value)
    sentences = [f"It states a confidence of {stated} on average and is right {right} time."]
    if verdicts.overall_direction(method) == "unclear":
        sentences.append(f"Here {_hidden(verdicts.half_width(gap))}.")
    return sentences


def level_sentences(method: MethodResult, name: str, words: Wording) -> list[str]:
    """Say which levels are over- and which are under-confident, and what the others may hide."""
    rows = [row for row in method.levels if math.isfinite(row.gap.value)]
    owner = "its" if name == "It" else f"{name}'s"
    many = words.levels if len(rows) > 1 else words.level
    return row_sentences(Rows(rows, f"{owner} {len(rows)} {many}", "level", words)) if rows else []


def group_sentences(method: MethodResult) -> list[str]:
    """Say which groups of every grouping are over- and which are under-confident."""
    found = []
    for grouping, every in method.groups.items():
        rows = [row for row in every if math.isfinite(row.gap.value)]
        if rows:
            plural = "s" if len(rows) > 1 else ""
            found += row_sentences(Rows(rows, f"the {len(rows)} group{plural} by {_quoted(grouping)}", "group"))
    return found


def row_sentences(table: Rows) -> list[str]:
    """Say which rows are over- and which are under-confident, the worst of each, and what the others may hide."""
    known = [row for row in table.rows if row_direction(row) != "unknown"]
    worst = [(side, row) for side in SIDES if (row := verdicts.extreme_row(table.rows, side)) is not None]
    if not known:
        return [f"{_worst(table, side, row)}; without intervals, that may be chance." for side, row in worst[:1]]
    by_side = {side: [row for row in known if row_direction(row) == side] for side in SIDES}
    told = [f"{table.are(rows)} {side}-confident" for side, rows in by_side.items() if rows]
    unclear = [row for row in known if row_direction(row) == "unclear"]
    together = ", looked at together," if len(known) > 1 else ""
    sentences = [f"Of {table.whose}{together} {' and '.join(told)}."] if told and together else []
    sentences += [f"{_worst(table, side, row)}." for side, row in worst]
    if unclear:
        others = "The other one is" if len(unclear) == 1 else f"The other {len(unclear)} are"
        if not told:
            others = f"As far as can be told, {table.whose}{together} {'are' if len(known) > 1 else 'is'}"
        sentences.append(f"{others} calibrated{' as far as can be told' if told else ''}: {_unseen(unclear)}.")
    return sentences


def _unseen(rows: Sequence[GroupRow]) -> str:
    """Say which gap the rows could not show; of the largest and the smallest where their sizes differ much."""
    least, most = min(rows, key=lambda row: row.n), max(rows, key=lambda row: row.n)
    if most.n <= 2 * least.n:
        size = f"about {round(median(row.n for row in rows)):,} examples{' in each' if len(rows) > 1 else ''}"
        return f"with {size} {_hidden(verdicts.typical_half_width(rows))}"
    return (
        f"in the largest, of {most.n:,} examples, {_hidden(verdicts.half_width(row_gap(most)))}, in the smallest, of "
        f"{least.n:,}, one of less than about {points(verdicts.half_width(row_gap(least)))}"
    )


def bin_sentences(method: MethodResult, name: str) -> list[str]:
    """Say where on the scale of the confidence the classifier is over- and where it is under-confident."""
    found = dict(zip(bins := filled_bins(method), shares(bins), strict=True))
    sides = {one: verdicts.bin_direction(one) for one in found}
    clear = {side: {one: share for one, share in found.items() if sides[one] == side} for side in SIDES}
    if any(clear.values()):
        return [
            _bin_sentence(max(some, key=lambda one: some[one] * abs(one.gap)), found, name, side)
            for side, some in clear.items()
            if some
        ]
    if "unclear" in sides.values():
        together = f"; the {len(found)} ranges were looked at together" if len(found) > 1 else ""
        return [f"{name} shows no range of confidence that is over- or under-confident beyond chance{together}."]
    return []


def states(row: GroupRow) -> str:
    """Say what confidence the model states in a row, and how often it is right there."""
    stated, right = (formatting.percent(one.value) for one in (row.confidence, row.accuracy))
    return f"states {stated} and is right {right} of the time"


def counted(count: int) -> str:
    """Write how many examples there are; 0 stands for a number that is not known."""
    return f"{count:,} example{'s' if count > 1 else ''}" if count else "these examples"


def points(value: float) -> str:
    """Write a difference of shares in percentage points."""
    return f"{formatting.number(100 * value, 1)} percentage points"


def _hidden(gap: float) -> str:
    return f"a gap of less than about {points(gap)} would show less than half of the time"


def gap_interval(gap: Estimate, more: str = "") -> str:
    """Write the interval of a gap in brackets, with a space before it; "" where none is known."""
    ends = formatting.interval(gap, _percent_points)
    return f" (gap {ends}{more})" if ends else ""


def _worst(table: Rows, side: Side, row: GroupRow) -> str:
    sure = "too sure" if side == "over" else "too unsure"
    together = "both" if len(table.rows) == 2 else f"all {len(table.rows)}"
    start = f"Most {side}" if len(table.rows) > 1 else side.capitalize()
    at_once = f", an interval that holds for {together} at once" if len(table.rows) > 1 else ""
    apart = f"{points(abs(row.gap.value))} {sure}{gap_interval(row_gap(row), at_once)}"
    return f"{start}-confident is {table.name(row)}: it {states(row)}, {apart}"


def _bin_sentence(one: ReliabilityBin, found: Mapping[ReliabilityBin, float], name: str, side: Side) -> str:
    return (
        f"{name} is most clearly {side}-confident where it states {formatting.percent(one.lower, 0)} to "
        f"{formatting.percent(one.upper, 0)} ({formatting.percent(found[one])} of the examples): there it is right "
        f"{formatting.percent(one.accuracy.value)} of the time instead of {formatting.percent(one.confidence)}."
    )


def points_interval(gap: Estimate) -> str:
    """Write a signed gap and its interval in percentage points."""
    return f"{_signed_points(gap)} percentage points"


def _signed_points(gap: Estimate) -> str:
    return f"{_percent_points(gap.value)} {formatting.interval(gap, _percent_points)}".rstrip()


def _percent_points(value: float | None) -> str:
    return formatting.signed(None if value is None else 100 * value, 1)


def _stretches(places: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last index of each stretch of at least three neighbours; else each alone.

    >>> _stretches([0, 1, 2, 5, 7, 8])
    [(0, 2), (3, 3), (4, 4), (5, 5)]
    """
    runs = [list(run) for _, run in groupby(range(len(places)), lambda index: places[index] - index)]
    return [pair for run in runs for pair in ([(run[0], run[-1])] if len(run) > 2 else [(at, at) for at in run])]


def _quoted(text: object) -> str:
    return f"“{clean_text(text)}”"
