"""Tables whose cells carry a mark, a second line or a shade: for the page, as text and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from robcal.report.formatting import ascii_numbers, wrapped


@dataclass(frozen=True)
class Cell:
    """One number."""

    text: str  # the number
    sub: str = ""  # below it in small print: its interval
    mark: str = ""  # "best", "tied", "better", "worse", "unclear" or ""
    shade: float = 0.0  # share of the strongest shade, 0 … 1
    role: str = "over"  # colour role of the shade
    bar: bool = False  # draw the shade as a bar of that length


@dataclass(frozen=True)
class Grid:
    """A table of cells."""

    caption: str  # what it shows
    columns: Sequence[tuple[str, str]]  # (heading, explanation) of every column after the first
    rows: Sequence[tuple[str, Sequence[Cell]]]  # (name, cells) each, as many cells as columns
    corner: str = "Method"  # heading of the names
    kind: str = ""  # class of the style sheet: "", "heat" (narrow cells) or "words"
    brief: bool = False  # whether plain text, which has little room, leaves out the intervals


#: What marks are in plain text.
SIGNS = {"best": "*", "tied": "~"}
_LEGEND = "*: best of its column. ~: not distinguishable from it (what that rests on is told below the tables)."
#: Names are broken into no fewer columns, so that all numbers stand beside them.
_SHORTEST_NAMES = 10


def text_grid(grid: Grid, width: int) -> str:
    """Write a table as plain text: a star marks the best, a tilde what is not distinguishable from it."""
    rows = [
        [
            name,
            *(f"{cell.text} {'' if grid.brief else cell.sub}".rstrip() + SIGNS.get(cell.mark, "") for cell in cells),
        ]
        for name, cells in grid.rows
    ]
    marked = any(cell.mark in SIGNS for _, cells in grid.rows for cell in cells)
    table = text_rows([[grid.corner, *(head for head, _ in grid.columns)], *rows], width)
    return "\n".join([wrapped(grid.caption, width), table, *([wrapped(_LEGEND, width)] if marked else [])])


def markdown_grid(grid: Grid) -> str:
    """Write a table as GitHub-flavoured Markdown with its intervals: the best in bold, a tilde as in plain text."""
    marked = {"best": "**{}**", "tied": "{} ~"}
    rows = [
        [
            escape_markdown(name),
            *(marked.get(cell.mark, "{}").format(f"{cell.text} {cell.sub}".rstrip()) for cell in cells),
        ]
        for name, cells in grid.rows
    ]
    heads = [grid.corner, *(head for head, _ in grid.columns)]
    return f"**{escape_markdown(grid.caption)}**\n\n{markdown_rows([heads, *rows])}"


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of texts, the headings first, as a table of GitHub-flavoured Markdown: names left, numbers right."""
    head, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---|" + "---:|" * (len(rows[0]) - 1), *others])


def text_rows(rows: Sequence[Sequence[str]], width: int) -> str:
    """Lay out rows of texts, the headings first, names on the left and numbers on the right; no number is cut.

    Long names are broken; columns that do not fit go on below, behind the names again. An empty row leaves a gap.
    """
    table = [[ascii_numbers(text) for text in row] for row in rows]
    longest, *widths = (max(map(cell_len, column)) for column in zip(*filter(None, table), strict=True))
    room = width - sum(2 + wide for wide in widths)
    limit = max(min(longest, room if room >= _SHORTEST_NAMES else max(width // 3, 20)), 1)
    names = [textwrap.wrap(row[0], limit, subsequent_indent="  ") if row else [] for row in table]
    first = max((cell_len(line) for name in names for line in name), default=0)
    pieces, start = [], 0
    while start < len(widths):
        end, used = start + 1, first + 2 + widths[start]
        while end < len(widths) and used + 2 + widths[end] <= width:
            used, end = used + 2 + widths[end], end + 1
        lines = []
        for number, (name, row) in enumerate(zip(names, table, strict=True)):
            *above, last = name or [""]
            shown = zip(row[1 + start : 1 + end], widths[start:end], strict=False)  # an empty row has no cells
            cells = [" " * (wide - cell_len(text)) + text for text, wide in shown]
            lines += [*above, "  ".join([last + " " * (first - cell_len(last)), *cells])]
            lines += ["-" * used] if number == 0 else []
        pieces.append("\n".join(line.rstrip() for line in lines))
        start = end
    return "\n\n".join(pieces)


def escape_markdown(text: str) -> str:
    """Return `text` with everything that Markdown or HTML would interpret made literal."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", text)
