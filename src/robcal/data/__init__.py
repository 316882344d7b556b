"""Data sets: one reader a file format, one function that opens them all.

Example:
    >>> data = load_dataset("digits", seed=1)
    >>> {name: len(split) for name, split in data.splits.items()}, data.input_shape
    ({'train': 755, 'val': 323, 'test': 719}, (1, 8, 8))
"""

from __future__ import annotations

import difflib
import pkgutil
from pathlib import Path

from robcal.base.checks import refuse
from robcal.base.extras import refuse_untrainable
from robcal.base.names import READERS
from robcal.data.dataset import Dataset, Split
from robcal.data.splits import CutOptions, Parts, assemble

__all__ = ["Dataset", "SPEC_HELP", "Split", "load_dataset", "read_parts"]
#: The specs `load_dataset` takes, for help texts and errors.
SPEC_HELP = ", ".join(kind.written(name) for name, kind in READERS.items())


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
    return assemble(parts or read_parts(spec, image_size=image_size), options, spec=spec)


def read_parts(spec: str, *, image_size: int | None = None) -> Parts:
    """Read the files that a spec names, before any split is cut; raises as `load_dataset` does."""
    name, _, path = spec.partition(":")
    if name not in READERS:
        refuse(f"the data set is {spec!r}", f"it must be one of {SPEC_HELP}", _spec_hint(spec, name))
    kind, form = READERS[name], READERS[name].written(name)
    if bool(path) != bool(kind.argument):
        refuse(f"the data set is {spec!r}", f"this kind is written {form}", f"Write {form}")
    if image_size is not None and not kind.resizes:
        given = f"image_size is {image_size} for {spec}"
        refuse(given, "only folder:PATH and imagenet:PATH resize pictures", "Leave image_size out")
    try:
        read = pkgutil.resolve_name(kind.reader)
    except ModuleNotFoundError as error:
        refuse_untrainable(error, f"the data set {spec}")
    found: Parts = read(path, image_size) if kind.resizes else read(path)
    return found


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
