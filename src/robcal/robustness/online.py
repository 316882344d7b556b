"""A free estimate of robustness from the training pass itself (METHOD 7, step 1).

The backward pass of training can reach the inputs for the price of the first layer's input gradient. With
cross-entropy to targets t it is ∇ₓL = Σ_j (p_j − t_j) ∇ₓz_j. Where one rival r of the prediction ŷ matters this is
m ∇ₓ(z_ŷ − z_r) but for its sign, with m the probability mass that the gradient moves between them, so that

    d ≈ (z_ŷ − z_r) m / ‖∇ₓL‖,     m = ½ Σ_j |p_j − t_j|,

the first-order distance. With hard labels m = 1 − p_y, which is METHOD's 1 − p_ŷ where the label is predicted; with
two classes m = |p_ŷ − t_ŷ| for any targets, and the estimate is the first-order one exactly.

Batch normalisation spoils it: in training mode the loss of one example depends, through the batch's statistics, on the
inputs of all others, and the gradient of a well-fitted example is then mostly other examples' doing. On a residual
network for CIFAR-10 (JPEG), 400 validation images, the same pass gave 16% of them the level of the reference in
training mode and 52% with frozen statistics. Use it with networks that normalise every example by itself, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robcal.checks import check_num_levels, check_positive_int, check_scores, refuse
from robcal.robustness.levels import assign_levels
from robcal.types import Scores


@dataclass(frozen=True)
class OnlineFidelity:
    """How the estimates of an epoch agree with given distances of the same training examples.

    Attributes:
        epoch: number of finished epochs, from 1.
        observed: share of the examples that have an estimate.
        spearman: rank correlation (NaN without reference distances).
        same_level: share in the same level (NaN likewise).
        within_one: share at most one level off (NaN likewise).
    """

    epoch: int
    observed: float
    spearman: float
    same_level: float
    within_one: float


def online_distance(logits: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """The first-order distance read off one training pass.

    Args:
        logits: (B, Z) of the pass.
        targets: (B, Z), rows sum to 1: what the cross-entropy was taken to.
        gradient: (B, …) input gradient of each example's own loss (of the sum over the batch, not of its mean).

    Returns:
        (B,) float32; NaN where the gradient is zero or not finite, for it says nothing then.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> logits, targets = torch.cat([3 * x[:, :1], 0 * x[:, :1]], 1), torch.tensor([[0.9, 0.1]])
        >>> torch.nn.functional.cross_entropy(logits, targets).backward()
        >>> round(online_distance(logits, targets, x.grad).item(), 4)
        1.0
    """
    values = logits.detach().float()
    top = values.topk(2, dim=1).values
    moved = 0.5 * (values.softmax(1) - targets.detach().float()).abs().sum(1)
    size = torch.linalg.vector_norm(gradient.detach().float().flatten(1), dim=1)
    distance = (top[:, 0] - top[:, 1]) * moved / size
    return torch.where(torch.isfinite(distance) & (moved > 0), distance, torch.nan)


class OnlineScores:
    """Robustness estimates of the training examples, gathered while a network trains: hand it to `robcal.training.fit`.

    An estimate belongs to what the training pass saw: the augmented view, dropout and the batch's own statistics, the
    weights of that step. Over epochs estimates are averaged geometrically with exponential weights, views with them.
    It holds for losses that are the cross-entropy to the targets; a method that mixes examples gives an estimate of the
    mixture. Kept are a few numbers an example, on the host.

    Args:
        count: N, training examples.
        num_levels: R, for the fidelity figures.
        decay: weight of what was known before an epoch, from 0 (the last estimate alone) to below 1.
        reference: (N,) distances of the training examples to compare with after every epoch, or None.

    Attributes:
        history: one `OnlineFidelity` a finished epoch.

    Raises:
        InputError: for numbers out of range or reference distances of another length.

    Example:
        >>> online = OnlineScores(2, num_levels=2, reference=[0.1, 3.0])
        >>> logits, targets = torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.eye(2)[[0, 0]]
        >>> online.observe(torch.tensor([1, 0]), logits, targets, torch.eye(2))
        >>> online.end_epoch()
        >>> online.history[0].same_level, online.scores().status.tolist()
        (1.0, ['estimate', 'estimate'])
    """

    def __init__(self, count: int, *, num_levels: int = 10, decay: float = 0.5, reference: Any = None) -> None:
        check_num_levels(num_levels, check_positive_int(count, "count"), split="the training split")
        if not 0 <= decay < 1:
            refuse(f"decay is {decay!r}", "it must be at least 0 and below 1", "0 keeps the last estimate alone")
        self.count, self.num_levels, self.decay = count, num_levels, decay
        self.reference = None if reference is None else check_scores(reference, n=count, name="reference")
        self.history: list[OnlineFidelity] = []
        self._log_distance = torch.full((count,), torch.nan)
        self._last = torch.full((count, 4), torch.nan)  # of this epoch: distance, margin, prediction, rival
        self._known = torch.full((count, 3), -1.0)  # of the latest epoch: margin, prediction, rival

    def observe(self, index: Tensor, logits: Tensor, targets: Tensor, gradient: Tensor) -> None:
        """Take in a batch after its backward pass.

        Args:
            index: (B,) int64, positions in the training split.
            logits: (B, Z) of the pass.
            targets: (B, Z) of the pass.
            gradient: (B, …) input gradient of each example's own loss: that of the batch's mean loss times B.
        """
        top = logits.detach().float().topk(2, dim=1)
        distance = online_distance(logits, targets, gradient)
        columns = [distance, top.values[:, 0] - top.values[:, 1], *top.indices.float().unbind(1)]
        self._last[index.cpu()] = torch.stack(columns, 1).cpu()

    def end_epoch(self, total: Callable[[Tensor], Tensor] | None = None) -> None:
        """Average what the epoch has shown into what was known, and measure it.

        Args:
            total: sums a tensor over all processes, each of which saw its own examples; None for a single one.
        """
        seen = ~torch.isnan(self._last[:, 1])
        if total is not None:
            seen = total(seen.float()) > 0
            finite = ~torch.isnan(self._last)
            whole, known = total(torch.where(finite, self._last, 0.0)), total(finite.float()) > 0
            self._last = torch.where(known, whole, torch.nan)
        # a distance of 0 (a tie) has no logarithm: the smallest normal number stands for it
        fresh = self._last[:, 0].clamp_min(torch.finfo(torch.float32).tiny).log()
        before = torch.where(torch.isnan(self._log_distance), fresh, self._log_distance)
        mixed = self.decay * before + (1 - self.decay) * fresh
        self._log_distance = torch.where(torch.isnan(fresh), self._log_distance, mixed)
        self._known = torch.where(seen.unsqueeze(1), self._last[:, 1:], self._known)
        self._last = torch.full_like(self._last, torch.nan)
        self.history.append(self._fidelity())

    def scores(self) -> Scores:
        """The estimates so far as scores: status "estimate"; "censored", +inf, for examples without one; no passes."""
        distance = self._log_distance.exp()
        found = torch.isfinite(distance)
        return Scores(
            distance=torch.where(found, distance, torch.inf).numpy(),
            status=np.where(found.numpy(), "estimate", "censored").astype(np.str_),
            prediction=self._known[:, 1].numpy().astype(np.int64),
            rival=np.where(found.numpy(), self._known[:, 2].numpy(), -1).astype(np.int64),
            margin=self._known[:, 0].clamp_min(0).numpy(),
            passes=np.zeros(self.count, np.float32),
            method="online",
            provenance={"decay": self.decay, "epochs": len(self.history)},
        )

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as tensors."""
        rows = [[row.epoch, row.observed, row.spearman, row.same_level, row.within_one] for row in self.history]
        return {
            "log_distance": self._log_distance.clone(),
            "last": self._last.clone(),
            "known": self._known.clone(),
            "history": torch.tensor(rows, dtype=torch.float64).reshape(-1, 5),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken.

        Raises:
            InputError: if it was taken of another number of examples.
        """
        if len(state["log_distance"]) != self.count:
            refuse(
                f"the state holds {len(state['log_distance'])} examples, the training split {self.count}",
                "both must be of the same data",
                "Start again, or pass the data that the run began with",
            )
        self._log_distance, self._last = state["log_distance"].clone(), state["last"].clone()
        self._known = state["known"].clone()
        self.history = [OnlineFidelity(int(row[0]), *row[1:]) for row in state["history"].tolist()]

    def _fidelity(self) -> OnlineFidelity:
        """Agreement with the reference distances, over all examples; those without an estimate count as most robust."""
        observed = float(torch.isfinite(self._log_distance).float().mean())
        epoch = len(self.history) + 1
        if self.reference is None:
            return OnlineFidelity(epoch, observed, np.nan, np.nan, np.nan)
        from scipy.stats import rankdata

        ours = self.scores()
        ranks = [rankdata(ours.distance), rankdata(self.reference)]
        varied = all(np.ptp(rank) > 0 for rank in ranks)
        spearman = float(np.asarray(np.corrcoef(ranks)).item(1)) if varied else float("nan")
        off = np.abs(assign_levels(ours, self.num_levels) - assign_levels(self.reference, self.num_levels))
        return OnlineFidelity(epoch, observed, spearman, float((off == 0).mean()), float((off <= 1).mean()))
