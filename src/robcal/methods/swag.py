"""SWAG (Maddox, Garipov, Izmailov, Vetrov, Wilson 2019): a Gaussian over the weights that training passes through.

Training is plain; after every epoch past `start` the weights theta are taken into

    mean <- the average of the theta taken so far
    squares <- sum of (theta - mean)^2, so that squares / n = average of theta^2 - mean^2, the diagonal
    deviations <- the last `rank` columns theta - mean, mean as it was right after theta was taken

and `robcal.training.sampling` draws networks from N(mean, (diagonal + deviations deviations' / (rank - 1)) / 2)
(section 3.3 and equation 1 of the paper). The diagonal is kept as a running sum of squared deviations: the same
numbers in exact arithmetic, without the cancellation in float32.

The paper takes weights at a constant learning rate. Here a method does not set the schedule, which falls to zero on a
cosine for every method alike: weights are taken over its second half, where it still moves them, and the Gaussian is
narrower than one taken at a constant rate.
"""

from __future__ import annotations

import torch

from robcal.base.checks import check_fraction, check_positive_int, refuse
from robcal.methods.method import EpochInfo, Method, RunInfo, State

#: Default of the share of the epochs after which weights are taken [choice]; the paper's is 161/300 on CIFAR.
DEFAULT_START = 0.5


def swag(start: float = DEFAULT_START, rank: int = 20) -> Method:
    """SWAG: what is plain training for one network is a Gaussian over networks at its end.

    Args:
        start: share of the epochs after which the weights are taken, in (0, 1).
        rank: number of columns kept for the low-rank part, at least 2; the paper's is 20.

    Raises:
        InputError: if an option is out of range, or (at the start of training) the epochs leave fewer than two weights.
    """
    check_fraction(start, "start")
    check_positive_int(rank, "rank", minimum=2)

    def init(info: RunInfo) -> State:
        if info.epochs - int(start * info.epochs) < 2:
            refuse(
                f"swag takes weights after {start:g} of {info.epochs} epochs",
                "it needs those of at least two",
                "Train for more epochs, or lower start",
            )
        return {
            "count": torch.tensor(0),
            "mean": torch.zeros(0),
            "squares": torch.zeros(0),
            "deviations": torch.zeros(0, 0),
        }

    def after_epoch(state: State, info: EpochInfo) -> State:
        if info.epoch <= int(start * info.epochs):
            return state
        if info.model is None:
            refuse("the loop hands no network to swag", "it takes the weights after an epoch", "Pass EpochInfo.model")
        parts = [parameter.detach().reshape(-1) for parameter in info.model.parameters()]
        weights = torch.cat(parts).cpu().float()
        return take_in(state, weights, rank)

    return Method(name="swag", title="SWAG", init=init, after_epoch=after_epoch, options={"start": start, "rank": rank})


def take_in(state: State, weights: torch.Tensor, rank: int) -> State:
    """The moments with one more vector of weights, (P,) float32, among them.

    >>> state = {"count": torch.tensor(0), "mean": None, "squares": None, "deviations": None}
    >>> for value in (1.0, 3.0):
    ...     state = take_in(state, torch.tensor([value]), 2)
    >>> state["mean"].tolist(), state["squares"].tolist(), state["deviations"].tolist()
    ([2.0], [2.0], [[0.0], [1.0]])
    """
    count = int(state["count"])
    before = state["mean"] if count else torch.zeros_like(weights)
    mean = before + (weights - before) / (count + 1)
    squares = (state["squares"] if count else torch.zeros_like(weights)) + (weights - before) * (weights - mean)
    column = (weights - mean)[None]
    deviations = torch.cat([state["deviations"], column])[-rank:] if count else column
    return {"count": torch.tensor(count + 1), "mean": mean, "squares": squares, "deviations": deviations}
