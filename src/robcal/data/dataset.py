"""The one shape every reader returns: named splits of inputs and labels.

Inputs stay as they are on disk (uint8 images, memory maps, lazily decoded files) until a batch of them is asked for,
so a data set may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from robcal.base.arrays import as_array
from robcal.base.checks import IntArray, refuse
from robcal.data.augment import CropDraws, draw_crops, random_resized_crop

#: (lo, hi) per input or per feature (broadcastable to one input), or None for unbounded inputs.
Box = tuple[float, float] | tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None
#: Bytes of inputs that are read at a time for a digest, which does not depend on it.
DIGEST_BYTES = 2**25


class Inputs(Protocol):
    """What a split's inputs must offer: a numpy array does, a memory map does, a lazy decoder may."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, …): the number of inputs, then the shape of one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or uint8 for images stored as 0 … 255."""

    def __getitem__(self, index: IntArray) -> npt.NDArray[Any]:
        """Return the inputs at these positions, in this order, as an array of shape (len(index), …)."""


@runtime_checkable
class Selectable(Protocol):
    """Inputs that can be narrowed down without being read."""

    def select(self, index: IntArray) -> Inputs:
        """Return the inputs at these positions, in this order, still unread."""


@runtime_checkable
class Croppable(Protocol):
    """Inputs that can be cut out of larger pictures while these are decoded."""

    def crops(self, index: IntArray, draws: CropDraws) -> npt.NDArray[np.uint8]:
        """Return the windows of the pictures at these positions, as uint8 images (len(index), C, H, W)."""


@runtime_checkable
class Fingerprinted(Protocol):
    """Inputs too large to be read for a digest; they say themselves what tells them apart."""

    def fingerprint(self) -> Iterable[bytes]:
        """Return bytes that differ where the inputs do."""


@dataclass(frozen=True)
class Split:
    """One split: N inputs with their labels.

    Attributes:
        inputs: (N, …) uint8 (images, 0 … 255) or float32; images are (N, C, H, W).
        labels: (N,) int64.
    """

    inputs: Inputs
    labels: IntArray

    def __post_init__(self) -> None:
        """Refuse masked entries, which every later step would take for values."""
        for name, values in (("inputs", self.inputs), ("labels", self.labels)):
            if np.ma.isMaskedArray(values):
                as_array(values, name)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: IntArray, *, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the inputs at `index` as a float32 tensor in input units (uint8 images are divided by 255)."""
        return _floats(self.inputs[index], device)

    def random_crops(
        self, index: IntArray, generator: torch.Generator, *, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return the inputs at `index` as `batch` gives them, each a random resized crop, mirrored half of the time.

        Pictures that are decoded on access are cut out at their own resolution; other images as
        `robcal.data.augment.random_resized_crop` does. The CPU generator advances by the same amount for both kinds.

        Raises:
            InputError: if the inputs are no images.
        """
        if isinstance(self.inputs, Croppable):
            return _floats(self.inputs.crops(index, draw_crops(len(index), generator)), device)
        return random_resized_crop(self.batch(index, device=device), generator)

    def subset(self, index: IntArray) -> Split:
        """Return the split that holds only these examples, in this order; lazily decoded inputs stay lazy."""
        inputs = self.inputs.select(index) if isinstance(self.inputs, Selectable) else self.inputs[index]
        return Split(inputs=inputs, labels=self.labels[index])


def _floats(values: npt.NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """Return a float32 tensor in input units: uint8 images are divided by 255, on the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    return tensor.float().div_(255) if values.dtype == np.uint8 else tensor.float()


@dataclass(frozen=True)
class Dataset:
    """A named data set with its splits.

    Attributes:
        name: for people, for example "digits" or "CIFAR-10 (JPEG)".
        splits: "train", "val" and "test".
        class_names: Z names, in the order of the labels.
        box: where inputs live; (0, 1) for images.
        kind: "image" (inputs are (C, H, W)) or "table".
        spec: the `--data` text that made it.
        notes: what a reader of results should know of the data (a test part that was cut, lossy images, …).
    """

    name: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    box: Box
    kind: Literal["image", "table"]
    spec: str
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Z."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.splits["train"].inputs.shape[1:])

    def split(self, name: str) -> Split:
        """Return the split of that name.

        Raises:
            InputError: if the data set has no such split, or it is empty.
        """
        if name not in self.splits or len(self.splits[name]) == 0:
            have = ", ".join(f"{key} ({len(value)})" for key, value in self.splits.items())
            refuse(f"{self.name} has no examples in split {name!r}", f"it has {have}", "Choose one of these splits")
        return self.splits[name]

    def digest(self, split: str) -> str:
        """Return the SHA-256 of a split's inputs and labels, as 16 hexadecimal digits: ties artifacts to their data.

        Every input is read, save those that are too many (ImageNet): these go by their names and sizes.
        """
        part, sha = self.split(split), hashlib.sha256()
        sha.update(repr((part.inputs.shape, str(part.inputs.dtype))).encode())
        sha.update(np.ascontiguousarray(part.labels).tobytes())
        if isinstance(part.inputs, Fingerprinted):
            for piece in part.inputs.fingerprint():
                sha.update(piece)
            return sha.hexdigest()[:16]
        step = max(1, DIGEST_BYTES // (int(np.prod(part.inputs.shape[1:])) * part.inputs.dtype.itemsize))
        for start in range(0, len(part), step):
            block = part.inputs[np.arange(start, min(start + step, len(part)))]
            sha.update(np.ascontiguousarray(block).tobytes())
        return sha.hexdigest()[:16]
