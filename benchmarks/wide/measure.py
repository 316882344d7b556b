"""What is measured of a trained network: its logits on validation, test and corrupted test images; its robustness.

Logits are kept as float16 differences to the largest one of the row, which is what a softmax depends on: the rounding
changes a probability by less than 5e-4 of itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import robcal
from robcal.base.jobs import available_cores
from robcal.data import Dataset
from robcal.data.corruptions import BENCHMARK_KINDS
from robcal.data.splits import stratified_subset
from robcal.runs.shift import ShiftImages
from wide.engine import Engine, unsearched
from wide.plan import Plan

#: Processes that make corrupted images: there are minutes until the first network is measured.
WORKERS = 4

Half = npt.NDArray[np.float16]


def cells_of(severities: Sequence[int]) -> list[tuple[str, int]]:
    """Return the (kind, severity) pairs, in the order of every array."""
    return [(kind, severity) for kind in BENCHMARK_KINDS for severity in severities]


class CorruptedTest:
    """Corrupted test images, made by processes of their own while the first networks train.

    Attributes:
        images: the test images that are corrupted, and which they are.
        cells: (kind, severity), in the order of every array.
    """

    def __init__(self, data: Dataset, plan: Plan, folder: Path) -> None:
        self.cells = cells_of(plan.severities)
        self.images = ShiftImages.of(
            data.split("test"),
            data.digest("test"),
            num_classes=data.num_classes,
            limit=plan.shift_images,
            folder=folder,
        )
        workers = max(1, min(available_cores() - 1, WORKERS))
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self._jobs: list[Future[None]] = [self._pool.submit(_make, self.images, cell) for cell in self.cells]
        self._ready: list[torch.Tensor] = []

    def on(self, device: torch.device) -> list[torch.Tensor]:
        """The cells on the device, (n, C, H, W) float32 each; waits for them the first time."""
        if not self._ready:
            for job in self._jobs:
                job.result()
            self._pool.shutdown()
            cells = [np.array(self.images.cell(*cell)[np.arange(len(self.images.index))]) for cell in self.cells]
            self._ready = [torch.from_numpy(cell).to(device) for cell in cells]
        return self._ready

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _make(images: ShiftImages, cell: tuple[str, int]) -> None:
    images.cell(*cell)


def predictions(
    engine: Engine, member: int, data: Dataset, shifted: Sequence[torch.Tensor], kept_val: int | None = None
) -> dict[str, Any]:
    """Predict what tables are made of.

    Args:
        engine: holds the trained network.
        member: which.
        data: whose validation and test images are predicted in float32.
        shifted: cells of corrupted test images, predicted in TF32; "shift" is left out without any.
        kept_val: at most so many validation images, stratified; None for all.
    """
    found: dict[str, Any] = {}
    for name, limit in (("val", kept_val), ("test", None)):
        split = data.split(name)
        index = stratified_subset(split.labels, limit, num_classes=data.num_classes)
        images = torch.from_numpy(split.inputs[index]).to(engine.device)
        found[name] = halved(engine.predict(member, images, "float32"))
        found[f"{name}_labels"] = split.labels[index].astype(np.uint8)
    if shifted:
        found["shift"] = halved(np.stack([engine.predict(member, cell, "tf32") for cell in shifted]))
    return found


def halved(logits: npt.NDArray[np.float32]) -> Half:
    """Logits less the largest of their row, as float16."""
    return (logits - logits.max(-1, keepdims=True)).clip(-6e4).astype(np.float16)


def distances(network: nn.Module, data: Dataset, split: str, limit: int | None, num_levels: int) -> dict[str, Any]:
    """Score images of a split by their adversarial distance (method "auto").

    Args:
        network: in input units, on its device.
        data: the data.
        split: its name.
        limit: at most so many, stratified; None for all.
        num_levels: R.

    Returns:
        Arrays "scored" (positions), "distance", "margin" and "passes", and the float "seconds".
    """
    part = data.split(split)
    index = stratified_subset(part.labels, limit, num_classes=data.num_classes)
    started = time.monotonic()
    with unsearched():
        scores = robcal.score(network, part.inputs[index], method="auto", num_levels=num_levels)
    return {
        "scored": index,
        "distance": scores.distance,
        "margin": scores.margin,
        "passes": scores.passes,
        "seconds": time.monotonic() - started,
    }
