"""A verified point from two or three gradients, placed between what they agree on (method, section 1).

The boundary is met on the direction of a gradient at T, and the plane that the gradient there draws through that point
is d from x: the nearest point is hardly nearer than d, and no farther than T. Where the errors of the two directions
are alike, their mean meets the boundary at √(T d): the cosine of two noisy directions is the square of the cosine of
each with what they have in common. On published ResNets it did so within 2% for nine images of ten, so that one forward
a little farther on that mean verifies the point, and √(T d) itself orders images as a longer descent does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.robustness.averaging import mean_direction
from robcal.robustness.engine import DONE, Rows
from robcal.robustness.first_order import SECANT_RANGE, all_gaps, first_crossing
from robcal.robustness.network import Linearisation, Network, signed_margin
from robcal.robustness.projection import Projection, Reach, nearest
from robcal.robustness.steps import FAR, keep_best, l2, select

#: Forwards after which a search along one direction is given up.
_LOST = 4


@dataclass(frozen=True)
class Quick(Projection):
    """Find a verified adversarial point in three to four passes, whose distance is right up to a common factor.

    1. The nearest linearised boundary of K rivals at x leads to a point x₁; the secants of the logits say where the
       boundary is on the way, T; the gradient at x₁ says how far its plane is, d.
    2. The next point is at √(T d) on the mean of the two directions. Where T and d disagree by more than `agreement`,
       the gradient is taken there too, and so on; otherwise a forward verifies it.
    3. A point that is not beyond the boundary is moved on by the secant of its gap; after four such forwards in vain,
       along another gradient.

    All boundaries are overshot by one share, so all distances are too long by about the same few per cent. No pass is
    spent on shortening them: use their order.

    Attributes:
        num_rivals: K, rivals linearised at the clean input; more than Z - 1 means all.
        max_steps: gradients after the first, at most.
        max_searches: forwards that verify a point, at most.
        overshoot: share of the way to a linearised boundary by which the step goes beyond it.
        agreement: T / d above which another gradient is taken.
    """

    num_rivals: int = 2
    max_steps: int = 2
    max_searches: int = 12
    overshoot: float = 0.05
    agreement: float = 1.3
    name: ClassVar[str] = "quick"

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples: that of the projection, the gaps at x, and how far T and d agree."""
        rows = super().open(network, index, x, reference)
        gaps = x.new_full((len(x), network.num_classes), torch.nan)
        return rows | {"gaps": gaps, "ratio": torch.full_like(rows["distance"], torch.inf)}

    def _note(self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, going: Tensor) -> Rows:
        """Keep the gaps of the first evaluation, which is that of x."""
        new = torch.isnan(rows["gaps"]).all(1)
        return rows | {"gaps": select(new, all_gaps(linear.logits, rows["reference"]), rows["gaps"])}

    def _project(
        self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, short: Tensor
    ) -> tuple[Tensor, Rows]:
        """At x, and where a direction led nowhere, the projection's step; otherwise √(T d) on the mean direction."""
        x, query, bounds = rows["x"], rows["query"], network.bounds
        normal, size, beyond = nearest(linear, reach)
        step = bounds.clamp(x - size.unsqueeze(1) * normal)
        step = select(beyond > 0, step, self._step_on(network, linear, query, short))
        length, plane = l2(query, x), reach.distance.amin(1)
        share, _ = first_crossing(rows["gaps"], all_gaps(linear.logits, rows["reference"]))
        crossing = length * share.clamp(*SECANT_RANGE)
        most = (1 + self.overshoot) * crossing  # as far as the plane of a linear gap, overshot
        plane = torch.where(beyond > 0, torch.minimum(plane, most), most)
        direction = mean_direction(x, query, select(beyond > 0, step, query), 1 / (rows["step"] + 1))
        far = (crossing * plane).sqrt() / direction.norm(dim=1).clamp_min(1 / FAR)
        later = (rows["step"] > 0) & (rows["searches"] == 0) & ~rows["blind"] & (length > 0)
        ratio = torch.where(later, crossing / plane, torch.inf)
        return select(later, bounds.clamp(x + far.unsqueeze(1) * direction), step), rows | {"ratio": ratio}

    def _worth_a_step(self, rows: Rows, query: Tensor) -> Tensor:
        """(B,) bool, the next point would be nearer, and where it is is not agreed on yet."""
        return (l2(query, rows["x"]) < rows["distance"]) & (rows["ratio"] > self.agreement)

    def _conclude(self, network: Network, rows: Rows, ended: Tensor, query: Tensor) -> Rows:
        """Let a forward verify the last query, unless a nearer point is known."""
        wanted = ended & (l2(query, rows["x"]) < rows["distance"])
        return rows | {
            "query": select(wanted, query, rows["query"]),
            "t_low": torch.where(wanted, 0.0, rows["t_low"]),
            "f_low": torch.where(wanted, rows["margin"], rows["f_low"]),
            "need": torch.where(ended, torch.where(wanted, 0, DONE), rows["need"]),
        }

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Return one linearisation, or one forward that verifies a point, of every row; those short of it go on."""
        if need:
            return super().advance(network, rows, need)
        x, logits = rows["x"], network.logits(rows["query"])
        rows, better = keep_best(rows | {"passes": rows["passes"] + 0.5, "searches": rows["searches"] + 1}, logits)
        margin, length = signed_margin(logits, rows["reference"]), l2(rows["query"], x)
        fall = (rows["f_low"] - margin) / (length - rows["t_low"]).clamp_min(1 / FAR)
        onward = margin / (fall * length).clamp_min(1 / FAR) * (1 + self.overshoot)
        onward = onward.clamp(self.overshoot / 2, 1)
        going = ~better & (rows["searches"] < self.max_searches) & ((1 + onward) * length < rows["distance"])
        lost = (rows["searches"] % _LOST == 0) & ~rows["verified"]  # another gradient may lead to a boundary
        query = network.bounds.clamp(rows["query"] + onward.unsqueeze(1) * (rows["query"] - x))
        return rows | {
            "query": select(going, query, rows["query"]),
            "t_low": length,
            "f_low": margin,
            "need": torch.where(going, torch.where(lost, 1, 0), DONE),
        }
