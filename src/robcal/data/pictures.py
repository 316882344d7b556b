"""Decoding encoded pictures into (C, H, W) uint8 arrays, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from robcal.checks import refuse

UInt8Array = npt.NDArray[np.uint8]
ColourMode = Literal["L", "RGB"]

#: The decoders that files may reach; the rest of Pillow's stay shut.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")

#: Pillow modes of 8 bits a channel. 16-bit and float pictures would lose values in silence, so they are refused.
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

JPEG_MAGIC = b"\xff\xd8\xff"

#: What Pillow raises on damaged data.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def open_picture(source: Path | bytes, mode: ColourMode | None, *, name: str = "") -> Image.Image:
    """Open a picture; with a `mode`, decode and convert it.

    Args:
        source: a PNG, JPEG, BMP, GIF (first frame), PPM, TIFF or WebP file of 8 bits a channel, or its bytes.
        mode: "L", "RGB", or None to read the header only.
        name: where bytes come from, for the error.

    Raises:
        InputError: if it is unreadable or has more than 8 bits a channel.
    """
    place = name or (str(source) if isinstance(source, Path) else "a picture")
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        deep = picture.mode not in EIGHT_BIT_MODES
        if mode is not None and not deep:
            with picture:
                return picture.convert(mode)
    except DAMAGE as error:
        refuse(f"{place} is no readable picture ({error})", f"pictures are {', '.join(FORMATS)}", "Mend or remove it")
    if deep:
        picture.close()
        refuse(f"{place} has Pillow mode {picture.mode}", "pictures have 8 bits a channel", "Convert it to 8 bits")
    return picture


def decode_pictures(encoded: Sequence[bytes | None], size: int, *, source: str) -> UInt8Array:
    """Decode pictures of one size, one after the other (threads do not help: each is mostly Python and headers).

    Args:
        encoded: N pictures as the bytes of a PNG, JPEG, … file.
        size: height and width that each must have, in pixels.
        source: the file they come from, for the error.

    Returns:
        (N, 3, size, size) uint8, RGB.

    Raises:
        InputError: if a picture is missing, unreadable or of another size.
    """
    decoded = []
    for row, data in enumerate(encoded):
        if data is None:
            refuse(f"row {row} of {source} has no image bytes", "every row needs them", "Mend the file")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                shape = picture.size
                if shape == (size, size):
                    decoded.append((picture if picture.mode == "RGB" else picture.convert("RGB")).tobytes())
        except DAMAGE as error:
            refuse(f"row {row} of {source} is no readable image ({error})", "PNG or JPEG bytes", "Mend the file")
        if shape != (size, size):
            refuse(f"row {row} of {source} is {shape[1]}x{shape[0]}", f"images are {size}x{size}", "Mend the file")
    images = np.frombuffer(b"".join(decoded), np.uint8).reshape(-1, size, size, 3)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
