"""Where shifted versions of a test split come from: robcal's corruptions of images or of tables, or official files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robcal.base.checks import IntArray, refuse
from robcal.data.corrupted import CorruptedCells, load_corrupted
from robcal.data.corruptions import BENCHMARK_KINDS, CHUNK_VALUES, corrupt
from robcal.data.corruptions.draws import Float32Array
from robcal.data.dataset import Dataset, Split
from robcal.data.pictures import in_threads
from robcal.data.table_shift import TABLE_KINDS, TABLE_SHIFTS, Features, shift_table

#: Seed of the corruptions: one for all, so that every model sees the same inputs.
CORRUPTION_SEED = 0
#: Images of at least so many values (148x148 pixels in colour) are corrupted by several threads.
LARGE_VALUES = 2**16


@dataclass(frozen=True)
class ShiftSource:
    """What makes or reads the shifted versions of test examples."""

    note: str  # what the shift is, for people
    kinds: tuple[str, ...]  # kinds of shift, each at five severities
    # (examples of the test split, their positions in it, kind, severity) → the examples, shifted. What robcal makes is
    # made when a batch of it is asked for: see `ShiftedInputs`
    shifted: Callable[[Split, IntArray, str, int], Split]
    name: str = ""  # part of the names of files; "" for corrupted images that robcal makes
    key: Any = None  # what tells this source from others of its name; JSON-able
    stored: bool = False  # whether the shifted inputs lie on disk already


@dataclass(frozen=True)
class ShiftedInputs:
    """The inputs of a split, shifted when a batch of them is asked for; neither batch nor threads change them."""

    dtype = np.dtype(np.float32)
    split: Split  # the examples before the shift
    # (n inputs as float32, position of the first in `split`) → the n inputs shifted, float32
    shift: Callable[[Float32Array, int], Float32Array]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the inputs before the shift."""
        return self.split.inputs.shape

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


def _corrupted(split: Split, index: IntArray, kind: str, severity: int) -> Split:
    """Return float32 images in [0, 1]."""

    def shift(images: Float32Array, first: int) -> Float32Array:
        return corrupt(images, kind, severity, seed=CORRUPTION_SEED, first_index=first)

    return Split(ShiftedInputs(split, shift), split.labels)


#: The 15 kinds of Hendrycks & Dietterich (2019), made by robcal.
IMAGE_CORRUPTIONS = ShiftSource(
    "15 corruptions at 5 severities, made by robcal's own implementation with the published constants for 32x32 images "
    "(lengths scaled to the image size)",
    BENCHMARK_KINDS,
    _corrupted,
)


def table_corruptions(features: Features, box: Any = None) -> ShiftSource:
    """Return noise, missing features and scaling, relative to the features of the whole test split: no seed matters."""

    def shifted(split: Split, index: IntArray, kind: str, severity: int) -> Split:
        def shift(rows: Float32Array, first: int) -> Float32Array:
            made = shift_table(rows, kind, severity, features=features, seed=CORRUPTION_SEED, first_index=first)
            return made if box is None else np.clip(made, *box).astype(np.float32)

        return Split(ShiftedInputs(split, shift), split.labels)

    digest = hashlib.sha256(features.mean.tobytes() + features.std.tobytes()).hexdigest()[:16]
    key = {kind: strengths for kind, (_, strengths) in TABLE_SHIFTS.items()} | {"features": digest}
    note = "noise, missing features and scaling at 5 severities, with strengths of robcal's own choice"
    return ShiftSource(note, TABLE_KINDS, shifted, name="table", key=key)


def official_files(cells: CorruptedCells) -> ShiftSource:
    """Return a published corrupted test set; its image i is image i of the official test split."""

    def shifted(split: Split, index: IntArray, kind: str, severity: int) -> Split:
        whole = cells[kind, severity]
        if len(whole) <= int(index.max()) or not np.array_equal(whole.labels[index], split.labels):
            given = f"{cells.title} ({len(whole)} images a cell) has other labels than the test split"
            fix = "Name the official test set as data, or leave the official shift out"
            refuse(given, "its images are those of the official test set, in its order", fix)
        return whole.subset(index)

    first = cells[cells.kinds[0], 1]
    pixels = np.ascontiguousarray(first.inputs[np.arange(min(8, len(first)))])
    key = [cells.title, hashlib.sha256(pixels.tobytes()).hexdigest()[:16]]
    note = f"the official files of {cells.title}, {len(cells.kinds)} corruptions at 5 severities"
    return ShiftSource(note, cells.kinds, shifted, name=cells.title.lower(), key=key, stored=True)


def shift_source(data: Dataset, official: str | None = None, *, test_limit: int | None = None) -> ShiftSource:
    """Return what shifts a test split, which may be limited: robcal itself, or published files ("cifar10c:PATH", …)."""
    if official is None:
        if data.kind == "image":
            return IMAGE_CORRUPTIONS
        test = data.split("test")
        return table_corruptions(Features.of(test.batch(np.arange(len(test))).numpy()), data.box)
    size = data.input_shape[-1] if official.startswith("imagenetc:") else None
    names = data.class_names if official.startswith("imagenetc:") else None
    cells = load_corrupted(official, class_names=names, test_limit=test_limit, image_size=size)
    shape = tuple(cells[cells.kinds[0], 1].inputs.shape[1:])
    if data.kind != "image" or shape != data.input_shape:
        given = f"{official} holds inputs of shape {shape}, {data.name} of {data.input_shape}"
        fix = "Drop --shift, or name the corrupted files of this data"
        refuse(given, "the official shift is of the same images", fix)
    return official_files(cells)


def check_outside(outside: Split, like: Dataset, name: str) -> None:
    """Refuse out-of-distribution inputs that models of `like` cannot take."""
    shape = tuple(outside.inputs.shape[1:])
    if shape != like.input_shape:
        given = f"ood {name!r} has inputs of shape {shape}, {like.name} of {like.input_shape}"
        refuse(given, "the models must be able to take them", f"Name inputs of shape {like.input_shape}")
