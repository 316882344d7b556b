"""The pieces a page is made of, as plain values that the template lays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robcal.report.grid import Grid


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
class Image:
    """An image that the page holds, with what it shows for those who cannot see it."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """One example of a gallery: its images, and by what level and classes (numbers) it is filtered."""

    label: str
    prediction: str
    shown: tuple[Image, ...]
    pixelated: bool
    facts: tuple[tuple[str, str], ...]
    level: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Examples of one method, and (value, text) of each level and class that they can be filtered by."""

    name: str
    pictures: tuple[Picture, ...]
    levels: tuple[tuple[str, str], ...]
    classes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and what belongs to them: tables, figures with their numbers, images, folded tables."""

    key: str
    title: str
    lead: str = ""
    sentences: tuple[str, ...] = ()
    panels: Sequence[Panel] = ()
    galleries: tuple[Gallery, ...] = ()
    tables: tuple[Numbers, ...] = ()
    folded: tuple[Numbers, ...] = ()
    download: str = ""  # the list of wrong predictions, as a link that holds the file
    grids: Sequence[Grid] = ()
    more: Sequence[tuple[str, Sequence[Grid]]] = ()  # further grids, folded away, each with its heading
    layout: str = "grid"  # the style sheet's class of what holds the figures
    sheets: str = "pair"  # that of what holds `grids`
