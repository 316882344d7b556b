"""Confidence-calibrated adversarial training (Stutz, Hein, Schiele 2020): certainty fades towards adversarial examples.

One half of the batch is clean; in the other, each input is moved where another class is most confident, and its target
becomes the more uniform the farther it was moved:

    delta = argmax { max_{k != y} p_k(x + delta) : max |delta| <= epsilon, x + delta in the box }          (equation 4)
    target = lambda t + (1 - lambda) / Z                                                                   (equation 5)
    lambda = (1 - min(1, max |delta| / epsilon))^rho                                                       (equation 6)

and the loss is the mean cross-entropy of both halves (equation 3). The attack is projected gradient ascent with
momentum and backtracking; every second start, on average, is delta = 0, the others are uniform in direction and norm.
It sees the network in eval mode, as the authors' code does.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import check_fraction, check_positive_int
from robcal.methods.linf import attack_state, backtracking_ascent, ball_around, generator_of, next_step, under_attack
from robcal.methods.method import Batch, Method, State

#: First step of the attack times their number, in units of epsilon: .005 for the paper's 40 steps and epsilon .03.
_PATH = 20 / 3


def ccat(
    epsilon: float = 0.03,  # radius of the ball in the max-norm, in input units (for tables, the units of the features)
    rho: float = 10.0,  # exponent of the transition from the target to the uniform distribution, above 0
    steps: int = 40,  # of the attack; each costs half a step of plain training. With fewer, the steps are longer
) -> Method:
    """Train half of each batch on adversarial examples whose targets fade to uniform, as the paper does on CIFAR-10."""
    check_fraction(epsilon, "epsilon", high=float("inf"))
    check_fraction(rho, "rho", high=float("inf"))
    check_positive_int(steps, "steps")

    def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
        half = len(batch.labels) // 2
        delta = _attack(state, model, batch.inputs[:half], batch.labels[:half], epsilon, steps)
        moved = fade(targets[:half], transition(delta, epsilon, rho))
        inputs = torch.cat([batch.inputs[:half] + delta, batch.inputs[half:]])
        return functional.cross_entropy(model(inputs), torch.cat([moved, targets[half:]])), next_step(state)

    return Method(name="ccat", title="CCAT", init=attack_state, loss=loss, by_label=True)


def transition(delta: torch.Tensor, epsilon: float, rho: float) -> torch.Tensor:
    """Return (B,) `lambda = (1 - min(1, max |delta| / epsilon))^rho` (equation 6)."""
    return (1 - (delta.flatten(1).abs().amax(1) / epsilon).clamp_max(1)) ** rho


def fade(targets: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return (B, Z) `lambda t + (1 - lambda) / Z` (equation 5); `share` is (B,) lambda."""
    return share[:, None] * targets + (1 - share[:, None]) / targets.shape[1]


def rival_log_confidence(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (B,) `max_{k != y} log p_k`: largest where `p_k` is (equation 4), and it never underflows."""
    log_probs = functional.log_softmax(logits, dim=1)
    return log_probs.scatter(1, labels[:, None], -torch.inf).amax(1)


def _attack(
    state: State, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, epsilon: float, steps: int
) -> torch.Tensor:
    if len(labels) == 0:
        return torch.zeros_like(inputs)
    ball = ball_around(state, inputs, epsilon)
    start = epsilon * _start(ball.inputs, generator_of(state, ball.inputs.device))
    with under_attack(model) as network:
        return backtracking_ascent(
            network,
            lambda logits: rival_log_confidence(logits, labels),
            ball,
            start,
            steps=steps,
            step_size=_PATH * epsilon / steps,
        )


def _start(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return starts (B, …) in the unit ball: 0, or uniform in direction (of the max-norm's sphere) and norm."""
    size, device = len(like), like.device
    direction = torch.rand(like.shape, generator=generator, device=device) * 2 - 1
    direction = direction / direction.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, *([1] * (like.ndim - 1)))
    norm = torch.rand(size, generator=generator, device=device)
    moves = torch.rand(size, generator=generator, device=device) < 0.5
    return direction * (norm * moves).view(-1, *([1] * (like.ndim - 1)))
