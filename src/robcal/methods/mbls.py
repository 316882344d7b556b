"""Margin-based label smoothing (Liu, Ben Ayed, Galdran, Dolz 2022): logits may differ by a margin without a penalty.

    L = cross-entropy + weight · mean over classes k of max(0, max_j z_j - z_k - margin)            (section 3)

Label smoothing pushes all distances of logits towards 0 and so costs information; here only those beyond the margin
cost anything, and with margin 0 the penalty is the linear one that label smoothing implies. The paper writes the sum
over classes; the mean is what its weight .1 was used with in the authors' code.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import check_fraction
from robcal.methods.method import Batch, Method, State


def mbls(
    margin: float = 10.0,  # distance that costs nothing, at least 0; the paper's is 10 for CIFAR-10 and Tiny-ImageNet
    weight: float = 0.1,  # of the penalty, above 0; the paper's is .1
) -> Method:
    """Train with a penalty on distances between logits beyond a margin."""
    check_fraction(margin, "margin", low=-1e-300, high=float("inf"))
    check_fraction(weight, "weight", high=float("inf"))

    def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
        logits = model(batch.inputs).float()
        return functional.cross_entropy(logits, targets) + weight * margin_penalty(logits, margin), state

    return Method(name="mbls", title="MbLS", loss=loss)


def margin_penalty(logits: torch.Tensor, margin: float) -> torch.Tensor:
    """Return the mean over examples and classes of `max(0, max_j z_j - z_k - margin)`, of (B, Z) logits z."""
    return functional.relu(logits.amax(1, keepdim=True) - logits - margin).mean()
