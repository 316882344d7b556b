"""The wrong predictions on the page: all of them as CSV, and images, each with its smallest change, to be filtered."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence

from robcal.base.results import GalleryItem, MethodResult, Results
from robcal.report import formatting
from robcal.report.flat import MOST_SHOWN, listed_of_each, wrong_of_results
from robcal.report.formatting import clean_text, joined
from robcal.report.layout import Gallery, Image, Picture, Section
from robcal.report.row_tables import worst_numbers
from robcal.report.verdicts import titles

#: Images up to this size are enlarged pixel by pixel.
SMALL_IMAGE = 96

#: Of a comparison.
_SHOWN = "Of {} methods four are shown: the reference, those that the page advises, then the others in their order."
_FOR_PLAIN = "Levels, and the distances in the list, are for the plain model of the same seed{}."
_UNSCORED = "; test examples whose distance was not measured have none"
_CHANGES = (
    "Beside each stands the nearest input found that gets another label, and what changed: grey where nothing did, "
    "amplified by the factor named."
)


def wrong_section(results: Results) -> Section | None:
    """Return the wrong predictions of highest confidence: a list to download, and images where there are some."""
    if not any(method.worst or method.gallery for method in results.methods):
        return None
    names = titles(results) if len(results.methods) > 1 else {}
    galleries = tuple(
        _gallery(method.gallery, names.get(method.name, "")) for method in results.methods if method.gallery
    )
    listed = any(method.worst for method in results.methods)
    alone = listed and len(results.methods) == 1 and not galleries
    download = _link("text/csv", wrong_of_results(results).encode()) if listed else ""
    return Section(
        "wrong", "Wrong predictions", _lead(results, names), galleries=galleries,
        tables=(worst_numbers(results),) if alone else (), download=download,
    )  # fmt: skip


def _lead(results: Results, names: Mapping[str, str]) -> str:
    """Return what is listed, and what the images show; `names` of methods, where there are several."""
    compared = results.study is not None
    most = listed_of_each(len(results.methods), compared=compared)
    lists = [_count(method, names.get(method.name, ""), most) for method in results.methods if method.worst]
    parts = [f"The list holds {joined(lists)}, highest confidence first."] if lists else []
    if compared and len(results.methods) > MOST_SHOWN:
        parts.insert(0, _SHOWN.format(len(results.methods)))
    pictures = [item for method in results.methods for item in method.gallery]
    if pictures:
        parts.append("The images are the surest of each level, the least robust level first.")
    if any(item.change for item in pictures):
        parts.append(_CHANGES)
    rows = [row for method in results.methods for row in method.worst]
    if compared and any(row.level is not None for row in rows):
        parts.append(_FOR_PLAIN.format(_UNSCORED if any(row.level is None for row in rows) else ""))
    return " ".join(parts)


def _count(method: MethodResult, name: str, most: int) -> str:
    """Say how many wrong predictions of a method are listed."""
    of = f" of {name}" + (f" (seed {method.seeds[0]})" if len(method.seeds) > 1 else "") if name else ""
    if len(method.worst) < most:
        return f"all {len(method.worst):,} wrong predictions{of}"
    return f"the {len(method.worst):,} wrong predictions{of} that it was most sure of"


def _gallery(items: Sequence[GalleryItem], name: str) -> Gallery:
    """Return the images of a method, and what they can be filtered by: classes by number, names may be anything."""
    classes = sorted({clean_text(one) for item in items for one in (item.label, item.prediction)}, key=_by_number)
    number = {one: str(at) for at, one in enumerate(classes)}
    levels = sorted({item.level for item in items if item.level is not None})
    return Gallery(
        name,
        tuple(_picture(item, number) for item in items),
        tuple((str(level), str(level)) for level in levels),
        tuple((number[one], one) for one in classes),
    )


def _by_number(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isascii() and name.isdigit() else (True, 0, name)


def _picture(item: GalleryItem, number: dict[str, str]) -> Picture:
    label, prediction = clean_text(item.label), clean_text(item.prediction)
    facts = [("confidence", formatting.percent(item.confidence))]
    distance = item.change.distance if item.distance is None and item.change else item.distance
    if distance is not None:
        facts.append(("distance", formatting.significant(distance)))
    if item.level is not None:
        facts.append(("level", str(item.level)))
    facts.append(("index", str(item.index)))
    size = _png_size(item.image_png)
    return Picture(
        label,
        prediction,
        _images(item) if size else (),
        bool(size) and max(size) <= SMALL_IMAGE,
        tuple(facts),
        "" if item.level is None else str(item.level),
        tuple(dict.fromkeys((number[label], number[prediction]))),
    )


def _images(item: GalleryItem) -> tuple[Image, ...]:
    """Return the image and, where there is one, its smallest change and the difference."""
    which = f"image {item.index}"
    shown = [Image(_source(item.image_png), f"{which[0].upper()}{which[1:]}", "as it is")]
    if item.change is not None:
        nearest, difference = f"Nearest input to {which} with another label", f"What changed in {which}, amplified"
        becomes, factor = f"becomes {clean_text(item.change.prediction)}", f"difference × {item.change.factor:,}"
        shown += [
            Image(_source(item.change.image_png), nearest, becomes),
            Image(_source(item.change.difference_png), difference, factor),
        ]
    return tuple(shown)


def _source(data: bytes) -> str:
    return _link("image/png", data) if _png_size(data) else "data:,"


def _link(kind: str, data: bytes) -> str:
    """Return a link that holds a file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _png_size(data: bytes) -> tuple[int, int] | tuple[()]:
    """Return the width and height of a PNG, or () where the bytes are none."""
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ()
    width, height = struct.unpack(">II", data[16:24])
    return width, height
