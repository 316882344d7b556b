"""Levels, groups and wrong examples as tables of a page, levels and groups as tables of a terminal: a row each."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial

from robcal.base.results import MethodResult, Repair, Results
from robcal.base.types import GroupRow
from robcal.report import formatting, plotted
from robcal.report.formatting import NOTHING, clean_text
from robcal.report.grid import text_rows
from robcal.report.layout import Numbers
from robcal.report.verdicts import row_direction, titles
from robcal.report.wording import wording

#: So many of the wrong predictions a table shows.
SHOWN_WORST = 5

_COLUMNS = ("Examples", "Confidence", "Accuracy", "Gap", "ECE", "Verdict")
_VERDICTS = {"over": "over-confident", "under": "under-confident", "unclear": "cannot be told", "unknown": NOTHING}
_TOGETHER = (
    "Intervals are of each row alone; the verdict is from wider ones, which hold for all {count} rows at once "
    "(Bonferroni)."
)


def level_numbers(results: Results, method: MethodResult) -> Numbers:
    """Return the levels of a method as a table."""
    words, name = wording(results), titles(results)[method.name]
    rows = tuple((clean_text(row.group), _range(row), *_cells(row)) for row in method.levels)
    return Numbers(f"Levels of {name}", ("Level", words.value, *_COLUMNS), rows, _note(len(rows)))


def group_numbers(results: Results, method: MethodResult, grouping: str) -> Numbers:
    """Return the groups of a method by one grouping as a table."""
    rows = tuple((clean_text(row.group), *_cells(row)) for row in method.groups.get(grouping, ()))
    return Numbers(f"Groups by {clean_text(grouping)}", ("Group", *_COLUMNS), rows, _note(len(rows)))


def method_group_numbers(results: Results, grouping: str) -> Numbers:
    """Return the groups by one grouping as a table, those of all methods side by side where there are several."""
    if len(results.methods) == 1:
        return group_numbers(results, results.methods[0], grouping)
    names = titles(results)
    every, _ = plotted.group_names(results, grouping, limit=sys.maxsize)
    rows = tuple(
        (clean_text(group), names[method.name], *_cells(row))
        for group in every
        for method in results.methods
        for row in method.groups.get(grouping, ())
        if row.group == group
    )
    return Numbers(f"Groups by {clean_text(grouping)}", ("Group", "Method", *_COLUMNS), rows, _note(len(every)))


def worst_numbers(results: Results) -> Numbers:
    """Return the wrong examples of highest confidence as a table; classes by name where they have names."""
    method, classes = results.methods[0], _class_names(results)
    scored = any(row.score is not None for row in method.worst[:SHOWN_WORST])
    rows = tuple(
        (
            str(row.index),
            classes.get(row.label, str(row.label)),
            classes.get(row.prediction, str(row.prediction)),
            formatting.percent(row.confidence, 2),
            *((formatting.significant(row.score), str(row.level)) if scored else ()),
        )
        for row in method.worst[:SHOWN_WORST]
    )
    more = (wording(results).value, "Level") if scored else ()
    return Numbers(
        "The wrong examples that it is most sure of", ("Index", "Label", "Prediction", "Confidence", *more), rows
    )


def repair_numbers(repair: Repair) -> Numbers:
    """Return the gap of every level before and after a recalibration as a table, and NLL and ECE above it."""
    show = partial(formatting.with_interval, write=formatting.signed)
    plain_number = partial(formatting.with_interval, write=formatting.number)
    rows = [("NLL", NOTHING, *map(plain_number, repair.nll)), ("ECE", NOTHING, *map(plain_number, repair.ece))]
    rows += [(f"Gap, level {row.level}", f"{row.n:,}", show(row.before), show(row.after)) for row in repair.levels]
    note = f"Levels by {clean_text(repair.score)}, 0 the lowest; intervals of gaps hold for all levels at once."
    columns = ("Measure", "Examples", "As it is", "Repaired")
    return Numbers(f"Before and after ({repair.method})", columns, tuple(rows), note)


def span(low: str, high: str) -> str:
    """Write a range that is not broken over two lines."""
    return f"{low}\u00a0to\u00a0{high}"


def _class_names(results: Results) -> dict[int, str]:
    """Return what classes are called that have a name: "ship (8)"."""
    names = [clean_text(name) for name in results.dataset.get("class_names", ())]
    return {k: f"{name} ({k})" for k, name in enumerate(names) if name != str(k)}


def _cells(row: GroupRow) -> tuple[str, ...]:
    return (
        f"{row.n:,}",
        formatting.with_interval(row.confidence, formatting.percent),
        formatting.with_interval(row.accuracy, formatting.percent),
        formatting.with_interval(row.gap, formatting.signed),
        formatting.with_interval(row.ece, formatting.number),
        _VERDICTS[row_direction(row)],
    )


def _range(row: GroupRow) -> str:
    if row.score_low is None or row.score_high is None:
        return NOTHING
    return span(formatting.significant(row.score_low), formatting.significant(row.score_high))


def _note(count: int) -> str:
    return _TOGETHER.format(count=count) if count > 1 else ""


HEADINGS = ("n", "up to", "acc.", "conf.", "gap, conf. - acc.", "ECE")
#: Direction of a row → what the last column says.
SAYS = {"over": "over", "under": "under", "unclear": "", "unknown": ""}


def level_cells(row: GroupRow) -> tuple[str, ...]:
    """Write one row: its name, and a cell for each of `HEADINGS`; "up to" is the largest score (distance) in it."""
    return (
        formatting.clean_text(row.group),
        str(row.n),
        formatting.significant(row.score_high),
        formatting.short(row.accuracy.value),
        formatting.short(row.confidence.value),
        formatting.with_interval(row.gap, partial(formatting.short, write=formatting.signed)),
        formatting.with_interval(row.ece, formatting.short),
    )


def text_levels(rows: Sequence[GroupRow], width: int, *, heading: str = "level") -> str:
    """Lay the table out for a terminal, lowest level first; intervals in brackets, verdicts in the last column."""
    heads = [formatting.clean_text(heading), *HEADINGS, ""]
    table = [heads, *([*level_cells(row), SAYS[row_direction(row)]] for row in rows)]
    if all(row.score_high is None for row in rows):
        place = heads.index("up to", 1)
        table = [line[:place] + line[place + 1 :] for line in table]
    return text_rows(table, width)


def levels_legend(rows: Sequence[GroupRow]) -> str:
    """Say what the columns and the words of the last one mean."""
    means = "Intervals of 95% for each row." if len(rows) == 1 else _LEGEND.format(count=len(rows))
    return f"gap: confidence - accuracy. {means}{floor_sentence(rows)}"


def floor_sentence(rows: Iterable[GroupRow]) -> str:
    """Say what ECE a perfectly calibrated model measures in such rows; "" where that was not computed."""
    floors = [row.ece_floor for row in rows if row.ece_floor is not None]
    if not floors:
        return ""
    ends = dict.fromkeys(formatting.number(end, 3) for end in (min(floors), max(floors)))
    return f" A perfectly calibrated model measures an ECE of {' to '.join(ends)} on so few examples (noise floor)."


_LEGEND = (
    "over, under: over- or under-confident even when all {count} rows are looked at together (Bonferroni); the "
    "intervals shown are of each row alone."
)
