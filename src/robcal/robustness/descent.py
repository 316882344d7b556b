"""Descent along the decision boundary: from any start to a point from which the boundary comes no nearer.

At each point the nearest boundary is linearised and the clean input x projected on it, inside the box. A projection
that is adversarial and nearer than the last becomes the new anchor. One that is not has met a bend: its own halfspace
is added as a cut, x is projected on all cuts of this anchor at once, and the step is shortened towards the anchor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robcal.robustness.box import Bounds, multiplier_in_box, project_on_halfspaces
from robcal.robustness.engine import Rows
from robcal.robustness.network import Linearisation
from robcal.robustness.steps import l2, newton_step, select
from robcal.robustness.watched import Watched

#: Halfspaces kept; and projections in a row that may fail before a descent that has an anchor ends.
_CUTS, _MAX_REJECTIONS = 3, 8
#: How far a step goes beyond the linearised boundary, as a share of the way: before an anchor is known, and after.
_OVERSHOOT_FAR, _OVERSHOOT_NEAR = 0.02, 0.002
_FAR = 1e20
#: The relative gain below which a descent ends.
_TOLERANCE = 5e-4


def descend(
    network: Watched, start: Tensor, *, max_steps: int, target: Tensor | None = None, at: Tensor | None = None
) -> None:
    """Descend from the starts; `network` keeps what is found.

    Args:
        network: the classifier and its rows.
        start: (B, D), of every row.
        max_steps: evaluations of a descent, at most.
        target: (B,) class whose boundary is kept to until some point is adversarial, -1 for none.
        at: (n,) positions of the rows that descend; None for all.
    """
    at = torch.arange(len(start), device=start.device) if at is None else at
    target = torch.full_like(network.label, -1) if target is None else target
    state = {
        "x": network.x[at],
        "query": start[at],
        "target": target[at],
        "anchor": start[at],  # the best point of this descent
        "anchor_distance": torch.full_like(network.distance[at], torch.inf),
        "cuts": start.new_zeros(len(at), _CUTS, start.shape[1]),  # its halfspaces as seen from x
        "cut_residuals": start.new_full((len(at), _CUTS), -1.0),
        "rejections": torch.zeros_like(at),  # since the last anchor
    }
    for _ in range(max_steps):
        if not len(at):
            return
        linear, beyond = network.linearise(state["query"], at, target=state["target"])
        state, over = _advance(network.bounds, state, linear, beyond)
        at, state = at[~over], {key: value[~over] for key, value in state.items()}


def _advance(bounds: Bounds, rows: Rows, linear: Linearisation, beyond: Tensor) -> tuple[Rows, Tensor]:
    """The rows with their next query, and (B,) bool: whose descent is over."""
    distance = l2(rows["query"], rows["x"])
    accepted = beyond & (distance < rows["anchor_distance"])
    stalled = accepted & (distance > (1 - _TOLERANCE) * rows["anchor_distance"])
    rows = rows | {
        "anchor": select(accepted, rows["query"], rows["anchor"]),
        "anchor_distance": torch.where(accepted, distance, rows["anchor_distance"]),
        "rejections": torch.where(accepted, 0, rows["rejections"] + 1),
    }
    rows, query = _next_query(bounds, rows, accepted, linear)
    anchored = torch.isfinite(rows["anchor_distance"])
    gains = l2(query, rows["x"]) < (1 - _TOLERANCE) * rows["anchor_distance"]
    over = stalled | (anchored & (~gains | (rows["rejections"] > _MAX_REJECTIONS)))
    return rows | {"query": query, "target": torch.where(anchored, -1, rows["target"])}, over


def _next_query(bounds: Bounds, rows: Rows, accepted: Tensor, linear: Linearisation) -> tuple[Rows, Tensor]:
    """The rows with the new cut, and (B, D) the point to be looked at next."""
    x, normal, gap = rows["x"], linear.normal[:, 0], linear.gap[:, 0]
    residual = gap + (normal * (x - rows["query"])).sum(1)
    anchored = torch.isfinite(rows["anchor_distance"])
    overshoot = torch.where(anchored, _OVERSHOOT_NEAR, _OVERSHOOT_FAR)
    beyond = residual + overshoot * residual.abs() + 2 * linear.lead[:, 0]
    kept = torch.where(accepted.unsqueeze(1), -1.0, rows["cut_residuals"])
    residuals = torch.cat([beyond.unsqueeze(1), kept], 1)[:, :_CUTS]
    cuts = torch.cat([normal.unsqueeze(1), rows["cuts"] * ~accepted[:, None, None]], 1)[:, :_CUTS]
    query = _project(x, cuts, residuals, bounds)
    behind = ~anchored & (residual <= 0)  # linearly, x is beyond already: step on from where we are (DeepFool)
    query = select(behind, bounds.clamp(rows["query"] - 1.02 * newton_step(linear)), query)
    share = 0.5 ** (rows["rejections"] - 1).clamp_min(0).to(x.dtype)
    shortened = rows["anchor"] + share.unsqueeze(1) * (query - rows["anchor"])
    query = select(anchored & (share < 1), shortened, query)
    return rows | {"cuts": cuts, "cut_residuals": residuals}, query


def _project(x: Tensor, cuts: Tensor, residuals: Tensor, bounds: Bounds) -> Tensor:
    """(B, D) the nearest point to x beyond all cuts in the box, or beyond the newest alone where there is none."""
    multiplier, _ = multiplier_in_box(x, cuts[:, :1], residuals[:, :1], bounds)
    point = bounds.clamp(x - multiplier.nan_to_num(posinf=_FAR) * cuts[:, 0])
    several = (residuals[:, 1:] > 0).any(1) & (residuals[:, 0] > 0)
    if bool(several.any()):
        both, violation = project_on_halfspaces(x[several], cuts[several], residuals[several], bounds)
        solved = violation < 1e-3 * residuals[several].abs().amax(1)
        point[several] = select(solved, both, point[several])
    return point
