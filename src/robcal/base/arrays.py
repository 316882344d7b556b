"""Arrays that users hand in: read from whatever holds them, checked, and refused with what helps in their case.

Nothing here guesses what an array means: whether it holds probabilities or logits is said by the argument's name. Its
values are looked at for one purpose only, to say in an error what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base import array_hints as hints
from robcal.base.errors import refuse

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Precision:
    """How exact probabilities of one floating-point format are."""

    dtype: np.dtype[Any]  # the numpy format that holds them without loss (float32 for bfloat16)
    of_sum: float  # a row may miss a sum of 1 by this much
    of_entry: float  # an entry may lie outside [0, 1] by this much, and is then clipped
    # -ln of the smallest positive number, in nats: what a probability that has underflowed to 0 costs at least
    cost_of_zero: float


def _precision(dtype: str, of_sum: float, of_entry: float, exponent: int) -> Precision:
    return Precision(np.dtype(dtype), of_sum, of_entry, exponent * math.log(2))


#: What holds the entries of a row.
_ROWS = (list, tuple, np.ndarray)

#: Name of the format → its precision. Rounding a row to bfloat16 moves its sum by up to 2^-8.
PRECISIONS = {
    "bfloat16": _precision("float32", 2**-7, 2**-7, 133),
    "float16": _precision("float16", 1e-3, 1e-3, 24),
    "float32": _precision("float32", 1e-3, 1e-6, 149),
    "float64": _precision("float64", 1e-3, 1e-6, 1074),
}


def precision_of(values: Any) -> Precision:
    """Return the precision in which `values` come; float64 for anything that is no array of floating-point numbers."""
    name = str(getattr(values, "dtype", "")).removeprefix("torch.")
    return PRECISIONS.get(name) or PRECISIONS.get(as_array(values, "the array").dtype.name, PRECISIONS["float64"])


def as_array(values: Any, name: str) -> AnyArray:
    """Return `values`, the argument `name`, as a numpy array, from any library and device; masked entries are refused.

    bfloat16 is widened to float32. Objects become the numbers, strings or rows (N, K) that they all are.
    """
    code = hints.code_of(name, "values")
    if isinstance(values, (list, tuple)):
        if any(np.ma.isMaskedArray(part) for part in values):
            code, values = f"np.ma.array({code})", np.ma.array(values)
        else:
            values = [as_array(part, name) if _holds_arrays(part) else part for part in values]
    if np.ma.isMaskedArray(values):
        _refuse_masked(values, name, code)
    try:
        tensor = hasattr(values, "detach") and hasattr(values, "cpu")
        array = np.asarray(_of_tensor(values) if tensor else values)
    except (ValueError, TypeError, RuntimeError) as error:
        _refuse_no_array(values, name, error)
    if array.dtype.kind == "O" and array.ndim == 1 and len(array) and all(isinstance(part, _ROWS) for part in array):
        return as_array(list(array), name)
    return np.array(array.tolist()) if array.dtype.kind == "O" and _is_plain(array) else array


def as_numbers(values: Any, name: str) -> FloatArray:
    """Return `values` as a float64 array of their own (a copy)."""
    array = as_array(values, name)
    if array.dtype.kind not in "fiub":
        given = f"{name} has dtype {array.dtype}"
        refuse(given, "it must hold real numbers", hints.of_numbers(array, hints.code_of(name, "values")))
    return array.astype(np.float64)


def check_probs(probs: Any, *, name: str = "probs") -> FloatArray:
    """Return `probs` as float64 (N, Z), N >= 1, Z >= 2, whose rows sum to 1 as exactly as their precision allows."""
    array, precision = as_numbers(probs, name), precision_of(probs)
    _check_rows(array, name, "probs")
    sums = array.sum(1)
    if np.abs(sums - 1).max() > precision.of_sum and _holds_bfloat16(array):
        precision = PRECISIONS["bfloat16"]
    low, high = float(array.min()), float(array.max())
    if low < -precision.of_entry or high > 1 + precision.of_entry:
        row = int(np.flatnonzero((array < -precision.of_entry).any(1) | (array > 1 + precision.of_entry).any(1))[0])
        given = f"{name} holds {low:.4g} to {high:.4g} (first at row {row})"
        refuse(given, "probabilities lie in [0, 1]", hints.of_range(array, hints.code_of(name, "probs")))
    off = np.flatnonzero(np.abs(sums - 1) > precision.of_sum)
    if off.size:
        given = f"row {int(off[0])} of {name} sums to {sums[off[0]]:.6g} ({off.size} of {len(sums)} rows are off)"
        refuse(given, "each row must sum to 1", hints.of_sums(sums, hints.code_of(name, "probs")))
    return np.clip(array, 0, 1, out=array) if low < 0 or high > 1 else array


def check_logits(logits: Any, *, name: str = "logits") -> FloatArray:
    """Return `logits` as a float64 array of shape (N, Z), Z >= 2; -inf marks a class that cannot be, in its row."""
    array = as_numbers(logits, name)
    _check_rows(array, name, "logits")
    code, impossible = hints.code_of(name, "logits"), np.flatnonzero(array.max(axis=1) == -np.inf)
    if impossible.size:
        given = f"row {int(impossible[0])} of {name} is -inf throughout ({impossible.size} rows are)"
        fix = f"Leave these rows out: `np.isfinite({code}).any(axis=1)` tells those to keep, in every array"
        refuse(given, "-inf says that a class cannot be, and one must be left", fix)
    return array


def check_no_probs(logits: Any, taker: str, fix: str, *, name: str = "logits") -> FloatArray:
    """Return checked logits (N, Z); refuse rows that all lie in [0, 1] and sum to 1, which `taker` does not take."""
    array = check_logits(logits, name=name)
    if array.min() >= 0 and array.max() <= 1 and np.abs(array.sum(axis=1) - 1).max() < 1e-3:
        refuse(
            f"every row of {name} lies in [0, 1] and sums to 1",
            f"{taker} takes logits, and these are probabilities",
            f"{fix}; if they are logits after all, `np.asarray({name}) - 1` means the same",
        )
    return array


def check_labels(
    labels: Any, *, n: int | None = None, num_classes: int | None = None, name: str = "labels"
) -> IntArray:
    """Return `labels` as int64 (N,) in 0 … num_classes - 1: integers, or booleans where there are two classes."""
    array = as_array(labels, name)
    code = hints.code_of(name, "labels")
    _not_empty(array, name)
    if array.ndim != 1:
        refuse(
            f"{name} has shape {array.shape}", "it must be (N,), one integer an example", hints.of_rows(array, code, n)
        )
    if array.dtype.kind == "b" and num_classes == 2:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        given = f"{name} has dtype {array.dtype}"
        refuse(given, "labels are integers, the index of the class", hints.of_kind(array, code, num_classes))
    if n is not None:
        check_same_length(n, len(array), "the examples", name)
    if array.min() < 0 or (num_classes is not None and array.max() >= num_classes):
        low_or_high = array.min() if array.min() < 0 else array.max()
        index = int(np.flatnonzero(array == low_or_high)[0])
        top = "Z - 1" if num_classes is None else str(num_classes - 1)
        given = f"{name} holds {low_or_high} at index {index}"
        refuse(given, f"labels are integers from 0 to {top}", hints.of_numbering(array, code, num_classes))
    return array.astype(np.int64)


def check_flags(flags: Any, *, n: int, name: str) -> npt.NDArray[np.bool_]:
    """Return what is true of each example as booleans of shape (N,), from booleans or 0 and 1."""
    array = as_array(flags, name)
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        kind = array.ndim == 1 and array.dtype.kind in "biuf"
        given = f"{name} holds other values than 0 and 1" if kind else f"{name} is {array.dtype} of shape {array.shape}"
        fix = "Compare prediction and label: `np.argmax(probs, axis=1) == labels`"
        refuse(given, "it must be (N,) booleans, or 0 and 1: whether the prediction of each example is right", fix)
    check_same_length(n, len(array), "the examples", name)
    return array.astype(np.bool_)


def check_scores(scores: Any, *, n: int | None = None, name: str = "scores") -> FloatArray:
    """Return per-example scores as a float64 array of shape (N,); +inf (censored) is allowed, NaN is not."""
    given, code = as_array(scores, name), hints.code_of(name, "scores")
    array = as_numbers(given, name)
    _not_empty(array, name)
    large = given.dtype.kind in "iu" and np.abs(array).max() >= 2**53
    if large and len(np.unique(array)) < len(np.unique(given)):
        refuse(
            f"{name} holds whole numbers up to {given.max()}",
            "numbers beyond 2^53 are rounded, and some of these become one",
            f"Their ranks have the same order: `np.unique({code}, return_inverse=True)[1]`",
        )
    if array.ndim != 1:
        flat = array.size == max(array.shape, default=1)
        fix = f"`np.ravel({code})` is one" if flat else f"Pass one column, such as `np.asarray({code})[:, 0]`"
        refuse(f"{name} has shape {array.shape}", "it must be (N,), one score an example", fix)
    if n is not None:
        check_same_length(n, len(array), "the examples", name)
    if np.isnan(array).any() or np.isneginf(array).any():
        bad = int(np.flatnonzero(np.isnan(array) | np.isneginf(array))[0])
        known = f"`~np.isnan(np.asarray({code}, dtype=float))`"
        lowest = f"`np.maximum({code}, np.finfo(np.float64).min)` keeps it as the lowest score"
        refuse(
            f"{name} holds {array[bad]} at index {bad}",
            "a score is a number or +inf (censored: no adversarial example was found)",
            f"Leave these examples out: {known} tells those to keep, in every array"
            if np.isnan(array).any()
            else lowest,
        )
    return array


def check_same_length(n: int, m: int, first: str, second: str) -> None:
    """Refuse two arrays that should describe the same examples and do not."""
    if n != m:
        refuse(
            f"{first} number {n}, {second} has {m}",
            "both must describe the same examples in the same order",
            "Check that both come from the same split, that the last batch was not dropped from one of them, and that "
            "the first line of a text file was not taken for names, or for data (FILE:NAME reads one column)",
        )


def check_same_rows(**tables: Any) -> None:
    """Refuse tables and columns of pandas whose rows have the same names in different orders, which no one looks at.

    A name that is a row's number, as pandas gives it, says nothing. What is no table or column of pandas may be given.
    """
    told = [(name, one.index) for name, one in tables.items() if hasattr(one, "iloc") and not _is_numbered(one.index)]
    for name, index in told[1:]:
        first_name, first = told[0]
        if len(index) == len(first) and first.is_unique and not index.equals(first) and first.isin(index).all():
            refuse(
                f"the index of {name} holds the rows of {first_name} in another order",
                "rows belong together as they stand, whatever the index says",
                f"Put them in one order: `{name}.loc[{first_name}.index]`; if they are in the right one, take the "
                f"index off: `{name}.to_numpy()`",
            )


def _is_numbered(index: Any) -> bool:
    """Tell whether an index of pandas counts the rows."""
    return bool(index.dtype.kind == "i" and (np.asarray(index) == np.arange(len(index))).all())


def _of_tensor(tensor: Any) -> AnyArray:
    """Return a torch tensor, on any device and with gradients, as a numpy array."""
    tensor = tensor.detach().cpu()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:  # bfloat16 and the 8-bit formats, which numpy lacks
        return np.asarray(tensor.float().numpy())


def _holds_arrays(part: Any) -> bool:
    """Tell whether it is an array, a tensor or a table, or a list of these."""
    return hasattr(part[0] if isinstance(part, (list, tuple)) and part else part, "__array__")


def _refuse_masked(values: Any, name: str, code: str) -> None:
    count = int(np.ma.getmaskarray(values).sum())
    if count:
        refuse(
            f"{count} of the {values.size} entries of {name} are masked",
            "a masked entry has no value, and is neither left out nor filled in by itself",
            f"Leave these examples out: `~np.ma.getmaskarray({code}).reshape(len({code}), -1).any(axis=1)` tells those "
            "to keep, in every array",
        )


def _refuse_no_array(values: Any, name: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:120]
    lengths = {len(part) for part in values if hasattr(part, "__len__")} if isinstance(values, list) else set()
    refuse(
        f"{name} cannot be read as an array ({reason})",
        "it must be an array, a tensor, or a list of rows of one length",
        f"Its rows have {min(lengths)} to {max(lengths)} entries: give each as many"
        if len(lengths) > 1
        else "Make an array of its numbers first",
    )


def _is_plain(array: AnyArray) -> bool:
    """Tell whether all objects are strings, or all are numbers or booleans."""
    kinds = {type(value) for value in array.ravel().tolist()}
    numbers = (bool, int, float, np.number, np.bool_)
    return all(issubclass(kind, str) for kind in kinds) or all(issubclass(kind, numbers) for kind in kinds)


def _holds_bfloat16(array: FloatArray) -> bool:
    """Tell whether every entry is a bfloat16 number: the last 16 bits of its float32 are 0."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return bool((single == array).all() and not (single.view(np.uint32) & 0xFFFF).any())


