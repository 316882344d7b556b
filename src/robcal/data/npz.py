"""The user's own arrays in one .npz file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from robcal.base.checks import check_readable, check_same_length, refuse
from robcal.base.files import reading
from robcal.base.npy import Header, npz_arrays, npz_headers
from robcal.data.dataset import Split
from robcal.data.labels import as_names, number_classes, plain_labels
from robcal.data.moments import named
from robcal.data.splits import Parts

PARTS = ("train", "val", "test")

Arrays = Mapping[str, npt.NDArray[Any]]

RULE = (
    "images are (N, C, H, W) or (N, H, W, C) with C = 1 or 3, uint8 or floats in [0, 1], or (N, H, W) uint8; "
    "tables are (N, D) numbers"
)

RULE_OF_FILE = "it must be written by numpy.savez, without objects"
#: A column is said to lose digits where the rounding of float32 reaches this share of its spread.
LOST_SHARE = 0.01


@dataclass(frozen=True)
class Layout:
    """What the arrays of the parts are called in a file; {part} stands for the part's name."""

    inputs: str
    labels: str

    def keys(self, part: str) -> tuple[str, str]:
        """Return the names of the inputs and labels of a part."""
        return self.inputs.format(part=part), self.labels.format(part=part)

    def __str__(self) -> str:
        inputs, labels = self.keys("train")
        return f"{inputs} and {labels} (and the same of val and test)"


#: By their keys: robcal's own and Keras's (mnist.npz), and MedMNIST's.
LAYOUTS = (Layout("x_{part}", "y_{part}"), Layout("{part}_images", "{part}_labels"))


def read_npz(path: str) -> Parts:
    """Read x_train, y_train, x_val, y_val, x_test, y_test and class_names (Z strings), or what MedMNIST has.

    MedMNIST's keys are train_images, train_labels, val_images and so on; Keras's files have the first ones. What the
    inputs are is said by their shape and dtype, never guessed from values: 4-d inputs are images (N, C, H, W), or (N,
    H, W, C) if only their last axis is 1 or 3, as uint8 in 0 … 255 or as floats in [0, 1]; 3-d uint8 inputs are grey
    images (N, H, W); 2-d inputs are a table (N, D) of any finite numbers, without a box. What may be either is refused.
    Labels are (N,) or (N, 1): integers 0 … Z - 1, or the names of the classes. No object is ever unpickled.
    """
    file = check_readable(Path(path).expanduser(), "npz file")
    if file.suffix == ".npy":
        fix = f"`np.savez('mine.npz', x_train=np.load({str(file)!r}), y_train=labels)`"
        refuse(f"{file} is no npz file, but one array", RULE_OF_FILE, f"Put inputs and labels into one: {fix}")
    with reading(file, "npz file", rule=RULE_OF_FILE, fix=_fix):
        held = npz_headers(file)
    layout = _layout(held, file)
    keys = {part: layout.keys(part) for part in PARTS if set(layout.keys(part)) & set(held) or part == "train"}
    if lost := [key for pair in keys.values() for key in pair if key not in held]:
        _refuse_keys(held, file, f"no {', '.join(lost)}")
    used = [key for pair in keys.values() for key in pair] + [name for name in ("class_names",) if name in held]
    with reading(file, "npz file", rule=RULE_OF_FILE, fix=_fix):
        arrays = npz_arrays(file, used)
    inputs = {part: _inputs(arrays[x], x) for part, (x, _) in keys.items()}
    called = {part: x for part, (x, _) in keys.items()}
    _check_alike(inputs, called)
    labels = {part: plain_labels(arrays[y], name=y) for part, (_, y) in keys.items()}
    for part, (_, y) in keys.items():
        check_same_length(len(inputs[part]), len(labels[part]), "the examples", y)
    numbers, class_names, notes = number_classes(
        labels, _names(arrays), called={part: y for part, (_, y) in keys.items()}
    )
    x, stored = called["train"], arrays[called["train"]].shape
    moved = (f"{x} {stored} is taken as images (N, C, H, W)",) if stored != inputs["train"].shape else ()
    unused = [name for name in held if name not in used]
    left = (f"arrays of {file.name} that are not used: {', '.join(unused)}",) if unused else ()
    parts = {part: Split(inputs[part], numbers[part]) for part in keys}
    notes = (*moved, *left, *notes, *_lost_digits(arrays[x], x))
    if inputs["train"].ndim == 4:
        return Parts(file.stem, parts, class_names, notes=notes)
    return Parts(file.stem, parts, class_names, box=None, kind="table", notes=notes)


