"""DDN l2 attack (decoupled direction and norm), without quantisation: a strong attack of another family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.base.checks import check_fraction
from robcal.robustness.descent import descend
from robcal.robustness.engine import check_settings
from robcal.robustness.starts import first_starts
from robcal.robustness.steps import l2, select
from robcal.robustness.watched import Draws, Watched

#: The gradient step shrinks to this share of the first, as in the paper.
_LAST_STEP = 0.01


@dataclass(frozen=True)
class DDN:
    """Find a near adversarial point by DDN; about (1 + restarts) · max_iterations passes an example.

    δ ← δ + α g / ‖g‖; ε ← (1 ∓ γ) ε; δ ← clip(ε δ / ‖δ‖), where ε shrinks if x + δ was adversarial and grows if not
    (Rony et al., *Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses*,
    2019, algorithm 1). Departures from the paper: no quantisation; g is the gradient of the logit difference to the
    nearest rival (cross-entropy saturates); the first ε and α are the first-order distance, so no unit is special; γ
    falls too, so that the norm converges; further searches start elsewhere, and each ends in a descent along the
    boundary.

    Attributes:
        max_iterations: steps of each search.
        gamma: share by which the norm shrinks where a point is adversarial and grows where it is not.
        final_gamma: what gamma falls to, along a half cosine: a constant one leaves the norm within ±gamma.
        num_rivals: K, rivals linearised at the clean input: the starts of the first K restarts.
        restarts: searches after the one from the clean input (see `robustness.starts`).
        polish_steps: evaluations, at most, of the descent along the boundary that closes each search; 0 for none.
        seed: seeds the random starts and the perturbation of inputs whose gradient is zero.
    """

    max_iterations: int = 300
    gamma: float = 0.05
    final_gamma: float = 0.001
    num_rivals: int = 3
    restarts: int = 4
    polish_steps: int = 30
    seed: int = 0
    name: ClassVar[str] = "ddn"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, max_iterations=1, num_rivals=1)
        check_settings(self, restarts=0, polish_steps=0, seed=0)
        check_fraction(self.gamma, "gamma")
        check_fraction(self.final_gamma, "final_gamma")

    @classmethod
    def as_reference(cls, *, iterations: int, restarts: int, num_rivals: int, seed: int) -> DDN:
        """Return it as one of the references of `robcal fidelity`: a third of the iterations a start."""
        return cls(
            max_iterations=max(40, iterations // 3), num_rivals=num_rivals, restarts=num_rivals + restarts, seed=seed
        )

    def points(self, network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
        """Return (B, D) the nearest point of all searches: from the input, towards each rival, from random points."""
        starts = first_starts(network, self.num_rivals)
        self._search(network, network.start, torch.full_like(label, -1), starts.first_order)
        for number in range(self.restarts):
            start, target = starts.take(number, network, rng)
            radius = l2(start, x).clamp_min(1e-12)
            self._search(network, start, target, torch.where(torch.isfinite(radius), radius, 1.0))
        return network.point

    def _search(self, network: Watched, start: Tensor, target: Tensor, radius: Tensor) -> None:
        """Algorithm 1 from `start` (B, D), with `radius` (B,) the first norm and the first step; then a descent."""
        query, first_step = start, radius
        found, found_distance = start.clone(), torch.full_like(radius, torch.inf)
        for iteration in range(self.max_iterations):
            linear, beyond = network.linearise(query, target=target)
            distance = l2(query, network.x)
            better = beyond & (distance < found_distance)
            found = select(better, query, found)
            found_distance = torch.where(better, distance, found_distance)
            progress = math.cos(math.pi * iteration / self.max_iterations) / 2 + 0.5  # from 1 to 0
            gamma = self.final_gamma + (self.gamma - self.final_gamma) * progress
            step = first_step * (_LAST_STEP + (1 - _LAST_STEP) * progress)
            normal = linear.normal[:, 0]
            downhill = -normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-30)
            delta = query - network.x + step.unsqueeze(1) * downhill
            radius = torch.where(beyond, 1 - gamma, 1 + gamma) * radius
            scaled = radius.unsqueeze(1) * delta / delta.norm(dim=1, keepdim=True).clamp_min(1e-30)
            query = network.bounds.clamp(network.x + scaled)
        polish = torch.nonzero(torch.isfinite(found_distance)).squeeze(1)
        descend(network, found, max_steps=self.polish_steps, at=polish)
