"""The strong, slow reference: the best of three attacks of different families (method, section 1.1)."""

from __future__ import annotations

from robcal.base.checks import check_positive_int, check_seed
from robcal.robustness import ATTACKS
from robcal.robustness.attacks import Attack, find_attack


def reference_attacks(
    *, iterations: int = 1000, restarts: int = 12, num_rivals: int = 9, seed: int = 0
) -> dict[str, Attack]:
    """Return the attacks of `ATTACKS` that have `as_reference`, by name, with settings of about equal strength.

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
    strong = {name: found for name in ATTACKS if hasattr(found := find_attack(name), "as_reference")}
    first, settings = len(strong) * check_seed(seed), {"restarts": restarts, "num_rivals": num_rivals}
    return {
        name: found.as_reference(iterations=iterations, seed=(first + turn) % 2**63, **settings)
        for turn, (name, found) in enumerate(strong.items())
    }
