"""Inputs of one micro-batch after the other: kept on the device where they fit, else read ahead while a step is made.

What is read, and every draw in it, is a function of the micro-batch alone, so reading ahead changes no number.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from robcal.base.checks import IntArray
from robcal.data import Split
from robcal.data.dataset import Croppable

#: Micro-batches that are read ahead.
AHEAD = 2
#: Arrays of less bytes are kept on the device.
RESIDENT = 2**31


@dataclass(frozen=True, eq=False)
class Part:
    """A micro-batch."""

    key: tuple[int, int]  # tells it from others of the epoch
    everyone: IntArray  # (B,) positions in the split, of all processes
    index: IntArray  # those of this process
    seed: int | None  # of its draws; None if it draws nothing
    weight: float = 1.0  # what part of the batch the examples of this process are


class Loader:
    """The inputs of the micro-batches of an epoch, on a device; with `crops`, random windows of each picture."""

    def __init__(self, split: Split, device: torch.device, *, crops: bool) -> None:
        self.split, self.device = split, device
        self.crops = crops and isinstance(split.inputs, Croppable)
        self._resident = _resident(split, device)
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[int, int], Future[tuple[torch.Tensor, torch.Generator]]] = {}

    def start_epoch(self) -> None:
        """Forget what was read ahead: keys begin anew."""
        for read in self._ahead.values():
            read.cancel()
        self._ahead.clear()

    def load(self, part: Part, index: torch.Tensor, following: Iterable[Part]) -> tuple[torch.Tensor, torch.Generator]:
        """Return the inputs of a part, on the device of `index`, and its generator; read ahead what is following."""
        if self._resident is not None:
            inputs = self._resident.index_select(0, index).float()
            return inputs.div_(255) if self._resident.dtype == torch.uint8 else inputs, _generator(part)
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "robcal-reader")
        for wanted in (part, *islice(following, AHEAD)):
            if wanted.key not in self._ahead:
                self._ahead[wanted.key] = self._reader.submit(self._read, wanted)
        return self._ahead.pop(part.key).result()

    def _read(self, part: Part) -> tuple[torch.Tensor, torch.Generator]:
        generator = _generator(part)
        if self.crops:
            inputs = self.split.random_crops(part.index, generator, device=self.device)
        else:
            inputs = self.split.batch(part.index, device=self.device)
        return channels_last(inputs), generator

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """Bring images into the layout in which networks train fastest; values stay as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def _generator(part: Part) -> torch.Generator:
    generator = torch.Generator()
    return generator if part.seed is None else generator.manual_seed(part.seed)


def _resident(split: Split, device: torch.device) -> torch.Tensor | None:
    """Return all inputs on the device, if they are an array that fits there."""
    inputs = split.inputs
    if isinstance(inputs, np.ndarray) and not isinstance(inputs, np.memmap) and inputs.nbytes < RESIDENT:
        return torch.from_numpy(inputs).to(device)
    return None
