"""The box that inputs live in, and the exact nearest point on a linear boundary inside it.

Everything here works on flat inputs (B, D). Unbounded features have bounds of -inf and +inf, so there is one code path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robcal.base.checks import refuse

#: Newton steps on one root; the function is piecewise linear and concave, so the iteration ends by itself long before.
_MAX_NEWTON_STEPS = 100
#: Newton steps and inner sweeps on several halfspaces; the caller looks at the violation that is left.
_MAX_DUAL_STEPS, _GAUSS_SEIDEL_SWEEPS = 12, 30
#: Up to this many halfspaces, every active set is solved for.
_MAX_ENUMERATED = 4


@dataclass(frozen=True)
class Bounds:
    """The box [lo, hi] of flat inputs.

    Attributes:
        lo: (D,) float32 lower ends, -inf where unbounded.
        hi: (D,) float32 upper ends, +inf where unbounded.
        bounded: whether any end is finite.
    """

    lo: Tensor
    hi: Tensor
    bounded: bool

    def clamp(self, x: Tensor) -> Tensor:
        """Return the nearest point of the box, feature by feature; x is (…, D)."""
        return torch.minimum(torch.maximum(x, self.lo), self.hi) if self.bounded else x

    def excess(self, x: Tensor) -> Tensor:
        """Return (B,) how far the worst feature of each row of x (B, D) lies outside the box; 0 inside."""
        return torch.maximum(self.lo - x, x - self.hi).amax(1).clamp_min(0)

    def widths(self, x: Tensor) -> Tensor:
        """Return (B, D) a length scale for every feature: the box's width, or 1 + |x| where it is unbounded."""
        width = (self.hi - self.lo).expand_as(x)
        return torch.where(torch.isfinite(width), width, 1 + x.abs())


def make_bounds(box: Any, input_shape: tuple[int, ...], device: torch.device | str = "cpu") -> Bounds:
    """Return the flat bounds of a box: None, or (lo, hi) of numbers or arrays that broadcast to one input; ±inf too."""
    if box is None:
        box = (-np.inf, np.inf)
    if not isinstance(box, (tuple, list)) or len(box) != 2:
        refuse(f"box is {box!r}", "it must be None (unbounded) or a pair (lo, hi)", "Pass for example box=(0.0, 1.0)")
    ends = []
    for name, end in zip(("lo", "hi"), box, strict=True):
        value = np.asarray(end.detach().cpu() if isinstance(end, Tensor) else end, dtype=np.float32)
        try:
            ends.append(np.broadcast_to(value, input_shape).reshape(-1))
        except ValueError:
            refuse(
                f"box {name} has shape {value.shape}, one input has shape {input_shape}",
                "each end is a number or broadcasts to one input",
                "Reshape it, for example to (C, 1, 1) for one bound a channel",
            )
    lo, hi = ends
    if not (lo < hi).all():
        where = int(np.flatnonzero(~(lo < hi))[0])
        refuse(
            f"box has lo {lo[where]:g} and hi {hi[where]:g} at feature {where}",
            "every lower end lies below its upper end, and neither is NaN",
            "Swap or fix them; drop features that cannot move",
        )
    bounded = bool(np.isfinite(lo).any() or np.isfinite(hi).any())
    return Bounds(torch.tensor(lo, device=device), torch.tensor(hi, device=device), bounded)


