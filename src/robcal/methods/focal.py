"""Focal loss (Lin et al. 2017, equation 4), which calibrates networks (Mukhoti et al. 2020).

    L = -(1 - p_y)^gamma log p_y

Well-learnt examples weigh less than in the cross-entropy (gamma = 0), so the network is not driven to certainty. For
soft targets t it is the mean over them, `-sum_z t_z (1 - p_z)^gamma log p_z`, which for one-hot ones is the above.

FLSD-53 (Mukhoti et al. 2020, section 5, "sample-dependent gamma 5, 3") takes gamma = 5 where p_y is below .2, and 3
elsewhere: how strongly the loss asks for entropy should depend on how far the network is. With soft targets each class
has the gamma of its own p_z. Gamma is a step function of p, so it has no gradient.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import check_fraction
from robcal.methods.method import Batch, Method, State

#: Default of gamma: what Mukhoti et al. 2020 recommend where one value serves all examples.
DEFAULT_GAMMA = 3.0

#: Of FLSD-53: gamma below this probability, and from it on.
THRESHOLD, BELOW, ABOVE = 0.2, 5.0, 3.0


def focal(
    gamma: float = DEFAULT_GAMMA,  # exponent of the factor (1 - p), at least 0; 0 is the cross-entropy
) -> Method:
    """Train on the focal loss, in which well-learnt examples weigh less."""
    check_fraction(gamma, "gamma", low=-1e-300, high=float("inf"))

    def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
        return focal_loss(model(batch.inputs), targets, gamma), state

    return Method(name="focal", title="Focal loss", loss=loss)


def flsd53() -> Method:
    """Train on the focal loss with gamma 5 where the true class has a probability below .2, and 3 elsewhere."""

    def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
        logits = model(batch.inputs)
        return focal_loss(logits, targets, flsd_gamma(logits)), state

    return Method(name="flsd-53", title="FLSD-53", loss=loss)


def flsd_gamma(logits: torch.Tensor) -> torch.Tensor:
    """Return (B, Z) the gamma of each probability: 5 in [0, .2), 3 in [.2, 1]."""
    probs = functional.softmax(logits.detach().float(), dim=1)
    return torch.where(probs < THRESHOLD, BELOW, ABOVE)


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, gamma: float | torch.Tensor) -> torch.Tensor:
    """Return the mean over the batch of `-sum_z t_z (1 - p_z)^gamma log p_z`; gamma is one number or (B, Z)."""
    log_probs = functional.log_softmax(logits.float(), dim=1)
    rest = (-torch.expm1(log_probs)).clamp_min(torch.finfo(log_probs.dtype).tiny)  # 1 - p, exact for p near 1
    return -(targets * rest**gamma * log_probs).sum(1).mean()
