"""The per-level table of one method: which inputs is it miscalibrated on? For terminals and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from robcal.base.types import Estimate, GroupRow, MethodResult
from robcal.report import formatting

HEADINGS = ("n", "up to", "acc.", "conf.", "gap, conf. - acc.", "ECE")


def level_cells(row: GroupRow) -> tuple[str, ...]:
    """One row: its name, and a cell for each of `HEADINGS`; "up to" is the largest score (distance) in it."""
    return (
        formatting.clean_text(row.group),
        str(row.n),
        formatting.significant(row.score_high),
        _short(row.accuracy.value),
        _short(row.confidence.value),
        _with_interval(row.gap, lambda value: _short(value, formatting.signed)),
        _with_interval(row.ece, _short),
    )


def text_levels(rows: Iterable[GroupRow], *, heading: str = "level") -> Table:
    """The table for a terminal, least robust level first; intervals in brackets.

    Args:
        rows: levels or groups.
        heading: what a row is.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(heading, justify="right")
    for name in HEADINGS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell.replace(formatting.MINUS, "-")) for cell in level_cells(row)))
    return table


def markdown_levels(method: MethodResult) -> str:
    """The same table as GitHub-flavoured Markdown."""
    lines = ["| level | " + " | ".join(HEADINGS) + " |", "|" + "---:|" * (1 + len(HEADINGS))]
    lines += ["| " + " | ".join(level_cells(row)) + " |" for row in method.levels]
    return "\n".join(lines) + "\n"


def _short(value: float | None, show: Callable[[float | None, int], str] = formatting.number) -> str:
    """Three decimals without the leading zero, so that a row fits 80 columns."""
    return show(value, 3).replace("0.", ".", 1)


def _with_interval(estimate: Estimate, show: Callable[[float | None], str]) -> str:
    if estimate.low is None:
        return show(estimate.value)
    return f"{show(estimate.value)} [{show(estimate.low)}, {show(estimate.high)}]"
