"""Projection attack: the nearest point on the nearest linearised boundary, re-linearised a few times (METHOD 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box, project_on_halfspaces
from robcal.robustness.engine import DONE, AttackResult, Rows, fresh_rows
from robcal.robustness.network import Linearisation, Model, Network, signed_margin
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.steps import attack_batch, is_adversarial, is_flat, keep_best, l2, meet, perturb, select, usable


@dataclass(frozen=True)
class Projection:
    """The projection attack for the engine.

    Attributes:
        num_rivals: K, rivals linearised at the clean input.
        later_rivals: rivals linearised at each later point.
        memory: earlier halfspaces that a step keeps to while it falls short of the boundary.
        max_steps: linearisations after the first.
        max_searches: forward evaluations of the line search that follows.
        tolerance: relative distance still to be gained below which an example is finished.
        overshoot: share of the way to a linearised boundary by which the step goes beyond it.
        seed: seeds the perturbation of inputs whose gradient is zero.
    """

    num_rivals: int = 3
    later_rivals: int = 1
    memory: int = 2
    max_steps: int = 12
    max_searches: int = 4
    tolerance: float = 0.005
    overshoot: float = 0.002
    seed: int = 0
    name: ClassVar[str] = "projection"

    @property
    def num_kinds(self) -> int:
        """Up to three: the first linearisation, the later ones, and the line search."""
        return 3

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """The state of fresh examples, to be linearised at the clean input."""
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
        """One linearisation (need >= 1) or one point of the line search (need 0) for every row."""
        if need:
            return self._linearise(network, rows, need)
        return advance_search(network, rows, tolerance=self.tolerance, max_searches=self.max_searches)

    def _linearise(self, network: Network, rows: Rows, need: int) -> Rows:
        """Keep the point, project the clean input on the nearest linearised boundary, and go on from there."""
        linear = usable(network.linearise(rows["query"], rows["reference"], need))
        rows = meet(rows, linear.logits)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        active = rows["need"] != DONE
        rows, improved = keep_best(rows, linear.logits)
        rows["f_high"] = torch.where(improved, signed_margin(linear.logits, rows["reference"]), rows["f_high"])
        flat = active & is_flat(linear) & ~rows["verified"]
        going = active & ~flat
        query, rows = self._project(network, linear, rows)
        gained = l2(query, rows["x"]) < (1 - self.tolerance) * rows["distance"]
        onward = going & gained & (rows["step"] < self.max_steps)
        rows["query"] = select(onward, query, rows["query"])
        rows["step"] = rows["step"] + onward.long()
        rows["need"] = torch.where(onward, min(self.later_rivals, network.num_classes - 1), rows["need"])
        rows = start_search(
            network, rows, going & ~onward, query, tolerance=self.tolerance, max_searches=self.max_searches
        )
        return perturb(rows, flat, network.bounds, self.seed)

    def _project(self, network: Network, linear: Linearisation, rows: Rows) -> tuple[Tensor, Rows]:
        """(B, D) the nearest point to x just beyond the nearest linearised boundary in the box.

        Where the last step fell short of the boundary, the adversarial region is locally the intersection of the
        halfspaces met so far, and the point is to lie in all of the remembered ones.
        """
        x = rows["x"]
        residual = linear.gap + torch.einsum("bkd,bd->bk", linear.normal, x - rows["query"])
        beyond = residual + self.overshoot * residual.abs() + 1e-5 * linear.logits.abs().amax(1, keepdim=True)
        multiplier, distance = multiplier_in_box(x, linear.normal, beyond, network.bounds)
        distance = torch.where(residual > 0, distance, torch.inf)
        best = distance.min(1)
        pick = best.indices.unsqueeze(1)
        normal = linear.normal.gather(1, pick.unsqueeze(2).expand(-1, 1, x.shape[1])).squeeze(1)
        size = multiplier.gather(1, pick).nan_to_num(posinf=0.0)
        point = network.bounds.clamp(x - size * normal)
        reach = beyond.gather(1, pick).squeeze(1)
        short = (rows["step"] > 0) & ~is_adversarial(linear.logits, rows["reference"])
        normals = torch.cat([normal.unsqueeze(1), rows["normals"] * short[:, None, None]], 1)
        residuals = torch.cat([reach.unsqueeze(1), torch.where(short[:, None], rows["residuals"], -1.0)], 1)
        if self.memory and bool(short.any()):
            both, violation = project_on_halfspaces(x[short], normals[short], residuals[short], network.bounds)
            solved = violation < 1e-3 * residuals[short].abs().amax(1)
            point[short] = select(solved, both, point[short])
        return point, rows | {"normals": normals[:, : self.memory], "residuals": residuals[:, : self.memory]}


def projection(
    model: Model,
    x: Tensor,
    label: Tensor | None = None,
    box: Any = (0.0, 1.0),
    *,
    num_rivals: int = 3,
    batch_size: int | None = None,
    seed: int = 0,
) -> AttackResult:
    """Find a near, verified adversarial point by projection on re-linearised boundaries."""
    return attack_batch(Projection(num_rivals=num_rivals, seed=seed), model, x, label, box, batch_size)
