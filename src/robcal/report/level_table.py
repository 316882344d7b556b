"""The per-level table of one method: which inputs is it miscalibrated on? For terminals and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich import box
from rich.table import Table
from rich.text import Text

from robcal.base.types import GroupRow, MethodResult
from robcal.report import formatting
from robcal.report.directions import row_direction

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


def text_levels(rows: Iterable[GroupRow], *, heading: str = "level") -> Table:
    """Lay the table out for a terminal, lowest level first; intervals in brackets, verdicts in the last column.

    Args:
        rows: levels or groups.
        heading: what a row is.
    """
    rows = list(rows)
    table = plain_table()
    scored = any(row.score_high is not None for row in rows)
    table.add_column(formatting.clean_text(heading), justify="right", overflow="fold")
    shown = [place for place, name in enumerate(HEADINGS, start=1) if scored or name != "up to"]
    for place in shown:
        table.add_column(HEADINGS[place - 1], justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        cells = level_cells(row)
        numbers = (Text(formatting.ascii_numbers(cells[place])) for place in shown)
        table.add_row(Text(cells[0]), *numbers, SAYS[row_direction(row)])
    return table


def levels_legend(rows: Sequence[GroupRow]) -> str:
    """Say what the columns and the words of the last one mean."""
    means = "Intervals of 95% for each row." if len(rows) == 1 else _TOGETHER.format(count=len(rows))
    return f"gap: confidence - accuracy. {means}{floor_sentence(rows)}"


def floor_sentence(rows: Iterable[GroupRow]) -> str:
    """Say what ECE a perfectly calibrated model measures in such rows; "" where that was not computed."""
    floors = [row.ece_floor for row in rows if row.ece_floor is not None]
    if not floors:
        return ""
    ends = dict.fromkeys(formatting.number(end, 3) for end in (min(floors), max(floors)))
    return f" A perfectly calibrated model measures an ECE of {' to '.join(ends)} on so few examples (noise floor)."


_TOGETHER = (
    "over, under: over- or under-confident even when all {count} rows are looked at together (Bonferroni); the "
    "intervals shown are of each row alone."
)


def plain_table() -> Table:
    """Make an empty table whose columns stand two spaces apart, without colours and frames."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)


def markdown_levels(method: MethodResult) -> str:
    """Return the same table as GitHub-flavoured Markdown."""
    lines = ["| level | " + " | ".join(HEADINGS) + " |", "|" + "---:|" * (1 + len(HEADINGS))]
    lines += ["| " + " | ".join(level_cells(row)) + " |" for row in method.levels]
    return "\n".join(lines) + "\n"
