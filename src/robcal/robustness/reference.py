"""The strong, slow reference: the best of three attacks of different families (METHOD 2 and 7, step 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from robcal.checks import IntArray, check_positive_int
from robcal.data.dataset import Box, Inputs
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.ddn import DDN
from robcal.robustness.engine import Attack
from robcal.robustness.fidelity import best_of
from robcal.robustness.long_projection import LongProjection
from robcal.robustness.network import Model
from robcal.robustness.scoring import score
from robcal.types import Scores


def reference_attacks(
    *, iterations: int = 1000, restarts: int = 12, num_rivals: int = 9, seed: int = 0
) -> dict[str, Attack]:
    """The three attacks by name, with settings of about equal strength.

    They share where they start (`robustness.starts`: towards each of the nearest rivals, then random points within the
    best distance) and how they end (a descent along the boundary, a bisection), and differ in how they search: Adam on
    a penalised loss for 9 values of its constant, decoupled steps on spheres, and repeated projection. Starts are each
    attack's own draws, and none starts from what another found: their agreement is that of independent answers.

    Args:
        iterations: of each Carlini-Wagner search; DDN makes a third as many per start, at least 40.
        restarts: random starts of each, beside one for each rival; twice as many for long projection.
        num_rivals: K, rivals that each attack starts towards; more than Z - 1 means all.
        seed: of the random starts.

    Raises:
        InputError: settings that make no sense.
    """
    check_positive_int(iterations, "iterations")
    check_positive_int(restarts, "restarts", minimum=0)
    check_positive_int(num_rivals, "num_rivals")
    check_positive_int(seed, "seed", minimum=0)
    rivals = num_rivals
    return {
        "carlini-wagner": CarliniWagner(
            max_iterations=iterations, num_rivals=rivals, restarts=rivals + restarts, seed=3 * seed
        ),
        "long-projection": LongProjection(num_rivals=rivals, restarts=2 * restarts, seed=3 * seed + 1),
        "ddn": DDN(
            max_iterations=max(40, iterations // 3), num_rivals=rivals, restarts=rivals + restarts, seed=3 * seed + 2
        ),
    }


def reference_scores(
    model: Model,
    inputs: Tensor | Inputs,
    *,
    box: Box = (0.0, 1.0),
    iterations: int = 1000,
    restarts: int = 12,
    num_rivals: int = 9,
    seed: int = 0,
    batch_size: int = 256,
    first_index: int | IntArray = 0,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> tuple[Scores, dict[str, Scores]]:
    """Score examples as well as three strong attacks can, and keep the best of them.

    No attack is a ground truth: each gives an upper bound of d(x), and the smallest is the best known. How much the
    three differ is the noise that any comparison with them has (`robcal.robustness.fidelity`).

    Args:
        model: from inputs (B, …) to logits (B, Z), as in `robcal.score`.
        inputs: (N, …), as in `robcal.score`; a thousand examples are a good sample.
        box: (lo, hi) or None, as in `robcal.score`.
        iterations: of each Carlini-Wagner search; see `reference_attacks`.
        restarts: random starts of each attack.
        num_rivals: rivals that each starts towards.
        seed: of the random starts.
        batch_size: examples an evaluation.
        first_index: index of the first input in its data set, or (N,) distinct indices: they seed the random starts.
        progress: called as progress(done, 3 N) whenever examples finish.
        options: further options of `robcal.score`: device, reference, labels, precision, compile.

    Returns:
        The best: for each example the smallest verified distance, with the passes of all three together; and the
        scores of each attack by name. `provenance` holds every setting and how often each attack was the nearest;
        `passes` is the cost: 1,000 to 20,000 an example at the default.

    Raises:
        InputError: as `robcal.score`.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.zero_()
        >>> best, each = reference_scores(linear, torch.tensor([[0.25, 0.5]]), box=None, iterations=40, restarts=0)
        >>> best.distance.round(3).tolist(), sorted(each)
        ([0.25], ['carlini-wagner', 'ddn', 'long-projection'])
    """
    attacks = reference_attacks(iterations=iterations, restarts=restarts, num_rivals=num_rivals, seed=seed)
    total = len(attacks) * int(inputs.shape[0])
    found: dict[str, Scores] = {}
    for turn, (name, attack) in enumerate(attacks.items()):
        found[name] = score(
            model,
            inputs,
            method=attack,
            box=box,
            batch_size=batch_size,
            first_index=first_index,
            progress=_shifted(progress, turn * int(inputs.shape[0]), total),
            **options,
        )
    return best_of(found), found


def _shifted(
    progress: Callable[[int, int], object] | None, before: int, total: int
) -> Callable[[int, int], object] | None:
    """The progress of one attack as progress of all."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)