def _not_empty(array: AnyArray, name: str) -> None:
    if array.ndim and len(array) == 0:
        refuse(f"{name} is empty", "at least one example is needed", "Check the split and the file")


def _check_rows(array: FloatArray, name: str, kind: str) -> None:
    """Refuse another shape than (N, Z), and NaN and infinite entries; -inf is none of them in logits."""
    _not_empty(array, name)
    if array.ndim != 2 or array.shape[1] < 2:
        given = f"{name} has shape {array.shape}"
        fix = (hints.of_logits if kind == "logits" else hints.of_shape)(array, hints.code_of(name, kind))
        refuse(given, "it must be (N, Z): one row an example, one column a class, at least two classes", fix)
    good = array < np.inf if kind == "logits" else np.isfinite(array)
    if not good.all():
        code, row = hints.code_of(name, kind), int(np.argmin(good.all(axis=1)))
        keep = f"np.less({code}, np.inf)" if kind == "logits" else f"np.isfinite({code})"
        refuse(
            f"{name} holds {int((~good).sum())} NaN or infinite entries (first in row {row})",
            "all must be finite" + (", or -inf for a class that cannot be" if kind == "logits" else ""),
            "Look for a division by 0 or an overflow in what made them, or leave these rows out: "
            f"`{keep}.all(axis=1)` tells those to keep, in every array",
        )
