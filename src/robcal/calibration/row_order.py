"""An order of the rows that depends on what they hold, so that seeded draws do not depend on how they were sorted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robcal.base.checks import IntArray

#: Multipliers and shifts of the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
_MULTIPLIERS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)
_SHIFTS = np.array([30, 27, 31], dtype=np.uint64)

RowKeys = npt.NDArray[np.uint64]


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
