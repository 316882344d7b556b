"""Tables whose cells carry a mark, a second line or a shade: for the page, as text and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from robcal.report.formatting import ascii_numbers
from robcal.report.table import escape_markdown


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        text: the number.
        sub: below it in small print: its interval.
        mark: "best", "tied", "better", "worse", "unclear" or "".
        shade: share of the strongest shade, 0 … 1.
        role: colour role of the shade.
        bar: draw the shade as a bar of that length.
    """

    text: str
    sub: str = ""
    mark: str = ""
    shade: float = 0.0
    role: str = "over"
    bar: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of cells.

    Attributes:
        caption: what it shows.
        columns: (heading, explanation) of every column after the first.
        rows: (name, cells) each, as many cells as columns.
        corner: heading of the names.
        kind: class of the style sheet: "", "heat" (narrow cells) or "words".
        brief: whether plain text, which has little room, leaves out the intervals.
    """

    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    corner: str = "Method"
    kind: str = ""
    brief: bool = False


#: What marks are in plain text.
_SIGNS = {"best": "*", "tied": "~"}
_LEGEND = "*: best of its column. ~: not distinguishable from it (what that rests on is told below the tables)."


def text_grid(grid: Grid, width: int) -> str:
    """Write a table as plain text: a star marks the best, a tilde what is not distinguishable from it.

    Args:
        grid: the table.
        width: columns of the terminal; a table that is wider goes on below, its labels again in front.
    """
    rows = [
        [
            name,
            *(f"{cell.text} {'' if grid.brief else cell.sub}".rstrip() + _SIGNS.get(cell.mark, "") for cell in cells),
        ]
        for name, cells in grid.rows
    ]
    table = [
        [ascii_numbers(text) for text in row] for row in ([grid.corner, *(head for head, _ in grid.columns)], *rows)
    ]
    marked = any(cell.mark in _SIGNS for _, cells in grid.rows for cell in cells)
    lines = [*textwrap.wrap(ascii_numbers(grid.caption), width), _laid_out(table, width)]
    return "\n".join([*lines, *(textwrap.wrap(_LEGEND, width) if marked else [])])


def markdown_grid(grid: Grid) -> str:
    """Write a table as GitHub-flavoured Markdown with its intervals: the best in bold, a tilde as in plain text."""
    wrapped = {"best": "**{}**", "tied": "{} ~"}
    rows = [
        [
            escape_markdown(name),
            *(wrapped.get(cell.mark, "{}").format(f"{cell.text} {cell.sub}".rstrip()) for cell in cells),
        ]
        for name, cells in grid.rows
    ]
    lines = [
        f"**{escape_markdown(grid.caption)}**",
        "",
        "| " + " | ".join([grid.corner, *(head for head, _ in grid.columns)]) + " |",
        "|---|" + "---:|" * len(grid.columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def _laid_out(table: Sequence[Sequence[str]], width: int) -> str:
    """Lay columns out beside each other as far as they fit, then the next ones below, each time behind the first."""
    longest = max(len(row[0]) for row in table)
    names = [textwrap.wrap(row[0], min(longest, max(width // 3, 20)), subsequent_indent="  ") or [""] for row in table]
    first = max(len(line) for name in names for line in name)
    widths = [max(map(len, column)) for column in zip(*(row[1:] for row in table), strict=True)]
    pieces, start = [], 0
    while start < len(widths):
        end, used = start + 1, first + 2 + widths[start]
        while end < len(widths) and used + 2 + widths[end] <= width:
            used, end = used + 2 + widths[end], end + 1
        lines = []
        for number, (name, row) in enumerate(zip(names, table, strict=True)):
            cells = [row[1 + place].rjust(widths[place]) for place in range(start, end)]
            lines += [line.ljust(first) for line in name[:-1]]
            lines.append("  ".join([name[-1].ljust(first), *cells]))
            lines += ["-" * used] if number == 0 else []
        pieces.append("\n".join(line.rstrip() for line in lines))
        start = end
    return "\n\n".join(pieces)
