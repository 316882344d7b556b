"""Decoding encoded pictures into (C, H, W) uint8 arrays, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from robcal.checks import refuse

UInt8Array = npt.NDArray[np.uint8]
ColourMode = Literal["L", "RGB"]

#: The decoders that files may reach; the rest of Pillow's stay shut.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")

#: Pillow modes of 8 bits a channel. 16-bit and float pictures would lose values in silence, so they are refused.
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

JPEG_MAGIC = b"\xff\xd8\xff"


def decode_pictures(encoded: Sequence[bytes | None], size: int, *, source: str) -> UInt8Array:
    """Decode pictures of one size.

    Args:
        encoded: N pictures as the bytes of a PNG, JPEG, … file.
        size: height and width that each must have, in pixels.
        source: the file they come from, for the error.

    Returns:
        (N, 3, size, size) uint8, RGB.

    Raises:
        InputError: if a picture is missing, unreadable or of another size.
    """
    out = np.empty((len(encoded), size, size, 3), np.uint8)
    for position, data in enumerate(encoded):
        if data is None:
            refuse(f"row {position} of {source} has no image bytes", "every row needs them", "Mend the file")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                shape = (picture.height, picture.width)
                if shape == (size, size):
                    out[position] = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            refuse(f"row {position} of {source} is no readable image ({error})", "PNG or JPEG bytes", "Mend the file")
        if shape != (size, size):
            refuse(f"row {position} of {source} is {shape[0]}x{shape[1]}", f"images are {size}x{size}", "Mend the file")
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))
