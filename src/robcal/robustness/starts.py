"""Where the strong attacks start: the loss has many minima, so one start is not enough (method, section 1.1).

The nearest adversarial point lies at most as far away as the nearest one known. Starts are, in this order: the point
where the linearised boundary of each rival is nearest, searched *towards that rival*; then points drawn uniformly from
the ball around the clean input whose radius is the best distance so far, the only place where a nearer point can be.

Every draw is a function of (seed, index of the example, number of the draw) through a counter-based generator
(Philox, Salmon et al. 2011): nothing depends on the batch, on the order of the examples or on the number of processes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box
from robcal.robustness.engine import Rows
from robcal.robustness.network import Linearisation, Network
from robcal.robustness.steps import FAR, select


def example_noise(seed: int, index: int, draw: int, size: int) -> Tensor:
    """Draw (size + 1,) float32: standard normal noise, then a uniform number, of this example and draw only.

    Example:
        >>> bool((example_noise(0, 7, 1, 3) == example_noise(0, 7, 1, 3)).all())
        True
    """
    bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64), counter=[0, 0, 0, draw])
    generator = np.random.Generator(bits)
    noise = np.append(generator.standard_normal(size), generator.random())
    return torch.from_numpy(noise.astype(np.float32))


def start_rows(x: Tensor, num_starts: int) -> Rows:
    """Return the state of the starts before the first linearisation; x is (B, D), `num_starts` rivals are kept."""
    count = len(x)
    return {
        "starts": x.unsqueeze(1).repeat(1, num_starts, 1),
        "start_rivals": torch.full((count, num_starts), -1, dtype=torch.int64, device=x.device),
        "start_penalty": x.new_zeros(count, num_starts),
        "first_order": x.new_zeros(count),
        "target": torch.full((count,), -1, dtype=torch.int64, device=x.device),
    }


def read_starts(network: Network, rows: Rows, mask: Tensor, linear: Linearisation) -> Rows:
    """Set the rivals' starts of the rows in `mask` (B,) from the linearisation at their `query`, the nearest first.

    Sets "starts" (B, K, D) points, "start_rivals" (B, K) classes (-1: out of reach), "start_penalty" (B, K) the c of
    Carlini-Wagner from which the boundary point is a minimum where the model is linear (2 d / ‖g‖), and "first_order"
    (B,) the distance.
    """
    size = linear.normal.norm(dim=-1)
    gap = linear.gap.abs() + 2 * linear.lead
    multiplier, inside = multiplier_in_box(rows["query"], linear.normal, gap, network.bounds)
    unbounded = torch.where(size > 0, gap / size, torch.inf)
    order = torch.where(torch.isfinite(inside), inside, 1e6 * unbounded).argsort(1)
    shift = multiplier.nan_to_num(posinf=FAR).unsqueeze(2) * linear.normal  # out of reach: the corner of the box
    points = network.bounds.clamp(rows["query"].unsqueeze(1) - shift)
    reachable = torch.isfinite(points).all(2, keepdim=True) & (points.abs() < FAR / 1e10).all(2, keepdim=True)
    points = torch.where(reachable, points, rows["query"].unsqueeze(1))
    penalty = torch.where(size > 0, 2 * unbounded / size, 0.0)
    across = order.unsqueeze(2).expand_as(points)
    nearest = unbounded.gather(1, order[:, :1]).squeeze(1)
    return rows | {
        "starts": select(mask, points.gather(1, across), rows["starts"]),
        "start_rivals": select(mask, torch.where(size > 0, linear.rivals, -1).gather(1, order), rows["start_rivals"]),
        "start_penalty": select(mask, penalty.gather(1, order), rows["start_penalty"]),
        "first_order": torch.where(mask, nearest.clamp_min(1e-12), rows["first_order"]),
    }


def next_start(network: Network, rows: Rows, mask: Tensor, number: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return (B, D) start and (B,) target class (-1: none) of restart `number` (B,), from 0; only rows in `mask` count.

    In place of a rival that is out of reach, without a gradient or with a logit of -inf, stands a random point.
    """
    rivals = rows["starts"].shape[1]
    pick = number.clamp(0, rivals - 1)
    rival = rows["start_rivals"].gather(1, pick.unsqueeze(1)).squeeze(1)
    of_rival = (number < rivals) & (rival >= 0)
    start = rows["starts"][torch.arange(len(pick), device=pick.device), pick].clone()
    target = torch.where(of_rival, rival, -1)
    farther = 3 * rows["first_order"] * 1.5 ** (number - rivals).clamp(0, 40)  # found nothing: look ever farther out
    radius = torch.where(rows["verified"], rows["distance"], farther)
    dims = start.shape[1]
    for row in torch.nonzero(mask & ~of_rival).squeeze(1).tolist():
        noise = example_noise(seed, int(rows["index"][row]), int(number[row]), dims).to(start.device)
        direction = noise[:-1] / noise[:-1].norm()
        start[row] = rows["x"][row] + radius[row] * noise[-1] ** (1 / dims) * direction
    return network.bounds.clamp(start), target
