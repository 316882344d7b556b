"""Tables whose cells carry a mark, a second line or a shade: plain values that the page of a comparison lays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """

    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    corner: str = "Method"
    kind: str = ""
