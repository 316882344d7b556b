"""Validators and the wording of errors: what was given, what is allowed, what to do.

Every public function checks its arguments here before any work starts. Nothing in this module guesses: whether an
array holds probabilities or logits is said by the argument's name, never read off its values.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Probabilities of one example may miss a sum of 1 by this much (float16 networks reach it).
PROBABILITY_SUM_TOLERANCE = 1e-3

#: The largest seed that every random generator here takes (torch holds seeds as signed 64-bit integers).
MAX_SEED = 2**63 - 1


class InputError(ValueError):
    """Bad input, refused before any work started. The command line prints it and exits with code 2."""


def refuse(given: str, allowed: str, fix: str) -> NoReturn:
    """Raise the one kind of error robcal raises for bad input.

    Args:
        given: what was given, as a clause ("labels hold 12 at index 3").
        allowed: what is allowed ("labels are integers from 0 to 9").
        fix: what to do ("pass num_classes=13 or mend the labels").

    Raises:
        InputError: always.
    """
    raise InputError(f"{given}; {allowed}. {fix}.")


def check_probs(probs: Any, *, name: str = "probs") -> FloatArray:
    """Return `probs` as a float64 array of shape (N, Z) whose rows are probability vectors.

    Args:
        probs: array-like of shape (N, Z), N >= 1, Z >= 2, entries in [0, 1], rows summing to 1 (tolerance 1e-3).
        name: the argument's name, for the error.

    Raises:
        InputError: on any other shape, dtype or value.
    """
    array = _numeric(probs, name)
    if array.ndim != 2 or array.shape[1] < 2:
        refuse(
            f"{name} has shape {array.shape}",
            "it must be (N, Z): one row an example, one column a class, at least two classes",
            "For a binary classifier with one score, pass np.stack([1 - p, p], axis=1)",
        )
    _not_empty(array, name)
    _finite(array, name)
    if array.min() < 0 or array.max() > 1:
        row = int(np.flatnonzero((array < 0).any(1) | (array > 1).any(1))[0])
        refuse(
            f"{name} holds {array.min():.4g} to {array.max():.4g} (first at row {row})",
            "probabilities lie in [0, 1]",
            "If these are logits, apply softmax first; robcal never guesses",
        )
    sums = array.sum(1)
    off = np.flatnonzero(np.abs(sums - 1) > PROBABILITY_SUM_TOLERANCE)
    if off.size:
        refuse(
            f"row {int(off[0])} of {name} sums to {sums[off[0]]:.6g} ({off.size} of {len(sums)} rows are off)",
            "each row must sum to 1",
            "If these are logits, apply softmax first; if they are independent scores, normalise them",
        )
    return array


def check_logits(logits: Any, *, name: str = "logits") -> FloatArray:
    """Return `logits` as a finite float64 array of shape (N, Z), Z >= 2.

    Raises:
        InputError: on any other shape, dtype or value.
    """
    array = _numeric(logits, name)
    if array.ndim != 2 or array.shape[1] < 2:
        refuse(f"{name} has shape {array.shape}", "it must be (N, Z) with at least two classes", "Reshape it")
    _not_empty(array, name)
    _finite(array, name)
    return array


def check_labels(
    labels: Any, *, n: int | None = None, num_classes: int | None = None, name: str = "labels"
) -> IntArray:
    """Return `labels` as an int64 array of shape (N,) with values in 0 … num_classes - 1.

    Args:
        labels: array-like of integers (bool and float are refused, one-hot rows too).
        n: the length it must have, if known.
        num_classes: Z, if known.
        name: the argument's name, for the error.

    Raises:
        InputError: on any other shape, dtype or value.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        refuse(
            f"{name} has dtype {array.dtype}",
            "labels are integers, the index of the class",
            f"Convert it, for example {name}.astype(int), if the values are whole numbers",
        )
    if array.ndim != 1:
        refuse(
            f"{name} has shape {array.shape}",
            "it must be (N,), one integer an example",
            "For one-hot rows pass labels.argmax(axis=1)",
        )
    _not_empty(array, name)
    if n is not None:
        check_same_length(n, len(array), "the examples", name)
    if array.min() < 0 or (num_classes is not None and array.max() >= num_classes):
        low_or_high = array.min() if array.min() < 0 else array.max()
        index = int(np.flatnonzero(array == low_or_high)[0])
        top = "Z - 1" if num_classes is None else str(num_classes - 1)
        refuse(
            f"{name} holds {low_or_high} at index {index}",
            f"labels are integers from 0 to {top}",
            "Number the classes from 0, in the order of the classifier's outputs",
        )
    return array.astype(np.int64)


