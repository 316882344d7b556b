"""What the attacks share: reading off a first evaluation, keeping the best verified point, leaving flat regions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robcal.base.checks import refuse
from robcal.base.types import Precision
from robcal.robustness.box import Bounds, make_bounds
from robcal.robustness.engine import DONE, Attack, AttackResult, Rows, TensorSource, collect, run
from robcal.robustness.modes import scoring_mode
from robcal.robustness.network import (
    Linearisation,
    Model,
    Network,
    mask_reference,
    required_lead,
    signed_margin,
)
from robcal.robustness.probe import parameter_dtype, refuse_unfinite
from robcal.robustness.trial import TRIED, try_model

#: A multiplier large enough to reach a corner of any box, small enough not to overflow.
FAR = 1e20
#: How often a point with a zero gradient is perturbed before the attack gives the example up as censored.
MAX_PERTURBATIONS = 10


def l2(point: Tensor, x: Tensor) -> Tensor:
    """Return (B,) float32 l2 distance of the float32 points to x, both (B, D), summed in float64."""
    distance: Tensor = torch.linalg.vector_norm(point.double() - x.double(), dim=1)
    return distance.float()


def select(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return torch.where with a mask of rows (B,), for tensors of any number of dimensions."""
    return torch.where(mask.reshape(-1, *([1] * (yes.ndim - 1))), yes, no)


def meet(network: Network, rows: Rows, linear: Linearisation) -> Rows:
    """Note the size of the gap's terms; at the clean input, fill in prediction, reference label and margin too.

    With the true label as reference, a misclassified input is its own adversarial point: distance 0, done.
    """
    logits = linear.logits
    rows = rows | {"terms": linear.nearest_terms}
    new = rows["prediction"] < 0
    if not bool(new.any()):
        return rows
    refuse_unfinite(logits[new], network.masked)
    prediction = torch.where(new, logits.argmax(1), rows["prediction"])
    reference = torch.where(rows["reference"] < 0, prediction, rows["reference"])
    wrong = new & (reference != prediction)
    return rows | {
        "prediction": prediction,
        "reference": reference,
        "margin": torch.where(new, signed_margin(logits, reference), rows["margin"]),
        "distance": torch.where(wrong, 0.0, rows["distance"]),
        "verified": rows["verified"] | wrong,
        "rival": torch.where(wrong, prediction, rows["rival"]),
        "need": torch.where(wrong, DONE, rows["need"]),
    }


def is_adversarial(rows: Rows, logits: Tensor) -> Tensor:
    """Return (B,) bool, another class leads by enough to stay ahead when the point is evaluated again."""
    reference = rows["reference"].unsqueeze(1)
    own, other = logits.gather(1, reference).squeeze(1), mask_reference(logits, rows["reference"]).amax(1)
    return other - own > required_lead(own, other, rows["terms"])


def keep_best(rows: Rows, logits: Tensor) -> tuple[Rows, Tensor]:
    """Keep the `query` just evaluated where it is adversarial and nearer than the best point so far.

    A `blind` query, drawn at random because no gradient has led anywhere yet (see `perturb`), is never kept: it is
    there to find a gradient, and the distance of a lucky draw says nothing of how near the boundary is.

    Returns:
        The rows, and (B,) bool: where the query is the new best point.
    """
    query = rows["query"]
    distance = l2(query, rows["x"])
    better = (distance < rows["distance"]) & is_adversarial(rows, logits) & ~rows["blind"]
    rival = mask_reference(logits, rows["reference"]).argmax(1)
    kept = {
        "distance": torch.where(better, distance, rows["distance"]),
        "point": torch.where(better.unsqueeze(1), query, rows["point"]),
        "verified": rows["verified"] | better,
        "rival": torch.where(better, rival, rows["rival"]),
    }
    return rows | kept, better


def is_flat(linear: Linearisation) -> Tensor:
    """Return (B,) bool, no rival has a gradient that is finite and not zero."""
    return ~(linear.normal != 0).any(2).any(1)


def newton_step(linear: Linearisation) -> Tensor:
    """Return (B, D) the step to the first rival's linearised boundary, to be taken away; 0 where it leads already."""
    normal, gap = linear.normal[:, 0], linear.gap[:, 0].clamp_min(0)
    size = (gap / (normal * normal).sum(1).clamp_min(1e-30)).clamp_max(FAR)
    return size.unsqueeze(1) * normal


def random_direction(like: Tensor, seed: int, index: int, attempt: int) -> Tensor:
    """Standard normal noise of the shape of `like`: a function of (seed, index, attempt) alone.

    `index` is the example's place in the whole data set, so that no draw depends on batches, shards or processes.
    """
    words = np.random.SeedSequence([seed, index, attempt % 2**63]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) % 2**63)
    return torch.randn(like.shape, generator=generator).to(like.device)


