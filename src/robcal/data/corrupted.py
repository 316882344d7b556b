"""The official corrupted test sets of Hendrycks & Dietterich (2019): CIFAR-10-C, CIFAR-100-C, ImageNet-C.

These are the published files. The corruptions that robcal makes itself are in `robcal.data.corruptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from robcal.base.checks import IntArray, check_choice, check_labels, check_positive_int, refuse
from robcal.base.npy import map_npy
from robcal.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from robcal.data.corruptions import BENCHMARK_KINDS, CORRUPTIONS, SEVERITIES
from robcal.data.dataset import Split
from robcal.data.folder import class_folders, list_pictures
from robcal.data.imagenet import SIZE
from robcal.data.pictures import ManyPictures
from robcal.data.published import check_place, where_to_find
from robcal.data.splits import FIXED_SEED, limit

Cell = tuple[str, int]

#: Archive of ImageNet-C that each kind is in; the four extra ones are in extra.tar.
ARCHIVES = {
    kind: "extra.tar" if corruption.extra else f"{corruption.group}.tar" for kind, corruption in CORRUPTIONS.items()
}


@dataclass(frozen=True)
class CorruptedCells(Mapping[Cell, Split]):
    """The cells of a corrupted test set, (kind, severity) → split; each is opened when it is asked for."""

    title: str
    kinds: tuple[str, ...]
    open_cell: Callable[[str, int], Split]

    def __getitem__(self, cell: Cell) -> Split:
        """Return the test images corrupted so; raise KeyError for a kind or a severity that it does not have."""
        kind, severity = cell
        if kind not in self.kinds or severity not in SEVERITIES:
            raise KeyError(cell)
        return self.open_cell(kind, severity)

    def __iter__(self) -> Iterator[Cell]:
        return ((kind, severity) for kind in self.kinds for severity in SEVERITIES)

    def __len__(self) -> int:
        return len(self.kinds) * len(SEVERITIES)


@dataclass(frozen=True)
class ChannelsLast:
    """Images that are stored as (N, H, W, C) and given as (N, C, H, W); nothing is read before a batch is asked for."""

    dtype = np.dtype(np.uint8)
    array: npt.NDArray[np.uint8]
    rows: IntArray

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        _, height, width, channels = self.array.shape
        return (len(self.rows), channels, height, width)

    def __getitem__(self, index: IntArray) -> npt.NDArray[np.uint8]:
        """Return the images at these positions, (len(index), C, H, W)."""
        return np.ascontiguousarray(self.array[self.rows[index]].transpose(0, 3, 1, 2))

    def select(self, index: IntArray) -> ChannelsLast:
        """Return the images at these positions, still unread."""
        return ChannelsLast(self.array, self.rows[index])


def load_corrupted(
    spec: str,
    *,
    kinds: Sequence[str] = BENCHMARK_KINDS,
    class_names: Sequence[str] | None = None,
    test_limit: int | None = None,
    image_size: int | None = None,
) -> CorruptedCells:
    """Open an official corrupted test set; image i of every cell is image i of the official test set.

    The spec is "cifar10c:PATH" or "cifar100c:PATH" (the folder with labels.npy and one .npy a kind, 5 x 10,000 images),
    or "imagenetc:PATH" (folders kind/severity/class, also below a folder for the archive), of which `class_names`,
    WordNet ids in the order of a classifier's outputs, may be a subset, and `image_size` the side (224). A `test_limit`
    takes those images of each cell that `load_dataset` takes of the test set. Cells are opened when they are asked for.
    """
    form, _, path = spec.partition(":")
    check_choice(form, READERS, "the corrupted data set")
    if not path:
        refuse(f"the data set is {spec!r}", f"this kind is written {form}:PATH", f"Write {form}:PATH")
    for kind in kinds:
        check_choice(kind, CORRUPTIONS, "the corruption")
    if test_limit is not None:
        check_positive_int(test_limit, "test_limit")
    return READERS[form](path, tuple(kinds), class_names, test_limit, image_size)


def _read_arrays(
    title: str, num_classes: int, path: str, kinds: tuple[str, ...], test_limit: int | None
) -> CorruptedCells:
    """Read CIFAR-10-C or CIFAR-100-C."""
    root = check_place(path, title)
    root = root / title if (root / title).is_dir() else root
    lost = [name for name in ("labels.npy", *(f"{kind}.npy" for kind in kinds)) if not (root / name).is_file()]
    if lost:
        given = f"{root} has no {', '.join(lost)}"
        fix = f"Unpack the archive; {where_to_find(title)}"
        refuse(given, "it must be the unpacked folder with labels.npy and one .npy a corruption", fix)
    stored = check_labels(_load(root / "labels.npy", title), num_classes=num_classes, name=f"labels of {title}")
    size = len(stored) // len(SEVERITIES)
    blocks = stored[: size * len(SEVERITIES)].reshape(len(SEVERITIES), -1)
    if len(stored) % len(SEVERITIES) or (blocks != blocks[0]).any():
        _refuse_array(root / "labels.npy", f"{len(stored):,} labels that are not five times the same", title)

    def open_cell(kind: str, severity: int) -> Split:
        array = _load(root / f"{kind}.npy", title)
        if array.dtype != np.uint8 or array.shape != (len(stored), 32, 32, 3):
            _refuse_array(root / f"{kind}.npy", f"{array.dtype} of shape {array.shape}", title)
        rows = np.arange((severity - 1) * size, severity * size)
        whole = Split(inputs=ChannelsLast(array, rows), labels=stored[rows])
        return limit(whole, test_limit, FIXED_SEED, num_classes, "test_limit")

    return CorruptedCells(title, kinds, open_cell)


def _load(file: Path, title: str) -> npt.NDArray[Any]:
    """Return the array of a file, mapped into memory; no object is ever unpickled."""
    fix = f"Unpack the archive again; {where_to_find(title)}"
    return map_npy(file, f"the array of {title}", fix=fix)


def _refuse_array(file: Path, what: str, title: str) -> NoReturn:
    rule = "images are uint8 (50000, 32, 32, 3), 10,000 a severity, labels (50000,)"
    refuse(f"{file} holds {what}", rule, f"Unpack the archive again; {where_to_find(title)}")


def _read_folders(
    path: str, kinds: tuple[str, ...], class_names: Sequence[str] | None, test_limit: int | None, image_size: int | None
) -> CorruptedCells:
    """Read ImageNet-C."""
    root = check_place(path, "ImageNet-C")
    side = SIZE if image_size is None else check_positive_int(image_size, "image_size")
    groups = {kind: ARCHIVES[kind].removesuffix(".tar") for kind in kinds}
    places = {
        kind: root / group / kind if (root / group / kind).is_dir() else root / kind for kind, group in groups.items()
    }
    lost = [f"{kind}/{s}" for kind in kinds for s in SEVERITIES if not (places[kind] / str(s)).is_dir()]
    if lost:
        archives = sorted({ARCHIVES[name.partition("/")[0]] for name in lost})
        fix = f"Unpack {', '.join(archives)} there; {where_to_find('ImageNet-C', *archives)}"
        refuse(f"{root} has no {', '.join(lost)}", "it must hold folders corruption/severity/class with pictures", fix)
    names = class_folders(places[kinds[0]] / "1") if class_names is None else tuple(class_names)

    def open_cell(kind: str, severity: int) -> Split:
        folder = places[kind] / str(severity)
        absent = sorted(set(names) - set(class_folders(folder)))
        if absent:
            given = f"{folder} has no class {absent[0]}"
            refuse(given, "every class of the classifier is needed", f"Unpack {ARCHIVES[kind]} again")
        found = list_pictures(folder, names, others=class_names is not None)
        whole = Split(inputs=ManyPictures(found.files, (side, side), "RGB", True), labels=found.labels)
        return limit(whole, test_limit, FIXED_SEED, len(names), "test_limit")

    return CorruptedCells("ImageNet-C", kinds, open_cell)


Reader = Callable[[str, tuple[str, ...], Sequence[str] | None, int | None, int | None], CorruptedCells]

#: Reader of each form of spec.
READERS: Mapping[str, Reader] = {
    "cifar10c": lambda path, kinds, names, n, side: _read_arrays("CIFAR-10-C", len(CIFAR10_CLASSES), path, kinds, n),
    "cifar100c": lambda path, kinds, names, n, side: _read_arrays("CIFAR-100-C", len(CIFAR100_CLASSES), path, kinds, n),
    "imagenetc": _read_folders,
}
