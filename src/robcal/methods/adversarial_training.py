"""Adversarial training (Madry, Makelov, Schmidt, Tsipras, Vladu 2018): minimise the loss at its worst nearby point.

    min_theta  mean of  max { CE(f_theta(x + delta), t) : max |delta| <= epsilon, x + delta in the box }  (equation 2.1)

The inner maximum is approached by projected gradient ascent from a uniform random start. The attack sees the network
in eval mode and the loss is taken in train mode, as in the authors' library (`robustness`; their first code attacked
in train mode).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import check_fraction, check_positive_int
from robcal.methods.linf import attack_state, ball_around, generator_of, next_step, signed_ascent, under_attack
from robcal.methods.method import Batch, Method, State


def adversarial_training(
    epsilon: float = 8 / 255,  # radius of the ball in the max-norm, in input units (for tables, those of the features)
    step_size: float = 2 / 255,  # of a step, in input units
    steps: int = 7,  # number of steps; each costs as much as a step of plain training
) -> Method:
    """Train on adversarial examples made by projected gradient ascent, as the paper does on CIFAR-10."""
    check_fraction(epsilon, "epsilon", high=float("inf"))
    check_fraction(step_size, "step_size", high=float("inf"))
    check_positive_int(steps, "steps")

    def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
        def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(logits, targets, reduction="none")

        ball = ball_around(state, batch.inputs, epsilon)
        generator = generator_of(state, ball.inputs.device)
        start = torch.rand(ball.inputs.shape, generator=generator, device=ball.inputs.device) * 2 - 1
        with under_attack(model) as network:
            delta = signed_ascent(network, cross_entropy, ball, epsilon * start, steps=steps, step_size=step_size)
        return functional.cross_entropy(model(batch.inputs + delta), targets), next_step(state)

    return Method(name="adversarial-training", title="Adversarial training", init=attack_state, loss=loss)
