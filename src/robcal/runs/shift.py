"""The test split under shift: what a run says of it, cell by cell, and what metrics need of that.

Logits are kept, not a summary of them, so that temperatures and averages of several runs are applied afterwards without
another forward pass. Shifted inputs are made, read and predicted a block at a time, so their memory does not grow with
their number. Small ones may be kept on disk too, where several runs are measured on the same.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from robcal.base.checks import FloatArray, IntArray
from robcal.base.files import replacing
from robcal.base.npy import map_npy
from robcal.base.progress import SILENT, Reporter, stop_at_boundary
from robcal.base.storage import digest_of, kept_arrays, save_arrays
from robcal.base.types import Float32Array
from robcal.calibration.binning import TopLabel, bin_sums
from robcal.calibration.corrected import bin_floors
from robcal.calibration.metrics import brier_losses, log_losses, norm_of_gaps
from robcal.calibration.replicates import Resampling
from robcal.calibration.seeds import Replicated
from robcal.data import Split
from robcal.data.corruptions import BENCHMARK_KINDS as SHIFT_KINDS
from robcal.data.corruptions import SEVERITIES
from robcal.data.dataset import Inputs
from robcal.data.shifts import CORRUPTION_SEED, IMAGE_CORRUPTIONS, ShiftSource
from robcal.data.splits import stratified_subset
from robcal.runs.directory import Run
from robcal.training.predict import average_logits, predict_logits, softmax

#: The (kind, severity) pairs of images in the order of every array of C cells.
CELLS = tuple((kind, severity) for kind in SHIFT_KINDS for severity in SEVERITIES)
#: What is measured of every cell.
CELL_METRICS = ("ece", "accuracy", "nll", "brier", "ece_floor")
#: Inputs predicted at once, at most.
BATCH_SIZE = 500
#: Values of inputs in memory at a time, 64 MiB as float32: 5,000 images of 32x32 pixels, 111 of 224x224.
BLOCK_VALUES = 2**24
#: Largest cell that is kept on disk, in bytes as float32 (43,690 images of 32x32 pixels); larger ones are made anew for
#: every run, which takes less than the disk would: the 75 cells of 5,000 images of 224x224 pixels are 226 GB.
KEPT_BYTES = 2**29


@dataclass(frozen=True)
class Shift:
    """Summary of the test split under C corruptions: all that metrics under shift need."""

    cells: tuple[tuple[str, int], ...]  # C pairs (kind, severity)
    confidence: npt.NDArray[Any]  # (C, N) probability of the top label
    correct: npt.NDArray[np.bool_]  # (C, N) bool
    nll: npt.NDArray[Any]  # (C, N) negative log-likelihood of each example, in nats
    brier: npt.NDArray[Any]  # (C, N) squared distance of the probabilities from the one-hot label
    note: str = IMAGE_CORRUPTIONS.note  # what the shift is, for people

    def per_cell(self, metric: str) -> FloatArray:
        """Return (C,) the metric of each cell: "ece", "ece_floor", "accuracy", "nll" or "brier"."""
        if metric in ("ece", "ece_floor"):
            label = np.zeros(self.correct.shape[1], np.int64)  # which class it is does not matter
            pairs = zip(self.confidence, self.correct.astype(np.float64), strict=True)
            sums = [bin_sums(TopLabel(sure, label, right), bins=15) for sure, right in pairs]
            return np.array([norm_of_gaps(one, "l1") if metric == "ece" else bin_floors(one).sum() for one in sums])
        values = {"accuracy": self.correct, "nll": self.nll, "brier": self.brier}[metric]
        return np.asarray(values.mean(1, dtype=np.float64))

    def by_cell(self) -> dict[str, FloatArray]:
        """Return (C,) values of every metric of `CELL_METRICS`."""
        return {name: self.per_cell(name) for name in CELL_METRICS}

    def metrics(self, resampling: Resampling) -> dict[str, Replicated]:
        """Return every metric under shift, the mean over cells; an example is resampled in all cells at once."""
        diagrams = ((*cell, None) for cell in zip(self.confidence, self.correct, strict=True))
        measured, corrected = resampling.errors(diagrams)
        found = {"shift_ece": measured, "shift_ece_corrected": corrected}
        for name, values in (("accuracy", self.correct), ("nll", self.nll)):
            found[f"shift_{name}"] = Replicated(float(self.per_cell(name).mean()), resampling.mean(values.mean(0)))
        return found


@dataclass(frozen=True)
class ShiftLogits:
    """What a run, or the average of several, says of N test examples under C corruptions."""

    logits: Float32Array  # (C, N, Z) float32; log-probabilities where they are of an average
    labels: IntArray  # (N,) int64
    index: IntArray  # (N,) positions in the test split
    cells: tuple[tuple[str, int], ...] = CELLS  # C pairs (kind, severity)
    note: str = IMAGE_CORRUPTIONS.note  # what the shift is, for people

    def summary(self, temperature: float = 1.0) -> Shift:
        """Return what metrics need, at a temperature: probabilities are softmax(logits / T)."""
        rows = []
        for cell in self.logits:
            probs = softmax(cell / temperature)
            right = probs.argmax(1) == self.labels
            rows.append((probs.max(1), right, log_losses(probs, self.labels), brier_losses(probs, self.labels)))
        sure, correct, nll, brier = (np.stack(column) for column in zip(*rows, strict=True))
        return Shift(self.cells, sure, correct, nll, brier, self.note)


@dataclass(frozen=True)
class ShiftImages:
    """A stratified part of the test split, images or rows of a table, to be shifted."""

    split: Split  # the examples
    index: IntArray  # (N,) their positions in the test split
    digest: str  # of the whole test split
    whole: bool = True  # whether they are the whole test split
    folder: Path | None = None  # where corrupted inputs are kept, None to make them anew each time
    source: ShiftSource = IMAGE_CORRUPTIONS  # what shifts them

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """The (kind, severity) pairs, in order."""
        return tuple((kind, severity) for kind in self.source.kinds for severity in SEVERITIES)

    @classmethod
    def of(
        cls,
        test: Split,
        digest: str,
        *,
        num_classes: int,
        limit: int | None = None,
        folder: Path | None = None,
        source: ShiftSource = IMAGE_CORRUPTIONS,
    ) -> ShiftImages:
        """Choose at most `limit` examples, the same for every run on this data."""
        index = stratified_subset(test.labels, limit, num_classes=num_classes, name="the limit of the shift")
        whole = len(index) == len(test)
        return cls(test if whole else test.subset(index), index, digest, whole, folder, source)

    def shifted(self, kind: str, severity: int) -> Split:
        """Return the examples of a cell: as published files hold them, or as `cell` gives them."""
        if self.source.stored:
            return self.source.shifted(self.split, self.index, kind, severity)
        return Split(self.cell(kind, severity), self.split.labels)

    def cell(self, kind: str, severity: int) -> Inputs:
        """Return (N, …) float32, images in [0, 1], mapped from their file in `folder`, which is made if it is absent.

        Without a folder, and where the file would be larger than `KEPT_BYTES`, a batch is made when it is asked for.
        Several processes may ask for the same cell: each writes the whole file under a name of its own and renames it.
        """
        made = self.source.shifted(self.split, self.index, kind, severity)
        if self.folder is None:
            return made.inputs
        about = {"data": self.digest, "index": self.index.tolist(), "seed": CORRUPTION_SEED}
        name = digest_of(about if self.source.key is None else {**about, "source": self.source.key})
        file = self.folder / name / f"{kind}-{severity}.npy"
        if not file.exists():
            if math.prod(made.inputs.shape) * np.float32().itemsize > KEPT_BYTES:
                return made.inputs
            with replacing(file) as temporary:
                _write(made, temporary)
        return map_npy(file, "the corrupted inputs")


def measure_shift(
    run: Run, models: Sequence[nn.Module], images: ShiftImages, *, device: str = "cpu", reporter: Reporter = SILENT
) -> ShiftLogits:
    """Predict logits, the average of several models', under each kind of shift x 5 severities; each kind is kept."""
    source, cells = images.source, images.cells
    about = {"model": run.model_digest, "data": images.digest, "cells": cells, "index": images.index.tolist()}
    key = digest_of(about if source.key is None else {**about, "source": source.key})
    name = f"shift-{source.name}-test" if source.name else "shift-test"
    name = name if images.whole else f"{name}-{len(images.index)}"
    whole, parts = run.directory / f"{name}.safetensors", run.directory / f"{name}.parts"
    if (kept := kept_arrays(whole, key, "the shift")) is not None:
        return ShiftLogits(kept["logits"], kept["labels"], kept["index"], cells, source.note)
    advance = reporter.task(f"shift {run.settings.method}, seed {run.settings.seed}", len(cells))
    logits: Float32Array | None = None
    with stop_at_boundary() as stop:
        for first, kind in zip(range(0, len(cells), len(SEVERITIES)), source.kinds, strict=True):
            file = parts / f"{kind}.safetensors"
            if (arrays := kept_arrays(file, key, "the shift")) is None:
                rows = []
                for done, severity in enumerate(SEVERITIES):
                    stop.raise_if_set()
                    advance(first + done)
                    rows.append(_logits(models, images.shifted(kind, severity), device))
                arrays = {"logits": np.stack(rows)}
                save_arrays(arrays, file, about={"key": key})
            if logits is None:
                logits = np.empty((len(cells), *arrays["logits"].shape[1:]), np.float32)
            logits[first : first + len(SEVERITIES)] = arrays["logits"]
            advance(first + len(SEVERITIES))
            stop.raise_if_set()
    assert logits is not None
    measured = ShiftLogits(logits, images.split.labels, images.index, cells, source.note)
    arrays = {"logits": logits, "labels": measured.labels, "index": measured.index}
    save_arrays(arrays, whole, about={"key": key})
    shutil.rmtree(parts, ignore_errors=True)
    return measured


def _blocks(split: Split) -> Iterator[Split]:
    """Yield the examples a block at a time, in memory: whole batches, or less than one where these are too large."""
    most = max(1, BLOCK_VALUES // math.prod(split.inputs.shape[1:]))
    size = most if most < BATCH_SIZE else most - most % BATCH_SIZE
    for start in range(0, len(split), size):
        index = np.arange(start, min(start + size, len(split)))
        yield Split(split.inputs[index], split.labels[index])


def _logits(models: Sequence[nn.Module], split: Split, device: str) -> Float32Array:
    of_blocks = (
        [predict_logits(one, block, device=device, batch_size=BATCH_SIZE) for one in models] for block in _blocks(split)
    )
    return np.concatenate([average_logits(each) for each in of_blocks])


def _write(cell: Split, path: Path) -> None:
    """Write the inputs as a .npy file of float32, the bytes that `np.save` writes of the whole array."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(cell.inputs.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in _blocks(cell):
            file.write(np.ascontiguousarray(block.inputs, "<f4").data)
