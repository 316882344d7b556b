"""Correctness ranking loss (Moon, Kim, Shin, Hwang 2020): who was right more often shall be more confident.

    L = cross-entropy + weight · mean over pairs (i, j) of max(0, -g (kappa_i - kappa_j) + |c_i - c_j|)    (equation 2)

kappa is the largest probability; c, in [0, 1], how often the example was classified right in the training passes so
far; g = sign(c_i - c_j), and a pair with equal c costs nothing. The pairs are each example of the batch and the next,
the last with the first. As in the authors' code, c is the count less the smallest count of all examples, over the
number of finished epochs less the same; an example is looked at once an epoch, before the step that learns from it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import check_fraction, refuse
from robcal.methods.method import Batch, EpochInfo, Method, RunInfo, State
from robcal.smoothing.passes import rank_and_size


def crl(
    weight: float = 1.0,  # of the ranking term, above 0; the paper's is 1
) -> Method:
    """Train examples that were classified right more often to be more confident than others."""
    check_fraction(weight, "weight", high=float("inf"))

    def init(info: RunInfo) -> State:
        if info.num_train < 1:
            refuse("the run names no number of training examples", "crl counts for each of them", "Pass num_train")
        return {
            "counts": torch.zeros(info.num_train, dtype=torch.int32),
            "right": torch.zeros(info.num_train, dtype=torch.bool),
            "epochs": torch.tensor(0),
        }

    def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
        place = batch.labels.device
        state = {**state, "counts": state["counts"].to(place), "right": state["right"].to(place, copy=True)}
        logits = model(batch.inputs).float()
        confidence, top = functional.softmax(logits, dim=1).max(1)
        ranking = ranking_loss(confidence, correctness(state["counts"], int(state["epochs"]), batch.index))
        state["right"][batch.index] = top == batch.labels
        state["right"] = _in_all_processes(state["right"])
        return functional.cross_entropy(logits, targets) + weight * ranking, state

    def after_epoch(state: State, info: EpochInfo) -> State:
        right = state["right"]
        return {"counts": state["counts"] + right, "right": torch.zeros_like(right), "epochs": state["epochs"] + 1}

    return Method(name="crl", title="CRL", init=init, loss=loss, after_epoch=after_epoch, by_label=True)


def correctness(counts: torch.Tensor, epochs: int, index: torch.Tensor) -> torch.Tensor:
    """Return (B,) `c = (count - min) / (epochs - min)` of the examples `index`, min over all counts (N,)."""
    least = counts.min()
    return (counts[index] - least).float() / (epochs - least).clamp_min(1)


def ranking_loss(confidence: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
    """Return the mean of the hinge above over pairs of neighbours (i, i + 1) of a batch, the last with the first."""
    gap = correct - correct.roll(-1)
    return functional.relu(gap.abs() - gap.sign() * (confidence - confidence.roll(-1))).mean()


def _in_all_processes(right: torch.Tensor) -> torch.Tensor:
    """Tell whether each example was right in any of the processes; each sees its own share of them."""
    if rank_and_size()[1] == 1:
        return right
    shared = right.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu", torch.uint8)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return shared.to(right.device, torch.bool)
