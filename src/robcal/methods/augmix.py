"""AugMix (Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan 2020): train on mixtures of several changed images.

    x~ = m x + (1 - m) sum_i w_i chain_i(x),   w ~ Dirichlet(alpha, …),   m ~ Beta(alpha, alpha)         (algorithm 1)

A chain is one to three operations drawn at random, each with a strength drawn anew; those that overlap with the
corruptions of the test are left out. This is the augmentation alone, without the consistency loss (Jensen-Shannon) of
the paper, so a step costs one pass of the network. Labels stay. Images are rounded to 8 bits within a chain, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from robcal.base.checks import FloatArray, IntArray, check_fraction, check_positive_int, refuse
from robcal.data.dataset import Dataset
from robcal.data.operations import OPERATIONS, Choice, operate
from robcal.methods.method import Method

#: Longest chain; its length is drawn from 1 … this (the paper's depth).
LONGEST = 3
#: Least strength that is drawn.
LEAST = 0.1


def augmix(
    severity: float = 3.0,  # most strength of an operation, from .1 to 10; the paper's is 3 for CIFAR
    width: int = 3,  # number of chains, from 1; the paper's is 3
    alpha: float = 1.0,  # parameter of both distributions, above 0; the paper's is 1
) -> Method:
    """Train on mixtures of several randomly changed versions of each image."""
    check_fraction(severity, "severity", low=LEAST, high=10 + 1e-9)
    check_positive_int(width, "width")
    check_fraction(alpha, "alpha", high=float("inf"))

    def augment(
        inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        return mixed(inputs, draw_chains(len(inputs), severity, width, alpha, seed)), targets

    return Method(name="augmix", title="AugMix", augment=augment, check=_check)


def _check(network: nn.Module, dataset: Dataset) -> None:
    if dataset.kind != "image":
        refuse("method augmix with a table", "it turns, moves and recolours images", "Choose mixup, or another method")


@dataclass(frozen=True)
class Chains:
    """What is drawn for a batch of B images and W chains."""

    operation: IntArray  # (B, W, 3) positions in `OPERATIONS`, -1 after the end of a chain
    level: FloatArray  # (B, W, 3) strengths
    sign: FloatArray  # (B, W, 3) 1 or -1
    weight: FloatArray  # (B, W) w
    share: FloatArray  # (B,) m, of the unchanged image


def draw_chains(size: int, severity: float, width: int, alpha: float, seed: int) -> Chains:
    """Draw what a batch is changed by; see `augmix`."""
    rng, shape = np.random.default_rng(seed), (size, width, LONGEST)
    ended = np.arange(LONGEST) >= rng.integers(1, LONGEST + 1, (size, width, 1))
    return Chains(
        operation=np.where(ended, -1, rng.integers(0, len(OPERATIONS), shape)),
        level=rng.uniform(LEAST, severity, shape),
        sign=rng.choice([-1.0, 1.0], shape),
        weight=rng.dirichlet(np.full(width, alpha), size),
        share=rng.beta(alpha, alpha, size),
    )


def mixed(inputs: torch.Tensor, chains: Chains) -> torch.Tensor:
    """Mix images, (B, C, H, W) float32 in [0, 1], with what the chains make of them; their memory format stays."""
    (size, width, _), place = chains.level.shape, inputs.device
    drawn = {
        name: torch.from_numpy(getattr(chains, name)).to(place).flatten(0, 1) for name in ("operation", "level", "sign")
    }
    images = (inputs * 255).round().clamp(0, 255).to(torch.uint8).contiguous().repeat_interleave(width, 0)
    for step in range(LONGEST):
        images = operate(images, Choice(**{name: values[:, step] for name, values in drawn.items()}))
    weight, share = (torch.from_numpy(one).float().to(place) for one in (chains.weight, chains.share))
    changed = torch.einsum("bw...,bw->b...", images.view(size, width, *inputs.shape[1:]).float() / 255, weight)
    return torch.lerp(changed, inputs, share.view(-1, 1, 1, 1), out=torch.empty_like(inputs))
