"""Labels that people gave to the training images, many of them wrong: CIFAR-10N (Wei et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from robcal.base.checks import IntArray, check_choice
from robcal.data import Dataset, load_dataset
from robcal.data.dataset import Split
from robcal.data.splits import Parts


class NoisyLabels:
    """The labels of a folder, in the order of the rows of the training file.

    Args:
        folder: holds labels.npz (one array of 50,000 a kind, in the official order) and index-of-shared-parquet.npy
            (the official position of every row of the training file).
    """

    def __init__(self, folder: Path) -> None:
        self.order: IntArray = np.load(folder / "index-of-shared-parquet.npy", allow_pickle=False)
        with np.load(folder / "labels.npz", allow_pickle=False) as data:
            self.kinds = {name: data[name].astype(np.int64) for name in data.files}

    def train_on(self, kind: str, data: Dataset, parts: Parts, *, seed: int, train_limit: int | None) -> Dataset:
        """Return the data set with the labels of people in its training split; validation and test keep theirs.

        Args:
            kind: a name of `kinds`.
            data: cut from `parts` with this seed and limit.
            parts: what the files hold.
            seed: of the cut.
            train_limit: of the cut.

        Raises:
            InputError: if the kind is unknown.
        """
        labels = self.kinds[check_choice(kind, self.kinds, "noise")][self.order]
        rows = rows_of(data.spec, parts, seed=seed, train_limit=train_limit)
        train = replace(data.split("train"), labels=labels[rows])
        return replace(data, splits={**data.splits, "train": train})


def rows_of(spec: str, parts: Parts, *, seed: int, train_limit: int | None) -> IntArray:
    """Return which rows of the training file the training split of a seed holds, by cutting positions like images."""
    known = {
        name: Split(np.arange(len(split), dtype=np.float32)[:, None], split.labels)
        for name, split in parts.parts.items()
    }
    numbered = replace(parts, parts=known, kind="table")
    data = load_dataset(spec, parts=numbered, seed=seed, train_limit=train_limit)
    return np.asarray(data.split("train").inputs)[:, 0].astype(np.int64)


def noise_of_levels(given: IntArray, true: IntArray, levels: IntArray, num_levels: int) -> list[float]:
    """Return the share of wrong labels in each level, (R,)."""
    wrong = (given != true).astype(np.float64)
    return [float(wrong[levels == level].mean()) for level in range(num_levels)]
