"""First-order estimate of adversarial robustness: one linearisation at the clean input (METHOD 7, step 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robcal.robustness.box import multiplier_in_box
from robcal.robustness.engine import DONE, AttackResult, Rows, check_settings, fresh_rows
from robcal.robustness.network import Linearisation, Model, Network
from robcal.robustness.steps import attack_batch, is_flat, meet, perturb, usable


@dataclass(frozen=True)
class FirstOrder:
    """The first-order estimate as an attack for the engine.

    Attributes:
        num_rivals: K, how many rivals are linearised (those with the largest logits); more than Z - 1 means all.
        seed: seeds the perturbation of inputs whose gradient is zero.
    """

    num_rivals: int = 3
    seed: int = 0
    name: ClassVar[str] = "first-order"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, num_rivals=1, seed=0)

    @property
    def num_kinds(self) -> int:
        """One: every evaluation linearises K rivals."""
        return 1

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """The state of fresh examples, to be linearised at the clean input."""
        return fresh_rows(index, x, reference, need=self.num_rivals) | {"query": x.clone()}

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Linearise at the clean input (or a perturbed one where the gradient was zero) and read the estimate off."""
        linear = usable(network.linearise(rows["query"], rows["reference"], need))
        rows = meet(rows, linear.logits)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        flat = is_flat(linear) & (rows["need"] != DONE)
        settled = ~flat & (rows["need"] != DONE)
        distance, rival = estimate(network, linear, rows["x"], rows["query"])
        rows["distance"] = torch.where(settled, distance, rows["distance"])
        rows["rival"] = torch.where(settled, rival, rows["rival"])
        rows["need"] = torch.where(settled, DONE, rows["need"])
        return perturb(rows, flat, network.bounds, self.seed)


def estimate(network: Network, linear: Linearisation, x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) distance from x to the nearest linearised boundary, and its rival.

    Inside the box where some boundary meets it; where none does, the distance without the box (the linear picture has
    nothing to offer there, and an estimate is not a proof of robustness).
    """
    shift = torch.einsum("bkd,bd->bk", linear.normal, x - query)
    residual = (linear.gap + shift).clamp_min(0)
    size = linear.normal.norm(dim=-1)
    unbounded = torch.where(size > 0, residual / size, torch.inf)
    _, inside = multiplier_in_box(x, linear.normal, residual, network.bounds)
    inside = torch.where(size > 0, inside, torch.inf)
    distance = torch.where(torch.isfinite(inside).any(1, keepdim=True), inside, unbounded)
    best = distance.min(1)
    return best.values, linear.rivals.gather(1, best.indices.unsqueeze(1)).squeeze(1)


def first_order_estimate(
    model: Model,
    x: Tensor,
    label: Tensor | None = None,
    box: Any = (0.0, 1.0),
    *,
    num_rivals: int = 3,
    batch_size: int | None = None,
    seed: int = 0,
) -> AttackResult:
    r"""Estimate the distance to the decision boundary from one linearisation at x.

    min over the top-K rivals j of (z_y − z_j) / ‖∇ₓ(z_y − z_j)‖₂ (Moosavi-Dezfooli et al., DeepFool, 2016, eq. 8, first
    step), where the nearest point is kept inside the box. Exact for linear models; otherwise neither an upper nor a
    lower bound, and no point is returned.

    Args:
        model: from inputs (B, …) to logits (B, Z); left as it was found.
        x: (B, …) float32 inputs in the box, on the model's device.
        label: (B,) int64 reference labels, or None for the model's own predictions.
        box: (lo, hi), numbers or arrays that broadcast to one input, or None for unbounded inputs.
        num_rivals: K, rivals linearised; K backward passes.
        batch_size: examples an evaluation; None takes all at once.
        seed: seeds the perturbation of inputs with a zero gradient; global random state is not used.

    Returns:
        AttackResult; `verified` is false except for inputs that are misclassified under `label` (distance 0).

    Raises:
        InputError: bad inputs, labels, box or model.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.zero_()
        >>> first_order_estimate(linear, torch.tensor([[0.25, 0.5]])).distance
        tensor([0.2500])
    """
    return attack_batch(FirstOrder(num_rivals, seed), model, x, label, box, batch_size)
