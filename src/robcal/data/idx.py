"""Grey images in idx files: Fashion-MNIST (Xiao et al. 2017), and sets in the same four files (LeCun et al. 1998)."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robcal.base.checks import IntArray, refuse
from robcal.base.files import reading
from robcal.base.npy import check_packing
from robcal.data.dataset import Split
from robcal.data.published import check_folder, where_to_find
from robcal.data.splits import Parts

#: Start of the names of the files of each part.
STEMS = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

RULE = "an idx file of bytes: 0, 0, 8, its number of axes, the length of each (4 bytes, high first), then the values"


def read_fashion_mnist(path: str) -> Parts:
    """Read Fashion-MNIST: 60,000 training and 10,000 test images of clothes, inputs (1, 28, 28) uint8, ten classes.

    The path is the folder of the four official files, packed (.gz) or not, or one of them (the others lie beside it).
    """
    return _read(path, "Fashion-MNIST", FASHION_CLASSES, f"Fetch it again; {where_to_find('Fashion-MNIST')}")


def read_idx(path: str) -> Parts:
    """Read a data set in the four files of MNIST, whose classes are numbers: inputs (1, H, W) uint8."""
    return _read(path, "idx", None, "Put the four whole files of one data set into one folder")


def _read(path: str, title: str, names: Sequence[str] | None, again: str) -> Parts:
    """Read the four files of a folder; `again` is what to do about one that is missing or damaged."""
    folder = check_folder(path, title)
    files = {(part, kind): _find(folder, f"{stem}-{kind}") for part, stem in STEMS.items() for kind in (IMAGES, LABELS)}
    lost = [f"{STEMS[part]}-{kind}" for (part, kind), file in files.items() if file is None]
    if lost:
        refuse(f"{folder} has no {', '.join(lost)}", "it must hold these, or the same with .gz behind", again)
    arrays = {key: _read_file(file, 3 if key[1] == IMAGES else 1, again) for key, file in files.items() if file}
    labels = {part: arrays[part, LABELS].astype(np.int64) for part in STEMS}
    shapes = {part: arrays[part, IMAGES].shape for part in STEMS}
    if any(shape[0] != len(labels[part]) or shape[1:] != shapes["train"][1:] for part, shape in shapes.items()):
        told = ", ".join(f"{part} {shape} and {len(labels[part]):,}" for part, shape in shapes.items())
        refuse(f"images and labels of {folder} are {told}", "there is a label an image, and images are alike", again)
    _check_classes(labels, names, folder)
    parts = {part: Split(inputs=arrays[part, IMAGES][:, None], labels=labels[part]) for part in STEMS}
    return Parts(title, parts, tuple(names or map(str, range(labels["train"].max() + 1))))


def _find(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _read_file(file: Path, axes: int, again: str) -> npt.NDArray[np.uint8]:
    """Read the bytes of a file as an array of so many axes; what its header declares is checked before."""
    size, packed = file.stat().st_size, file.suffix == ".gz"
    with reading(file, "idx file", rule=RULE, fix=again), gzip.open(file) if packed else file.open("rb") as stream:
        shape = _shape(stream.read(4 + 4 * axes), axes)
        count = math.prod(shape)
        if packed:
            check_packing(count, size, str(file))
        elif size != 4 + 4 * axes + count:
            raise ValueError(f"it is {size:,} bytes long, and its header tells of {4 + 4 * axes + count:,}")
        data = stream.read(count + 1)  # one more than there are: only at the end is the checksum compared
        if len(data) != count:
            raise ValueError(
                f"its header tells of {count:,} values, and it holds {'more' if data[count:] else 'fewer'}"
            )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(header: bytes, axes: int) -> tuple[int, ...]:
    """Read the lengths of the axes from the start of a file."""
    if header[:4] != bytes([0, 0, 8, axes]):
        raise ValueError(f"it begins with {list(header[:4])} and not with {[0, 0, 8, axes]}")
    if len(header) < 4 + 4 * axes:
        raise ValueError("it ends within its header")
    shape = tuple(int.from_bytes(header[start : start + 4], "big") for start in range(4, len(header), 4))
    if 0 in shape:
        raise ValueError(f"it is empty, of shape {shape}")
    return shape


def _check_classes(labels: dict[str, IntArray], names: Sequence[str] | None, folder: Path) -> None:
    """Refuse labels that are not 0 … Z - 1, each in training."""
    found = {part: np.unique(values) for part, values in labels.items()}
    count = len(found["train"]) if names is None else len(names)
    if count < 2 or found["train"].tolist() != list(range(count)) or found["test"].max() >= count:
        told = ", ".join(
            f"{part} {values.min()} to {values.max()}, {len(values)} of them" for part, values in found.items()
        )
        refuse(
            f"labels of {folder} are {told}",
            f"they are 0 to {'Z - 1' if names is None else count - 1}, two or more, each in the training part",
            "Number the classes anew and save arrays: `np.savez('mine.npz', x_train=images, y_train=labels)`, "
            "npz:mine.npz",
        )
