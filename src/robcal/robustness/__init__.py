"""Adversarial robustness of every example, and the levels made from it (method, sections 1 and 2).

To add an attack: write a file with a function `points(network, x, label, rng) -> x'`, and name it in `ATTACKS`
(docs/extend.md, "An attack").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class AttackEntry(NamedTuple):
    """Say where an attack is, and in a phrase what it does.

    Attributes:
        place: "module:name" of a function `points`, or of a class of attacks; imported when it is used.
        does: what `robcal score --help` and the documentation say of it.
        num_rivals: K where no other is asked for, of a class of attacks that looks at rivals.
    """

    place: str
    does: str
    num_rivals: int = 3


#: Name of every way to score, in the library and on the command line. Those whose class has `as_reference` are what
#: `robcal fidelity` compares scores with.
ATTACKS: Mapping[str, AttackEntry] = {
    "auto": AttackEntry("robcal.robustness.restarts:Restarts", "verified, passes spent where a level may change"),
    "projection": AttackEntry("robcal.robustness.projection:Projection", "verified, the same effort for all"),
    "quick": AttackEntry("robcal.robustness.quick:Quick", "verified, for a rank in three to four passes", 2),
    "first-order": AttackEntry("robcal.robustness.first_order:FirstOrder", "a fast estimate"),
    "carlini-wagner": AttackEntry("robcal.robustness.carlini_wagner:CarliniWagner", "the slow reference"),
    "long-projection": AttackEntry("robcal.robustness.long_projection:LongProjection", "a second slow reference"),
    "ddn": AttackEntry("robcal.robustness.ddn:DDN", "a third slow reference"),
}


def describe_attacks() -> str:
    """Return a phrase that names every attack and says what it does.

    >>> describe_attacks().split("; ")[0]
    'auto: verified, passes spent where a level may change'
    """
    return "; ".join(f"{name}: {entry.does}" for name, entry in ATTACKS.items())
