"""Line search on the segment from the clean input to a point beyond the boundary: forward evaluations only.

Every example has its own bracket [t_low, t_high] on x + t (end - x): the reference label still leads at t_low, and not
at t_high. Points are chosen by a safeguarded secant on the signed margin (Illinois rule: an end that stays put counts
half); where no point beyond the boundary is known yet, t doubles, inside the box.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robcal.robustness.engine import DONE, Rows
from robcal.robustness.network import Network, signed_margin
from robcal.robustness.steps import keep_best, select


def segment_rows(x: Tensor) -> Rows:
    """Return the state of the search, before it starts; x is (B, D)."""
    zero = torch.zeros(len(x), device=x.device)
    return {
        "searches": torch.zeros(len(x), dtype=torch.int64, device=x.device),
        "end": x.clone(),
        "t": zero.clone(),
        "t_low": zero.clone(),
        "t_high": torch.full_like(zero, torch.inf),
        "f_low": zero.clone(),
        "f_high": zero.clone(),
    }


def start_search(
    network: Network, rows: Rows, start: Tensor, towards: Tensor, *, tolerance: float, max_searches: int
) -> Rows:
    """Begin the search of the rows in `start` (B,): to the best point, or on towards (B, D) where none is adversarial.

    `f_high` must hold the signed margin of the best point. Rows that have nothing to gain are DONE at once.
    """
    if not bool(start.any()):
        return rows
    found = rows["verified"]
    rows = rows | {
        "end": select(start, select(found, rows["point"], towards), rows["end"]),
        "t_low": torch.where(start, 0.0, rows["t_low"]),
        "f_low": torch.where(start, rows["margin"], rows["f_low"]),
        "t_high": torch.where(start, torch.where(found, 1.0, torch.inf), rows["t_high"]),
        "need": torch.where(start, 0, rows["need"]),
    }
    return _next_point(network, rows, start, tolerance, max_searches)


def advance_search(network: Network, rows: Rows, *, tolerance: float, max_searches: int) -> Rows:
    """Evaluate the next point of every row and narrow its bracket: half a pass each."""
    logits = network.logits(rows["query"])
    rows, inside = keep_best(rows, logits)
    margin = signed_margin(logits, rows["reference"])
    stuck_low = torch.where(torch.isfinite(rows["t_high"]), rows["f_low"] / 2, rows["f_low"])
    rows = rows | {
        "passes": rows["passes"] + 0.5,
        "searches": rows["searches"] + 1,
        "f_low": torch.where(inside, stuck_low, margin),
        "f_high": torch.where(inside, margin, rows["f_high"] / 2),
        "t_low": torch.where(inside, rows["t_low"], rows["t"]),
        "t_high": torch.where(inside, rows["t"], rows["t_high"]),
    }
    return _next_point(network, rows, torch.ones_like(inside), tolerance, max_searches)


def resume_search(network: Network, rows: Rows, active: Tensor, *, tolerance: float, max_searches: int) -> Rows:
    """Go on with the search of the rows in `active` (B,) that has just ended, in its bracket, if `searches` allows."""
    rows = rows | {"need": torch.where(active, 0, rows["need"])}
    return _next_point(network, rows, active, tolerance, max_searches)


def _next_point(network: Network, rows: Rows, active: Tensor, tolerance: float, max_searches: int) -> Rows:
    """The next t of the active rows, or DONE when the bracket or the gain that is left is within the tolerance."""
    low, high, f_low, f_high = rows["t_low"], rows["t_high"], rows["f_low"], rows["f_high"]
    bracketed = torch.isfinite(high)
    width = high - low
    secant = high - width * (f_high / (f_high - f_low)).nan_to_num(nan=0.5).clamp(0, 1)
    done = bracketed & (torch.minimum(high - secant, width) < tolerance * high)
    done = done | (rows["searches"] >= max_searches)
    inner = torch.minimum(secant + 0.3 * tolerance * high, high - 0.3 * tolerance * high)
    t = torch.where(bracketed, inner, torch.where(low > 0, 2 * low, 1.0))
    point = network.bounds.clamp(rows["x"] + t.unsqueeze(1) * (rows["end"] - rows["x"]))
    return rows | {
        "t": torch.where(active, t, rows["t"]),
        "query": select(active, point, rows["query"]),
        "need": torch.where(active & done, DONE, rows["need"]),
    }
