"""The pieces a page is made of, as plain values that the template lays out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Numbers:
    """A table of texts: the first column names its rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class LegendItem:
    """One entry of a figure's legend: `kind` is a swatch of the template."""

    text: str
    role: str
    kind: str = "marker-0"


@dataclass(frozen=True)
class Panel:
    """A figure with its heading, its legend and its numbers."""

    title: str
    subtitle: str
    svg: str
    legend: tuple[LegendItem, ...] = ()
    numbers: Numbers | None = None


@dataclass(frozen=True)
class Picture:
    """One image of the gallery."""

    source: str
    alt: str
    pixelated: bool
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Download:
    """A file that the page holds, behind a link."""

    text: str
    name: str
    source: str


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and what belongs to them: tables, figures with their numbers, images, folded tables."""

    key: str
    title: str
    lead: str = ""
    sentences: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    galleries: tuple[tuple[str, tuple[Picture, ...]], ...] = ()
    tables: tuple[Numbers, ...] = ()
    folded: tuple[Numbers, ...] = ()
    download: Download | None = None
