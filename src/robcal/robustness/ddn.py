"""DDN l2 attack (decoupled direction and norm), without quantisation: a strong attack of another family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.base.checks import check_fraction
from robcal.robustness.descent import Descent, advance_descent, descent_rows, start_descent
from robcal.robustness.engine import DONE, Rows, check_settings, fresh_rows
from robcal.robustness.network import Linearisation, Network, signed_margin
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.starts import next_start, read_starts, start_rows
from robcal.robustness.steps import is_adversarial, is_flat, keep_best, l2, meet, perturb, select

#: The closing line search.
_SEARCH = {"tolerance": 0.001, "max_searches": 12}
#: Stages of an example: before the first linearisation, DDN steps, descent along the boundary.
_WAITING, _STEPPING, _DESCENT = 0, 1, 2
#: The gradient step shrinks to this share of the first, as in the paper.
_LAST_STEP = 0.01


@dataclass(frozen=True)
class DDN:
    """Find a near, verified adversarial point by DDN; about (1 + restarts) · max_iterations passes an example.

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

    @property
    def num_kinds(self) -> int:
        """Up to three: the first linearisation, DDN and descent steps, and the closing line search."""
        return 3

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples, to be evaluated at the clean input."""
        rows = fresh_rows(index, x, reference, need=self.num_rivals)
        count, infinite = torch.zeros_like(rows["flat"]), torch.full_like(rows["distance"], torch.inf)
        return (
            rows
            | segment_rows(x)
            | descent_rows(x)
            | start_rows(x, min(self.num_rivals, network.num_classes - 1))
            | {
                "query": x.clone(),
                "stage": count.clone(),
                "iteration": count.clone(),
                "search": count.clone(),
                "radius": torch.zeros_like(infinite),
                "step_size": torch.zeros_like(infinite),
                "found": x.clone(),
                "found_distance": infinite.clone(),
            }
        )

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Return one DDN or descent step (need >= 1) or one point of the closing line search (need 0) for every row."""
        if need == 0:
            return advance_search(network, rows, **_SEARCH)  # type: ignore[arg-type]
        linear = network.linearise(rows["query"], rows["reference"], need, rows["target"])
        rows = meet(network, rows, linear)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        active = rows["need"] != DONE
        rows, improved = keep_best(rows, linear.logits)
        rows["f_high"] = torch.where(improved, signed_margin(linear.logits, rows["reference"]), rows["f_high"])
        waiting = active & (rows["stage"] == _WAITING)
        stepping, descending = active & (rows["stage"] == _STEPPING), active & (rows["stage"] == _DESCENT)
        flat = waiting & is_flat(linear)
        begin = waiting & ~flat
        over = torch.zeros_like(active)
        if bool(begin.any()):
            rows = read_starts(network, rows, begin, linear)
            rows["need"] = torch.where(begin, 1, rows["need"])
            rows = self._restart(rows, begin, rows["query"], rows["target"], rows["first_order"])
        if bool((stepping | begin).any()):
            rows = self._step(network, rows, stepping | begin, linear)
            rows, over = self._end_search(rows, stepping | begin)
        if bool(descending.any()):
            rows, landed = advance_descent(network, rows, descending, linear, Descent(self.polish_steps))
            over = over | landed
        rows = self._next_search(network, rows, over)
        return perturb(rows, flat, network.bounds, self.seed)

    @staticmethod
    def _restart(rows: Rows, mask: Tensor, start: Tensor, target: Tensor, radius: Tensor) -> Rows:
        """Search from `start` (B, D), with `radius` (B,) the first norm and the first step."""
        return rows | {
            "query": select(mask, start, rows["query"]),
            "target": torch.where(mask, target, rows["target"]),
            "stage": torch.where(mask, _STEPPING, rows["stage"]),
            "iteration": torch.where(mask, 0, rows["iteration"]),
            "radius": torch.where(mask, radius, rows["radius"]),
            "step_size": torch.where(mask, radius, rows["step_size"]),
            "found_distance": torch.where(mask, torch.inf, rows["found_distance"]),
        }

    def _step(self, network: Network, rows: Rows, mask: Tensor, linear: Linearisation) -> Rows:
        """One iteration of algorithm 1: a step along the gradient, then the norm that the last point asks for."""
        distance = l2(rows["query"], rows["x"])
        adversarial = is_adversarial(rows, linear.logits)
        better = mask & adversarial & (distance < rows["found_distance"])
        progress = (math.pi * rows["iteration"] / self.max_iterations).cos() / 2 + 0.5  # from 1 to 0
        gamma = self.final_gamma + (self.gamma - self.final_gamma) * progress
        step = rows["step_size"] * (_LAST_STEP + (1 - _LAST_STEP) * progress)
        normal = linear.normal[:, 0]
        downhill = -normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-30)
        delta = rows["query"] - rows["x"] + step.unsqueeze(1) * downhill
        radius = torch.where(adversarial, 1 - gamma, 1 + gamma) * rows["radius"]
        scaled = radius.unsqueeze(1) * delta / delta.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return rows | {
            "found": select(better, rows["query"], rows["found"]),
            "found_distance": torch.where(better, distance, rows["found_distance"]),
            "radius": torch.where(mask, radius, rows["radius"]),
            "query": select(mask, network.bounds.clamp(rows["x"] + scaled), rows["query"]),
            "iteration": rows["iteration"] + mask.long(),
        }

    def _end_search(self, rows: Rows, mask: Tensor) -> tuple[Rows, Tensor]:
        """After the last iteration polish what was found; (B,) bool: whose search is over, with nothing to polish."""
        over = mask & (rows["iteration"] >= self.max_iterations)
        polish = over & torch.isfinite(rows["found_distance"]) & (self.polish_steps > 0)
        if bool(polish.any()):
            rows = start_descent(rows, polish, rows["found"])
            rows["stage"] = torch.where(polish, _DESCENT, rows["stage"])
            rows["target"] = torch.where(polish, -1, rows["target"])
        return rows, over & ~polish

    def _next_search(self, network: Network, rows: Rows, over: Tensor) -> Rows:
        """The next restart of the rows in `over`; after the last the closing line search."""
        if not bool(over.any()):
            return rows
        number = rows["search"]
        again = over & (number < self.restarts)
        start, target = next_start(network, rows, again, number, self.seed)
        rows["search"] = number + over.long()
        radius = l2(start, rows["x"]).clamp_min(1e-12)
        rows = self._restart(rows, again, start, target, torch.where(torch.isfinite(radius), radius, 1.0))
        last = over & ~again
        lost = last & ~rows["verified"]
        rows["need"] = torch.where(lost, DONE, rows["need"])
        return start_search(network, rows, last & ~lost, rows["x"], **_SEARCH)  # type: ignore[arg-type]
