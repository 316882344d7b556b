from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import NearestCentroid, linear_distance, linear_model, relu_case

from robcal.base.checks import InputError
from robcal.robustness.attacks import attack_batch
from robcal.robustness.ddn import DDN
from robcal.robustness.scoring import score

Box = tuple[float, float] | None


@pytest.mark.slow
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize(("scale", "polish_steps"), [(1.0, 0), (1.0, 30), (1e-3, 30)])
def test_linear_models_in_any_units_with_inputs_on_the_ends_of_the_box(
    box: Box, scale: float, polish_steps: int
) -> None:
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(4, 12)), rng.normal(size=4) * 0.2
    model = linear_model(weight / scale, bias)
    x = torch.tensor(rng.uniform(-0.3, 1.3, size=(8, 12)).clip(0, 1) * scale, dtype=torch.float32)
    scaled = None if box is None else (box[0] * scale, box[1] * scale)
    result = attack_batch(DDN(max_iterations=100, polish_steps=polish_steps), model, x, box=scaled)
    ratio = result.distance.numpy() / linear_distance(linear_model(weight, bias), x / scale, box) / scale
    assert result.verified.all()
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() <= 1.02


@pytest.mark.slow
def test_curved_boundaries_without_a_polish() -> None:
    rng = np.random.default_rng(0)
    model = NearestCentroid(rng.normal(size=(6, 5)))
    x = torch.tensor(rng.normal(size=(12, 5)) * 1.3, dtype=torch.float32)
    ratio = attack_batch(DDN(polish_steps=0), model, x, box=None).distance.numpy() / model.distance(x)
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.01


@pytest.mark.slow
@pytest.mark.parametrize(("net", "box"), [(2, None), (3, (-1.0, 1.0))])
def test_relu_nets(net: int, box: Box) -> None:
    model, x = relu_case(4 if net == 2 else 3, net, 15)
    exact = model.distance(x, box)
    ratio = attack_batch(DDN(max_iterations=60, restarts=15), model, x, box=box).distance.numpy() / exact
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.02


def test_an_unreachable_boundary_is_censored_and_a_wrong_label_is_at_distance_zero() -> None:
    model = linear_model(np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([1.0, -1.0]))
    x = torch.tensor([[0.3, 0.2]])
    lost = attack_batch(DDN(max_iterations=20), model, x)
    assert torch.isinf(lost.distance).all()
    assert not lost.verified.any()
    assert attack_batch(DDN(max_iterations=20), model, x, torch.tensor([1])).distance.item() == 0


def test_an_example_is_attacked_alike_alone_and_in_company() -> None:
    model, x = relu_case(4, 0, 6)
    attack = DDN(max_iterations=30, restarts=4)
    whole = score(model, x, method=attack, box=None)
    for order in (np.arange(6)[::-1].copy(), np.array([4]), np.array([5, 1])):
        part = score(model, x[order], method=attack, box=None, first_index=order, batch_size=4)
        np.testing.assert_allclose(part.distance, whole.distance[order], rtol=1e-3)


@pytest.mark.parametrize("settings", [{"max_iterations": 0}, {"gamma": 0.0}, {"final_gamma": 1.0}, {"restarts": -1}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        DDN(**settings)
