"""Results as plain text: the tables, then what they say and what to do next. No colours, and no signs beyond ASCII."""

from __future__ import annotations

from collections.abc import Mapping

from robcal.base.metrics import metric_of
from robcal.base.results import Repair, Results
from robcal.base.types import Estimate
from robcal.report import formatting
from robcal.report.findings import answer, headline
from robcal.report.formatting import clean_text, wrapped
from robcal.report.grid import text_rows
from robcal.report.layout import Numbers
from robcal.report.next_steps import next_steps
from robcal.report.row_tables import levels_legend, repair_numbers, text_levels, worst_numbers
from robcal.report.table import metric_title, text_table
from robcal.report.verdicts import difference_mark, examples_of, overall_direction, side

#: Columns of the text where nobody says how many.
WIDTH = 100
_SIDES = {"over": "over-confident", "under": "under-confident", "both": "over- and under-confident"}


def text_report(results: Results, *, width: int = WIDTH) -> str:
    """Write the tables and the findings of results as plain text; what does not fit the width goes on below, uncut."""
    parts = [wrapped(clean_text(results.title), width), text_table(results, width=width)]
    notes = "\n".join(wrapped(clean_text(note), width) for note in results.notes)
    parts += [*_row_tables(results, width), notes, findings_text(results, width=width)]
    return "\n\n".join(filter(None, parts))


def findings_text(results: Results, *, width: int = WIDTH) -> str:
    """Write the headline, what stands below it, and the next steps as plain text."""
    paragraphs = [wrapped(text, width) for text in (headline(results), *answer(results))]
    steps = [wrapped(str(step), width, "  - ", "    ") for step in next_steps(results)]
    return "\n\n".join([*paragraphs, *(["\n".join(["Next:", *steps])] if steps else [])])


def summary_line(results: Results) -> str:
    """Say in one short line what was measured and what was found."""
    method = results.methods[0]
    ece = method.metrics.get("ece")
    tables = [f"{len(method.levels)} levels of {clean_text(results.score_name)}"] if method.levels else []
    tables += [f"{len(rows)} groups by {clean_text(name)}" for name, rows in method.groups.items()]
    error = f"ECE {formatting.number(None if ece is None else ece.value)}"
    side = _SIDES.get(overall_direction(method), "")
    return ", ".join(
        filter(None, [clean_text(results.title), f"{examples_of(method):,} examples", error, side, *tables])
    )


def text_differences(found: Mapping[str, Estimate], first: str, second: str, width: int = WIDTH) -> str:
    """Write the paired differences of two models, the first minus the second, a line a metric."""
    rows = [("metric", "difference, 95% interval", "")]
    for name, estimate in found.items():
        mark = difference_mark(name, side(estimate))
        told = "cannot be told apart" if mark == "unclear" and metric_of(name).ranked else mark.replace("unclear", "")
        rows.append((metric_title(name), formatting.with_interval(estimate, formatting.signed), told))
    return f"{first} minus {second}, on the same examples, with 95% intervals:\n{text_rows(rows, width)}"


def text_numbers(numbers: Numbers, width: int = WIDTH) -> str:
    """Lay out a table of the page for a terminal."""
    return text_rows([[head.lower() for head in numbers.columns], *numbers.rows], width)


def _row_tables(results: Results, width: int) -> list[str]:
    """Return the tables of one classifier: levels, every grouping, and the wrong examples of highest confidence."""
    if len(results.methods) != 1:
        return []
    (method,) = results.methods
    tables = [(f"Levels of {results.score_name}", "level", method.levels)]
    tables += [(f"Groups by {name}", name, rows) for name, rows in method.groups.items()]
    parts = [
        f"{wrapped(clean_text(title), width)}:\n{text_levels(rows, width, heading=heading)}\n"
        f"{wrapped(levels_legend(rows), width)}"
        for title, heading, rows in tables
        if rows
    ]
    if method.repair is not None:
        parts.append(_repair(method.repair, width))
    if method.worst:
        heading = "The wrong examples that it is most sure of"
        parts.append(f"{heading}:\n{text_numbers(worst_numbers(results), width)}")
    return parts


def _repair(repair: Repair, width: int) -> str:
    """Return what a recalibration would repair: a sentence, and the table where there is something to repair."""
    heading = wrapped(clean_text(f"What a recalibration would repair, judged on {repair.judged}"), width)
    sentence = wrapped(clean_text(repair.sentence), width)
    if repair.method == "none":
        return f"{heading}:\n{sentence}"
    numbers = repair_numbers(repair)
    return "\n".join([f"{heading}:", text_numbers(numbers, width), wrapped(numbers.note, width), sentence])
