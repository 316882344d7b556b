"""Adversarial robustness of every example, and the levels made from it (METHOD 2, 3, 7).

Names are imported when they are first used: cutting levels needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robcal.robustness.carlini_wagner import CarliniWagner, carlini_wagner_attack
    from robcal.robustness.engine import Attack, AttackResult
    from robcal.robustness.first_order import FirstOrder, first_order_estimate
    from robcal.robustness.levels import apply_thresholds, assign_levels, level_thresholds
    from robcal.robustness.projection import Projection, projection_attack
    from robcal.robustness.scoring import METHODS, score

_HOMES = {
    "CarliniWagner": "carlini_wagner",
    "carlini_wagner_attack": "carlini_wagner",
    "Attack": "engine",
    "AttackResult": "engine",
    "FirstOrder": "first_order",
    "first_order_estimate": "first_order",
    "apply_thresholds": "levels",
    "assign_levels": "levels",
    "level_thresholds": "levels",
    "Projection": "projection",
    "projection_attack": "projection",
    "METHODS": "scoring",
    "score": "scoring",
}

__all__ = [
    "METHODS",
    "Attack",
    "AttackResult",
    "CarliniWagner",
    "FirstOrder",
    "Projection",
    "apply_thresholds",
    "assign_levels",
    "carlini_wagner_attack",
    "first_order_estimate",
    "level_thresholds",
    "projection_attack",
    "score",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
