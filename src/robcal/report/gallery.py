"""The wrong predictions on the page: how many, all of them as CSV, and images of those that the model was surest of."""

from __future__ import annotations

import base64
import struct

from robcal.base.types import GalleryItem, MethodResult, Results
from robcal.report import formatting
from robcal.report.flat import MOST_LISTED, wrong_of_results
from robcal.report.formatting import clean_text, joined
from robcal.report.layout import Download, Picture, Section
from robcal.report.row_tables import worst_numbers
from robcal.report.verdicts import titles

#: Images up to this size are enlarged pixel by pixel.
SMALL_IMAGE = 96


def wrong_section(results: Results) -> Section | None:
    """Return the wrong predictions of highest confidence: a list to download, and images where there are some."""
    if not any(method.worst or method.gallery for method in results.methods):
        return None
    names = titles(results)
    galleries = tuple(
        (names[method.name], tuple(_picture(item) for item in method.gallery))
        for method in results.methods
        if method.gallery
    )
    listed = len(results.methods) == 1 and bool(results.methods[0].worst)
    tables = (worst_numbers(results),) if listed else ()
    return Section("wrong", "Wrong predictions", _lead(results), (), (), galleries, tables, (), _download(results))


def _lead(results: Results) -> str:
    """What is listed, and what the images show."""
    names = titles(results) if len(results.methods) > 1 else {}
    lists = [_count(method, names.get(method.name, "")) for method in results.methods if method.worst]
    parts = [f"The list holds {joined(lists)}, highest confidence first."] if lists else []
    if any(method.gallery for method in results.methods):
        parts.append("The images are easily flipped, and the model was sure of them.")
    return " ".join(parts)


def _count(method: MethodResult, name: str) -> str:
    """Say how many wrong predictions of a method are listed."""
    of = f" of {name}" + (f" (seed {method.seeds[0]})" if len(method.seeds) > 1 else "") if name else ""
    if len(method.worst) < MOST_LISTED:
        return f"all {len(method.worst):,} wrong predictions{of}"
    return f"the {MOST_LISTED:,} wrong predictions{of} that it was most sure of"


def _download(results: Results) -> Download | None:
    """All wrong predictions that the results list, as a file that the page holds."""
    if not any(method.worst for method in results.methods):
        return None
    data = base64.b64encode(wrong_of_results(results).encode()).decode("ascii")
    return Download("Download the list as CSV", "wrong.csv", f"data:text/csv;base64,{data}")


def _picture(item: GalleryItem) -> Picture:
    label, prediction = clean_text(item.label), clean_text(item.prediction)
    facts = [
        ("predicted", prediction),
        ("is", label),
        ("confidence", formatting.percent(item.confidence)),
    ]
    if item.distance is not None:
        facts.append(("distance", formatting.significant(item.distance)))
    if item.level is not None:
        facts.append(("level", str(item.level)))
    facts.append(("index", str(item.index)))
    size = _png_size(item.image_png)
    source = f"data:image/png;base64,{base64.b64encode(item.image_png).decode('ascii')}" if size else ""
    alt = f"Test image {item.index}: {label}, predicted {prediction}"
    return Picture(source, alt, bool(size) and max(size) <= SMALL_IMAGE, tuple(facts))


def _png_size(data: bytes) -> tuple[int, int] | tuple[()]:
    """Width and height of a PNG, or () where the bytes are none."""
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ()
    width, height = struct.unpack(">II", data[16:24])
    return width, height
