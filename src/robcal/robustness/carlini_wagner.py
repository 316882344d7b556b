"""Carlini-Wagner l2 attack, correct for every single example: the strong, slow reference (method, section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.robustness.descent import Descent, advance_descent, descent_rows, start_descent
from robcal.robustness.engine import DONE, Rows, check_settings, fresh_rows
from robcal.robustness.network import Linearisation, Network, signed_margin
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.starts import next_start, read_starts, start_rows
from robcal.robustness.steps import is_adversarial, is_flat, keep_best, l2, meet, perturb, select

_BETA1, _BETA2, _ADAM_EPSILON = 0.9, 0.999, 1e-8
#: The box is stretched by this much inside tanh, so that inputs on its ends have a finite w.
_SHRINK = 1e-3
#: Smallest slope of tanh that the step size is divided by: features at an end of the box get under way.
_SMALLEST_SLOPE = 0.1
#: How often the step size is cut when the loss stops falling, before the search step ends; and by how much.
_MAX_CUTS, _CUT = 3, 0.3
#: Looks at the loss in a search step.
_CHECKS = 20
#: The closing line search.
_SEARCH = {"tolerance": 0.001, "max_searches": 12}
#: Stages of an example: before the first linearisation, Adam steps, descent along the boundary.
_WAITING, _ADAM, _DESCENT = 0, 1, 2


@dataclass(frozen=True)
class CarliniWagner:
    """Find a near, verified adversarial point by the Carlini-Wagner l2 attack.

    minimise ‖δ‖₂² + c · max(z_y(x + δ) − max_{j≠y} z_j(x + δ), 0) over w, where x + δ = mid + half · tanh(w)
    (Carlini & Wagner, *Towards Evaluating the Robustness of Neural Networks*, 2017, section VI.A; their κ is 0 but for
    float32 rounding), with a binary search for the c of each example. The smallest verified point of all steps is kept,
    and its segment to x searched for the boundary. Up to (binary_search_steps + restarts / 4) · max_iterations passes
    an example, often half of that.

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

    @property
    def num_kinds(self) -> int:
        """Up to three: the first linearisation, Adam and descent steps, and the closing line search."""
        return 3

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples, to be evaluated at the clean input."""
        rows = fresh_rows(index, x, reference, need=self.num_rivals)
        zero, zeros = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
        infinite, count = torch.full_like(zero, torch.inf), torch.zeros_like(rows["flat"])
        return (
            rows
            | segment_rows(x)
            | descent_rows(x)
            | start_rows(x, min(self.num_rivals, network.num_classes - 1))
            | {
                "query": x.clone(),
                "w": zeros.clone(),
                "first_moment": zeros.clone(),
                "second_moment": zeros.clone(),
                "stage": count.clone(),
                "iteration": count.clone(),
                "search": count.clone(),
                "cuts_made": count.clone(),
                "const": zero.clone(),
                "const_low": zero.clone(),
                "const_high": infinite.clone(),
                "found": x.clone(),
                "found_distance": infinite.clone(),
                "loss": infinite.clone(),
                "loss_before": infinite.clone(),
            }
        )

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Take an Adam or descent step (need >= 1) or a point of the closing line search (need 0) for every row."""
        if need == 0:
            return advance_search(network, rows, **_SEARCH)  # type: ignore[arg-type]
        linear = network.linearise(rows["query"], rows["reference"], need, rows["target"])
        rows = meet(network, rows, linear)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        active = rows["need"] != DONE
        rows, improved = keep_best(rows, linear.logits)
        rows["f_high"] = torch.where(improved, signed_margin(linear.logits, rows["reference"]), rows["f_high"])
        waiting = active & (rows["stage"] == _WAITING)
        adam, descending = active & (rows["stage"] == _ADAM), active & (rows["stage"] == _DESCENT)
        flat = waiting & is_flat(linear)
        begin = waiting & ~flat
        over = torch.zeros_like(active)
        if bool(begin.any()):
            rows = self._begin(network, rows, begin, linear)
        if bool(adam.any()):
            rows = self._adam(network, self._note_found(rows, adam, linear), adam, linear)
            rows, over = self._end_adam(rows, adam)
        if bool(descending.any()):
            rows, landed = advance_descent(network, rows, descending, linear, Descent(self.polish_steps))
            over = over | landed
        rows = self._next_search(network, rows, over)
        return perturb(rows, flat, network.bounds, self.seed)

    def _begin(self, network: Network, rows: Rows, begin: Tensor, linear: Linearisation) -> Rows:
        """Set the starts and the first c from the first-order picture, and start at the clean input."""
        rows = read_starts(network, rows, begin, linear)
        const = rows["start_penalty"][:, 0]
        if self.initial_const is not None:
            const = torch.full_like(const, self.initial_const)
        rows = rows | {
            "const": torch.where(begin, const, rows["const"]),
            "need": torch.where(begin, 1, rows["need"]),
        }
        return self._restart(network, rows, begin, rows["query"], rows["target"])

    def _restart(self, network: Network, rows: Rows, mask: Tensor, start: Tensor, target: Tensor) -> Rows:
        """Adam from `start` (B, D) with the row's c, for the rows in `mask`."""
        infinite = torch.full_like(rows["loss"], torch.inf)
        zeros = torch.zeros_like(rows["x"])
        change = _Change(network, rows["x"])
        return rows | {
            "w": select(mask, change.inverse(start), rows["w"]),
            "query": select(mask, start, rows["query"]),
            "target": torch.where(mask, target, rows["target"]),
            "first_moment": select(mask, zeros, rows["first_moment"]),
            "second_moment": select(mask, zeros, rows["second_moment"]),
            "stage": torch.where(mask, _ADAM, rows["stage"]),
            "iteration": torch.where(mask, 0, rows["iteration"]),
            "cuts_made": torch.where(mask, 0, rows["cuts_made"]),
            "found_distance": torch.where(mask, infinite, rows["found_distance"]),
            "loss": torch.where(mask, infinite, rows["loss"]),
            "loss_before": torch.where(mask, infinite, rows["loss_before"]),
        }

    @staticmethod
    def _note_found(rows: Rows, mask: Tensor, linear: Linearisation) -> Rows:
        """Keep the nearest adversarial point of this search."""
        distance = l2(rows["query"], rows["x"])
        better = mask & is_adversarial(rows, linear.logits) & (distance < rows["found_distance"])
        return rows | {
            "found": select(better, rows["query"], rows["found"]),
            "found_distance": torch.where(better, distance, rows["found_distance"]),
        }

    def _adam(self, network: Network, rows: Rows, mask: Tensor, linear: Linearisation) -> Rows:
        """One Adam step (Kingma & Ba 2015, algorithm 1) on ‖δ‖² + c max(z_y - max z_j + κ, 0) in w; its own count each.

        κ is twice the lead that a point needs to be verified: float32 rounding, as a rule.
        """
        gap, normal = linear.gap[:, 0] + 2 * linear.lead[:, 0], linear.normal[:, 0]
        change = _Change(network, rows["x"])
        delta = rows["query"] - rows["x"]
        const, scale = rows["const"], self._scale(rows)
        loss = (delta * delta).sum(1) + const * gap.clamp_min(0)
        slope = change.slope(rows["w"])
        gradient = (2 * delta + (const * (gap > 0)).unsqueeze(1) * normal) / scale.unsqueeze(1) * slope
        count = (rows["iteration"] + 1).float().unsqueeze(1)
        first = _BETA1 * rows["first_moment"] + (1 - _BETA1) * gradient
        second = _BETA2 * rows["second_moment"] + (1 - _BETA2) * gradient * gradient
        direction = first / (1 - _BETA1**count) / ((second / (1 - _BETA2**count)).sqrt() + _ADAM_EPSILON)
        step = change.step(scale, self.learning_rate) * _CUT ** rows["cuts_made"].float().unsqueeze(1)
        w = change.confine(rows["w"] - step * direction / slope.clamp_min(_SMALLEST_SLOPE))
        return rows | {
            "w": select(mask, w, rows["w"]),
            "query": select(mask, change.forward(w), rows["query"]),
            "first_moment": select(mask, first, rows["first_moment"]),
            "second_moment": select(mask, second, rows["second_moment"]),
            "iteration": rows["iteration"] + mask.long(),
            "loss": torch.where(mask, torch.minimum(loss, rows["loss"]), rows["loss"]),
        }

    def _scale(self, rows: Rows) -> Tensor:
        """(B,) step size: a tenth of the first-order distance, or of the best in restarts, per square root of D."""
        restart = (rows["search"] >= self.binary_search_steps) & rows["verified"]
        distance = torch.where(restart, rows["distance"], rows["first_order"])
        root: float = rows["x"].shape[1] ** 0.5
        return (0.1 * distance / root).clamp_min(1e-30)

    def _end_adam(self, rows: Rows, mask: Tensor) -> tuple[Rows, Tensor]:
        """Cut the step size where the loss stopped falling; after the last cut or iteration polish what was found.

        Returns:
            The rows, and (B,) bool: whose search is over, having nothing to polish.
        """
        restart = rows["search"] >= self.binary_search_steps
        brief = min(self.max_iterations, max(50, self.max_iterations // 4))
        limit = torch.where(restart, brief, self.max_iterations)
        every = (limit // _CHECKS).clamp_min(1)
        looked = mask & (rows["iteration"] % every == 0)
        stalled = looked & (rows["loss"] > rows["loss_before"] - 1e-4 * rows["loss_before"].abs())
        rows = rows | {
            "cuts_made": rows["cuts_made"] + stalled.long(),
            "loss_before": torch.where(looked, rows["loss"], rows["loss_before"]),
        }
        over = mask & ((rows["iteration"] >= limit) | (rows["cuts_made"] > _MAX_CUTS))
        polish = over & torch.isfinite(rows["found_distance"]) & (self.polish_steps > 0)
        if bool(polish.any()):
            rows = start_descent(rows, polish, rows["found"])
            rows["stage"] = torch.where(polish, _DESCENT, rows["stage"])
            rows["target"] = torch.where(polish, -1, rows["target"])
        return rows, over & ~polish

    def _next_search(self, network: Network, rows: Rows, over: Tensor) -> Rows:
        """The next c by bisection, or the next restart, of the rows in `over`; then the closing line search."""
        if not bool(over.any()):
            return rows
        const, succeeded = rows["const"], torch.isfinite(rows["found_distance"])
        bisecting = over & (rows["search"] < self.binary_search_steps)
        low = torch.where(bisecting & ~succeeded, torch.maximum(rows["const_low"], const), rows["const_low"])
        high = torch.where(bisecting & succeeded, torch.minimum(rows["const_high"], const), rows["const_high"])
        search = rows["search"] + over.long()
        number = search - self.binary_search_steps
        following = torch.where(torch.isfinite(high), (low + high) / 2, 10 * const)
        following = torch.where(number >= 0, self._restart_const(rows, number, high), following)
        rows = rows | {
            "const_low": low,
            "const_high": high,
            "const": torch.where(over, following, const),
            "search": search,
        }
        again = over & (number < self.restarts)
        start, target = next_start(network, rows, again & (number >= 0), number, self.seed)
        plain = number < 0  # while c is bisected: the clean input and the first-order point in turn
        start = select(plain, select(search % 2 == 0, rows["x"], rows["starts"][:, 0]), start)
        rows = self._restart(network, rows, again, start, torch.where(plain, -1, target))
        last = over & ~again
        lost = last & ~rows["verified"]
        rows["need"] = torch.where(lost, DONE, rows["need"])
        return start_search(network, rows, last & ~lost, rows["x"], **_SEARCH)  # type: ignore[arg-type]

    @staticmethod
    def _restart_const(rows: Rows, number: Tensor, high: Tensor) -> Tensor:
        """(B,) c of a restart: twice the least that succeeded, or the rival's own; ten times more after a failure."""
        failed = ~torch.isfinite(rows["found_distance"])
        const = 2 * torch.where(torch.isfinite(high), high, 5 * rows["const"])
        const = torch.where(number == 0, const, rows["const"])
        const = torch.where((number > 0) & failed, 10 * const, const)
        rivals = rows["start_penalty"].shape[1]
        own = rows["start_penalty"].gather(1, number.clamp(0, rivals - 1).unsqueeze(1)).squeeze(1)
        return torch.where(number < rivals, torch.maximum(const, 2 * own), const)


class _Change:
    """Change of variable: x = mid + half tanh(w) / (1 - ε) where both ends are finite, x = start + w elsewhere.

    The stretch by 1 / (1 - ε) with |w| <= atanh(1 - ε) maps onto the whole box, so inputs on its ends are represented
    exactly and can move. Features with one end are clamped.
    """

    def __init__(self, network: Network, start: Tensor) -> None:
        self.bounds, self.start = network.bounds, start
        self.boxed = torch.isfinite(self.bounds.lo) & torch.isfinite(self.bounds.hi)
        self.mid = torch.where(self.boxed, (self.bounds.lo + self.bounds.hi) / 2, 0.0)
        self.half = torch.where(self.boxed, (self.bounds.hi - self.bounds.lo) / 2, 1.0)
        self.limit = torch.where(self.boxed, torch.atanh(torch.tensor(1 - _SHRINK)).to(start.device), torch.inf)

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
