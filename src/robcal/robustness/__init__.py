"""Adversarial robustness of every example, and the levels made from it (METHOD 2, 3, 7)."""

from robcal.robustness.carlini_wagner import CarliniWagner, carlini_wagner
from robcal.robustness.engine import Attack, AttackResult
from robcal.robustness.first_order import FirstOrder, first_order
from robcal.robustness.levels import apply_thresholds, assign_levels, level_thresholds
from robcal.robustness.projection import Projection, projection
from robcal.robustness.scoring import METHODS, score

__all__ = [
    "METHODS",
    "Attack",
    "AttackResult",
    "CarliniWagner",
    "FirstOrder",
    "Projection",
    "apply_thresholds",
    "assign_levels",
    "carlini_wagner",
    "first_order",
    "level_thresholds",
    "projection",
    "score",
]
