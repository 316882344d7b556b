"""Descents that average their directions: where the projection jumps to and fro, and where they are used."""

import numpy as np
import torch

from robcal.robustness.attacks import attack_batch
from robcal.robustness.averaging import Averaging
from robcal.robustness.restarts import Restarts

#: How strongly the boundary y = 1 + a·u² of the test bends away; its curvature times its distance is 2 a > 1, so that
#: the projection of the origin on its tangents jumps from side to side, farther each time.
_BEND = 0.8


def bent(x: torch.Tensor) -> torch.Tensor:
    """Two classes, parted by the parabola y = 1 + a·u²."""
    gap = 1 + _BEND * x[:, 0] ** 2 - x[:, 1]
    return torch.stack([gap, torch.zeros_like(gap)], 1)


def nearest_on_parabola(x: torch.Tensor) -> np.ndarray:
    """Brute force: the distance to the nearest of 400,001 points of the parabola."""
    u = np.linspace(-2, 2, 400_001)
    return np.array([np.hypot(u - a, 1 + _BEND * u * u - b).min() for a, b in x.numpy()])


def test_the_mean_direction_finds_the_nearest_point_where_the_projection_jumps() -> None:
    x = torch.tensor([[0.2, 0.0], [-0.3, 0.1], [0.35, -0.1], [0.1, 0.2]])
    exact = nearest_on_parabola(x)

    def ratio(averaging: bool) -> np.ndarray:
        attack = Averaging(averaging=averaging, memory=0, max_steps=8)
        return np.asarray(attack_batch(attack, bent, x, box=None).distance) / exact

    found = ratio(True)
    assert found.min() >= 1 - 1e-6
    assert found.max() < 1.02
    assert ratio(False).max() > 1.05


def test_it_is_used_where_levels_are_wide() -> None:
    wide, narrow = np.exp(np.linspace(0, 3, 500)), np.exp(np.linspace(0, 0.5, 500))
    assert Restarts().fitted(0.1, wide, 10).averaging
    assert not Restarts().fitted(0.1, narrow, 10).averaging
