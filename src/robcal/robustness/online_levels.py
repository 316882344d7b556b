"""Levels that follow the training: no reference model, the running one re-scores as it trains (METHOD 4, "online").

The training split is cut by the free estimates of the training passes (`OnlineScores`); the validation split, which no
training pass sees, by the first-order distances of the running model at the end of the epoch. Each split is cut on its
own, so the two kinds of estimate are never compared with each other. Until the first epoch has ended all examples are
in level 0, whose targets are then still hard.

What `OnlineScores` says of batch normalisation holds here: with it the estimates of the training split are poor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robcal.checks import IntArray, check_num_levels
from robcal.data import Dataset
from robcal.distributed import is_main
from robcal.robustness.agreement import level_agreement
from robcal.robustness.levels import assign_levels
from robcal.robustness.online import OnlineScores
from robcal.robustness.scoring import score

_SPLITS = ("train", "val")


@dataclass(frozen=True)
class LevelDrift:
    """How far an epoch's levels are from those of the epoch before.

    Attributes:
        epoch: number of finished epochs, from 2.
        changed: share of the training examples whose level changed.
        beyond_one: share of them whose level changed by more than one.
        spearman: rank correlation with the epoch before.
        val_changed: share of the validation examples whose level changed.
    """

    epoch: int
    changed: float
    beyond_one: float
    spearman: float
    val_changed: float


class OnlineLevels:
    """Levels of train and val that are cut anew after every epoch; hand it to `robcal.training.fit` as `levels`.

    Args:
        dataset: with a "train" and a "val" split.
        num_levels: R.
        decay: of `OnlineScores`.
        reference: (N,) distances of the training examples to compare the estimates with, or None.

    Attributes:
        online: the estimates of the training split.
        levels: (N,) int64 of "train" and of "val".
        history: one `LevelDrift` an epoch from the second on.

    Raises:
        InputError: if a split has fewer examples than levels.
    """

    def __init__(self, dataset: Dataset, *, num_levels: int = 10, decay: float = 0.5, reference: Any = None) -> None:
        for name in _SPLITS:
            check_num_levels(num_levels, len(dataset.split(name)), split=f"the {name} split")
        self.num_levels, self.val, self.box = num_levels, dataset.split("val"), dataset.box
        self.online = OnlineScores(len(dataset.split("train")), num_levels=num_levels, decay=decay, reference=reference)
        self.levels: dict[str, IntArray] = {name: np.zeros(len(dataset.split(name)), np.int64) for name in _SPLITS}
        self.history: list[LevelDrift] = []

    def after_epoch(self, model: nn.Module, total: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take in what the epoch has shown, and cut both splits anew.

        Args:
            model: the running network, left as it was found.
            total: sums a tensor over all processes, which each saw their own examples; None for a single one.
        """
        self.online.end_epoch(total)
        distances = score(model, self.val.inputs, method="first-order", box=self.box)
        val = assign_levels(distances, self.num_levels)
        if total is not None:  # all processes take what one of them found, to the last example
            val = total(torch.from_numpy(val if is_main() else np.zeros_like(val))).numpy()
        levels = {"train": assign_levels(self.online.scores(), self.num_levels), "val": val}
        epoch = len(self.online.history)
        if epoch > 1:
            drift = level_agreement(self.levels["train"], levels["train"])
            val_changed = float((self.levels["val"] != levels["val"]).mean())
            row = LevelDrift(epoch, 1 - drift.same_level, 1 - drift.within_one, drift.spearman, val_changed)
            self.history.append(row)
        self.levels = levels

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        return {
            "levels": {name: torch.from_numpy(levels.copy()) for name, levels in self.levels.items()},
            "history": [
                [row.epoch, row.changed, row.beyond_one, row.spearman, row.val_changed] for row in self.history
            ],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; that of `online` is kept apart."""
        self.levels = {name: levels.numpy().copy() for name, levels in state["levels"].items()}
        self.history = [LevelDrift(int(row[0]), *row[1:]) for row in state["history"]]
