"""Small networks and inputs that the tests of users' models share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def mlp(inputs: int = 6, classes: int = 4, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes))


def rows(count: int = 24, width: int = 6) -> torch.Tensor:
    return torch.rand(count, width, generator=torch.Generator().manual_seed(1))


#: A forward around a network.
Forward = Callable[["Calls", torch.Tensor], torch.Tensor]


class Calls(nn.Module):
    """A network, and what its forward does around it."""

    def __init__(self, inner: nn.Module, does: Forward) -> None:
        super().__init__()
        self.inner, self.does = inner, does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)
