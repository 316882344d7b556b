"""Projection attack: the nearest point on the linearised boundary, re-linearised a few times (method, section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box, project_on_halfspaces
from robcal.robustness.engine import DONE, Rows, check_settings, fresh_rows
from robcal.robustness.network import Linearisation, Network, signed_margin
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.steps import FAR, is_adversarial, is_flat, keep_best, l2, meet, newton_step, perturb, select


@dataclass(frozen=True)
class Reach:
    """How far the linearised boundaries of a batch are from the clean inputs.

    Attributes:
        beyond: (B, K) how far the gap of each rival must fall, overshoot included.
        multiplier: (B, K) λ of `multiplier_in_box`.
        distance: (B, K) from x to the boundary, +inf where it is out of reach or x lies beyond it already.
    """

    beyond: Tensor
    multiplier: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Projection:
    """Find a near, verified adversarial point in a few passes (method, section 1); 3 to 8 for most examples.

    x_{t+1} = argmin ‖x' − x₀‖₂ over {x' in the box: f(x_t) + ∇f(x_t)·(x' − x_t) <= −overshoot}, with f = z_y − z_j for
    the nearest rival j; the projection is always from the clean input x₀ and exact (in the manner of the projections
    of Croce & Hein, *Minimally distorted adversarial examples with a fast adaptive boundary attack*, 2020, eq. 4).
    Where x_t falls short of the boundary, f is locally convex and x_{t+1} also keeps to the halfspaces of the steps
    before (cutting planes), which finds the corners of piecewise linear boundaries instead of jumping between their
    sides. Stops when the next point would not be nearer by `tolerance`; then the segment from x₀ is searched.

    Attributes:
        num_rivals: K, rivals linearised at the clean input; more than Z - 1 means all.
        later_rivals: rivals linearised at each later point.
        memory: earlier halfspaces that a step keeps to while it falls short of the boundary.
        max_steps: linearisations after the first.
        max_searches: forward evaluations of the line search that follows.
        tolerance: relative distance still to be gained below which an example is finished.
        overshoot: share of the way to a linearised boundary by which the step goes beyond it; more saves passes.
        seed: seeds the perturbation of inputs whose gradient is zero.
    """

    num_rivals: int = 3
    later_rivals: int = 1
    memory: int = 3
    max_steps: int = 8
    max_searches: int = 4
    tolerance: float = 0.01
    overshoot: float = 0.02
    seed: int = 0
    name: ClassVar[str] = "projection"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, num_rivals=1, later_rivals=1, memory=0, max_steps=0, max_searches=0, seed=0)

    @property
    def num_kinds(self) -> int:
        """Up to three: the first linearisation, the later ones, and the line search."""
        return 3

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples, to be linearised at the clean input."""
        rows = fresh_rows(index, x, reference, need=self.num_rivals)
        return (
            rows
            | segment_rows(x)
            | {
                "query": x.clone(),
                "step": torch.zeros_like(rows["flat"]),
                "normals": x.new_zeros(len(x), self.memory, x.shape[1]),
                "residuals": x.new_full((len(x), self.memory), -1.0),
            }
        )

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Return one linearisation (need >= 1) or one point of the line search (need 0) for every row."""
        if need:
            return self._linearise(network, rows, need)
        return advance_search(network, rows, tolerance=self.tolerance, max_searches=self.max_searches)

    def _linearise(self, network: Network, rows: Rows, need: int) -> Rows:
        """Keep the point, project the clean input on the nearest linearised boundary, and go on from there."""
        linear, aside = self._linear(network, rows, need)
        rows = meet(network, rows, linear)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        active = rows["need"] != DONE
        rows, improved = keep_best(rows, linear.logits)
        rows["f_high"] = torch.where(improved, signed_margin(linear.logits, rows["reference"]), rows["f_high"])
        flat = active & is_flat(linear) & ~rows["verified"] & ~aside
        going = active & ~flat
        reach = self._reach(network, linear, rows)
        rows = self._note(network, linear, rows, reach, going)
        short = (rows["step"] > 0) & ~is_adversarial(rows, linear.logits) & ~aside
        query, rows = self._project(network, linear, rows, reach, short)
        onward = going & self._worth_a_step(rows, query) & (rows["step"] < self.max_steps) & ~aside
        rows["query"] = select(onward, query, rows["query"])
        rows["step"] = rows["step"] + onward.long()
        rows["need"] = torch.where(onward, min(self.later_rivals, network.num_classes - 1), rows["need"])
        rows = self._conclude(network, rows, going & ~onward, query)
        return perturb(rows, flat, network.bounds, self.seed)

    def _linear(self, network: Network, rows: Rows, need: int) -> tuple[Linearisation, Tensor]:
        """The linearisation at the queries, and (B,) bool: for which rows it is a look aside and no step: for none."""
        linear = network.linearise(rows["query"], rows["reference"], need)
        return linear, torch.zeros_like(rows["verified"])

    def _note(self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, going: Tensor) -> Rows:
        """What a linearisation leaves behind for later, beside the projection: nothing here."""
        return rows

    def _worth_a_step(self, rows: Rows, query: Tensor) -> Tensor:
        """(B,) bool, the next point would be nearer by more than the tolerance."""
        return l2(query, rows["x"]) < (1 - self.tolerance) * rows["distance"]

    def _conclude(self, network: Network, rows: Rows, ended: Tensor, query: Tensor) -> Rows:
        """What follows on the last linearisation of the rows in `ended`: the line search."""
        return start_search(network, rows, ended, query, tolerance=self.tolerance, max_searches=self.max_searches)

    def _reach(self, network: Network, linear: Linearisation, rows: Rows) -> Reach:
        """The nearest points to x just beyond each linearised boundary in the box."""
        x = rows["x"]
        residual = linear.gap + torch.einsum("bkd,bd->bk", linear.normal, x - rows["query"])
        beyond = residual + self.overshoot * residual.abs() + 2 * linear.lead
        multiplier, distance = multiplier_in_box(x, linear.normal, beyond, network.bounds)
        return Reach(beyond, multiplier, torch.where(residual > 0, distance, torch.inf))

    def _project(
        self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, short: Tensor
    ) -> tuple[Tensor, Rows]:
        """(B, D) the nearest point to x just beyond the nearest linearised boundary in the box.

        Where the last step fell `short` (B,) of the boundary, the adversarial region is locally the intersection of the
        halfspaces met so far, and the point is to lie in all of the remembered ones.
        """
        x = rows["x"]
        normal, size, beyond = nearest(linear, reach)
        point = network.bounds.clamp(x - size.unsqueeze(1) * normal)
        point = select(beyond > 0, point, self._step_on(network, linear, rows["query"], short))
        normals = torch.cat([normal.unsqueeze(1), rows["normals"] * short[:, None, None]], 1)
        residuals = torch.cat([beyond.unsqueeze(1), torch.where(short[:, None], rows["residuals"], -1.0)], 1)
        if self.memory and bool(short.any()):
            both, violation = project_on_halfspaces(x[short], normals[short], residuals[short], network.bounds)
            solved = (violation < 1e-3 * residuals[short].abs().amax(1)) & (beyond[short] > 0)
            point[short] = select(solved, both, point[short])
        return point, rows | {"normals": normals[:, : self.memory], "residuals": residuals[:, : self.memory]}

    @staticmethod
    def _step_on(network: Network, linear: Linearisation, query: Tensor, short: Tensor) -> Tensor:
        """Where the linear picture has x beyond the boundary already: a step from the query, or the query itself.

        The step is DeepFool's, to the boundary linearised at the query; it is taken from points short of the boundary.
        """
        step = 1.02 * newton_step(linear)
        return select(short, network.bounds.clamp(query - step), query)


def nearest(linear: Linearisation, reach: Reach) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest boundary's normal (B, D), the multiplier of its nearest point (B,), and `beyond` (B,)."""
    pick = reach.distance.min(1).indices.unsqueeze(1)
    normal = linear.normal.gather(1, pick.unsqueeze(2).expand(-1, 1, linear.normal.shape[2])).squeeze(1)
    size = reach.multiplier.gather(1, pick).nan_to_num(posinf=FAR)  # out of reach: the corner of the box
    return normal, size.squeeze(1), reach.beyond.gather(1, pick).squeeze(1)
