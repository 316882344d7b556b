"""Encoded pictures as (C, H, W) uint8 arrays, by Pillow; many are decoded when a batch is asked for, by threads."""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from robcal.base.checks import IntArray, check_file, refuse
from robcal.base.jobs import available_cores
from robcal.data.augment import CropDraws

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
#: Most threads that decode at once. Pillow lets go of the interpreter while it decodes and resizes.
MAX_WORKERS = 16
#: Pictures that one thread is worth starting for.
PICTURES_A_WORKER = 4
#: Part of the shorter side that an ImageNet picture is judged by: 224 of 256 pixels, the standard test.
TEST_SHARE = 224 / 256

T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def decoders() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the files that are pictures, in lower case: what Pillow registers for `decoders`."""
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
        given = f"{place} is no readable picture ({error})"
        refuse(given, f"pictures are {', '.join(decoders())}", "Put a whole copy in its place, or remove it")
    if not known:
        picture.close()
        given = f"{place} has Pillow mode {picture.mode}"
        fix = "Bring its values to 0 … 255 and save it as an 8-bit PNG"
        refuse(given, "pictures have 8 or 16 bits a channel and are grey, RGB, CMYK or of a palette", fix)
    return picture


def convert(picture: Image.Image, mode: ColourMode) -> Image.Image:
    """Return a picture of 8 bits a channel, grey or coloured.

    16 bits become 8 by round(v · 255 / 65535), so that white stays white (Pillow would cut all off at 255; a coloured
    PNG of 16 bits reaches us as its high bytes). Transparency is dropped and the stored colours are shown, as
    torchvision and Keras do. CMYK goes by Pillow's plain formula, without a colour profile.
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
    """Decode pictures of one size, one by one (threads do not help), (N, 3, size, size) uint8; others are refused."""
    decoded = []
    for row, data in enumerate(encoded):
        name = f"row {row} of {source}"
        if data is None:
            refuse(f"{name} has no image bytes", "every row needs them", f"Drop the row, or {AGAIN}")
        picture = open_picture(data, "RGB", name=name)
        if picture.size != (size, size):
            given = f"{name} is {picture.height}x{picture.width}"
            refuse(given, f"images are {size}x{size}", f"Resize the pictures to {size}x{size} pixels, or {AGAIN}")
        decoded.append(picture.tobytes())
    images = np.frombuffer(b"".join(decoded), np.uint8).reshape(-1, size, size, 3)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


class Encoded(Protocol):
    """Where encoded pictures lie."""

    def __len__(self) -> int: ...

    def read(self, positions: IntArray) -> Sequence[tuple[str, Path | bytes]]:
        """Name and file, or bytes, of the pictures at these positions."""

    def select(self, index: IntArray) -> Encoded:
        """Return the pictures at these positions only, in this order."""

    def fingerprint(self) -> Iterable[bytes]:
        """Return the names and sizes of all of them."""


@dataclass(frozen=True)
class FileList:
    """Picture files in one folder, at any depth; a name costs its letters, so millions of them fit."""

    root: Path  # the folder
    names: npt.NDArray[np.bytes_]  # (N,) paths below it, as bytes

    @staticmethod
    def of(root: Path, names: Sequence[str]) -> FileList:
        """Return the list of files of these names below `root`."""
        return FileList(root, np.array(list(map(os.fsencode, names)), dtype=np.bytes_))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Path]:
        return (self.path(position) for position in range(len(self)))

    def path(self, position: int) -> Path:
        """Return one file."""
        return self.root / os.fsdecode(bytes(self.names[position]))

    def read(self, positions: IntArray) -> Sequence[tuple[str, Path | bytes]]:
        """Read names and files."""
        paths = [self.path(int(position)) for position in positions]
        return [(str(path), path) for path in paths]

    def select(self, index: IntArray) -> FileList:
        """Keep these files only."""
        return replace(self, names=self.names[index])

    def fingerprint(self) -> Iterable[bytes]:
        """Return every name with the file's length in bytes."""
        for position in range(len(self)):
            yield b"%s:%d;" % (self.names[position], self.path(position).stat().st_size)