def multiplier_in_box(x: Tensor, normal: Tensor, residual: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Return λ and the l2 distance, (B, K) each, at which a ray of nearest points meets a linear boundary in the box.

    The nearest point to x (B, D) on {x': w·(x - x') = r} inside the box is clamp(x - λ w) (Karush-Kuhn-Tucker), and λ
    is the root of S(λ) = Σ_i w_i² min(λ, b_i) = r, where b_i is the λ at which feature i meets its bound; w (B, K, D)
    is `normal`, r (B, K) is `residual`, and 0 where it is below. S is increasing, concave and piecewise linear, so
    Newton's method from λ = 0 rises to the root and ends after finitely many steps. Both results are +inf where the
    boundary does not meet the box or w is 0.
    """
    square = normal * normal
    total = square.sum(-1)
    residual = residual.clamp_min(0)
    infinite = torch.full_like(residual, torch.inf)
    multiplier = torch.where(residual > 0, residual / total, torch.zeros_like(residual))
    if not bounds.bounded:
        return torch.where(total > 0, multiplier, infinite), torch.where(total > 0, multiplier * total.sqrt(), infinite)
    room = torch.where(normal > 0, x.unsqueeze(1) - bounds.lo, x.unsqueeze(1) - bounds.hi)
    breakpoint_ = torch.where(normal == 0, torch.full_like(normal, torch.inf), room / normal)
    feasible = torch.where(square > 0, square * breakpoint_, torch.zeros_like(square)).sum(-1) >= residual
    feasible = feasible & (total > 0)
    multiplier = torch.where(feasible, multiplier, torch.zeros_like(multiplier))
    pending = feasible & (residual > 0)
    for _ in range(_MAX_NEWTON_STEPS):
        reached = torch.minimum(multiplier.unsqueeze(-1), breakpoint_)
        gap = residual - (square * reached).sum(-1)
        slope = torch.where(breakpoint_ > multiplier.unsqueeze(-1), square, torch.zeros_like(square)).sum(-1)
        pending = pending & (gap > 1e-6 * residual) & (slope > 0)
        if not bool(pending.any()):
            break
        multiplier = torch.where(pending, multiplier + gap / slope.clamp_min(1e-38), multiplier)
    reached = torch.minimum(multiplier.unsqueeze(-1), breakpoint_)
    distance = (square * reached * reached).sum(-1).sqrt()
    return torch.where(feasible, multiplier, infinite), torch.where(feasible, distance, infinite)


def project_on_halfspaces(x: Tensor, normal: Tensor, residual: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Return the nearest point to x in several halfspaces and in the box, (B, D), and by how much it misses them, (B,).

    minimise ‖x' - x‖₂ over {w_m·(x - x') >= r_m for every m} ∩ box, w (B, M, D) the `normal` and r (B, M) the
    `residual`; a row of zeros with r <= 0 is no constraint. The solution is x' = clamp(x - Σ λ_m w_m), λ >= 0:
    semismooth Newton steps on the M-dimensional dual, each a small complementarity problem.
    """
    multiplier = torch.zeros_like(residual)
    point = x
    violation = residual.amax(1)
    for _ in range(_MAX_DUAL_STEPS if bounds.bounded else 2):
        away = x - torch.einsum("bm,bmd->bd", multiplier, normal)
        point = bounds.clamp(away)
        missing = residual - torch.einsum("bmd,bd->bm", normal, x - point)
        violation = missing.amax(1)
        slack = torch.where(multiplier > 0, missing.abs(), missing.clamp_min(0))
        if not bool((slack > 1e-5 * residual.abs().amax(1, keepdim=True)).any()):
            break
        free = normal * (point == away).unsqueeze(1) if bounds.bounded else normal
        gram = free @ normal.transpose(1, 2)
        multiplier = _complementarity(gram, missing + torch.einsum("bmn,bn->bm", gram, multiplier), multiplier)
    return point, violation


def _complementarity(gram: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """λ >= 0 with gram λ >= target and λ·(gram λ - target) = 0; gram is (B, M, M), symmetric, not negative.

    Few constraints: every set of active ones is solved for at once, and the one that misses least is taken, exactly.
    Many: projected Gauss-Seidel.
    """
    count = gram.shape[1]
    if count > _MAX_ENUMERATED:
        return _gauss_seidel(gram, target, start)
    sets = (torch.arange(2**count, device=gram.device).unsqueeze(1) >> torch.arange(count, device=gram.device)) & 1
    active = sets.double()  # (S, M)
    size = gram.diagonal(dim1=1, dim2=2).double().clamp_min(1e-300).sqrt()  # unit diagonal: the tests are relative
    unit = gram.double() / (size.unsqueeze(1) * size.unsqueeze(2))
    wanted = target.double() / size
    both = active.unsqueeze(2) * active.unsqueeze(1)
    system = unit.unsqueeze(1) * both + torch.diag_embed(1 - active + 1e-12)
    found = torch.linalg.solve_ex(system, (wanted.unsqueeze(1) * active).unsqueeze(3))[0].squeeze(3)
    missing = torch.maximum(wanted.unsqueeze(1) - found @ unit, -found).amax(2)
    best = missing.nan_to_num(nan=torch.inf).argmin(1)
    chosen = found[torch.arange(len(found), device=gram.device), best].clamp_min(0) / size
    return torch.nan_to_num(chosen, 0.0, 0.0, 0.0).to(gram.dtype)


def _gauss_seidel(gram: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """The same by a fixed number of sweeps."""
    result = start.clone()
    size = gram.diagonal(dim1=1, dim2=2)
    for _ in range(_GAUSS_SEIDEL_SWEEPS):
        for m in range(result.shape[1]):
            missing = target[:, m] - (gram[:, m] * result).sum(1)
            moved = result[:, m] + torch.where(size[:, m] > 0, missing / size[:, m], 0.0)
            result[:, m] = moved.clamp_min(0)
    return result
