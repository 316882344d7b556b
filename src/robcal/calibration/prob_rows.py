"""Probabilities that are read in blocks of rows, so that there is never a second copy of all of them.

Every figure is made of sums over blocks and of one number a row, so no figure depends on the size of a block, but by
the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, IntArray, as_array, check_probs, precision_of

#: Entries of a block: 2 MiB in float64, which stay in the cache of a processor.
ENTRIES = 1 << 18

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
