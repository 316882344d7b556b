"""What the attacks share: reading off a first evaluation, keeping the best verified point, leaving flat regions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robcal.robustness.box import Bounds
from robcal.robustness.engine import DONE, Rows
from robcal.robustness.network import Linearisation, Network, mask_reference, required_lead, signed_margin
from robcal.robustness.probe import refuse_unfinite

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


def rows_at(rows: Rows, at: Tensor) -> Rows:
    """Return the rows at the positions (n,)."""
    return {key: value[at] for key, value in rows.items()}


def rows_put(rows: Rows, at: Tensor, some: Rows) -> Rows:
    """Return the rows with those at the positions (n,) replaced."""
    return {key: value.index_copy(0, at, some[key]) for key, value in rows.items()}


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


def keep_best(rows: Rows, logits: Tensor, beyond: Tensor | None = None) -> tuple[Rows, Tensor]:
    """Keep the `query` just evaluated where it is adversarial and nearer than the best point so far.

    A `blind` query, drawn at random because no gradient has led anywhere yet (see `perturb`), is never kept: it is
    there to find a gradient, and the distance of a lucky draw says nothing of how near the boundary is.

    Args:
        rows: their state.
        logits: (B, Z) at their queries.
        beyond: (B,) bool, which queries are adversarial, where that is known.

    Returns:
        The rows, and (B,) bool: where the query is the new best point.
    """
    query = rows["query"]
    distance = l2(query, rows["x"])
    beyond = is_adversarial(rows, logits) if beyond is None else beyond
    better = (distance < rows["distance"]) & beyond & ~rows["blind"]
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
    generator = torch.Generator("cpu").manual_seed(int(words[0]) % 2**63)
    return torch.randn(like.shape, generator=generator, device="cpu").to(like.device)


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
