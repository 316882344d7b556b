"""Levels that follow the networks in training: cut anew after every epoch, at no further pass (method, section 9).

The loop hands in the logits of every training pass, and the validation probabilities of every epoch, as they are
computed anyway. An ensemble in lockstep is one classifier: its margins are those of the probabilities that its members
show, averaged. All processes hold the same state, so what one of them saves is that of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from robcal.base.checks import FloatArray, IntArray, check_fraction, check_positive_int
from robcal.smoothing.running import DEFAULT_DECAY, NOT_SEEN, logit_margin, running_average, running_levels

CPU = torch.device("cpu")

#: Share of one example in a mixed input from which on the input counts as that example [choice].
NEAR = 0.9

#: Passes of one network whose margins are computed together: one by one they add a tenth to a step of 1.5 ms.
PASSES_AT_ONCE = 32

#: Level of every example of "train" and "val", (N,) int64 each.
Levels = Mapping[str, IntArray]


class FixedLevels:
    """Levels (N,) that stay as they were cut before the training; None for a method without levels."""

    settings: ClassVar[Mapping[str, Any]] = {}
    see_passes: ClassVar[bool] = False

    def __init__(self, levels: Levels | None) -> None:
        self.fixed = levels
        self.train = None if levels is None else torch.from_numpy(levels["train"])
        self.val = None if levels is None else levels["val"]

    @property
    def num_levels(self) -> int:
        """One more than the largest level."""
        return 1 if self.fixed is None else 1 + max(int(np.max(part, initial=0)) for part in self.fixed.values())

    def begin(self, *, device: torch.device, **sizes: int) -> None:
        """Begin a training run on a device."""
        self.train = None if self.train is None else self.train.to(device)

    def watching(self, network: nn.Module) -> AbstractContextManager[None]:
        """Look at nothing."""
        return nullcontext()

    def take(self, index: IntArray, rank: int, world: int, shares: torch.Tensor | None = None) -> None:
        """Take in nothing."""

    def measure(self, val_probs: FloatArray) -> None:
        """Learn nothing."""

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Return nothing: a resumed run is given the same levels."""
        return {}

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Go on with the levels that were given."""


class RunningLevels:
    """Levels of a training run; hand it to `robcal.fit` as `levels`, which begins it and brings it along.

    Args:
        num_levels: R >= 1.
        decay: weight of the epochs before in the average of the margins, strictly between 0 and 1 [choice].

    Attributes:
        num_levels: R.
        train: (N,) int64 tensor on the training device, level of each training example; 0 in the first epoch.
        val: (M,) int64 array, level of each validation example.

    Raises:
        InputError: on arguments out of range.
    """

    fixed: ClassVar[None] = None
    see_passes: ClassVar[bool] = True

    def __init__(self, num_levels: int = 10, *, decay: float = DEFAULT_DECAY) -> None:
        self.num_levels = check_positive_int(num_levels, "num_levels")
        self.decay = check_fraction(decay, "decay")
        self.begin(num_train=0, num_val=0, num_classes=2)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells runs with other levels apart, by names that an error can tell."""
        return {"levels are": "running", "decay of margins": self.decay, "number of running levels": self.num_levels}

    def begin(
        self, *, num_train: int, num_val: int, num_classes: int, num_networks: int = 1, device: torch.device = CPU
    ) -> None:
        """Begin a training run, and forget what was before.

        Args:
            num_train: N.
            num_val: M.
            num_classes: Z.
            num_networks: in lockstep; several are averaged.
            device: where they train.
        """
        self._is_ensemble = num_networks > 1
        self._latest: torch.Tensor | None = None
        self._passes: list[tuple[IntArray, torch.Tensor]] = []
        self._sums = torch.zeros(num_train, 1 + (num_classes if self._is_ensemble else 1), device=device)
        self.train = torch.zeros(num_train, dtype=torch.int64, device=device)
        self.val: IntArray = np.zeros(num_val, np.int64)
        self._train_average, self._val_average = np.full(num_train, np.nan), np.full(num_val, np.nan)

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Look at the training passes of a network that are made in the block; `take` says what each was of."""
        hook = network.register_forward_hook(self._keep)
        try:
            yield
        finally:
            hook.remove()

    def _keep(self, module: nn.Module, inputs: Any, logits: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            self._latest = logits.detach()

    def take(self, index: IntArray, rank: int = 0, world: int = 1, shares: torch.Tensor | None = None) -> None:
        """Take in the training pass of a batch that was just made.

        Of several passes, as of a method that attacks the network, the last one with gradients is that of the loss.

        Args:
            index: (B,) positions of the examples of the batch, of all processes.
            rank: of this process, which passes every `world`-th of them, from the one at `rank`.
            world: number of processes.
            shares: (b, b) what share of each input is which example of this process, if inputs are mixed; one that is
                nearly one example shows the margin of that example, and others show none.
        """
        logits, self._latest = self._latest, None
        assert logits is not None, "the loss passes the batch through the network"
        if shares is None and world == 1 and not self._is_ensemble:
            self._passes.append((index, logits))
            if len(self._passes) == PASSES_AT_ONCE:
                self._take_in()
        else:
            self._add(index, self._values(logits), rank, world, shares)

    def _take_in(self) -> None:
        """Add to the sums what the passes showed that are not in them yet."""
        if self._passes:
            index, logits = zip(*self._passes, strict=True)
            self._add(np.concatenate(index), self._values(torch.cat(logits)))
            self._passes = []

    def _values(self, logits: torch.Tensor) -> torch.Tensor:
        """Return what is summed over the passes of an example: its margin or probabilities, and 1."""
        values = logits.float().softmax(1) if self._is_ensemble else logit_margin(logits).float().unsqueeze(1)
        return torch.cat([values, values.new_ones(len(values), 1)], dim=1)

    def _add(
        self, index: IntArray, values: torch.Tensor, rank: int = 0, world: int = 1, shares: torch.Tensor | None = None
    ) -> None:
        if world > 1 or shares is not None:
            place = torch.arange(rank, len(index), world, device=values.device)
            if shares is not None:
                share, row = shares.max(1)
                place, values = place[row], values.where((share >= NEAR).unsqueeze(1), 0.0)
            values = values.new_zeros(len(index), values.shape[1]).index_add_(0, place, values)
        if world > 1:
            torch.distributed.all_reduce(values)
        self._sums.index_add_(0, torch.from_numpy(index).to(self._sums.device), values)

    def measure(self, val_probs: FloatArray) -> None:
        """Average the margins of the epoch into those before, and cut the validation examples anew.

        Args:
            val_probs: (M, Z) probabilities after the epoch.
        """
        self._take_in()
        sums = self._sums.double().cpu()
        shown = logit_margin(sums[:, :-1].log()) if self._is_ensemble else sums[:, 0] / sums[:, 1]  # NaN where not seen
        margin = logit_margin(torch.from_numpy(val_probs).log())
        self._train_average = running_average(self._train_average, shown.numpy(), self.decay)
        self._val_average = running_average(self._val_average, margin.numpy(), self.decay)
        self._sums.zero_()
        self._cut()

    def _cut(self) -> None:
        if (~np.isnan(self._train_average)).sum() >= self.num_levels:
            levels = running_levels(self._train_average, self.num_levels)
            levels[levels == NOT_SEEN] = self.num_levels // 2
            self.train = torch.from_numpy(levels).to(self.train.device)
        self.val = running_levels(self._val_average, self.num_levels)

    def by_split(self) -> dict[str, IntArray]:
        """Return the levels of "train" and "val" as they stand, (N,) int64 each."""
        return {"train": self.train.cpu().numpy(), "val": self.val}

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Return everything a resumed run needs."""
        self._take_in()
        averages = {"train": self._train_average, "val": self._val_average}
        return {"sums": self._sums.cpu(), **{name: torch.from_numpy(values) for name, values in averages.items()}}

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Go on where `snapshot` was taken, of a run with as many examples, classes and networks."""
        self._sums.copy_(saved["sums"])
        self._train_average, self._val_average = (saved[name].numpy().copy() for name in ("train", "val"))
        if not np.isnan(self._val_average).any():
            self._cut()
