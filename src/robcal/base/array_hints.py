"""What to do about an array that was refused: a hint for each case, as code that runs on what was handed in.

The code takes lists and tensors too. The values of an array are looked at here only to choose the hint; nothing is
computed from a guess.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
AnyArray = npt.NDArray[Any]


def code_of(name: str, otherwise: str) -> str:
    """Return the argument's name where it can stand in code, else `otherwise`."""
    return name if all(part.isidentifier() for part in name.split(".")) else otherwise


def _by_last_axis(code: str) -> str:
    return f"np.reshape({code}, (-1, np.shape({code})[-1]))"


def _two_classes(code: str) -> str:
    return f"with `p = np.asarray({code})[:, k]`, `np.column_stack([1 - p, p])`"


def softmax_of(code: str) -> str:
    """Say how to make probabilities of (N, Z) logits."""
    return f"`np.exp((z := np.asarray({code})) - np.logaddexp.reduce(z, axis=1, keepdims=True))`"


def of_numbers(array: AnyArray, code: str) -> str:
    """Say how to make numbers of what has another dtype."""
    if array.dtype.kind in "US":
        return f"If they are numbers written as text: `np.asarray({code}, dtype=float)`"
    return f"`np.array({code}, dtype=float)` converts what can be converted, and says what cannot"


def of_shape(array: FloatArray, code: str) -> str:
    """Say how to make (N, Z) probabilities of another shape."""
    if array.ndim == 1 and len(array) > 2 and abs(array.sum() - 1) < 1e-3:
        return f"If this is one example: `np.reshape({code}, (1, -1))`"
    if array.ndim < 2 or array.shape[1:] == (1,):
        flat = f"np.ravel({code})"
        return f"If it holds the probability of class 1 of two classes: `np.column_stack([1 - {flat}, {flat}])`"
    return f"With the classes on the last axis, one example a row: `{_by_last_axis(code)}`"


def of_logits(array: FloatArray, code: str) -> str:
    """Say how to make (N, Z) logits of another shape."""
    if array.ndim < 2 or array.shape[1:] == (1,):
        flat = f"np.ravel({code})"
        return f"If it holds one logit of two classes: `np.column_stack([0 * {flat}, {flat}])`"
    return f"With the classes on the last axis, one example a row: `{_by_last_axis(code)}`"


def of_range(array: FloatArray, code: str) -> str:
    """Say how to make probabilities of what reaches beyond [0, 1]."""
    sums = array.sum(axis=1)
    if array.min() >= 0 and np.abs(sums - 100).max() < 1:
        return f"They are percentages: `np.asarray({code}) / 100`"
    if array.max() <= 1e-6 and np.abs(np.exp(array).sum(axis=1) - 1).max() < 1e-2:
        return f"They are logarithms of probabilities: `np.exp({code})`"
    return f"If these are logits: {softmax_of(code)}; robcal never guesses"


def of_sums(sums: FloatArray, code: str) -> str:
    """Say what to do with rows that do not sum to 1."""
    if np.abs(sums - 1).max() < 0.05:
        return f"If they were rounded: `{code} / np.sum({code}, axis=1, keepdims=True)`"
    return (
        f"If these are logits: {softmax_of(code)}. If each class has a probability of its own "
        f"(sigmoid, several labels an example), audit one class k at a time, as two classes: {_two_classes(code)}, and "
        "the label is 1 where the example has class k, else 0"
    )


def of_rows(array: AnyArray, code: str, n: int | None) -> str:
    """Say what to do with labels that are no vector, of n examples if that is known."""
    if array.ndim == 0:
        return f"For a single example: `np.atleast_1d({code})`"
    if array.shape[-1] == 1 or (array.size == max(array.shape) == n):
        return f"`np.ravel({code})` is"
    if array.ndim > 2:
        return f"One label a row, in the order of the rows of the probabilities: `np.ravel({code})`"
    if array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        if (array.sum(axis=1) == 1).all():
            return f"The rows are one-hot: `np.argmax({code}, axis=1)`"
        return (
            "Rows with several or no classes (several labels an example) have no one true class: audit one class k at "
            f"a time, as two classes, with the labels `np.asarray({code})[:, k]` and, for probabilities, "
            + _two_classes("probs")
        )
    return f"Rows that are no one-hot rows have no one true class; the largest entry is at `np.argmax({code}, axis=1)`"


def of_kind(array: AnyArray, code: str, num_classes: int | None) -> str:
    """Say what to do with labels that are no integers."""
    kind = array.dtype.kind
    if kind in "US" and all(text.lstrip("-").isdigit() for text in array.astype(str)):
        return f"They are numbers written as text: `np.asarray({code}, dtype=int)`"
    if kind in "US":
        return (
            "Put the index of each name in its place. If the columns of the probabilities stand in the sorted order of "
            f"the names (scikit-learn's `classes_`), with `classes` these names: `np.searchsorted(classes, {code})`"
        )
    if kind == "b" and num_classes is None:
        return f"For two classes: `np.asarray({code}, dtype=int)`"
    if (kind == "f" and not np.isfinite(array).all()) or (kind == "O" and any(value is None for value in array)):
        keep = f"`np.isfinite(np.asarray({code}, dtype=float))`"
        return f"Leave examples without a label out: {keep} tells those to keep, in every array"
    if kind == "f" and (array == np.round(array)).all():
        return f"They are whole numbers: `np.asarray({code}, dtype=int)`"
    return "Pass the index of the true class of each example, an integer, in the order of the classifier's outputs"


def of_numbering(array: AnyArray, code: str, num_classes: int | None) -> str:
    """Say what to do with integers that are no class indices."""
    if num_classes == 2 and set(np.unique(array)) == {-1, 1}:
        return f"They are -1 and 1: `(np.asarray({code}) + 1) // 2`"
    if array.min() < 0:
        keep = f"`np.asarray({code}) >= 0`"
        return f"If negative means that there is no label: {keep} tells the rows to keep, in every array"
    if array.min() >= 1 and array.max() == num_classes:
        return f"They are numbered from 1: `np.asarray({code}) - 1`"
    return (
        "Number the classes from 0, in the order of the columns of the probabilities; with the classes' own numbers "
        f"sorted: `np.searchsorted(classes, {code})`"
    )