def _fix(reason: str) -> str:
    """Return what to do with a file that is not read as plain arrays."""
    if "Python objects" in reason:
        return "Save numbers as numbers, `x_train.astype(float)`, and names as strings, `class_names.astype(str)`"
    return "Write it again with np.savez"


def _layout(arrays: Mapping[str, Header], file: Path) -> Layout:
    """Return the layout of which the file has the most arrays, or refuse a file that has none of any."""
    counts = [sum(key in arrays for part in PARTS for key in layout.keys(part)) for layout in LAYOUTS]
    if not any(counts):
        _refuse_keys(arrays, file, "no arrays by the names that robcal knows")
    return LAYOUTS[int(np.argmax(counts))]


def _refuse_keys(arrays: Mapping[str, Header], file: Path, lost: str) -> NoReturn:
    found = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()) or "none"
    given = f"{file} has {lost}; its arrays are {found}"
    fix = f"Save the inputs and labels under these names: `np.savez({str(file)!r}, x_train=inputs, y_train=labels)`"
    refuse(given, f"the arrays are called {', or '.join(map(str, LAYOUTS))}", fix)


def _inputs(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return `array` as uint8 images (N, C, H, W), as float32 images, or as a float32 table."""
    if array.size == 0:
        refuse(f"{name} is empty, of shape {array.shape}", "a part holds at least one example", "Leave the part out")
    array = _channels_first(array, name)
    if array.ndim == 4 and array.dtype == np.uint8:
        if array.max() <= 1 and len(array) > 1:
            given = f"{name} is uint8 and holds nothing above 1"
            refuse(given, "255 is white in uint8 images", f"If 1 is white, save `{name}.astype(np.float32)`")
        return array
    if array.dtype.kind not in ("f" if array.ndim == 4 else "fiub"):
        _refuse_dtype(array, name)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    _check_finite(array, values, name)
    if array.ndim == 4 and (values.min() < 0 or values.max() > 1):
        fix = f"Undo the normalisation, which is part of the model: `{name} * std + mean`"
        if values.min() >= 0 and values.max() <= 255:
            fix = f"Divide by 255: `{name} / 255`"
        refuse(f"{name} holds {values.min():.4g} to {values.max():.4g}", "float images lie in [0, 1]", fix)
    return values


def _channels_first(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return a table as it is, and images as (N, C, H, W), by the rule of `read_npz`."""
    if array.ndim == 3 and array.dtype == np.uint8:
        return array[:, None]
    if array.ndim == 4 and (array.shape[1] in (1, 3)) != (array.shape[3] in (1, 3)):
        return array if array.shape[1] in (1, 3) else array.transpose(0, 3, 1, 2)
    if array.ndim != 2:
        refuse(f"{name} has shape {array.shape} and dtype {array.dtype}", RULE, _shape_hint(array, name))
    return array


def _shape_hint(array: npt.NDArray[Any], name: str) -> str:
    """Return what to save instead of an array whose shape says nothing, or two things."""
    table = f"As a table save `{name}.reshape(len({name}), -1)`"
    if array.ndim == 0:
        return "Save one row an example"
    if array.ndim == 1:
        return f"If each example is one number, save `{name}[:, None]`"
    if array.ndim == 3:
        return f"If they are grey images, save `{name}[:, None]`. {table}"
    if array.ndim == 4 and array.shape[1] in (1, 3):
        wider = f"`np.pad({name}, ((0, 0), (0, 0), (0, 0), (0, 1)))`"
        return f"Either axis may be the channels. Of images (N, C, H, W) pad the width: {wider}. {table}"
    if array.ndim == 4 and 4 in (array.shape[1], array.shape[3]):
        part = f"{name}[..., :3]" if array.shape[3] == 4 else f"{name}[:, :3]"
        return f"If the fourth channel is transparency, leave it out: `{part}`. {table}"
    return table


def _refuse_dtype(array: npt.NDArray[Any], name: str) -> NoReturn:
    """Say what to convert inputs of other dtypes to."""
    fix = f"If these are numbers, save `{name}.real.astype(float)`"
    if array.ndim == 4 and array.dtype.kind in "iub":
        low, high = int(array.min()), int(array.max())
        fix = f"Bring {low} … {high} to floats in [0, 1]: `({name} - ({low})) / {high - low}`"
        if low >= 0 and high <= 255:
            fix = f"Save `{name}.astype(np.{'uint8' if high > 1 else 'float32'})`"
    refuse(f"{name} has dtype {array.dtype} and shape {array.shape}", RULE, fix)


def _check_finite(array: npt.NDArray[Any], values: npt.NDArray[np.float32], name: str) -> None:
    rows = np.isfinite(values).reshape(len(values), -1).all(1)
    if rows.all():
        return
    row, axes = int(np.flatnonzero(~rows)[0]), tuple(range(1, array.ndim))
    if np.isfinite(array[row]).all():
        fix = f"Divide by what is large, such as `{name} / np.abs({name}).max(axis=0).clip(1)`"
        refuse(f"{name} holds numbers too large for float32 (first in row {row})", "magnitudes below 3e38", fix)
    refuse(
        f"{name} holds NaN or infinity in {int((~rows).sum())} rows (first in row {row})",
        "finite numbers",
        f"Leave these rows out (`np.isfinite({name}).all(axis={axes})` tells those to keep, of the labels too), or "
        f"fill the gaps, such as `np.where(np.isfinite({name}), {name}, 0)`",
    )


def _check_alike(inputs: Mapping[str, npt.NDArray[Any]], called: Mapping[str, str]) -> None:
    """Refuse parts whose examples differ in shape or dtype."""
    train = inputs["train"]
    for part, array in inputs.items():
        if array.shape[1:] != train.shape[1:] or array.dtype != train.dtype:
            x = called[part]
            if array.shape[1:] != train.shape[1:]:
                fix = f"Bring {x} to the columns or the size of {called['train']}"
            else:
                fix = f"Save `{x} / 255`" if array.dtype == np.uint8 else f"Save `(255 * {x}).round().astype(np.uint8)`"
            given = f"{x} is {array.dtype} {array.shape[1:]}, {called['train']} {train.dtype} {train.shape[1:]}"
            refuse(given, "all parts hold the same kind of input", fix)


def _names(arrays: Arrays) -> tuple[str, ...] | None:
    """Return the names of the classes that the file holds, in the order of their numbers."""
    names = arrays.get("class_names")
    if names is None:
        return None
    if names.ndim != 1:
        refuse(f"class_names has shape {names.shape}", "it must be (Z,) strings", "Save `class_names.ravel()`")
    if names.dtype.kind not in "US":
        refuse(f"class_names is {names.dtype}", "it must be (Z,) strings", "Save `class_names.astype(str)`")
    return tuple(as_names(names, name="class_names").tolist())


def _lost_digits(array: npt.NDArray[Any], name: str) -> tuple[str, ...]:
    """Return a note on the columns of a table that say less in float32: they differ in their last digits only."""
    if array.ndim != 2 or array.dtype.itemsize < 4 or array.dtype == np.float32:
        return ()
    exact = array.astype(np.float64)
    error = exact - array.astype(np.float32)
    found = np.flatnonzero(error.std(0) > LOST_SHARE * exact.std(0))
    if not found.size:
        return ()
    return (
        f"{named('column', found)} kept in fewer digits than {name} needs ({array.dtype} becomes float32): subtract an "
        "offset before saving, of a time its start",
    )
