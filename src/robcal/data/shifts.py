"""Where shifted versions of a test split come from: robcal's corruptions of images or of tables, or official files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from robcal.base.checks import IntArray, refuse
from robcal.data.corrupted import CorruptedCells, load_corrupted
from robcal.data.corruptions import BENCHMARK_KINDS, CHUNK_VALUES, corrupt
from robcal.data.corruptions.draws import Float32Array
from robcal.data.dataset import Dataset, Split
from robcal.data.lazy import in_threads
from robcal.data.table_shift import TABLE_KINDS, TABLE_SHIFTS, Features, shift_table

#: Seed of the corruptions: one for all, so that every model sees the same inputs.
CORRUPTION_SEED = 0

#: Images of at least so many values (148x148 pixels in colour) are corrupted by several threads.
LARGE_VALUES = 2**16


class ShiftSource(Protocol):
    """Makes or reads the shifted versions of test examples."""

    @property
    def name(self) -> str:
        """Part of the names of files; "" for corrupted images that robcal makes."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of shift, each at five severities."""
        ...

    @property
    def note(self) -> str:
        """A sentence for people: what the shift is."""
        ...

    @property
    def key(self) -> Any:
        """What tells this source from others of its name; JSON-able."""
        ...

    @property
    def stored(self) -> bool:
        """Whether the shifted inputs lie on disk already."""
        ...

    def shifted(self, split: Split, index: IntArray, kind: str, severity: int) -> Split:
        """Return the examples of `split`, which have the positions `index` in the test split, shifted.

        What robcal makes is made when a batch of it is asked for: see `ShiftedInputs`.
        """
        ...


@dataclass(frozen=True)
class ShiftedInputs:
    """The inputs of a split, shifted when a batch of them is asked for, so that memory does not grow with the split.

    Each input has random numbers of its own, so neither the batch nor the number of threads changes it.

    Attributes:
        split: the examples before the shift.
        shift: (n inputs as float32, position of the first in `split`) → the n inputs shifted, float32.
    """

    split: Split
    shift: Callable[[Float32Array, int], Float32Array]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the inputs before the shift."""
        return self.split.inputs.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __getitem__(self, index: IntArray) -> Float32Array:
        """Return the shifted inputs at these positions."""
        positions = np.arange(len(self.split))[index]
        values = self.split.batch(positions).numpy()
        size = int(np.prod(values.shape[1:]))
        pieces = _pieces(positions, size)
        if len(pieces) <= 1:
            return self.shift(values, int(positions[0])) if pieces else values
        out = np.empty_like(values)

        def fill(piece: slice) -> None:
            out[piece] = self.shift(values[piece], int(positions[piece.start]))

        in_threads(fill, pieces, each=1 if size >= LARGE_VALUES else len(pieces))
        return out


def _pieces(positions: IntArray, size: int) -> list[slice]:
    """Return stretches of consecutive positions; those of large inputs are cut to what a thread is worth."""
    ends = [*(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)]
    most = max(1, CHUNK_VALUES // size) if size >= LARGE_VALUES else max(1, len(positions))
    stretches = zip([0, *ends[:-1]], ends, strict=True)
    return [slice(first, min(first + most, end)) for start, end in stretches for first in range(start, end, most)]


@dataclass(frozen=True)
class ImageCorruptions:
    """The 15 kinds of Hendrycks & Dietterich (2019), made by robcal."""

    name: str = ""
    kinds: tuple[str, ...] = BENCHMARK_KINDS
    note: str = (
        "15 corruptions at 5 severities, made by robcal's own implementation with the published constants for 32x32 "
        "images (lengths scaled to the image size)"
    )
    key: Any = None
    stored: bool = False

    def shifted(self, split: Split, index: IntArray, kind: str, severity: int) -> Split:
        """Return float32 images in [0, 1]."""

        def corrupted(images: Float32Array, first: int) -> Float32Array:
            return corrupt(images, kind, severity, seed=CORRUPTION_SEED, first_index=first)

        return Split(ShiftedInputs(split, corrupted), split.labels)


@dataclass(frozen=True)
class TableCorruptions:
    """Noise, missing features and scaling, relative to the features of the whole test split: no seed changes them.

    Attributes:
        features: of the test split.
        box: that rows are clipped to, or None.
    """

    features: Features
    box: Any = None
    name: str = "table"
    kinds: tuple[str, ...] = TABLE_KINDS
    note: str = "noise, missing features and scaling at 5 severities, with strengths of robcal's own choice"
    stored: bool = False

    @property
    def key(self) -> Any:
        """The strengths, and what they are relative to."""
        digest = hashlib.sha256(self.features.mean.tobytes() + self.features.std.tobytes()).hexdigest()[:16]
        return {kind: strengths for kind, (_, strengths) in TABLE_SHIFTS.items()} | {"features": digest}

    def shifted(self, split: Split, index: IntArray, kind: str, severity: int) -> Split:
        """Return float32 rows."""

        def moved(rows: Float32Array, first: int) -> Float32Array:
            made = shift_table(rows, kind, severity, features=self.features, seed=CORRUPTION_SEED, first_index=first)
            return made if self.box is None else np.clip(made, *self.box).astype(np.float32)

        return Split(ShiftedInputs(split, moved), split.labels)


@dataclass(frozen=True)
class OfficialFiles:
    """A published corrupted test set; its image i is image i of the official test split.

    Attributes:
        cells: the files.
    """

    cells: CorruptedCells
    stored: bool = True

    @property
    def name(self) -> str:
        """Of the published set."""
        return self.cells.title.lower()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that were asked for."""
        return self.cells.kinds

    @property
    def note(self) -> str:
        """The name of the files."""
        return f"the official files of {self.cells.title}, {len(self.kinds)} corruptions at 5 severities"

    @property
    def key(self) -> Any:
        """The first images of the first cell."""
        first = self.cells[self.kinds[0], 1]
        pixels = first.inputs[np.arange(min(8, len(first)))]
        return [self.cells.title, hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]]

    def shifted(self, split: Split, index: IntArray, kind: str, severity: int) -> Split:
        """Return images as they are stored.

        Raises:
            InputError: if they are not of the examples that the test split holds.
        """
        whole = self.cells[kind, severity]
        if len(whole) <= int(index.max()) or not np.array_equal(whole.labels[index], split.labels):
            refuse(
                f"{self.cells.title} ({len(whole)} images a cell) has other labels than the test split",
                "its images are those of the official test set, in its order",
                "Name the official test set as data, or leave the official shift out",
            )
        return whole.subset(index)


