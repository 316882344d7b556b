"""Descent along the decision boundary: from any start to a point from which the boundary comes no nearer.

At each point the nearest boundary is linearised and the clean input x projected on it, inside the box. A projection
that is adversarial and nearer than the last becomes the new anchor. One that is not has met a bend: its own halfspace
is added as a cut, x is projected on all cuts of this anchor at once, and the step is shortened towards the anchor.

State of a row: "anchor" and "anchor_distance" (the best point of this descent), "cuts" and "cut_residuals" (its
halfspaces as seen from x), "descents" (evaluations so far) and "rejections" (since the last anchor).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robcal.robustness.box import Bounds, multiplier_in_box, project_on_halfspaces
from robcal.robustness.engine import Rows
from robcal.robustness.network import Linearisation, Network
from robcal.robustness.steps import is_adversarial, l2, newton_step, select

#: Halfspaces kept; and projections in a row that may fail before a descent that has an anchor ends.
_CUTS, _MAX_REJECTIONS = 3, 8
#: How far a step goes beyond the linearised boundary, as a share of the way: before an anchor is known, and after.
_OVERSHOOT_FAR, _OVERSHOOT_NEAR = 0.02, 0.002
_FAR = 1e20
_STATE = ("query", "anchor", "anchor_distance", "cuts", "cut_residuals", "descents", "rejections")


class Descent(NamedTuple):
    """Settings: evaluations at most, and the relative gain below which a descent ends."""

    max_steps: int
    tolerance: float = 5e-4


def descent_rows(x: Tensor) -> Rows:
    """Return the state of a descent before it starts; x is (B, D)."""
    count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return {
        "anchor": x.clone(),
        "anchor_distance": x.new_full((len(x),), torch.inf),
        "cuts": x.new_zeros(len(x), _CUTS, x.shape[1]),
        "cut_residuals": x.new_full((len(x), _CUTS), -1.0),
        "descents": count,
        "rejections": count.clone(),
    }


def start_descent(rows: Rows, mask: Tensor, point: Tensor) -> Rows:
    """Let the rows in `mask` (B,) descend from `point` (B, D), which is evaluated next."""
    return rows | {
        "query": select(mask, point, rows["query"]),
        "anchor_distance": torch.where(mask, torch.inf, rows["anchor_distance"]),
        "cut_residuals": select(mask, torch.full_like(rows["cut_residuals"], -1.0), rows["cut_residuals"]),
        "cuts": select(mask, torch.zeros_like(rows["cuts"]), rows["cuts"]),
        "descents": torch.where(mask, 0, rows["descents"]),
        "rejections": torch.where(mask, 0, rows["rejections"]),
    }


def advance_descent(
    network: Network, rows: Rows, mask: Tensor, linear: Linearisation, settings: Descent
) -> tuple[Rows, Tensor]:
    """Take the linearisation at `query` in, and set the next `query`, of the rows in `mask` (B,).

    Returns:
        The rows, and (B,) bool: whose descent is over.
    """
    if bool(mask.all()):
        return _advance(network.bounds, rows, linear, settings)
    at = torch.nonzero(mask).squeeze(1)
    here = {key: rows[key][at] for key in (*_STATE, "x", "reference", "terms")}
    moved, ended = _advance(network.bounds, here, linear.rows(at), settings)
    over = torch.zeros_like(mask)
    over[at] = ended
    return rows | {key: rows[key].index_copy(0, at, moved[key]) for key in _STATE}, over


def _advance(bounds: Bounds, rows: Rows, linear: Linearisation, settings: Descent) -> tuple[Rows, Tensor]:
    """The same for rows that all descend."""
    distance = l2(rows["query"], rows["x"])
    accepted = is_adversarial(rows, linear.logits) & (distance < rows["anchor_distance"])
    stalled = accepted & (distance > (1 - settings.tolerance) * rows["anchor_distance"])
    rows = rows | {
        "anchor": select(accepted, rows["query"], rows["anchor"]),
        "anchor_distance": torch.where(accepted, distance, rows["anchor_distance"]),
        "descents": rows["descents"] + 1,
        "rejections": torch.where(accepted, 0, rows["rejections"] + 1),
    }
    rows, query = _next_query(bounds, rows, accepted, linear)
    anchored = torch.isfinite(rows["anchor_distance"])
    gains = l2(query, rows["x"]) < (1 - settings.tolerance) * rows["anchor_distance"]
    over = stalled | (rows["descents"] >= settings.max_steps)
    over = over | (anchored & (~gains | (rows["rejections"] > _MAX_REJECTIONS)))
    return rows | {"query": select(over, rows["query"], query)}, over


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
