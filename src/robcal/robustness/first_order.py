"""First-order estimate of robustness: one linearisation at the clean input, then one secant (method, section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box
from robcal.robustness.engine import DONE, Rows, check_settings, fresh_rows
from robcal.robustness.network import Linearisation, Network
from robcal.robustness.steps import FAR, is_flat, meet, perturb, select

#: The secant may shorten or lengthen the linear estimate by these factors; beyond them it is not to be trusted.
SECANT_RANGE = (0.3, 3.0)


@dataclass(frozen=True)
class FirstOrder:
    """Estimate the distance to the decision boundary from one linearisation at x and the logits at one more point.

    min over the top-K rivals j of (z_y − z_j) / ‖∇ₓ(z_y − z_j)‖₂ (Moosavi-Dezfooli et al., DeepFool, 2016, eq. 8, first
    step), where the nearest point x₁ is kept inside the box. The secant corrects it for half a pass: the distance
    times min over all j of f_j(x) / (f_j(x) − f_j(x₁)), f_j = z_y − z_j, within a factor of 0.3 to 3. Exact for linear
    models; otherwise neither an upper nor a lower bound, and no point is returned: `verified` is false except for
    inputs that are misclassified under the label given (distance 0).

    Attributes:
        num_rivals: K, how many rivals are linearised (those with the largest logits); more than Z - 1 means all.
        secant: whether the linear estimate is corrected by the logits at the point that it names (half a pass).
        seed: seeds the perturbation of inputs whose gradient is zero.
    """

    num_rivals: int = 3
    secant: bool = True
    seed: int = 0
    name: ClassVar[str] = "first-order"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, num_rivals=1, seed=0)

    @property
    def num_kinds(self) -> int:
        """Up to two: the linearisation of K rivals, and the logits at the point that it names."""
        return 2 if self.secant else 1

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples, to be linearised at the clean input."""
        gaps = x.new_zeros(len(x), network.num_classes)
        return fresh_rows(index, x, reference, need=self.num_rivals) | {"query": x.clone(), "gaps": gaps}

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Linearise at the clean input (or a perturbed one where the gradient was zero), or correct by the secant."""
        if need == 0:
            return _correct(network, rows)
        linear = network.linearise(rows["query"], rows["reference"], need)
        new = rows["prediction"] < 0
        rows = meet(network, rows, linear)
        rows["gaps"] = select(new, all_gaps(linear.logits, rows["reference"]), rows["gaps"])
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        flat = is_flat(linear) & (rows["need"] != DONE)
        settled = ~flat & (rows["need"] != DONE)
        distance, rival, point, inside = estimate(network, linear, rows["x"], rows["query"])
        rows["distance"] = torch.where(settled, distance, rows["distance"])
        rows["rival"] = torch.where(settled, rival, rows["rival"])
        rows["query"] = select(settled, point, rows["query"])
        following = torch.where(inside & (distance > 0), 0 if self.secant else DONE, DONE)
        rows["need"] = torch.where(settled, following, rows["need"])
        return perturb(rows, flat, network.bounds, self.seed)


def estimate(
    network: Network, linear: Linearisation, x: Tensor, query: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the nearest linearised boundary, inside the box where some boundary meets it.

    Where none does, the distance without the box (the linear picture has nothing to offer there, and an estimate is
    not a proof of robustness).

    Returns:
        distance: (B,) from x to that boundary.
        rival: (B,) int64, its class.
        point: (B, D) the nearest point of it inside the box.
        inside: (B,) bool, whether there is one.
    """
    shift = torch.einsum("bkd,bd->bk", linear.normal, x - query)
    residual = (linear.gap + shift).clamp_min(0)
    size = linear.normal.norm(dim=-1)
    unbounded = torch.where(size > 0, residual / size, torch.inf)
    multiplier, inside = multiplier_in_box(x, linear.normal, residual, network.bounds)
    inside = torch.where(size > 0, inside, torch.inf)
    feasible = torch.isfinite(inside).any(1)
    best = torch.where(feasible.unsqueeze(1), inside, unbounded).min(1)
    pick = best.indices.unsqueeze(1)
    normal = linear.normal.gather(1, pick.unsqueeze(2).expand(-1, 1, x.shape[1])).squeeze(1)
    point = network.bounds.clamp(x - multiplier.gather(1, pick).nan_to_num(posinf=FAR) * normal)
    return best.values, linear.rivals.gather(1, pick).squeeze(1), point, feasible


def all_gaps(logits: Tensor, reference: Tensor) -> Tensor:
    """Return (B, Z) z_reference minus every logit; +inf for the reference itself."""
    gaps = logits.gather(1, reference.unsqueeze(1)) - logits
    return gaps.scatter(1, reference.unsqueeze(1), torch.inf)


def first_crossing(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return where on the line from one point through another the secant of some gap first falls to zero.

    Args:
        before: (B, Z) `all_gaps` at the one point.
        after: (B, Z) at the other.

    Returns:
        (B,) share of the way, +inf where no gap falls; and (B,) int64, the class.

    Example:
        >>> first_crossing(torch.tensor([[torch.inf, 2.0, 3.0]]), torch.tensor([[torch.inf, 1.0, 0.0]]))
        (tensor([1.]), tensor([2]))
    """
    fall = before - after  # inf - inf, of the reference itself, is no fall
    share, rival = torch.where((fall > 0) & torch.isfinite(before), before / fall, torch.inf).min(1)
    return share, rival


def _correct(network: Network, rows: Rows) -> Rows:
    """Put the boundary where the secant of some rival's gap first falls to zero on the line through x and the query."""
    logits = network.logits(rows["query"])
    share, rival = first_crossing(rows["gaps"], all_gaps(logits, rows["reference"]))
    return rows | {
        "distance": rows["distance"] * share.clamp(*SECANT_RANGE),
        "rival": torch.where(torch.isfinite(share), rival, rows["rival"]),
        "passes": rows["passes"] + 0.5,
        "need": torch.full_like(rows["need"], DONE),
    }
