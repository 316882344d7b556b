"""Mixup (Zhang, Cisse, Dauphin, Lopez-Paz 2018): train on mixtures of pairs of examples, inputs and targets alike.

    lambda ~ Beta(alpha, alpha), one a batch
    x~ = lambda x_i + (1 - lambda) x_j,   t~ = lambda t_i + (1 - lambda) t_j,   j = a random permutation of the batch

(equation 1 of the paper; one lambda a batch and pairs within it, as in the authors' implementation).
"""

from __future__ import annotations

import numpy as np
import torch

from robcal.base.checks import check_fraction
from robcal.methods.method import Method

#: Default of alpha [choice]: the low end of .2 to .4, where Thulasidasan et al. 2019 find mixed networks calibrated;
#: larger ones make them under-confident.
DEFAULT_ALPHA = 0.2


def mixup(
    alpha: float = DEFAULT_ALPHA,  # parameter of the Beta distribution, above 0: small ones hardly mix, 1 is uniform
) -> Method:
    """Train on mixtures of pairs of examples, inputs and targets alike."""
    check_fraction(alpha, "alpha", high=float("inf"))

    def augment(
        inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        share, partner = draw_mixture(len(inputs), alpha, generator)
        partner = partner.to(inputs.device)
        return mix(inputs, inputs[partner], share), mix(targets, targets[partner], share)

    return Method(name="mixup", title="Mixup", augment=augment, mixes=True)


def draw_mixture(size: int, alpha: float, generator: torch.Generator) -> tuple[float, torch.Tensor]:
    """Draw lambda of a batch, and (size,) int64 with whom each example is mixed, by the generator."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha)), torch.randperm(size, generator=generator)


def mix(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """Return `share first + (1 - share) second`."""
    return share * first + (1 - share) * second
