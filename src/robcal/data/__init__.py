"""Data sets: one reader a file format, one function that opens them all.

Example:
    >>> data = load_dataset("digits", seed=1)
    >>> {name: len(split) for name, split in data.splits.items()}, data.input_shape
    ({'train': 755, 'val': 323, 'test': 719}, (1, 8, 8))
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from robcal.base.checks import refuse
from robcal.data.cifar import read_cifar10, read_cifar100
from robcal.data.dataset import Dataset, Split
from robcal.data.digits import DIGITS_VAL_FRACTION, read_digits
from robcal.data.folder import read_folder
from robcal.data.idx import read_fashion_mnist, read_idx
from robcal.data.imagenet import read_imagenet
from robcal.data.npz import read_npz
from robcal.data.splits import VAL_FRACTION, CutOptions, Parts, assemble
from robcal.data.svhn import read_svhn

__all__ = ["Dataset", "SPEC_HELP", "Split", "load_dataset", "read_parts"]


@dataclass(frozen=True)
class _Reader:
    """How one kind of data set is read."""

    read: Callable[[str, int | None], Parts]  # (path, image_size) → parts (the path is "" for the built-in data set)
    argument: str  # what stands behind the colon ("" where nothing does)
    resizes: bool = False  # whether an image_size means anything to it
    val_fraction: float = VAL_FRACTION  # default share of the training data that becomes validation


READERS: Mapping[str, _Reader] = {
    "digits": _Reader(lambda path, size: read_digits(), "", val_fraction=DIGITS_VAL_FRACTION),
    "cifar10": _Reader(lambda path, size: read_cifar10(path), "PATH"),
    "cifar100": _Reader(lambda path, size: read_cifar100(path), "PATH"),
    "svhn": _Reader(lambda path, size: read_svhn(path), "PATH"),
    "fashion-mnist": _Reader(lambda path, size: read_fashion_mnist(path), "PATH"),
    "idx": _Reader(lambda path, size: read_idx(path), "PATH"),
    "imagenet": _Reader(read_imagenet, "PATH", resizes=True),
    "npz": _Reader(lambda path, size: read_npz(path), "FILE"),
    "folder": _Reader(read_folder, "PATH", resizes=True),
}

#: The specs `load_dataset` takes, for help texts and errors.
SPEC_HELP = ", ".join(f"{name}:{reader.argument}".rstrip(":") for name, reader in READERS.items())


def load_dataset(
    spec: str,
    *,
    val_fraction: float | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    parts: Parts | None = None,
) -> Dataset:
    """Open a data set and cut its splits.

    Validation is always cut from all of the training data, stratified, by the seed; `train_limit` then takes a
    stratified subset of what remains. No seed ever changes the test examples.

    Args:
        spec: "digits" (built in), "cifar10:PATH" or "cifar100:PATH" (official archives, their folders, or parquet),
            "svhn:PATH" (the folder of the official .mat files), "fashion-mnist:PATH" or "idx:PATH" (the folder of the
            four idx files, those of MNIST), "imagenet:PATH" (train/ and val/ of class folders, or parquet), "npz:FILE"
            (arrays x_train, y_train, … or MedMNIST's), or "folder:PATH" (one folder of pictures a class). docs/data.md
            says what is read of each.
        val_fraction: share of the training data that becomes validation, in (0, 1); default .3 for digits, else .1.
        train_limit: at most so many training examples, stratified (None: all).
        test_limit: at most so many test examples, stratified, the same for every seed (None: all).
        seed: chooses the validation examples and the limited training examples.
        image_size: height and width in pixels to bring pictures to (None: those of a folder must all be alike, those of
            ImageNet become 224x224).
        parts: what `read_parts` found, where several cuts of the same files are made.

    Returns:
        The data set with splits "train", "val" and "test".

    Raises:
        InputError: on an unknown spec, a missing or damaged file, or values that are not what they must be.
    """
    options = CutOptions(val_fraction, train_limit, test_limit, seed)
    found = read_parts(spec, image_size=image_size) if parts is None else parts
    return assemble(found, options, spec=spec, val_fraction=_parse(spec)[0].val_fraction)


def read_parts(spec: str, *, image_size: int | None = None) -> Parts:
    """Read the files that a spec names, before any split is cut.

    Raises:
        InputError: as `load_dataset`.
    """
    reader, path = _parse(spec)
    if image_size is not None and not reader.resizes:
        refuse(
            f"image_size is {image_size} for {spec}",
            "only folder:PATH and imagenet:PATH resize pictures",
            "Leave image_size out",
        )
    return reader.read(path, image_size)


def _parse(spec: str) -> tuple[_Reader, str]:
    """Return the reader and the path that a spec names."""
    name, _, path = spec.partition(":")
    if name not in READERS:
        refuse(f"the data set is {spec!r}", f"it must be one of {SPEC_HELP}", _spec_hint(spec, name))
    reader = READERS[name]
    if bool(path) != bool(reader.argument):
        form = f"{name}:{reader.argument}".rstrip(":")
        refuse(f"the data set is {spec!r}", f"this kind is written {form}", f"Write {form}")
    return reader, path


def _spec_hint(spec: str, name: str) -> str:
    """Return what to write in place of a spec that names no kind."""
    if (place := Path(spec).expanduser()).is_dir():
        return f"For pictures in class folders write folder:{spec}"
    if place.suffix == ".npz" and ":" not in spec:
        return f"Write npz:{spec}"
    if place.exists():
        return (
            "Save its inputs and labels as arrays: `np.savez('mine.npz', x_train=inputs, y_train=labels)`, npz:mine.npz"
        )
    near = difflib.get_close_matches(name, READERS, n=1)
    return f"Write {near[0]}{spec[len(name) :]}" if near else "Choose one of these"
