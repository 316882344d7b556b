"""Where the strong attacks start: the loss has many minima, so one start is not enough (method, section 1.1).

The nearest adversarial point lies at most as far away as the nearest one known. Starts are, in this order: the point
where the linearised boundary of each rival is nearest, searched *towards that rival*; then points drawn uniformly from
the ball around the clean input whose radius is the best distance so far, the only place where a nearer point can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box
from robcal.robustness.steps import FAR
from robcal.robustness.watched import Draws, Watched


@dataclass(frozen=True)
class Starts:
    """The starts of a batch, as its first linearisation tells them."""

    points: Tensor  # (B, K, D) nearest points of the rivals' boundaries, the nearest first
    rivals: Tensor  # (B, K) int64 their classes, -1 where out of reach
    # (B, K) the c of Carlini-Wagner from which the boundary point is a minimum of a linear model: 2 d / ‖g‖
    penalty: Tensor
    first_order: Tensor  # (B,) the distance to the nearest, without the box

    @property
    def of_rivals(self) -> int:
        """K, the starts before the random ones."""
        return self.points.shape[1]

    def take(self, number: int, network: Watched, rng: Draws) -> tuple[Tensor, Tensor]:
        """Return (B, D) starts and (B,) target classes (-1: none) of restart `number`, from 0.

        In place of a rival that is out of reach, without a gradient or with a logit of -inf, stands a random point.
        """
        farther = 3 * self.first_order * 1.5 ** min(max(number - self.of_rivals, 0), 40)
        radius = torch.where(torch.isfinite(network.distance), network.distance, farther)  # none yet: ever farther out
        if number >= self.of_rivals:
            target = torch.full_like(self.rivals[:, 0], -1)
            start = network.x + radius.unsqueeze(1) * rng.ball(number)
            return network.bounds.clamp(start), target
        start, target = self.points[:, number].clone(), self.rivals[:, number]
        at = torch.nonzero(target < 0).squeeze(1)
        if len(at):
            start[at] = network.x[at] + radius[at].unsqueeze(1) * rng.ball(number, at)
        return network.bounds.clamp(start), target


def first_starts(network: Watched, num_rivals: int) -> Starts:
    """Return the starts that a linearisation at `network.start` tells; K is `num_rivals`, at most Z - 1."""
    linear, _ = network.linearise(network.start, num_rivals=min(num_rivals, network.num_classes - 1))
    size = linear.normal.norm(dim=-1)
    gap = linear.gap.abs() + 2 * linear.lead
    multiplier, inside = multiplier_in_box(network.start, linear.normal, gap, network.bounds)
    unbounded = torch.where(size > 0, gap / size, torch.inf)
    order = torch.where(torch.isfinite(inside), inside, 1e6 * unbounded).argsort(1)
    shift = multiplier.nan_to_num(posinf=FAR).unsqueeze(2) * linear.normal  # out of reach: the corner of the box
    points = network.bounds.clamp(network.start.unsqueeze(1) - shift)
    reachable = torch.isfinite(points).all(2, keepdim=True) & (points.abs() < FAR / 1e10).all(2, keepdim=True)
    points = torch.where(reachable, points, network.start.unsqueeze(1))
    return Starts(
        points=points.gather(1, order.unsqueeze(2).expand_as(points)),
        rivals=torch.where(size > 0, linear.rivals, -1).gather(1, order),
        penalty=torch.where(size > 0, 2 * unbounded / size, 0.0).gather(1, order),
        first_order=unbounded.gather(1, order[:, :1]).squeeze(1).clamp_min(1e-12),
    )
