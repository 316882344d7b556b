"""Adversarial robustness of every example, and the levels made from it (METHOD 2, 3, 7).

Names are imported when they are first used: cutting levels needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robcal.robustness.carlini_wagner import CarliniWagner
    from robcal.robustness.engine import Attack, AttackResult
    from robcal.robustness.first_order import FirstOrder
    from robcal.robustness.levels import apply_thresholds, assign_levels, level_thresholds
    from robcal.robustness.projection import Projection
    from robcal.robustness.scoring import METHODS, score

_HOMES = {
    "CarliniWagner": "carlini_wagner_attack",
    "Attack": "engine",
    "AttackResult": "engine",
    "FirstOrder": "first_order_estimate",
    "apply_thresholds": "levels",
    "assign_levels": "levels",
    "level_thresholds": "levels",
    "Projection": "projection_attack",
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
    "level_thresholds",
    "score",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
