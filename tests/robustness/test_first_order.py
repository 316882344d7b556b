from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import NearestCentroid, linear_distance, linear_model
from torch import nn

from robcal.robustness.attacks import attack_batch
from robcal.robustness.first_order import FirstOrder


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_exact_for_linear_models(box: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(1)
    model = linear_model(rng.normal(size=(4, 12)), rng.normal(size=4) * 0.2)
    x = torch.tensor(rng.uniform(size=(40, 12)).round(1), dtype=torch.float32)
    exact = linear_distance(model, x, box)
    assert np.isfinite(exact).all()
    result = attack_batch(FirstOrder(num_rivals=99), model, x, box=box)
    np.testing.assert_allclose(result.distance, exact, rtol=2e-4)
    assert not result.verified.any()
    assert result.passes.tolist() == [2.5] * 40  # two forward, three backward
    plain = attack_batch(FirstOrder(num_rivals=99, secant=False), model, x, box=box)
    np.testing.assert_allclose(plain.distance, exact, rtol=2e-4)
    assert plain.passes.tolist() == [2.0] * 40
    assert (attack_batch(FirstOrder(num_rivals=1), model, x, box=box).distance >= result.distance).all()


def test_the_secant_finds_a_curved_boundary_and_the_rival_that_is_met_first() -> None:
    def curved(x: torch.Tensor) -> torch.Tensor:
        t = x[:, 0]
        return torch.stack([torch.ones_like(t), 0.5 * t + 0.5 * t * t, 0.1 * t + 0.9 * t**4], 1)

    x = torch.zeros(1, 2)
    plain = attack_batch(FirstOrder(num_rivals=1, secant=False), curved, x, box=None)
    secant = attack_batch(FirstOrder(num_rivals=1), curved, x, box=None)
    assert plain.distance.item() == pytest.approx(2.0)
    # at t = 2 the gaps are -2 and -13.6: the secants meet zero at 2 / 3 and at 2 / 14.6, held at 0.3 of the way
    assert secant.distance.item() == pytest.approx(0.6)
    assert secant.rival.item() == 2
    two_classes = attack_batch(FirstOrder(), lambda x: curved(x)[:, :2], x, box=None)
    assert two_classes.distance.item() == pytest.approx(2 / 3)
    assert two_classes.passes.item() == 1.5


def test_nearest_centroid() -> None:
    rng = np.random.default_rng(2)
    model, x = NearestCentroid(rng.normal(size=(5, 6))), torch.tensor(rng.normal(size=(30, 6)), dtype=torch.float32)
    np.testing.assert_allclose(
        attack_batch(FirstOrder(num_rivals=9), model, x, box=None).distance, model.distance(x), rtol=1e-3
    )


def test_zero_gradient_is_perturbed_and_flagged_and_never_robust() -> None:
    def dead(x: torch.Tensor) -> torch.Tensor:  # flat for x <= 0.5, then a slope of 1 that crosses at 0.6
        step = torch.relu(x[:, 0] - 0.5)
        return torch.stack([torch.full_like(step, 0.1), step], 1)

    x = torch.tensor([[0.49, 0.5], [0.55, 0.5]])
    result = attack_batch(FirstOrder(), dead, x)
    assert result.flat[0] > 0
    assert result.flat[1] == 0
    assert result.distance[1].item() == pytest.approx(0.05, abs=1e-5)
    assert result.distance[0].item() == pytest.approx(0.11, abs=1e-5)
    assert result.passes[0] > result.passes[1]


def test_label_as_reference_makes_errors_worth_zero() -> None:
    model = nn.Linear(2, 2)
    x = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    prediction = model(x).argmax(1)
    label = prediction.clone()
    label[::2] = 1 - label[::2]
    result = attack_batch(FirstOrder(), model, x, label, box=None)
    assert (result.distance[::2] == 0).all()
    assert (result.rival[::2] == prediction[::2]).all()
    assert (result.margin[::2] < 0).all()
    torch.testing.assert_close(result.distance[1::2], attack_batch(FirstOrder(), model, x, box=None).distance[1::2])