def shift_source(data: Dataset, official: str | None = None, *, test_limit: int | None = None) -> ShiftSource:
    """Return what shifts the test split of a data set.

    Args:
        data: the data set.
        official: "cifar10c:PATH", …: published files; None: what robcal makes.
        test_limit: what the test split was limited to, None where it is whole.

    Raises:
        InputError: if the official files are missing or are of another kind of input.
    """
    if official is None:
        if data.kind == "image":
            return ImageCorruptions()
        test = data.split("test")
        return TableCorruptions(Features.of(test.batch(np.arange(len(test))).numpy()), data.box)
    size = data.input_shape[-1] if official.startswith("imagenetc:") else None
    names = data.class_names if official.startswith("imagenetc:") else None
    found = OfficialFiles(load_corrupted(official, class_names=names, test_limit=test_limit, image_size=size))
    first = found.cells[found.kinds[0], 1]
    if data.kind != "image" or tuple(first.inputs.shape[1:]) != data.input_shape:
        refuse(
            f"{official} holds inputs of shape {tuple(first.inputs.shape[1:])}, {data.name} of {data.input_shape}",
            "the official shift is of the same images",
            "Drop --shift, or name the corrupted files of this data",
        )
    return found


def check_outside(outside: Split, like: Dataset, name: str) -> None:
    """Refuse out-of-distribution inputs that models of `like` cannot take.

    Args:
        outside: the inputs.
        like: what the models were trained on.
        name: of the inputs, for the error.

    Raises:
        InputError: if they have another shape.
    """
    shape = tuple(outside.inputs.shape[1:])
    if shape != like.input_shape:
        refuse(
            f"ood {name!r} has inputs of shape {shape}, {like.name} of {like.input_shape}",
            "the models must be able to take them",
            f"Name inputs of shape {like.input_shape}",
        )
