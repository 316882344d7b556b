"""Rows: probabilities that are read in blocks of them, and an order that depends on what they hold.

There is never a second copy of all probabilities, no figure depends on the size of a block, and seeded draws along
the order not on how rows were sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, IntArray, as_array, check_labels, check_probs, check_same_rows, precision_of

#: Entries of a block: 2 MiB in float64, which stay in the cache of a processor.
ENTRIES = 1 << 18

#: Multipliers and shifts of the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
_MULTIPLIERS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)
_SHIFTS = np.array([30, 27, 31], dtype=np.uint64)

RowKeys = npt.NDArray[np.uint64]

Rows = slice


class ProbRows:
    """(N, Z) probabilities that were checked, in the memory and the precision that they came in; also on disk."""

    def __init__(self, probs: Any, *, name: str = "probs") -> None:
        self._array = as_array(probs, name)  # first, for its errors name the argument
        self.precision = precision_of(probs)
        if not self._is_plain():  # what is wrong is told of all rows at once
            self._array = check_probs(probs, name=name)

    def __len__(self) -> int:
        return len(self._array)

    @property
    def num_classes(self) -> int:
        """Z."""
        return int(self._array.shape[1])

    def blocks(self, *, whole: bool = False) -> Iterator[tuple[Rows, FloatArray]]:
        """Yield which rows a block holds, and the block, float64 with entries in [0, 1]; all in one if `whole`."""
        step = len(self) if whole else max(1, ENTRIES // self.num_classes)
        for begin in range(0, len(self), step):
            part = slice(begin, min(begin + step, len(self)))
            yield part, self.take(part)

    def take(self, rows: Rows | IntArray) -> FloatArray:
        """Return some of the rows, float64, entries in [0, 1]."""
        block = self._array[rows].astype(np.float64)
        return np.clip(block, 0, 1, out=block)

    def each(self, function: Callable[[FloatArray, IntArray], FloatArray], labels: IntArray) -> FloatArray:
        """Return (N,) float64: what a function of a block's probabilities and labels gives for each row."""
        values = np.empty(len(self))
        for part, block in self.blocks():
            values[part] = function(block, labels[part])
        return values

    def of_class(self, labels: IntArray) -> FloatArray:
        """Return the probability of one class a row, (N,) float64."""
        return self.each(lambda block, classes: block[np.arange(len(block)), classes], labels)

    def _is_plain(self) -> bool:
        """Tell whether every block by itself is one of probabilities."""
        array, precision = self._array, self.precision
        if array.ndim != 2 or array.dtype.kind not in "fiub" or not len(array) or array.shape[1] < 2:
            return False
        step = max(1, ENTRIES // self.num_classes)
        for begin in range(0, len(array), step):
            block = array[begin : begin + step].astype(np.float64)
            if not (
                -precision.of_entry <= block.min()
                and block.max() <= 1 + precision.of_entry
                and np.abs(block.sum(axis=1) - 1).max() <= precision.of_sum
            ):
                return False
        return True


def check_rows(probs: Any, *, name: str = "probs") -> ProbRows:
    """Return probabilities that are checked; those that are already are returned as they are."""
    return probs if isinstance(probs, ProbRows) else ProbRows(probs, name=name)


def checked(probs: Any, labels: Any) -> tuple[ProbRows, IntArray]:
    """Return probabilities (N, Z) and labels (N,), checked."""
    rows = check_rows(probs)
    check_same_rows(probs=probs, labels=labels)
    return rows, check_labels(labels, n=len(rows), num_classes=rows.num_classes)


def canonical_order(*columns: npt.ArrayLike) -> IntArray:
    """Return the order of the rows by a hash of all that they hold, (N,) int64 positions.

    What a seed draws over the rows in this order, a resample or a permutation, is the same for every order in which
    they come in; and the hash mixes its 64 bits well, so the order says nothing about the values either.
    """
    return np.argsort(row_keys(*columns), kind="stable").astype(np.int64)


def row_keys(*columns: npt.ArrayLike) -> RowKeys:
    """Return a hash of all that each row of the columns holds, (N,) uint64: equal for rows that hold the same."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    key: RowKeys = np.zeros(len(arrays[0]), dtype=np.uint64)
    for array in arrays:
        for column in (array + 0.0).reshape(len(key), -1).T:  # + 0.0: -0 and 0 are equal
            key = _mixed(key + np.ascontiguousarray(column).view(np.uint64))
    return key


def _mixed(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return each number with its bits mixed, a bijection of the 64-bit integers."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        key = (key ^ (key >> shift)) * multiplier
    mixed: npt.NDArray[np.uint64] = key ^ (key >> _SHIFTS[2])
    return mixed
