"""The user's own arrays in one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.checks import check_labels, check_readable, refuse
from robcal.data.dataset import Split
from robcal.data.splits import Parts

PARTS = ("train", "val", "test")

RULE = "images are (N, C, H, W) with C = 1 or 3, uint8 or floats in [0, 1]; tables are (N, D)"

#: What numpy and zipfile raise on damaged, encrypted or unknown content.
DAMAGE = (
    *(ValueError, OSError, EOFError, AttributeError, TypeError, RuntimeError, SyntaxError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


def read_npz(path: str) -> Parts:
    """Arrays x_train, y_train, optional x_val, y_val, x_test, y_test and class_names (Z strings).

    The rule, never guessed from values: a 4-d `x` is images (N, C, H, W), uint8 in 0 … 255 or floats in [0, 1]; a 2-d
    `x` is a table (N, D), any finite numbers, without a box. `y` is (N,) integers 0 … Z - 1, every class in y_train.
    Floats are kept as float32. No object is ever unpickled.

    Args:
        path: an .npz file, as `numpy.savez` or `numpy.savez_compressed` writes it.

    Returns:
        The parts the file has.

    Raises:
        InputError: if the file is unreadable, an array is missing, or values are not what they must be.
    """
    file = check_readable(Path(path).expanduser(), "npz file")
    arrays = _load(file)
    names = [name for name in PARTS if f"x_{name}" in arrays or f"y_{name}" in arrays or name == "train"]
    lost = [f"{axis}_{name}" for name in names for axis in "xy" if f"{axis}_{name}" not in arrays]
    if lost:
        have = ", ".join(arrays) or "none"
        refuse(f"{file} has no {', '.join(lost)}; its arrays are {have}", f"x_train and y_train; {RULE}", "Add them")
    inputs = {name: _inputs(arrays[f"x_{name}"], f"x_{name}") for name in names}
    _check_alike(inputs)
    labels = {name: check_labels(arrays[f"y_{name}"], n=len(inputs[name]), name=f"y_{name}") for name in names}
    class_names = _class_names(arrays, labels)
    known = {f"{axis}_{name}" for name in PARTS for axis in "xy"} | {"class_names"}
    unused = [name for name in arrays if name not in known]
    image = inputs["train"].ndim == 4
    return Parts(
        name=file.stem,
        parts={name: Split(inputs=inputs[name], labels=labels[name]) for name in names},
        class_names=class_names,
        box=(0.0, 1.0) if image else None,
        kind="image" if image else "table",
        notes=(f"arrays of {file.name} that are not used: {', '.join(unused)}",) if unused else (),
    )


def _load(file: Path) -> dict[str, npt.NDArray[Any]]:
    """Every array of the file."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except DAMAGE as error:
        refuse(
            f"{file} is no readable npz file of plain arrays ({error})",
            "it must be written by numpy.savez without objects",
            "Save it again, with numeric arrays",
        )


def _inputs(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """`array` as uint8 images, float32 images or a float32 table."""
    if array.ndim not in (2, 4) or (array.ndim == 4 and array.shape[1] not in (1, 3)):
        last = array.ndim == 4 and array.shape[3] in (1, 3)
        fix = f"If the channels come last, save {name}.transpose(0, 3, 1, 2)" if last else "Reshape it"
        refuse(f"{name} has shape {array.shape}", RULE, fix)
    if array.size == 0:
        refuse(f"{name} is empty, of shape {array.shape}", "a part holds at least one example", "Leave it out")
    if array.ndim == 4 and array.dtype == np.uint8:
        return array
    if array.dtype.kind not in ("f" if array.ndim == 4 else "fiub"):
        refuse(f"{name} has dtype {array.dtype} and shape {array.shape}", RULE, "Convert it")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argwhere(~finite)[0, 0])
        refuse(f"{name} holds NaN, infinite or too large entries (first in row {row})", "float32 numbers", "Mend them")
    if array.ndim == 4 and (values.min() < 0 or values.max() > 1):
        refuse(
            f"{name} holds {values.min():.4g} to {values.max():.4g}",
            "float images lie in [0, 1]",
            "Undo the normalisation (it is part of the model), or save 0 … 255 as uint8",
        )
    return values


def _check_alike(inputs: dict[str, npt.NDArray[Any]]) -> None:
    """Refuse parts whose examples differ in shape or dtype."""
    train = inputs["train"]
    for name, array in inputs.items():
        if array.shape[1:] != train.shape[1:] or array.dtype != train.dtype:
            refuse(
                f"x_{name} is {array.dtype} {array.shape[1:]}, x_train {train.dtype} {train.shape[1:]}",
                "all parts hold the same kind of input",
                "Save them alike",
            )


def _class_names(arrays: dict[str, npt.NDArray[Any]], labels: dict[str, npt.NDArray[np.int64]]) -> tuple[str, ...]:
    """The names of the classes, checked against the labels: every class occurs in y_train."""
    found = np.unique(np.concatenate(list(labels.values())))
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        refuse(f"class_names is {names.dtype} of shape {names.shape}", "it must be (Z,) strings", "Save it so")
    count = int(found[-1]) + 1 if names is None else len(names)
    if found[-1] >= count:
        refuse(f"labels reach {found[-1]}, class_names has {count}", "labels are 0 … Z - 1", "Add the missing names")
    absent = np.setdiff1d(np.arange(count), labels["train"])
    if count < 2 or absent.size:
        what = f"y_train lacks class {int(absent[0])}" if absent.size else "there is one class"
        refuse(f"{what} of {count}", "classes are 0 … Z - 1, two or more, each in y_train", "Renumber the classes")
    return tuple(str(number) for number in range(count)) if names is None else tuple(map(str, names))
