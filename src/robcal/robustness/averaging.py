"""Descents that average their directions: quick to the neighbourhood of the nearest point, slow over its last per cent.

The projection of x on the boundary linearised at the last point is a fixed-point iteration. Where the gradient turns
much from point to point, its points jump to and fro around the nearest one. An average of the directions so far, as in
the iteration of Mann (*Mean value methods in iteration*, 1953, with weights 1/(t + 1)), does not: on published ResNets
its direction after two gradients put as many images into the right level of ten as the projection's after four. A mean
moves less and less, so the share of the newest direction is bounded from below, and narrow levels, which need the last
per cent, are left to the projection itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robcal.robustness.box import Bounds
from robcal.robustness.engine import Rows
from robcal.robustness.network import Linearisation, Network
from robcal.robustness.projection import Projection, Reach, nearest
from robcal.robustness.steps import l2, select

#: The least share that the newest direction has in the mean.
_LEAST_SHARE = 0.25
#: The least cosine of the mean direction and the newest normal: below it, the boundary is met far away, if at all.
_LEAST_COSINE = 0.3


@dataclass(frozen=True)
class Averaging(Projection):
    """The projection attack, which may average the directions of a descent.

    It does so in the descents whose first step falls short of the boundary: the gap falls more slowly than its gradient
    said, so that the linear picture is of no use for the next step but to say which way it turned.

    Attributes:
        averaging: whether it does.
    """

    averaging: bool = False

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples: that of the projection, and which descents fell short at first."""
        rows = super().open(network, index, x, reference)
        return rows | {"fell_short": torch.zeros_like(rows["verified"])}

    def _project(
        self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, short: Tensor
    ) -> tuple[Tensor, Rows]:
        """As of the projection; in a descent that fell short at first, on the mean of its directions."""
        if not self.averaging:
            return super()._project(network, linear, rows, reach, short)
        fell_short = torch.where(rows["step"] == 1, short, rows["fell_short"])
        rows = rows | {"fell_short": fell_short}
        normal, _, beyond = nearest(linear, reach)
        mean = fell_short & (rows["step"] > 0) & (beyond > 0) & ~rows["blind"]
        if not bool(mean.any()):
            return super()._project(network, linear, rows, reach, short)
        point, rows = super()._project(network, linear, rows, reach, short & ~mean)
        share = (1 / (rows["step"] + 1)).clamp_min(_LEAST_SHARE)
        between = on_mean_direction(network.bounds, rows["x"], rows["query"], point, normal, beyond, share)
        return select(mean, between, point), rows


def on_mean_direction(
    bounds: Bounds, x: Tensor, query: Tensor, point: Tensor, normal: Tensor, beyond: Tensor, share: Tensor
) -> Tensor:
    """Return where the mean of two directions from x meets a linearised boundary.

    x + t·u with u = (1 − s)·(query − x)/‖query − x‖ + s·(point − x)/‖point − x‖ and normal·(−t·u) = beyond.

    Args:
        bounds: the box.
        x: (B, D) float32, clean inputs.
        query: (B, D) the last point of each descent, whose direction is the mean of those before.
        point: (B, D) the projection of x on the newest boundary.
        normal: (B, D) gradient of the gap, of that boundary.
        beyond: (B,) how far the gap must fall.
        share: (B,) s, of the newest direction.

    Returns:
        (B, D) the points inside the box; the projection itself where the mean direction runs along the boundary.

    Example:
        >>> from robcal.robustness.box import make_bounds
        >>> here, one = torch.zeros(1, 2), torch.ones(1)
        >>> old, new = torch.tensor([[-3.0, 0.0]]), torch.tensor([[0.0, -1.0]])
        >>> on_mean_direction(make_bounds(None, (2,)), here, old, new, torch.tensor([[0.0, 1.0]]), one, one / 2)
        tensor([[-1., -1.]])
    """
    direction = mean_direction(x, query, point, share)
    slope = -(normal * direction).sum(1)
    steep = slope > _LEAST_COSINE * normal.norm(dim=1) * direction.norm(dim=1)
    return select(steep, bounds.clamp(x + (beyond / slope).unsqueeze(1) * direction), point)


def mean_direction(x: Tensor, query: Tensor, point: Tensor, share: Tensor) -> Tensor:
    """Return (B, D) the mean of the unit directions from x to two points, weighted by `share` (B,) to `point`."""
    old, new = (query - x) / l2(query, x).unsqueeze(1), (point - x) / l2(point, x).unsqueeze(1)
    return old + share.unsqueeze(1) * (new - old)