def check_scores(scores: Any, *, n: int | None = None, name: str = "scores") -> FloatArray:
    """Return per-example scores as a float64 array of shape (N,); +inf (censored) is allowed, NaN is not.

    Raises:
        InputError: on any other shape, dtype or value.
    """
    array = _numeric(scores, name)
    if array.ndim != 1:
        refuse(f"{name} has shape {array.shape}", "it must be (N,), one score an example", "Pass one column")
    _not_empty(array, name)
    if n is not None:
        check_same_length(n, len(array), "the examples", name)
    if np.isnan(array).any() or np.isneginf(array).any():
        bad = int(np.flatnonzero(np.isnan(array) | np.isneginf(array))[0])
        refuse(
            f"{name} holds {array[bad]} at index {bad}",
            "a score is a number or +inf (censored: no adversarial example was found)",
            "Drop the example or score it again",
        )
    return array


def check_same_length(n: int, m: int, first: str, second: str) -> None:
    """Refuse two arrays that should describe the same examples and do not.

    Raises:
        InputError: if n != m.
    """
    if n != m:
        refuse(
            f"{first} number {n}, {second} has {m}",
            "both must describe the same examples in the same order",
            "Check that both come from the same split",
        )


def check_num_levels(num_levels: int, n: int, *, split: str = "the split") -> None:
    """Refuse a number of levels that is not an integer >= 1 or exceeds the number of examples.

    Raises:
        InputError: if so.
    """
    check_positive_int(num_levels, "num_levels")
    if n < num_levels:
        refuse(
            f"{split} has {n} examples for {num_levels} levels",
            "every level needs at least one example",
            "Ask for fewer levels (num_levels / --levels) or pass more examples",
        )


def check_positive_int(value: Any, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`.

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        refuse(f"{name} is {value!r}", f"it must be an integer of at least {minimum}", f"Change {name}")
    return int(value)


def check_seed(value: Any, name: str = "seed") -> int:
    """Return `value` as an int if it is a seed: an integer from 0 to 2^63 - 1.

    Args:
        value: what the user gave; bool and float are refused.
        name: of the argument or the flag, for the error.

    Raises:
        InputError: otherwise.

    Example:
        >>> check_seed(7), check_seed(2**63 - 1) == MAX_SEED
        (7, True)
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) <= MAX_SEED:
        refuse(f"{name} is {value!r}", "a seed is an integer from 0 to 2^63 - 1", f"Choose another {name}, such as 0")
    return int(value)


def check_fraction(value: float, name: str, *, low: float = 0.0, high: float = 1.0) -> float:
    """Return `value` if it lies strictly between `low` and `high`.

    Raises:
        InputError: otherwise.
    """
    if not (isinstance(value, (int, float, np.floating)) and low < value < high):
        refuse(f"{name} is {value!r}", f"it must lie strictly between {low:g} and {high:g}", f"Change {name}")
    return float(value)


def check_choice(value: str, allowed: Iterable[str], name: str) -> str:
    """Return `value` if it is one of `allowed`.

    Raises:
        InputError: otherwise; the message names the nearest choice.
    """
    import difflib

    choices = list(allowed)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of them for {name}"
        refuse(f"{name} is {value!r}", f"it must be one of {', '.join(choices)}", hint.rstrip("."))
    return value


def check_readable(path: Path, what: str) -> Path:
    """Return `path` if it is a file or folder that exists.

    Raises:
        InputError: otherwise.
    """
    if not path.exists():
        refuse(f"{what} {path} does not exist", "it must name an existing file or folder", "Check the spelling")
    return path


def check_output(path: Path, *, overwrite: bool) -> Path:
    """Return `path` if nothing is there, or if it may be overwritten; its parent must be a folder or creatable.

    Raises:
        InputError: if it exists and `overwrite` is false, or if a parent is a file.
    """
    if path.exists() and not overwrite:
        refuse(
            f"{path} exists",
            "an existing output is never overwritten unasked",
            "Pass --overwrite (overwrite=True) to replace it, or choose another name",
        )
    if path.is_dir():
        refuse(f"{path} is a folder", "the output must be a file", "Name a file inside it")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                refuse(f"{parent} is a file", "the output's parent must be a folder", "Choose another place")
            break
    return path


def _numeric(values: Any, name: str) -> FloatArray:
    """`values` as float64, refusing what is not numeric."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        refuse(f"{name} has dtype {array.dtype}", "it must be numeric", "Convert it to floating point")
    return array.astype(np.float64)


def _not_empty(array: npt.NDArray[Any], name: str) -> None:
    if array.shape[0] == 0:
        refuse(f"{name} is empty", "at least one example is needed", "Check the split and the file")


def _finite(array: FloatArray, name: str) -> None:
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
        count = int((~np.isfinite(array)).sum())
        refuse(f"{name} holds {count} NaN or infinite entries (first in row {row})", "all must be finite", "Mend them")