@dataclass(frozen=True)
class LazyPictures:
    """Pictures of any source, decoded to uint8 when they are asked for."""

    dtype = np.dtype(np.uint8)
    source: Encoded  # where the N encoded pictures lie
    size: tuple[int, int]  # (height, width) in pixels that each has, or is brought to
    mode: ColourMode  # "L" (one channel) or "RGB"
    resize: bool  # whether pictures of another size are resized and centre-cropped; if not, they are refused
    share: float = 1.0  # part of the largest central window that a resized picture shows (1: all of it)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self.source), 1 if self.mode == "L" else 3, *self.size)

    def __getitem__(self, index: IntArray) -> UInt8Array:
        """Decode the pictures at these positions into a uint8 array (len(index), C, H, W)."""
        return self._decoded(index, lambda row, picture, name: self._whole(picture, name))

    def crops(self, index: IntArray, draws: CropDraws) -> UInt8Array:
        """Decode the pictures at (B,) positions and cut each one's random window out: (B, C, *size) uint8."""
        return self._decoded(index, lambda row, picture, name: self._window(picture, draws.of(row)))

    def select(self, index: IntArray) -> LazyPictures:
        """Return the same pictures at these positions only, still encoded."""
        return replace(self, source=self.source.select(index))

    def _decoded(self, index: IntArray, shown: Callable[[int, Image.Image, str], Image.Image]) -> UInt8Array:
        encoded = self.source.read(np.arange(len(self.source))[index])
        out = np.empty((len(encoded), *self.size, self.shape[1]), np.uint8)

        def decode(row: int) -> None:
            name, data = encoded[row]
            picture = shown(row, open_picture(data, self.mode, name=name), name)
            out[row] = np.asarray(picture).reshape(out.shape[1:])

        in_threads(decode, range(len(encoded)))
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2))

    def _whole(self, picture: Image.Image, name: str) -> Image.Image:
        if self.resize:
            return fit(picture, self.size, self.share)
        if (picture.height, picture.width) != self.size:
            refuse_size(name, (picture.height, picture.width), self.size)
        return picture

    def _window(self, picture: Image.Image, draws: CropDraws) -> Image.Image:
        window = draws.windows(np.array([picture.height]), np.array([picture.width]))[0]
        top, left, height, width = (int(side) for side in window)
        box = (left, top, left + width, top + height)
        cut = picture.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR, box=box)
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws.mirrored[0] else cut


class ManyPictures(LazyPictures):
    """Pictures too many to be read for a digest: told apart by the names and sizes of their files."""

    def fingerprint(self) -> Iterable[bytes]:
        """Return how they are shown, then every name and size."""
        yield repr((self.size, self.mode, self.resize, self.share)).encode()
        yield from self.source.fingerprint()


def fit(picture: Image.Image, size: tuple[int, int], share: float = 1.0) -> Image.Image:
    """Scale `picture` to cover (height, width), crop its centre, and show the part `share` of that; anti-aliased."""
    height, width = size
    scale = max(height / picture.height, width / picture.width) / share
    x, y, half_w, half_h = picture.width / 2, picture.height / 2, width / scale / 2, height / scale / 2
    box = (max(x - half_w, 0.0), max(y - half_h, 0.0), min(x + half_w, picture.width), min(y + half_h, picture.height))
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def refuse_size(name: str, shape: tuple[int, int], size: tuple[int, int]) -> NoReturn:
    """Say that a picture has another size than the others."""
    given = f"{name} is {shape[0]}x{shape[1]} pixels, others {size[0]}x{size[1]}"
    fix = f"Pass image_size (--image-size), such as {min(size)}"
    refuse(given, "all pictures need one size unless image_size is given", fix)


def in_threads(work: Callable[[T], R], items: Sequence[T], *, each: int = PICTURES_A_WORKER) -> list[R]:
    """Return `[work(item) for item in items]`, by threads if there are `each` for one; the first error is raised."""
    workers = min(MAX_WORKERS, available_cores(), len(items) // each)
    if workers < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:  # made anew each time: threads do not survive a fork
        return list(pool.map(work, items))
