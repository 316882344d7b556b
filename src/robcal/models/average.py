"""Several networks as one: the ensemble as a differentiable function of its input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


class Average(nn.Module):
    """The mean of the members' probabilities (method, section 4), as logits: `log 1/M sum_m softmax(z_m(x))`.

    softmax gives the mean back, so whatever takes one network takes an ensemble: its robustness is its own, not a
    member's.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (B, …) inputs → (B, Z) log-probabilities."""
        logs = torch.stack([member(inputs).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))
