"""One look at clean examples in eval mode, with the slopes of training's own passes choosing where to look.

A forward tells the gaps to all rivals; the one backward is spent on the rival whose boundary is nearest by the typical
slope of its pair of classes (`ClassSlopes`), not on the one with the largest logit; a second forward, if wanted, at the
point that this names corrects the distance by the secant of every rival.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robcal.data.dataset import Box
from robcal.robustness.box import make_bounds, multiplier_in_box
from robcal.robustness.first_order import SECANT_RANGE, all_gaps, first_crossing
from robcal.robustness.modes import scoring_mode
from robcal.robustness.online_slopes import ClassSlopes

#: What a look costs: one or two forwards and one input-backward, half a pass each.
PASSES: dict[str, float] = {"linear": 1.0, "secant": 1.5}


def look(model: nn.Module, inputs: Tensor, slopes: ClassSlopes | None, box: Box, *, secant: bool = True) -> Tensor:
    """First-order distance of clean inputs to the boundary of one chosen rival.

    The distance to the nearest point x₁ inside the box where the linearised z_ŷ − z_r is 0 (without the box where there
    is none inside); with the secant times min over all j of f_j(x) / (f_j(x) − f_j(x₁)), f_j = z_ŷ − z_j, within a
    factor of 0.3 to 3: `FirstOrder` with one rival, but r is the rival of smallest f_r / √D_ŷr.

    Args:
        model: (B, …) → (B, Z) logits; left in the mode it was found in, its parameters' gradients untouched.
        inputs: (B, …) float32 on the model's device, in the box, B at least 1.
        slopes: of the training passes; None takes the largest logit.
        box: (lo, hi) in input units, or None.
        secant: whether to correct by the logits at x₁, for half a pass more.

    Returns:
        (B, 4) float32: distance (NaN where the gradient is 0 or not finite), logit margin, prediction, rival.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.zero_()
        >>> look(linear, torch.tensor([[0.25, 0.5]]), None, (0.0, 1.0)).tolist()
        [[0.25, 0.5, 0.0, 1.0]]
    """
    bounds = make_bounds(box, tuple(inputs.shape[1:]), inputs.device)
    with scoring_mode(model):
        x = inputs.detach().clone().requires_grad_()
        logits = model(x.clone()).float()  # a model may change what it is given
        prediction = logits.detach().argmax(1)
        gaps = all_gaps(logits, prediction)
        rival = _nearest(gaps.detach(), prediction, slopes)
        gap = gaps.gather(1, rival.unsqueeze(1))
        (gradient,) = torch.autograd.grad(gap.sum(), x, materialize_grads=True)
        before, gap = gaps.detach(), gap.detach()
        flat, normal = inputs.detach().flatten(1), gradient.float().flatten(1)
        multiplier, inside = (part[:, 0] for part in multiplier_in_box(flat, normal.unsqueeze(1), gap, bounds))
        size, met = normal.norm(dim=1), torch.isfinite(inside)
        distance = torch.where(met, inside, gap[:, 0] / size)
        if secant:
            point = bounds.clamp(flat - torch.where(met, multiplier, 0.0).unsqueeze(1) * normal)
            with torch.no_grad():
                there = torch.empty_like(x).copy_(point.reshape(x.shape))  # in the memory format of x
                share, crossed = first_crossing(before, all_gaps(model(there).float(), prediction))
            sound = met & torch.isfinite(share)
            distance = torch.where(sound, distance * share.clamp(*SECANT_RANGE), distance)
            rival = torch.where(sound, crossed, rival)
    distance = torch.where(torch.isfinite(size) & (size > 0), distance, torch.nan)
    return torch.stack([distance, before.amin(1), prediction.float(), rival.float()], 1)


def _nearest(gaps: Tensor, prediction: Tensor, slopes: ClassSlopes | None) -> Tensor:
    """(B,) the rival whose boundary is nearest by the typical slopes."""
    if slopes is None or len(slopes.squared) == 1:
        return gaps.argmin(1)
    squared = torch.as_tensor(slopes.squared, dtype=gaps.dtype, device=gaps.device)
    return (gaps / squared.sqrt()[prediction]).argmin(1)
