"""Labels as files store them (one column, whole floats, names) → the integers 0 … Z - 1, and the names of the classes.

What is unambiguous is taken as it is meant; everything else is refused with what to do about it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from robcal.base.checks import IntArray, refuse

#: (N,) int64 or strings: labels before their classes are numbered.
PlainLabels = npt.NDArray[Any]

ONE_LABEL = "an example has one label: an integer, or the name of its class"


def plain_labels(values: Any, *, name: str, code: str = "") -> PlainLabels:
    """Return the labels of one part as (N,) int64 or (N,) strings in Unicode's form NFC; (N, 1) is taken as (N,).

    Booleans and whole floats become integers. `code` is the expression that stands for the array in advice.
    """
    array, code = np.asarray(values), code or name
    if array.dtype.kind not in "iufbUS":
        refuse(f"{name} has dtype {array.dtype}", ONE_LABEL, f"Save integers, `{code}.astype(int)`, or names")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        _refuse_shape(array, name, code)
    if array.dtype.kind in "US":
        return as_names(array, name=name)
    if array.dtype.kind == "f":
        _check_whole(array, name, code)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        refuse(f"{name} holds {array.max()}", "labels are small integers", f"Number those that occur: {_rank(code)}")
    return array.astype(np.int64)


def as_names(array: npt.NDArray[Any], *, name: str) -> npt.NDArray[np.str_]:
    """Return strings or UTF-8 bytes as strings of the form NFC, or refuse bytes that are none of these."""
    try:
        texts = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        refuse(f"{name} holds bytes that are no text ({error})", "names are UTF-8", "Save the names as strings (str)")
    return np.array([unicodedata.normalize("NFC", str(text)) for text in texts], dtype=np.str_)


def _check_whole(array: npt.NDArray[Any], name: str, code: str) -> None:
    missing = np.flatnonzero(~np.isfinite(array))
    if missing.size:
        given = f"{name} holds {array[missing[0]]} at index {missing[0]} ({missing.size} in all)"
        fix = f"Leave these examples out: `np.isfinite({code})` tells those to keep, of the inputs too"
        refuse(given, "every example has a label", fix)
    broken = np.flatnonzero((array != np.rint(array)) | (np.abs(array) > 2**53))
    if broken.size:
        given = f"{name} holds {array[broken[0]]:g} at index {broken[0]}"
        fix = f"Cut them into classes, such as `np.digitize({code}, np.quantile({code}, [1 / 3, 2 / 3]))`"
        refuse(given, f"{ONE_LABEL}; numbers to be predicted are no classes", fix)


def _refuse_shape(array: npt.NDArray[Any], name: str, code: str) -> NoReturn:
    """Say what a shape other than (N,) and (N, 1) looks like, and what to save instead."""
    given = f"{name} has shape {array.shape}"
    first = "[:, 0]" if array.ndim == 2 else f".reshape(len({code}), -1)[:, 0]"
    if array.size == max(array.shape, default=1):
        refuse(given, f"{ONE_LABEL}; labels are (N,) or (N, 1)", f"Save `{code}.ravel()`")
    if array.ndim == 2 and array.dtype.kind in "iufb" and (array >= 0).all() and np.allclose(array.sum(1), 1):
        kind = "one-hot rows" if np.isin(array, (0, 1)).all() else "probabilities"
        refuse(f"{given}: {kind}", ONE_LABEL, f"Save `{code}.argmax(axis=1)`")
    given = f"{given}, several labels an example"
    fix = f"Save the labels of one task, such as `{code}{first}`"
    refuse(given, f"{ONE_LABEL}; robcal takes no tasks of several labels an example", fix)


def number_classes(
    found: Mapping[str, PlainLabels], names: Sequence[str] | None, *, called: Mapping[str, str]
) -> tuple[dict[str, IntArray], tuple[str, ...], tuple[str, ...]]:
    """Number the classes of all parts: part → (N,) int64 in 0 … Z - 1, each in "train"; the Z names; and notes.

    All parts hold integers, or all names (`plain_labels`), which `called` tells of; `names` are in the order of the
    numbers, where the file has them: without them names are numbered in sorted order, and integers are their own names.
    """
    if names is not None and len(set(names)) < len(names):
        twice = next(text for text in names if list(names).count(text) > 1)
        refuse(f"two classes have the name {twice!r}", "names tell classes apart", "Give each a name of its own")
    if len({labels.dtype.kind == "U" for labels in found.values()}) > 1:
        kinds = ", ".join(f"{called[part]} {labels.dtype}" for part, labels in found.items())
        refuse(f"labels are {kinds}", "all parts hold integers, or all hold names", "Save them alike")
    notes: tuple[str, ...] = ()
    if found["train"].dtype.kind == "U":
        if names is None:
            names = sorted(set(found["train"].tolist()))
            notes = (f"classes are numbered by their sorted names: {_few(names)}",)
        numbers = {part: numbers_of(labels, names, name=called[part]) for part, labels in found.items()}
    else:
        numbers = {part: labels.astype(np.int64) for part, labels in found.items()}
    return numbers, _check_numbers(numbers, names, called), notes


def numbers_of(labels: PlainLabels, names: Sequence[str], *, name: str) -> IntArray:
    """Return the number of each name, or refuse a label that is none of the names."""
    number = {text: position for position, text in enumerate(names)}
    unknown = next((text for text in labels.tolist() if text not in number), None)
    if unknown is not None:
        given = f"{name} holds {unknown!r}, which is no class of training"
        refuse(given, f"classes are {_few(names)}", "Correct the name, or leave these examples out")
    return np.array([number[text] for text in labels.tolist()], np.int64)


def _check_numbers(
    numbers: Mapping[str, IntArray], names: Sequence[str] | None, called: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the names of the classes, where every class of every part occurs in training."""
    train, y = np.unique(numbers["train"]), called["train"]
    rule = f"classes are 0 … Z - 1, two or more, each in {y}"
    if train[0] == 1 and len(train) == train[-1] > 1 and (names is None or len(names) == len(train)):
        refuse(f"{y} holds 1 to {train[-1]} and no 0", rule, f"Save `{y} - 1`, and the labels of other parts likewise")
    for part, labels in numbers.items():
        _check_part(labels, called[part], numbers["train"], y, names, rule)
    if len(train) < 2:
        refuse(f"{y} holds one class, {train[0]}", rule, "Add examples of another class")
    count = int(train[-1]) + 1 if names is None else len(names)
    if len(train) < count:
        absent = int(np.setdiff1d(np.arange(count), train)[0])
        named = "" if names is None else f" ({names[absent]})"
        fix = "Number" if names is None else f"Save `class_names[np.unique({y})]`, and number"
        given = f"{y} lacks class {absent}{named} of {count}"
        refuse(given, rule, f"{fix} those that occur: {_rank(y)}, and other parts by the same numbers")
    return tuple(str(number) for number in range(count)) if names is None else tuple(names)


def _check_part(labels: IntArray, called: str, train: IntArray, y: str, names: Sequence[str] | None, rule: str) -> None:
    """Refuse labels of one part that have no name, or that training lacks."""
    if labels.min() < 0:
        fix = f"Leave examples without a label out: `{called} >= 0` tells those to keep, of the inputs too"
        if set(labels.tolist()) == {-1, 1}:
            fix = f"Save `({called} + 1) // 2`, and the labels of other parts likewise"
        refuse(f"{called} holds {labels.min()} at index {int(labels.argmin())}", rule, fix)
    if names is not None and labels.max() >= len(names):
        index = int(labels.argmax())
        given = f"{called} holds {labels[index]} at index {index}, and {len(names)} classes have names"
        refuse(given, rule, "Add the missing names, or correct the label")
    new = np.setdiff1d(labels, train)
    if new.size:
        fix = f"Leave these examples out: `np.isin({called}, {y})` tells those to keep, of the inputs too"
        refuse(f"{called} holds class {new[0]}, which {y} lacks", rule, fix)


def _rank(y: str) -> str:
    """Return the expression that numbers the classes that occur."""
    return f"`np.searchsorted(np.unique({y}), {y})`"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
