"""Attacks within a max-norm ball that training methods run on their batches; scoring robustness is `robcal.robustness`.

A perturbation delta is kept where `max |delta| <= epsilon` and `x + delta` lies in the box of the data, both by
clipping, which is the exact projection. Attacks see the network in eval mode, so running statistics are neither used
up nor disturbed by adversarial examples, and dropout is off; random starts come from (seed, step), kept in the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from robcal.base.seeds import seed_of
from robcal.methods.method import RunInfo, State
from robcal.robustness.modes import eval_mode

#: Perturbed inputs' logits → (B,) what the attack makes as large as it can.
Objective = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Ball:
    """The allowed perturbations of a batch."""

    inputs: torch.Tensor  # (B, …) its centres, in input units
    epsilon: float  # radius in the max-norm, in input units
    low: torch.Tensor  # lower end of the box, broadcastable to one input; -inf where unbounded
    high: torch.Tensor  # upper end

    def project(self, delta: torch.Tensor) -> torch.Tensor:
        """Return the nearest allowed perturbation."""
        moved = self.inputs + delta.clamp(-self.epsilon, self.epsilon)
        return torch.minimum(torch.maximum(moved, self.low), self.high) - self.inputs


def attack_state(info: RunInfo) -> State:
    """Return what an attacking method remembers: the data's box, the run's seed and the number of steps taken."""
    low, high = (-np.inf, np.inf) if info.box is None else info.box
    return {
        "low": torch.as_tensor(low, dtype=torch.float32),
        "high": torch.as_tensor(high, dtype=torch.float32),
        "seed": torch.tensor(info.seed),
        "step": torch.tensor(0),
    }


def next_step(state: State) -> State:
    """Return the state after one batch."""
    return {**state, "step": state["step"] + 1}


def ball_around(state: State, inputs: torch.Tensor, epsilon: float) -> Ball:
    """Return the ball about a batch, cut with the box that `attack_state` remembers."""
    centre = inputs.detach()
    return Ball(centre, epsilon, state["low"].to(centre.device), state["high"].to(centre.device))


def generator_of(state: State, device: torch.device) -> torch.Generator:
    """Make the generator of this batch's random starts, of (seed, step), so that a resumed run repeats it."""
    return torch.Generator(device).manual_seed(seed_of(int(state["seed"]), int(state["step"])))


@contextmanager
def under_attack(model: nn.Module) -> Iterator[nn.Module]:
    """Set the network to eval mode, without the wrapper of distributed training; its modes come back after."""
    network: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    with eval_mode(network):
        yield network


def signed_ascent(
    network: nn.Module, objective: Objective, ball: Ball, start: torch.Tensor, *, steps: int, step_size: float
) -> torch.Tensor:
    """Ascend `delta <- project(delta + step_size sign(gradient))` from the projected start (Madry et al. 2018)."""
    delta = ball.project(start)
    for _ in range(steps):
        _, gradient = _value_and_gradient(network, objective, ball, delta)
        delta = ball.project(delta + step_size * gradient.sign())
    return delta


def backtracking_ascent(
    network: nn.Module,
    objective: Objective,
    ball: Ball,
    start: torch.Tensor,
    *,
    steps: int,
    step_size: float,
    momentum: float = 0.9,
    factor: float = 1.5,
) -> torch.Tensor:
    """Ascend by projected gradients with momentum and backtracking (Stutz et al. 2020, algorithm 2).

        velocity <- momentum velocity + (1 - momentum) sign(gradient)
        delta <- project(delta + step velocity) where that does not lower the objective; elsewhere step <- step / factor

    so the objective of no example ever falls. The trial's gradient is kept if it is accepted: one forward and one
    backward pass a step. The start, (B, …), is projected first; steps begin as long as `step_size`, in input units.
    """
    delta = ball.project(start)
    value, gradient = _value_and_gradient(network, objective, ball, delta)
    each = (-1, *([1] * (delta.ndim - 1)))
    size = torch.full_like(value, step_size)
    velocity = torch.zeros_like(delta)
    for _ in range(steps):
        velocity = momentum * velocity + (1 - momentum) * gradient.sign()
        trial = ball.project(delta + size.view(each) * velocity)
        trial_value, trial_gradient = _value_and_gradient(network, objective, ball, trial)
        better = trial_value >= value
        delta = torch.where(better.view(each), trial, delta)
        gradient = torch.where(better.view(each), trial_gradient, gradient)
        value = torch.where(better, trial_value, value)
        size = torch.where(better, size, size / factor)
    return delta


def _value_and_gradient(
    network: nn.Module, objective: Objective, ball: Ball, delta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the objective (B,) at `inputs + delta`, and its gradient there; parameters receive none."""
    moved = (ball.inputs + delta).requires_grad_()
    value = objective(network(moved).float())
    (gradient,) = torch.autograd.grad(value.sum(), moved)
    return value.detach(), gradient
