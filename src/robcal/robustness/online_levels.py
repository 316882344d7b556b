"""Levels that follow the training: no reference model, the running one re-scores as it trains (METHOD 4, "online").

Two ways to score the training split. "training-pass" takes the free estimates of the training passes (`OnlineScores`),
of every epoch. Batch normalisation leaves little of them but the margin (docs/online.md). "first-order" therefore
scores all training examples anew after every epoch, in eval mode and without augmentation, for 1.5 passes each (one
rival, with the secant): two and a half times the work of plain training, about that of a reference model and its
scores.

No training pass sees the validation split; it is scored by first order, with three rivals, at the end of the epoch.
Each split is cut on its own, so two kinds of estimate are never compared with each other. Until the first epoch has
ended all examples are in level 0, whose targets are then still hard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robcal.checks import FloatArray, IntArray, check_choice, check_num_levels
from robcal.data import Dataset
from robcal.distributed import rank_and_world
from robcal.robustness.agreement import level_agreement
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.levels import assign_levels
from robcal.robustness.online import OnlineScores
from robcal.robustness.online_slopes import mixes_examples
from robcal.robustness.scoring import score

ESTIMATES = ("training-pass", "first-order")

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
        estimates: how the training split is scored, "training-pass" or "first-order"; `estimates_for` chooses.
        decay: of `OnlineScores`, for "training-pass".

    Attributes:
        online: the estimates of the training passes; None for "first-order".
        levels: (N,) int64 of "train" and of "val".
        history: one `LevelDrift` an epoch from the second on.

    Raises:
        InputError: if a split has fewer examples than levels, or on another kind of estimates.
    """

    def __init__(
        self, dataset: Dataset, *, num_levels: int = 10, estimates: str = "training-pass", decay: float = 0.5
    ) -> None:
        check_choice(estimates, ESTIMATES, "estimates")
        for name in _SPLITS:
            check_num_levels(num_levels, len(dataset.split(name)), split=f"the {name} split")
        self.num_levels, self.box = num_levels, dataset.box
        self.splits = {name: dataset.split(name) for name in _SPLITS}
        size = len(self.splits["train"])
        free = estimates == "training-pass"
        self.online = OnlineScores(size, num_levels=num_levels, decay=decay, every=1) if free else None
        self.levels: dict[str, IntArray] = {name: np.zeros(len(self.splits[name]), np.int64) for name in _SPLITS}
        self.history: list[LevelDrift] = []
        self.epoch = 0

    def after_epoch(self, model: nn.Module, total: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take in what the epoch has shown, and cut both splits anew.

        Args:
            model: the running network, left as it was found.
            total: sums a tensor over all processes, which each saw their own examples; None for a single one.
        """
        keys: dict[str, Any] = {"val": self._distances(model, "val", FirstOrder(num_rivals=3), total)}
        if self.online is None:
            keys["train"] = self._distances(model, "train", FirstOrder(num_rivals=1), total)
        else:
            self.online.end_epoch(total)
            keys["train"] = self.online.scores()
        levels = {name: assign_levels(keys[name], self.num_levels) for name in _SPLITS}
        self.epoch += 1
        if self.epoch > 1:
            drift = level_agreement(self.levels["train"], levels["train"])
            val_changed = float((self.levels["val"] != levels["val"]).mean())
            row = LevelDrift(self.epoch, 1 - drift.same_level, 1 - drift.within_one, drift.spearman, val_changed)
            self.history.append(row)
        self.levels = levels

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values; that of `online` is kept apart."""
        return {
            "levels": {name: torch.from_numpy(levels.copy()) for name, levels in self.levels.items()},
            "epoch": self.epoch,
            "history": [
                [row.epoch, row.changed, row.beyond_one, row.spearman, row.val_changed] for row in self.history
            ],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.levels = {name: levels.numpy().copy() for name, levels in state["levels"].items()}
        self.epoch = state["epoch"]
        self.history = [LevelDrift(int(row[0]), *row[1:]) for row in state["history"]]

    def _distances(
        self, model: nn.Module, name: str, attack: FirstOrder, total: Callable[[Tensor], Tensor] | None
    ) -> FloatArray:
        """(N,) distances of a split."""
        split = self.splits[name]

        def of(index: IntArray) -> npt.NDArray[Any]:
            part = split if len(index) == len(split) else split.subset(index)
            return score(model, part.inputs, method=attack, box=self.box, first_index=index).distance

        return by_shares(len(split), of, total)


def by_shares(
    count: int, distances: Callable[[IntArray], npt.NDArray[Any]], total: Callable[[Tensor], Tensor] | None
) -> FloatArray:
    """(count,) distances that all processes find together, each its share; float64, known to all of them.

    Args:
        count: how many.
        distances: places below `count` → their distances; not called for a share that is empty.
        total: sums a tensor over all processes; None for a single one.
    """
    rank, world = (0, 1) if total is None else rank_and_world()
    mine, whole = np.arange(count)[rank::world], torch.zeros(count)
    if len(mine):
        whole[mine] = torch.from_numpy(distances(mine)).float()
    return (whole if total is None else total(whole)).numpy().astype(np.float64)


def estimates_for(model: nn.Module) -> str:
    """How to score the training split of this network: "first-order" if it has batch normalisation.

    >>> estimates_for(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), estimates_for(nn.Linear(2, 2))
    ('first-order', 'training-pass')
    """
    return "first-order" if mixes_examples(model) else "training-pass"
