"""The levels of a run: of a source that is fixed before the training, or cut anew after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from robcal.base.checks import FloatArray, IntArray
from robcal.base.levels import assign_levels
from robcal.data import Dataset
from robcal.smoothing.running import running_average, running_levels
from wide.recipes import Recipe

SPLITS = ("train", "val")


class Levels:
    """The levels of the training and the validation split.

    Args:
        sizes: of both splits.
        num_levels: R.
        keys: what they are cut by; None for one level, until `see` cuts them.

    Attributes:
        of: (N,) int64 by split.
        averages: (N,) running averages of the margins by split; NaN before the first epoch.
    """

    def __init__(self, sizes: Mapping[str, int], num_levels: int, keys: Mapping[str, Any] | None = None) -> None:
        self.num_levels = num_levels
        self.averages = {name: np.full(size, np.nan) for name, size in sizes.items()}
        self.of: dict[str, IntArray] = {
            name: np.zeros(size, np.int64) if keys is None else assign_levels(keys[name], num_levels)
            for name, size in sizes.items()
        }

    def see(self, margins: Mapping[str, FloatArray]) -> None:
        """Average the margins of one more epoch into those before, and cut the levels by them."""
        for name, shown in margins.items():
            self.averages[name] = running_average(self.averages[name], shown)
        self._cut()

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs."""
        return {name: torch.from_numpy(average.copy()) for name, average in self.averages.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where `state` was taken; levels that are fixed stay."""
        self.averages = {name: average.numpy() for name, average in state.items()}
        if not any(np.isnan(average).any() for average in self.averages.values()):
            self._cut()

    def _cut(self) -> None:
        self.of = {name: running_levels(average, self.num_levels) for name, average in self.averages.items()}


def make_levels(
    recipe: Recipe, seed: int, data: Dataset, reference: Callable[[str], Mapping[str, Any]], num_levels: int
) -> Levels:
    """Return the levels that a recipe begins with.

    Args:
        recipe: the recipe.
        seed: of the run.
        data: its splits.
        reference: a source of levels → scores of train and val by the plain network of the seed; asked if needed.
        num_levels: R.
    """
    sizes = {name: len(data.split(name)) for name in SPLITS}
    if recipe.source == "random":
        draws = {name: np.random.default_rng([seed, number]) for number, name in enumerate(SPLITS)}
        keys = {name: draws[name].permutation(size).astype(np.float64) for name, size in sizes.items()}
        return Levels(sizes, num_levels, keys)
    return Levels(sizes, num_levels, reference(recipe.source) if recipe.reference else None)
