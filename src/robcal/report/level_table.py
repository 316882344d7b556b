"""The per-level table of one method: which inputs is it miscalibrated on? For terminals and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from robcal.base.types import GroupRow
from robcal.report import formatting
from robcal.report.directions import row_direction
from robcal.report.grid import text_rows

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
    """Lay the table out for a terminal, lowest level first; intervals in brackets, verdicts in the last column.

    Args:
        rows: levels or groups.
        width: columns.
        heading: what a row is.
    """
    heads = [formatting.clean_text(heading), *HEADINGS, ""]
    table = [heads, *([*level_cells(row), SAYS[row_direction(row)]] for row in rows)]
    if all(row.score_high is None for row in rows):
        place = heads.index("up to", 1)
        table = [line[:place] + line[place + 1 :] for line in table]
    return text_rows(table, width)


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
