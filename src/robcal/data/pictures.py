"""Decoding encoded pictures into (C, H, W) uint8 arrays, by Pillow."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from robcal.base.checks import check_file, refuse

UInt8Array = npt.NDArray[np.uint8]
ColourMode = Literal["L", "RGB"]

#: The decoders that files may reach, where Pillow has them. The rest stay shut: some of them run other programs (EPS),
#: and some only name what Pillow cannot decode (HDF5, MPEG).
FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF"),
    *("JPEG2000", "DIB", "PCX", "QOI", "SGI", "TGA"),
)

#: Pillow's modes of 16 bits, all of them grey.
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")

#: Modes without colour.
GREY_MODES = ("1", "L", "LA", "La", *DEEP_GREY)

#: Modes that become uint8. Of floats and of integers of 32 bits nobody can tell what black and white are.
KNOWN_MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")

JPEG_MAGIC = b"\xff\xd8\xff"

#: What to do with a file that came from elsewhere.
AGAIN = "download the file again"

#: What Pillow raises on damaged data.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning),
    *(MemoryError, RuntimeError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error),
    *(zlib.error, NotImplementedError, ZeroDivisionError),
)

#: Most pixels of a picture, 8192x8192: more may be declared in a few bytes, and are of no use to a classifier.
MOST_PIXELS = 2**26


@functools.cache
def decoders() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the files that are pictures, in lower case: what Pillow registers for `decoders`.

    >>> {".jpg", ".jfif", ".png", ".tif", ".webp"} <= suffixes(), ".eps" in suffixes()
    (True, False)
    """
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in decoders())


def open_picture(source: Path | bytes, mode: ColourMode | None, *, name: str = "") -> Image.Image:
    """Open a picture of one of `decoders`, a file or its bytes; with a `mode`, "L" or "RGB", decode and convert it.

    Of several frames or pages the first is taken. Without a mode only the header is read.
    """
    place = name or (str(source) if isinstance(source, Path) else "a picture")
    if isinstance(source, Path):
        check_file(source, "the picture")
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=decoders())
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"it declares {picture.width}x{picture.height} pixels, and {MOST_PIXELS:,} are allowed")
        known = picture.mode in KNOWN_MODES or _is_deep_ppm(picture)
        if mode is not None and known:
            with picture:
                picture.load()
                return convert(picture, mode)
    except DAMAGE as error:
        refuse(
            f"{place} is no readable picture ({error})",
            f"pictures are {', '.join(decoders())}",
            "Put a whole copy in its place, or remove it",
        )
    if not known:
        picture.close()
        refuse(
            f"{place} has Pillow mode {picture.mode}",
            "pictures have 8 or 16 bits a channel and are grey, RGB, CMYK or of a palette",
            "Bring its values to 0 … 255 and save it as an 8-bit PNG",
        )
    return picture


def convert(picture: Image.Image, mode: ColourMode) -> Image.Image:
    """Return a picture of 8 bits a channel, grey or coloured.

    16 bits become 8 by round(v · 255 / 65535), so that white stays white (Pillow would cut all off at 255; a coloured
    PNG of 16 bits reaches us as its high bytes, which differ by one level at most). Transparency is dropped and the
    stored colours are shown, as torchvision and Keras do. CMYK goes by Pillow's plain formula, without a colour
    profile.

    >>> deep = Image.fromarray(np.array([[0, 128, 129, 65535]], np.uint16))
    >>> np.asarray(convert(deep, "L")).tolist()
    [[0, 0, 1, 255]]
    """
    if picture.mode in DEEP_GREY or _is_deep_ppm(picture):
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode in ("P", "PA") and picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode in ("La", "RGBa"):
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    return picture if picture.mode == mode else picture.convert(mode)


def _is_deep_ppm(picture: Image.Image) -> bool:
    """Tell whether Pillow holds 16 bits as 32: it scales grey PPM files of more than 8 bits to 0 … 65535."""
    return picture.mode == "I" and picture.format == "PPM"


def decode_pictures(encoded: Sequence[bytes | None], size: int, *, source: str) -> UInt8Array:
    """Decode pictures of one size, (N, 3, size, size) uint8; others, and missing ones, are refused.

    They are decoded one after the other: threads do not help, as each is mostly Python and headers.
    """
    decoded = []
    for row, data in enumerate(encoded):
        name = f"row {row} of {source}"
        if data is None:
            refuse(f"{name} has no image bytes", "every row needs them", f"Drop the row, or {AGAIN}")
        picture = open_picture(data, "RGB", name=name)
        if picture.size != (size, size):
            refuse(
                f"{name} is {picture.height}x{picture.width}",
                f"images are {size}x{size}",
                f"Resize the pictures to {size}x{size} pixels, or {AGAIN}",
            )
        decoded.append(picture.tobytes())
    images = np.frombuffer(b"".join(decoded), np.uint8).reshape(-1, size, size, 3)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
