"""Pictures that are decoded when a batch of them is asked for, by worker threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from robcal.base.checks import IntArray, refuse
from robcal.data.augment import CropDraws
from robcal.data.pictures import ColourMode, UInt8Array, open_picture

#: Most threads that decode at once. Pillow lets go of the interpreter while it decodes and resizes.
MAX_WORKERS = 16

#: Pictures that one thread is worth starting for.
PICTURES_A_WORKER = 4

#: Part of the shorter side that an ImageNet picture is judged by: 224 of 256 pixels, the standard test.
TEST_SHARE = 224 / 256

T = TypeVar("T")
R = TypeVar("R")


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

    source: Encoded  # where the N encoded pictures lie
    size: tuple[int, int]  # (height, width) in pixels that each has, or is brought to
    mode: ColourMode  # "L" (one channel) or "RGB"
    resize: bool  # whether pictures of another size are resized and centre-cropped; if not, they are refused
    share: float = 1.0  # part of the largest central window that a resized picture shows (1: all of it)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self.source), 1 if self.mode == "L" else 3, *self.size)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return np.dtype(np.uint8)

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
    """Scale `picture` so that it covers (height, width), and crop it about its centre; bilinear, anti-aliased.

    Of that central window the part `share` is shown: 224 / 256 in the standard test on ImageNet.
    """
    height, width = size
    scale = max(height / picture.height, width / picture.width) / share
    x, y, half_w, half_h = picture.width / 2, picture.height / 2, width / scale / 2, height / scale / 2
    box = (max(x - half_w, 0.0), max(y - half_h, 0.0), min(x + half_w, picture.width), min(y + half_h, picture.height))
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def refuse_size(name: str, shape: tuple[int, int], size: tuple[int, int]) -> NoReturn:
    """Say that a picture has another size than the others."""
    refuse(
        f"{name} is {shape[0]}x{shape[1]} pixels, others {size[0]}x{size[1]}",
        "all pictures need one size unless image_size is given",
        f"Pass image_size (--image-size), such as {min(size)}",
    )


def in_threads(work: Callable[[T], R], items: Sequence[T], *, each: int = PICTURES_A_WORKER) -> list[R]:
    """Return `[work(item) for item in items]`, by threads if there are `each` for one; the first error is raised."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(MAX_WORKERS, available, len(items) // each)
    if workers < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:  # made anew each time: threads do not survive a fork
        return list(pool.map(work, items))