def perturb(rows: Rows, flat: Tensor, bounds: Bounds, seed: int) -> Rows:
    """Move the `query` of flat rows a random way off the clean input, then the opposite way, then further; or give up.

    Each example draws from its own generator, seeded by (seed, index, attempt): nothing depends on the batch. The new
    queries are `blind`: if the model is piecewise constant all of them are, and the example ends censored, however many
    of the random points have another label. Following a gradient from one of them makes the next query an ordinary one.
    """
    rows = rows | {"blind": flat}
    if not bool(flat.any()):
        return rows
    query, attempts = rows["query"].clone(), rows["flat"] + flat.long()
    x, widths = rows["x"], bounds.widths(rows["x"])
    for row in torch.nonzero(flat).squeeze(1).tolist():
        attempt = int(attempts[row])
        pair, sign = (attempt + 1) // 2, 1 if attempt % 2 else -1
        noise = sign * random_direction(x[row], seed, int(rows["index"][row]), pair)
        query[row] = x[row] + 0.01 * 2.5**pair * widths[row] * noise
    lost = flat & (attempts > MAX_PERTURBATIONS)
    return rows | {
        "query": bounds.clamp(query),
        "flat": attempts,
        "need": torch.where(lost, DONE, rows["need"]),
    }


def attack_batch(
    attack: Attack,
    model: Model,
    x: Tensor,
    label: Tensor | None = None,
    box: Any = (0.0, 1.0),
    batch_size: int | None = None,
) -> AttackResult:
    """Run one attack on inputs in memory.

    Args:
        attack: the attack with its settings.
        model: from inputs (B, …) to logits (B, Z).
        x: (B, …) float32 inputs inside the box, on the model's device.
        label: (B,) int64 reference labels, or None for the model's own predictions.
        box: (lo, hi), numbers or arrays that broadcast to one input, or None for unbounded inputs.
        batch_size: examples an evaluation; None takes all of them at once.

    Raises:
        InputError: for a bad box, inputs, labels or model.

    Example:
        >>> from robcal.robustness.projection import Projection
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.zero_()
        >>> result = attack_batch(Projection(), linear, torch.tensor([[0.25, 0.5]]), box=None)
        >>> round(result.distance.item(), 2), result.rival.item(), result.passes.item()
        (0.25, 1, 2.5)
    """
    if x.ndim < 2 or len(x) == 0 or x.dtype != torch.float32:
        refuse(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}",
            "inputs are float32 of shape (B, …) with at least one example",
            "Convert it, or use robcal.score, which takes uint8 images too",
        )
    bounds = make_bounds(box, tuple(x.shape[1:]), x.device)
    flat = x.detach().reshape(len(x), -1)
    if not bool(torch.isfinite(flat).all()) or bool((bounds.excess(flat) > 0).any()):
        refuse(
            "x holds NaN, infinite or out-of-box values",
            f"every input must lie in box={box}",
            "Normalise inside the model, not before it, and pass the true box",
        )
    reference = torch.full((len(x),), -1, device=x.device) if label is None else label.to(x.device).long()
    parts: list[Rows] = []
    with probed(model, flat, tuple(x.shape[1:]), bounds, batch_size=batch_size or len(x)) as network:
        if label is not None and (
            label.shape != (len(x),) or bool((reference < 0).any()) or int(reference.max()) >= network.num_classes
        ):
            refuse(
                f"label has shape {tuple(label.shape)} and values {int(reference.min())} to {int(reference.max())}",
                f"it must be (B,) with integers from 0 to {network.num_classes - 1}",
                "Number the classes from 0, in the order of the model's outputs",
            )
        run(attack, network, TensorSource(flat, reference), batch_size=batch_size or len(x), emit=parts.append)
    return collect(parts, tuple(x.shape))


@contextmanager
def probed(
    model: Model,
    x: Tensor,
    input_shape: tuple[int, ...],
    bounds: Bounds,
    *,
    batch_size: int,
    precision: Precision = "float32",
    compile: bool = False,
) -> Iterator[Network]:
    """Open the model in scoring mode as a `Network` that has proved on the first of x (B, D) that it can be scored."""
    dtype = parameter_dtype(model)
    with scoring_mode(model):
        network = Network(
            model,
            input_shape,
            bounds,
            x.device,
            precision=precision,
            dtype=dtype,
            batch_size=batch_size,
            compile=compile,
        )
        try_model(network, x[: min(TRIED, batch_size)])
        yield network
