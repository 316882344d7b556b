"""A free estimate of robustness from the training passes themselves (METHOD 7, step 1).

The backward pass of training can reach the inputs for the price of the first layer's input gradient. What its size says
of the distance to the decision boundary is worked out in `robcal.robustness.online_slopes`; here the estimates of all
training examples are gathered, averaged over epochs and measured.

What the estimates are worth is measured while they are made: with `sample`, at the end of every epoch that changed
them, a few training examples are scored by verified distances of the running network, and the agreement with the
estimates is kept in `history`.

Two things no training pass can tell. An estimate belongs to what the pass saw: with augmentation that is another
picture, and distances of other pictures rank the clean ones badly. And with batch normalisation the gradient of a
well-fitted example is mostly other examples' doing; what is left is the margin and the typical slope of its classes.
`refresh` mends both for 1 or 1.5 passes an example, once, at the end of training (`robcal.robustness.online_refresh`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robcal.checks import (
    FloatArray,
    IntArray,
    check_choice,
    check_num_levels,
    check_positive_int,
    check_scores,
    refuse,
)
from robcal.data.dataset import Box
from robcal.robustness.agreement import level_agreement, rank_correlation
from robcal.robustness.levels import assign_levels
from robcal.robustness.online_refresh import PASSES, look
from robcal.robustness.online_slopes import ClassSlopes, estimate_distances, fit_slopes, mixes_examples, pack, unpack
from robcal.types import Scores

#: Epochs at the end that are looked at whatever `every` says: the averages then hold those of the final network.
LAST_EPOCHS = 2
_LOOK_BATCH = 128


@dataclass(frozen=True)
class OnlineFidelity:
    """How the estimates of an epoch agree with distances of the same training examples.

    Attributes:
        epoch: number of finished epochs, from 1.
        observed: share of all training examples that have an estimate.
        spearman: rank correlation (NaN without distances to compare with).
        same_level: share in the same level (NaN likewise); levels are cut within the examples compared.
        within_one: share at most one level off (NaN likewise).
        compared: number of examples with a distance to compare with.
    """

    epoch: int
    observed: float
    spearman: float
    same_level: float
    within_one: float
    compared: int = 0


class OnlineScores:
    """Robustness estimates of the training examples, gathered while a network trains: hand it to `robcal.training.fit`.

    Estimates of one epoch are averaged geometrically with what was known. They hold for losses that are the
    cross-entropy to the targets; a method that mixes examples gives an estimate of the mixture. For up to 16 classes
    2 Z + 11 numbers an example are kept, for more 16; those of the running epoch where the network is.

    Args:
        count: N, training examples.
        num_levels: R, for the fidelity figures.
        decay: weight, for every epoch passed, of what was known, from 0 (the last estimate alone) to below 1.
        reference: (N,) distances of the training examples to compare with after every epoch, or None.
        sample: number of training examples, drawn by a fixed seed, whose distances to the boundary of the running
            network are measured at the end of every epoch that changed the estimates, and compared; 0: none. About six
            passes each. At least `num_levels`, at most N.
        every: which epochs are looked at: every so many (1: all), and the last two. In the others a training step
            costs what it costs without this, and the figures stay. None: 10, or 16 with `refresh`.
        refresh: look once more at all clean examples in eval mode at the end of the last epoch, "linear" for 1 pass
            each or "secant" for 1.5; these replace the estimates. The last two epochs are then looked at like others,
            and of a training too short for any the one before the last. None: nothing beside training.

    Attributes:
        history: one `OnlineFidelity` a finished epoch.

    Raises:
        InputError: for numbers out of range, reference distances of another length, or both `reference` and `sample`.

    Example:
        >>> online = OnlineScores(2, num_levels=2, reference=[0.1, 3.0])
        >>> logits, targets = torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.eye(2)[[0, 0]]
        >>> online.observe(torch.tensor([1, 0]), logits, targets, torch.eye(2))
        >>> online.end_epoch()
        >>> online.history[0].same_level, online.scores().status.tolist()
        (1.0, ['estimate', 'estimate'])
    """

    def __init__(
        self,
        count: int,
        *,
        num_levels: int = 10,
        decay: float = 0.5,
        reference: Any = None,
        sample: int = 0,
        every: int | None = None,
        refresh: str | None = None,
    ) -> None:
        if refresh is not None:
            check_choice(refresh, tuple(PASSES), "refresh")
        check_num_levels(num_levels, check_positive_int(count, "count"), split="the training split")
        every = check_positive_int((16 if refresh else 10) if every is None else every, "every")
        if not 0 <= decay < 1:
            refuse(f"decay is {decay!r}", "it must be at least 0 and below 1", "0 keeps the last estimate alone")
        self.count, self.num_levels, self.decay, self.every, self.refresh = count, num_levels, decay, every, refresh
        self.reference = None if reference is None else check_scores(reference, n=count, name="reference")
        self.sample = self._draw(sample)
        self.history: list[OnlineFidelity] = []
        self.slopes: ClassSlopes | None = None
        self._cross_talk = False
        self._log_distance = torch.full((count,), torch.nan)
        self._age = torch.zeros(count)  # epochs since an estimate entered it
        self._known = torch.full((count, 3), -1.0)  # of the latest epoch: margin, prediction, rival
        self._passes = torch.zeros(count)
        self._seen = torch.empty(count, 0)  # of this epoch, by `pack`, where the network is; no columns before a pass
        self._looked = torch.full((count, 4), torch.nan)  # of this epoch, by `look`

    def watch(self, model: nn.Module) -> None:
        """Say which network the passes are of: with batch normalisation they are read by other rules."""
        self._cross_talk = mixes_examples(model)

    def wants(self, epoch: int, epochs: int) -> bool:
        """Whether the passes of an epoch (from 0) are to be observed."""
        left, due = epochs - epoch - 1, (epoch + 1) % self.every == 0
        if self.refresh:  # what the last epoch showed would be replaced at once
            return left > 0 and (due or (left == 1 and epochs <= self.every))
        return due or left < LAST_EPOCHS

    def observe(self, index: Tensor, logits: Tensor, targets: Tensor, gradient: Tensor) -> None:
        """Take in a batch after its backward pass, without waiting for the device.

        Args:
            index: (B,) int64, positions in the training split.
            logits: (B, Z) of the pass.
            targets: (B, Z) of the pass, rows sum to 1.
            gradient: (B, …) input gradient of each example's own loss: that of the batch's mean loss times B.
        """
        columns = pack(logits, targets, gradient)
        if self._seen.shape[1] != columns.shape[1]:
            self._seen = columns.new_full((self.count, columns.shape[1]), torch.nan)
        elif self._seen.device != columns.device:
            self._seen = self._seen.to(columns.device)
        self._seen[index] = columns

    def look(self, model: nn.Module, fetch: Callable[[Tensor], Tensor], index: Tensor, box: Box) -> None:
        """Score clean examples in eval mode: what `refresh` asks for at the end of the last epoch.

        Args:
            model: the network, left as it was found.
            fetch: positions → (B, …) float32 inputs on the network's device.
            index: (n,) int64 positions to score.
            box: where the inputs live.
        """
        for start in range(0, len(index), _LOOK_BATCH):
            part = index[start : start + _LOOK_BATCH]
            found = look(model, fetch(part), self.slopes, box, secant=self.refresh != "linear")
            self._looked[part] = found.cpu()

    def end_epoch(
        self,
        total: Callable[[Tensor], Tensor] | None = None,
        measure: Callable[[IntArray], FloatArray] | None = None,
    ) -> None:
        """Average what the epoch has shown into what was known, and compare it.

        Args:
            total: sums a tensor over all processes, each of which saw its own examples; None for a single one.
            measure: positions in the training split → their distances to the boundary of the running network; called
                for `sample`, if the epoch changed the estimates.
        """
        seen, looked = self._seen.cpu(), self._looked
        if total is not None:
            seen, looked = _sum(seen, total), _sum(looked, total)
        self._age += 1
        if seen.shape[1]:
            self._average(seen)
        rows = ~torch.isnan(looked[:, 0])
        changed = bool(seen.shape[1]) or bool(rows.any())
        if rows.any():
            self._log_distance[rows], self._age[rows] = _log(looked[rows, 0]), 0.0
            self._known[rows] = looked[rows, 1:]
            self._passes[rows] += PASSES[self.refresh or "secant"]
        self._seen, self._looked = torch.empty(self.count, 0), torch.full_like(self._looked, torch.nan)
        number = len(self.history) + 1
        if measure is not None and changed and len(self.sample):
            self.history.append(self.fidelity(measure(self.sample), index=self.sample, epoch=number))
        else:
            self.history.append(self.fidelity(self.reference, epoch=number))

    def scores(self) -> Scores:
        """The estimates so far as scores: status "estimate"; "censored", +inf, for examples without one.

        `passes` counts what was spent beside training: 0, or 1 or 1.5 after `refresh`.
        """
        distance = self._log_distance.exp()
        found = torch.isfinite(distance)
        return Scores(
            distance=torch.where(found, distance, torch.inf).numpy(),
            status=np.where(found.numpy(), "estimate", "censored").astype(np.str_),
            prediction=self._known[:, 1].numpy().astype(np.int64),
            rival=np.where(found.numpy(), self._known[:, 2].numpy(), -1).astype(np.int64),
            margin=self._known[:, 0].clamp_min(0).numpy(),
            passes=self._passes.numpy().copy(),
            method="online",
            provenance={
                "decay": self.decay,
                "every": self.every,
                "refresh": self.refresh,
                "cross_talk": self._cross_talk,
                "epochs": len(self.history),
            },
        )

    def fidelity(self, reference: Any, *, index: IntArray | None = None, epoch: int | None = None) -> OnlineFidelity:
        """How the estimates so far agree with distances of the same examples, for example those of the final network.

        Examples without an estimate count as most robust.

        Args:
            reference: (n,) distances, +inf where none was found; None: only `observed` is told.
            index: (n,) positions in the training split of the examples compared; None: all.
            epoch: what the figures are said to be of; None: the epochs finished so far.

        Raises:
            InputError: if reference has another length, or holds NaN.
        """
        number = len(self.history) if epoch is None else epoch
        observed = float(torch.isfinite(self._log_distance).float().mean())
        if reference is None:
            return OnlineFidelity(number, observed, np.nan, np.nan, np.nan)
        ours = self.scores() if index is None else self.scores().subset(index)
        theirs = check_scores(reference, n=len(ours), name="reference")
        found = level_agreement(assign_levels(ours, self.num_levels), assign_levels(theirs, self.num_levels))
        spearman = rank_correlation(ours.distance, theirs)
        return OnlineFidelity(number, observed, spearman, found.same_level, found.within_one, len(ours))

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as tensors on the host."""
        rows = [list(astuple(row)) for row in self.history]
        slopes = self.slopes or ClassSlopes(np.zeros((0, 0)))
        return {
            "log_distance": self._log_distance.clone(),
            "age": self._age.clone(),
            "known": self._known.clone(),
            "passes": self._passes.clone(),
            "seen": self._seen.cpu().clone(),
            "looked": self._looked.clone(),
            "slopes": torch.from_numpy(slopes.squared.copy()),
            "cross_talk": torch.tensor(slopes.cross_talk, dtype=torch.float64),
            "history": torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(OnlineFidelity))),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken.

        Raises:
            InputError: if it was taken of another number of examples, or by another version.
        """
        missing = sorted(self.state().keys() - state.keys())
        if missing or state["history"].shape[1] != len(fields(OnlineFidelity)):
            refuse(
                f"the state of the online estimates has no {', '.join(missing or ['number of examples compared'])}",
                "it was written by another version of robcal",
                "Start again",
            )
        if len(state["log_distance"]) != self.count:
            refuse(
                f"the state holds {len(state['log_distance'])} examples, the training split {self.count}",
                "both must be of the same data",
                "Start again, or pass the data that the run began with",
            )
        self._log_distance, self._age = state["log_distance"].clone(), state["age"].clone()
        self._known, self._passes = state["known"].clone(), state["passes"].clone()
        self._seen, self._looked = state["seen"].clone(), state["looked"].clone()
        squared = state["slopes"].numpy().copy()
        self.slopes = ClassSlopes(squared, float(state["cross_talk"])) if squared.size else None
        self.history = [
            OnlineFidelity(int(row[0]), row[1], row[2], row[3], row[4], int(row[5]))
            for row in state["history"].tolist()
        ]

    def _draw(self, sample: int) -> IntArray:
        """Positions of the examples that are measured, increasing."""
        if check_positive_int(sample, "sample", minimum=0) == 0:
            return np.empty(0, np.int64)
        if self.reference is not None:
            refuse("reference and sample were both given", "the estimates are compared with one of them", "Drop one")
        if not self.num_levels <= sample <= self.count:
            refuse(
                f"sample is {sample}",
                f"it must hold an example of each of {self.num_levels} levels, and at most all {self.count}",
                "Change sample",
            )
        return np.sort(np.random.default_rng(0).permutation(self.count)[:sample]).astype(np.int64)

    def _average(self, seen: Tensor) -> None:
        """Turn the epoch's passes into distances, and average these into what was known."""
        rows = torch.isfinite(seen).all(1)
        passes = unpack(seen[rows])
        slopes = fit_slopes(passes, cross_talk=self._cross_talk)
        if slopes is None:
            return
        self.slopes = slopes
        distance, rival = estimate_distances(passes, slopes)
        values = np.stack([distance, passes.gaps[:, 0], passes.prediction, rival], 1)
        told = torch.full((self.count, 4), torch.nan)
        told[rows] = torch.from_numpy(values).float()
        self._known = torch.where(rows.unsqueeze(1), told[:, 1:], self._known)
        fresh = _log(told[:, 0])
        before = torch.where(torch.isnan(self._log_distance), fresh, self._log_distance)
        weight = self.decay**self._age
        told_now = ~torch.isnan(fresh)
        self._log_distance = torch.where(told_now, weight * before + (1 - weight) * fresh, self._log_distance)
        self._age = torch.where(told_now, 0.0, self._age)


def _sum(values: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    """What some process has filled (after a resume several may have, all alike), NaN where none has."""
    filled = ~torch.isnan(values)
    whole, times = total(torch.where(filled, values, 0.0)), total(filled.float())
    return torch.where(times > 0, whole / times, torch.nan)


def _log(distance: Tensor) -> Tensor:
    """Logarithms; a distance of 0 (a tie) has none: the smallest normal number stands for it."""
    return distance.clamp_min(torch.finfo(torch.float32).tiny).log()
