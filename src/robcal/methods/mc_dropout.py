"""Monte-Carlo dropout (Gal & Ghahramani 2016): plain training of a network with dropout, which stays on to predict.

What predicts is the mean over draws of dropped units: each draw is an ordinary network, a function of its input alone,
so what predicts for an ensemble predicts for these, `p(z | x) ~ 1/K sum_k p(z | x, network k)`. A network without
dropout is given it before every weight layer but the first (`robcal.models.dropout`), as in the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from robcal.base.checks import check_positive_int, check_seed, refuse
from robcal.base.seeds import seed_of
from robcal.data.dataset import Dataset, Split
from robcal.methods.method import Method, Predictors, State
from robcal.models.dropout import DROPOUT_LAYERS, DROPOUT_SUFFIX, has_dropout, layers_in

#: Networks drawn by default: as many as of SWAG.
DEFAULT_SAMPLES = 30

Network = TypeVar("Network", bound=nn.Module)


def mc_dropout(
    samples: int = DEFAULT_SAMPLES,  # number of networks that are drawn and averaged, at least 2
) -> Method:
    """Train plainly a network with dropout, which stays on to predict."""

    def draw(network: nn.Module, state: State, train: Split | None, seed: int) -> Sequence[nn.Module]:
        return dropout_networks(network, count=samples, seed=seed)

    def check(network: nn.Module, dataset: Dataset) -> None:
        check_dropout(network)

    return Method(
        name="mc-dropout",
        title="MC dropout",
        network=lambda model: model.removesuffix(DROPOUT_SUFFIX) + DROPOUT_SUFFIX,
        check=check,
        predictors=Predictors(samples, draw, kept=False),
    )


def dropout_networks(network: Network, *, count: int = DEFAULT_SAMPLES, seed: int = 0) -> list[Network]:
    """Draw K networks whose dropout stays on, the same units for every input; weights are shared, not copied."""
    check_positive_int(count, "count")
    check_seed(seed)
    check_dropout(network)
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    drawn = []
    for number in range(count):
        sample = copy.deepcopy(network, dict(shared))
        generator = torch.Generator().manual_seed(seed_of(seed, number))
        for parent, name in layers_in(sample, DROPOUT_LAYERS):
            child = getattr(parent, name)
            setattr(parent, name, FixedDropout(child, int(torch.randint(2**62, (), generator=generator))))
        drawn.append(sample.eval())
    return drawn


def check_dropout(network: nn.Module) -> None:
    """Refuse a network without a module of dropout that drops anything."""
    if not has_dropout(network):
        refuse(
            "the network has no dropout",
            "Monte-Carlo dropout draws which of its units are dropped",
            "Choose a network with dropout, or put it in with robcal.models.dropout.with_dropout",
        )


class FixedDropout(nn.Module):
    """Dropout of the same units for every input, in both modes: whole channels for `nn.Dropout1d`, `2d`, `3d`."""

    def __init__(self, layer: nn.Module, seed: int) -> None:
        super().__init__()
        self.rate = float(layer.p)  # type: ignore[arg-type]
        self.by_channel = not isinstance(layer, nn.Dropout)
        self.seed = seed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, …) to the same shape: kept units over 1 - rate, the others 0."""
        shape = (x.shape[1], *([1] * (x.ndim - 2))) if self.by_channel else tuple(x.shape[1:])
        keep = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)) >= self.rate
        return x * keep.to(x.device, x.dtype) / (1 - self.rate) if self.rate < 1 else torch.zeros_like(x)
