"""Carlini-Wagner l2 attack, correct for every single example: the strong, slow reference (method, section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.robustness.box import Bounds
from robcal.robustness.descent import descend
from robcal.robustness.engine import Rows, check_settings
from robcal.robustness.network import Linearisation
from robcal.robustness.starts import first_starts
from robcal.robustness.steps import l2
from robcal.robustness.watched import Draws, Watched

_BETA1, _BETA2, _ADAM_EPSILON = 0.9, 0.999, 1e-8
#: The box is stretched by this much inside tanh, so that inputs on its ends have a finite w.
_SHRINK = 1e-3
#: Smallest slope of tanh that the step size is divided by: features at an end of the box get under way.
_SMALLEST_SLOPE = 0.1
#: How often the step size is cut when the loss stops falling, before the search step ends; and by how much.
_MAX_CUTS, _CUT = 3, 0.3
#: Looks at the loss in a search step.
_CHECKS = 20


@dataclass(frozen=True)
class CarliniWagner:
    """Find a near adversarial point by the Carlini-Wagner l2 attack.

    minimise ‖δ‖₂² + c · max(z_y(x + δ) − max_{j≠y} z_j(x + δ), 0) over w, where x + δ = mid + half · tanh(w)
    (Carlini & Wagner, *Towards Evaluating the Robustness of Neural Networks*, 2017, section VI.A; their κ is 0 but for
    float32 rounding), with a binary search for the c of each example. Up to
    (binary_search_steps + restarts / 4) · max_iterations passes an example, often half of that.

    Every example has its own c, step size, abort and best point: no result depends on the batch. Departures from the
    paper: the first c and the step size come from the first-order picture (pass initial_const=1e-3 for the paper's c);
    the searches for c start at the clean input and at the first-order point in turn; as the loss has many minima,
    `restarts` more searches follow at the c found (towards each of the nearest rivals, then from random points within
    the best distance); what a search found is polished by a descent along the boundary; the step size is cut where the
    loss stalls before a search is given up; and features without two finite ends need no tanh.

    Attributes:
        binary_search_steps: values of the constant c tried for every example.
        max_iterations: Adam steps for each of them; a restart, whose c is known, gets a quarter (at least 50).
        learning_rate: largest Adam step, in units of half the box (in tanh space); an example whose first-order
            distance is small takes smaller ones (a tenth of that distance per square root of D).
        initial_const: first c; None starts from 2 margin / ‖gradient‖², which is right where the model is linear.
        num_rivals: K, rivals linearised at the clean input: the starts of the first K restarts.
        restarts: searches that follow at the c found: towards each of the K rivals, from its first-order point, then
            towards any from random points no farther than the best one so far (see `robustness.starts`).
        polish_steps: evaluations, at most, of the descent along the boundary that closes each search; 0 for none.
        seed: seeds the random starts and the perturbation of inputs whose gradient is zero.
    """

    binary_search_steps: int = 9
    max_iterations: int = 1000
    learning_rate: float = 0.01
    initial_const: float | None = None
    num_rivals: int = 3
    restarts: int = 24
    polish_steps: int = 30
    seed: int = 0
    name: ClassVar[str] = "carlini-wagner"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, binary_search_steps=1, max_iterations=1, num_rivals=1)
        check_settings(self, restarts=0, polish_steps=0, seed=0)

    @classmethod
    def as_reference(cls, *, iterations: int, restarts: int, num_rivals: int, seed: int) -> CarliniWagner:
        """Return it as one of the references of `robcal fidelity`."""
        return cls(max_iterations=iterations, num_rivals=num_rivals, restarts=num_rivals + restarts, seed=seed)

    def points(self, network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
        """Return (B, D) the nearest point of all searches: those for c, then the restarts."""
        starts = first_starts(network, self.num_rivals)
        root = x.shape[1] ** 0.5
        scale = 0.1 * starts.first_order / root
        const, low, high = starts.penalty[:, 0], torch.zeros_like(scale), torch.full_like(scale, torch.inf)
        if self.initial_const is not None:
            const = torch.full_like(const, self.initial_const)
        following, nowhere = const, torch.full_like(label, -1)
        for search in range(self.binary_search_steps):  # from the clean input and the first-order point in turn
            const = following
            start = network.start if search % 2 == 0 else starts.points[:, 0]
            found = self._search(network, start, nowhere, const, scale, self.max_iterations)
            low = torch.where(found, low, torch.maximum(low, const))
            high = torch.where(found, torch.minimum(high, const), high)
            following = torch.where(torch.isfinite(high), (low + high) / 2, 10 * const)
        brief = min(self.max_iterations, max(50, self.max_iterations // 4))
        for number in range(self.restarts):
            if number == 0:  # twice the least that succeeded
                const = 2 * torch.where(torch.isfinite(high), high, 5 * const)
            else:
                const = torch.where(found, const, 10 * const)
            if number < starts.of_rivals:
                const = torch.maximum(const, 2 * starts.penalty[:, number])
            start, target = starts.take(number, network, rng)
            known = torch.where(torch.isfinite(network.distance), network.distance, starts.first_order)
            found = self._search(network, start, target, const, 0.1 * known / root, brief)
        return network.point

    def _search(
        self, network: Watched, start: Tensor, target: Tensor, const: Tensor, scale: Tensor, limit: int
    ) -> Tensor:
        """Adam on the loss from `start` (B, D), then a descent from what it found; (B,) bool: where it found a point.

        The step size, `scale` (B,) at first, is cut where the loss stops falling; after the last cut a row is done.
        """
        at, change = torch.arange(len(start), device=start.device), _Change(network.bounds, network.x)
        found, found_distance = start.clone(), torch.full_like(scale, torch.inf)
        state = _fresh(change.inverse(start), start, target, const, scale.clamp_min(1e-30), network.x)
        every = max(1, limit // _CHECKS)
        for iteration in range(1, limit + 1):
            linear, beyond = network.linearise(state["query"], at, target=state["target"])
            distance = l2(state["query"], state["x"])
            better = beyond & (distance < found_distance[at])
            found[at[better]], found_distance[at[better]] = state["query"][better], distance[better]
            state = self._adam(_Change(network.bounds, state["x"]), state, linear, iteration)
            if iteration % every == 0:
                state, over = _cut_steps(state)
                at, state = at[~over], {key: value[~over] for key, value in state.items()}
            if not len(at):
                break
        succeeded = torch.isfinite(found_distance)
        descend(network, found, max_steps=self.polish_steps, at=torch.nonzero(succeeded).squeeze(1))
        return succeeded

    def _adam(self, change: _Change, rows: Rows, linear: Linearisation, count: int) -> Rows:
        """One Adam step (Kingma & Ba 2015, algorithm 1) on ‖δ‖² + c max(z_y - max z_j + κ, 0) in w.

        κ is twice the lead that a point needs to be verified: float32 rounding, as a rule.
        """
        gap, normal = linear.gap[:, 0] + 2 * linear.lead[:, 0], linear.normal[:, 0]
        delta = rows["query"] - rows["x"]
        loss = (delta * delta).sum(1) + rows["const"] * gap.clamp_min(0)
        slope, scale = change.slope(rows["w"]), rows["scale"]
        gradient = 2 * delta + (rows["const"] * (gap > 0)).unsqueeze(1) * normal
        gradient = gradient / scale.unsqueeze(1) * slope
        first = _BETA1 * rows["first_moment"] + (1 - _BETA1) * gradient
        second = _BETA2 * rows["second_moment"] + (1 - _BETA2) * gradient * gradient
        direction = first / (1 - _BETA1**count) / ((second / (1 - _BETA2**count)).sqrt() + _ADAM_EPSILON)
        step = change.step(scale, self.learning_rate) * _CUT ** rows["cuts_made"].float().unsqueeze(1)
        w = change.confine(rows["w"] - step * direction / slope.clamp_min(_SMALLEST_SLOPE))
        return rows | {
            "w": w,
            "query": change.forward(w),
            "first_moment": first,
            "second_moment": second,
            "loss": torch.minimum(loss, rows["loss"]),
        }


def _fresh(w: Tensor, query: Tensor, target: Tensor, const: Tensor, scale: Tensor, x: Tensor) -> Rows:
    """The state of a search before its first step."""
    infinite = torch.full_like(scale, torch.inf)
    return {
        "x": x,
        "query": query,
        "target": target,
        "const": const,
        "scale": scale,
        "w": w,
        "first_moment": torch.zeros_like(w),
        "second_moment": torch.zeros_like(w),
        "cuts_made": torch.zeros_like(target),
        "loss": infinite,
        "loss_before": infinite,
    }


def _cut_steps(rows: Rows) -> tuple[Rows, Tensor]:
    """Cut the step size where the loss stopped falling; (B,) bool: where it was cut often enough already."""
    stalled = rows["loss"] > rows["loss_before"] - 1e-4 * rows["loss_before"].abs()
    cuts = rows["cuts_made"] + stalled.long()
    return rows | {"cuts_made": cuts, "loss_before": rows["loss"]}, cuts > _MAX_CUTS


class _Change:
    """Change of variable: x = mid + half tanh(w) / (1 - ε) where both ends are finite, x = start + w elsewhere.

    The stretch by 1 / (1 - ε) with |w| <= atanh(1 - ε) maps onto the whole box, so inputs on its ends are represented
    exactly and can move. Features with one end are clamped.
    """

    def __init__(self, bounds: Bounds, start: Tensor) -> None:
        self.bounds, self.start = bounds, start
        self.boxed = torch.isfinite(self.bounds.lo) & torch.isfinite(self.bounds.hi)
        self.mid = torch.where(self.boxed, (self.bounds.lo + self.bounds.hi) / 2, 0.0)
        self.half = torch.where(self.boxed, (self.bounds.hi - self.bounds.lo) / 2, 1.0)
        self.limit = torch.where(self.boxed, torch.atanh(torch.tensor(1 - _SHRINK, device=start.device)), torch.inf)

    def forward(self, w: Tensor) -> Tensor:
        inside = self.mid + self.half * torch.tanh(w) / (1 - _SHRINK)
        return self.bounds.clamp(torch.where(self.boxed, inside, self.start + w))

    def inverse(self, x: Tensor) -> Tensor:
        return torch.where(self.boxed, torch.atanh((x - self.mid) / self.half * (1 - _SHRINK)), x - self.start)

    def slope(self, w: Tensor) -> Tensor:
        """Return d(x / half) / dw."""
        return torch.where(self.boxed, (1 - torch.tanh(w) ** 2) / (1 - _SHRINK), 1.0)

    def step(self, step_size: Tensor, learning_rate: float) -> Tensor:
        """Return (B, D) Adam step in w."""
        step = step_size.unsqueeze(1) / self.half
        return torch.where(self.boxed, step.clamp_max(learning_rate), step)

    def confine(self, w: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(w, -self.limit), self.limit)
