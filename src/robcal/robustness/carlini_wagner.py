"""Carlini-Wagner l2 attack, correct for every single example: the strong, slow reference (METHOD 2 and 7, step 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box
from robcal.robustness.engine import DONE, AttackResult, Rows, check_settings, fresh_rows
from robcal.robustness.network import Linearisation, Model, Network
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.steps import (
    attack_batch,
    is_adversarial,
    is_flat,
    keep_best,
    meet,
    perturb,
    random_direction,
    select,
    usable,
)

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


@dataclass(frozen=True)
class CarliniWagner:
    """The Carlini-Wagner attack for the engine.

    Attributes:
        binary_search_steps: values of the constant c tried for every example.
        max_iterations: Adam steps for each of them.
        learning_rate: largest Adam step, in units of half the box (in tanh space); an example whose first-order
            distance is small takes smaller ones (a tenth of that distance per square root of D).
        initial_const: first c; None starts from 2 margin / ‖gradient‖², which is right where the model is linear.
        num_rivals: K, rivals linearised at the clean input to find the first-order point. The first search step starts
            at the clean input, the others there and at random points as far away, in turn: the loss has many minima.
        seed: seeds the perturbation of inputs whose gradient is zero.
    """

    binary_search_steps: int = 9
    max_iterations: int = 1000
    learning_rate: float = 0.01
    initial_const: float | None = None
    num_rivals: int = 3
    seed: int = 0
    name: ClassVar[str] = "carlini-wagner"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, binary_search_steps=1, max_iterations=1, num_rivals=1, seed=0)

    @property
    def num_kinds(self) -> int:
        """Up to three: the first linearisation, Adam steps, and the closing line search."""
        return 3

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """The state of fresh examples, to be evaluated at the clean input."""
        rows = fresh_rows(index, x, reference, need=self.num_rivals)
        zero, zeros = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
        return (
            rows
            | segment_rows(x)
            | {
                "query": x.clone(),
                "start": x.clone(),
                "first_order_point": x.clone(),
                "w": zeros.clone(),
                "first_moment": zeros.clone(),
                "second_moment": zeros.clone(),
                "iteration": torch.full_like(rows["flat"], -1),  # -1: not under way yet
                "search": torch.zeros_like(rows["flat"]),
                "cuts": torch.zeros_like(rows["flat"]),
                "step_size": zero.clone(),
                "const": zero.clone(),
                "const_low": zero.clone(),
                "const_high": torch.full_like(zero, torch.inf),
                "succeeded": torch.zeros_like(rows["verified"]),
                "loss": torch.full_like(zero, torch.inf),
                "loss_before": torch.full_like(zero, torch.inf),
            }
        )

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """One Adam step (need >= 1) or one point of the closing line search (need 0) for every row."""
        if need == 0:
            return advance_search(network, rows, **_SEARCH)  # type: ignore[arg-type]
        linear = usable(network.linearise(rows["query"], rows["reference"], need))
        rows = meet(rows, linear.logits)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        active = rows["need"] != DONE
        gap, normal = linear.gap[:, 0], linear.normal[:, 0]
        rows, improved = keep_best(rows, linear.logits)
        rows["f_high"] = torch.where(improved, gap, rows["f_high"])
        waiting = active & (rows["iteration"] < 0)
        flat = waiting & is_flat(linear)
        under_way = active & ~waiting
        rows = self._begin(network, rows, waiting & ~flat, linear)
        rows["succeeded"] = rows["succeeded"] | (under_way & is_adversarial(linear.logits, rows["reference"]))
        rows = self._adam(network, rows, under_way, gap, normal)
        rows = self._end_search_step(network, rows, under_way)
        return perturb(rows, flat, network.bounds, self.seed)

    def _begin(self, network: Network, rows: Rows, begin: Tensor, linear: Linearisation) -> Rows:
        """Set the first c, the step size and the two starts from the first-order picture (linear: c = 2 d / ‖g‖)."""
        if not bool(begin.any()):
            return rows
        size = linear.normal.norm(dim=-1)
        multiplier, inside = multiplier_in_box(rows["query"], linear.normal, linear.gap.abs(), network.bounds)
        unbounded = torch.where(size > 0, linear.gap.abs() / size, torch.inf)
        nearest = torch.where(torch.isfinite(inside), inside, 1e6 * unbounded).min(1).indices.unsqueeze(1)
        normal = linear.normal.gather(1, nearest.unsqueeze(2).expand(-1, 1, rows["x"].shape[1])).squeeze(1)
        shift = multiplier.gather(1, nearest).nan_to_num(posinf=0.0) * normal
        distance, steep = (value.gather(1, nearest).squeeze(1) for value in (unbounded, size))
        distance = distance.clamp_min(1e-12)
        const = 2 * distance / steep if self.initial_const is None else torch.full_like(steep, self.initial_const)
        rows = rows | {
            "const": torch.where(begin, const, rows["const"]),
            "step_size": torch.where(begin, 0.1 * distance / rows["x"].shape[1] ** 0.5, rows["step_size"]),
            "start": select(begin, rows["query"], rows["start"]),
            "first_order_point": select(begin, network.bounds.clamp(rows["query"] - shift), rows["first_order_point"]),
            "need": torch.where(begin, 1, rows["need"]),
        }
        return self._restart(network, rows, begin)

    def _restart(self, network: Network, rows: Rows, mask: Tensor) -> Rows:
        """Back to a start for a new c."""
        infinite = torch.full_like(rows["loss"], torch.inf)
        zeros = torch.zeros_like(rows["x"])
        start = self._next_start(network, rows, mask)
        change = _Change(network, rows["start"])
        return rows | {
            "w": select(mask, change.inverse(start), rows["w"]),
            "query": select(mask, start, rows["query"]),
            "first_moment": select(mask, zeros, rows["first_moment"]),
            "second_moment": select(mask, zeros, rows["second_moment"]),
            "iteration": torch.where(mask, 0, rows["iteration"]),
            "cuts": torch.where(mask, 0, rows["cuts"]),
            "succeeded": rows["succeeded"] & ~mask,
            "loss": torch.where(mask, infinite, rows["loss"]),
            "loss_before": torch.where(mask, infinite, rows["loss_before"]),
        }

    def _next_start(self, network: Network, rows: Rows, mask: Tensor) -> Tensor:
        """(B, D) the clean input first, then the first-order point and random points as far away, in turn."""
        search = rows["search"]
        start = select(search % 2 == 1, rows["first_order_point"], rows["start"])
        for row in torch.nonzero(mask & (search % 2 == 0) & (search > 0)).squeeze(1).tolist():
            noise = random_direction(rows["x"][row], self.seed, int(rows["index"][row]), -int(search[row]))
            radius = (rows["first_order_point"][row] - rows["start"][row]).norm()
            start[row] = rows["start"][row] + radius * noise / noise.norm()
        return network.bounds.clamp(start)

    def _adam(self, network: Network, rows: Rows, mask: Tensor, gap: Tensor, normal: Tensor) -> Rows:
        """One Adam step (Kingma & Ba 2015, algorithm 1) on ‖δ‖² + c max(z_y - max z_j, 0) in w; its own count each."""
        change = _Change(network, rows["start"])
        delta = rows["query"] - rows["x"]
        hinge = gap > 0
        const = rows["const"]
        loss = (delta * delta).sum(1) + const * gap.clamp_min(0)
        slope = change.slope(rows["w"])
        distance = rows["step_size"].clamp_min(1e-30).unsqueeze(1)  # proportional to the first-order distance
        gradient = (2 * delta + (const * hinge).unsqueeze(1) * normal) / distance * slope
        count = (rows["iteration"] + 1).float().unsqueeze(1)
        first = _BETA1 * rows["first_moment"] + (1 - _BETA1) * gradient
        second = _BETA2 * rows["second_moment"] + (1 - _BETA2) * gradient * gradient
        direction = first / (1 - _BETA1**count) / ((second / (1 - _BETA2**count)).sqrt() + _ADAM_EPSILON)
        step = change.step(rows["step_size"], self.learning_rate) * _CUT ** rows["cuts"].float().unsqueeze(1)
        w = change.confine(rows["w"] - step * direction / slope.clamp_min(_SMALLEST_SLOPE))
        return rows | {
            "w": select(mask, w, rows["w"]),
            "query": select(mask, change.forward(w), rows["query"]),
            "first_moment": select(mask, first, rows["first_moment"]),
            "second_moment": select(mask, second, rows["second_moment"]),
            "iteration": rows["iteration"] + mask.long(),
            "loss": torch.where(mask, torch.minimum(loss, rows["loss"]), rows["loss"]),
        }

    def _end_search_step(self, network: Network, rows: Rows, mask: Tensor) -> Rows:
        """Cut the step size where the loss stopped falling; after the last cut or iteration go on to the next c."""
        every = max(1, self.max_iterations // _CHECKS)
        looked = mask & (rows["iteration"] % every == 0)
        stalled = looked & (rows["loss"] > rows["loss_before"] - 1e-4 * rows["loss_before"].abs())
        rows = rows | {
            "cuts": rows["cuts"] + stalled.long(),
            "loss_before": torch.where(looked, rows["loss"], rows["loss_before"]),
        }
        over = mask & ((rows["iteration"] >= self.max_iterations) | (rows["cuts"] > _MAX_CUTS))
        if not bool(over.any()):
            return rows
        const, succeeded = rows["const"], rows["succeeded"]
        low = torch.where(over & ~succeeded, torch.maximum(rows["const_low"], const), rows["const_low"])
        high = torch.where(over & succeeded, torch.minimum(rows["const_high"], const), rows["const_high"])
        following = torch.where(torch.isfinite(high), (low + high) / 2, 10 * const)
        rows = rows | {
            "const_low": low,
            "const_high": high,
            "const": torch.where(over, following, const),
            "search": rows["search"] + over.long(),
        }
        rows = self._restart(network, rows, over)
        last = over & (rows["search"] >= self.binary_search_steps)
        lost = last & ~rows["verified"]
        rows["need"] = torch.where(lost, DONE, rows["need"])
        return start_search(network, rows, last & ~lost, rows["x"], **_SEARCH)  # type: ignore[arg-type]


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
        """d(x / half) / dw."""
        return torch.where(self.boxed, (1 - torch.tanh(w) ** 2) / (1 - _SHRINK), 1.0)

    def step(self, step_size: Tensor, learning_rate: float) -> Tensor:
        """(B, D) Adam step in w."""
        step = step_size.unsqueeze(1) / self.half
        return torch.where(self.boxed, step.clamp_max(learning_rate), step)

    def confine(self, w: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(w, -self.limit), self.limit)


def carlini_wagner_attack(
    model: Model,
    x: Tensor,
    label: Tensor | None = None,
    box: Any = (0.0, 1.0),
    *,
    binary_search_steps: int = 9,
    max_iterations: int = 1000,
    learning_rate: float = 0.01,
    initial_const: float | None = None,
    num_rivals: int = 3,
    batch_size: int | None = None,
    seed: int = 0,
) -> AttackResult:
    r"""Find a near, verified adversarial point by the Carlini-Wagner l2 attack.

    minimise ‖δ‖₂² + c · max(z_y(x + δ) − max_{j≠y} z_j(x + δ), 0) over w, where x + δ = mid + half · tanh(w)
    (Carlini & Wagner, *Towards Evaluating the Robustness of Neural Networks*, 2017, section VI.A with κ = 0), with a
    binary search for the c of each example. The smallest verified point of all steps is kept, and its segment to x
    searched for the boundary.

    Every example has its own c, step size, abort and best point: no result depends on the batch. Departures from the
    paper: the first c and the step size come from the first-order picture (pass initial_const=1e-3 for the paper's c),
    later searches start at the first-order point or at random points as far away (the loss has local minima), the step
    size is cut where the loss stalls before a search is given up, and features without two finite ends need no tanh.

    Args:
        model: from inputs (B, …) to logits (B, Z); left as it was found.
        x: (B, …) float32 inputs in the box, on the model's device.
        label: (B,) int64 reference labels, or None for the model's own predictions.
        box: (lo, hi), numbers or arrays that broadcast to one input, or None for unbounded inputs.
        binary_search_steps: values of c tried for each example.
        max_iterations: Adam steps for each c.
        learning_rate: largest Adam step, in units of half the box.
        initial_const: first c, or None.
        num_rivals: K, rivals linearised at x to find the first-order point.
        batch_size: examples an evaluation; None takes all at once.
        seed: seeds the perturbation of inputs with a zero gradient; global random state is not used.

    Returns:
        AttackResult; about binary_search_steps · max_iterations passes an example, often a third of that.

    Raises:
        InputError: bad inputs, labels, box, settings or model.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.zero_()
        >>> result = carlini_wagner_attack(linear, torch.tensor([[0.25, 0.5]]), box=None, max_iterations=50)
        >>> round(result.distance.item(), 2), result.verified.item()
        (0.25, True)
    """
    attack = CarliniWagner(binary_search_steps, max_iterations, learning_rate, initial_const, num_rivals, seed)
    return attack_batch(attack, model, x, label, box, batch_size)
