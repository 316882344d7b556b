"""Values of options that the tab key completes; nothing here imports torch, so that the answer comes at once."""

from __future__ import annotations

from robcal.base import names
from robcal.robustness import ATTACKS


def method_names(incomplete: str) -> list[str]:
    """Return training methods; behind a "+" those that are not joined yet.

    >>> "ar-adals+mixup" in method_names("ar-adals+mi"), "ar-adals+ar-adals" in method_names("ar-adals+")
    (True, False)
    """
    joined, plus, _ = incomplete.rpartition("+")
    return [f"{joined}{plus}{name}" for name in names.METHODS if name not in joined.split("+")]


def attack_names(incomplete: str) -> list[str]:
    """Return the ways to score robustness."""
    return list(ATTACKS)


def preset_names(incomplete: str) -> list[str]:
    """Return the comparisons that come with robcal; without a match the shell offers files."""
    return list(names.preset_names())
