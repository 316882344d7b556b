"""The built-in data set: scikit-learn's 8x8 handwritten digits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from robcal.base.checks import FloatArray
from robcal.data.dataset import Split
from robcal.data.splits import FIXED_SEED, Parts, cut

#: Share of the 1,797 digits that is test data, whatever the seed.
DIGITS_TEST_FRACTION = 0.4
#: Share of the rest that is validation by default: with 323 examples, ten levels of 32 have a mean worth reading.
DIGITS_VAL_FRACTION = 0.3


def read_digits(path: str = "") -> Parts:
    """Return the 1,797 digits of scikit-learn (UCI "Optical recognition of handwritten digits", test part).

    Grey values 0 … 16 are stored as float32, divided by 16 (exact); inputs are (1, 8, 8) in the box [0, 1]. The test
    part, 719 digits, is stratified and fixed: no seed changes it, so no seed can leak training data into it.
    """
    rows = _rows()
    images = (rows[:, :-1] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    every = Split(inputs=images, labels=rows[:, -1].astype(np.int64))
    train, test = cut(every, DIGITS_TEST_FRACTION, FIXED_SEED, 10, "test")
    names = tuple(map(str, range(10)))
    return Parts("digits", {"train": train, "test": test}, names, val_fraction=DIGITS_VAL_FRACTION)


def _rows() -> FloatArray:
    """Return 64 grey values and the label of each digit, from scikit-learn's file: to import that is slow."""
    found = find_spec("sklearn")
    file = Path(found.origin or "").parent / "datasets/data/digits.csv.gz" if found else None
    if file and file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True))
