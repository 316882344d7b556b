from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import NearestCentroid, ReluNet, Spheres, linear_distance, linear_model
from torch import nn

from robcal.robustness import CarliniWagner, carlini_wagner_attack, score
from robcal.robustness.box import make_bounds
from robcal.robustness.carlini_wagner import _Change
from robcal.robustness.network import Network

Box = tuple[float, float] | None


def linear_case(dims: int, classes: int, count: int) -> tuple[nn.Linear, torch.Tensor]:
    rng = np.random.default_rng(dims)
    model = linear_model(rng.normal(size=(classes, dims)), rng.normal(size=classes) * 0.2)
    return model, torch.tensor(rng.uniform(-0.3, 1.3, size=(count, dims)).clip(0, 1), dtype=torch.float32)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_linear_models_with_inputs_on_the_ends_of_the_box(box: Box) -> None:
    model, x = linear_case(12, 4, 5)
    assert ((x == 0) | (x == 1)).float().mean() > 0.2
    exact = linear_distance(model, x, box)
    settings = {} if box else {"max_iterations": 150}  # with the box: the full search
    result = carlini_wagner_attack(model, x, box=box, **settings)
    ratio = result.distance.numpy() / exact
    assert result.verified.all()
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.02


def test_other_units_of_the_box_give_the_same_attack() -> None:
    model, x = linear_case(12, 4, 8)
    wide = linear_model(model.weight.detach().numpy() / 255, model.bias.detach().numpy())
    settings = {"binary_search_steps": 4, "max_iterations": 60}
    small = carlini_wagner_attack(model, x, **settings)
    large = carlini_wagner_attack(wide, x * 255, box=(0.0, 255.0), **settings)
    np.testing.assert_allclose(large.distance / 255, small.distance, rtol=1e-2)


def test_all_negative_logits() -> None:
    model, x = linear_case(12, 4, 8)
    lower = linear_model(model.weight.detach().numpy(), model.bias.detach().numpy() - 100)
    settings = {"binary_search_steps": 4, "max_iterations": 60}
    result = carlini_wagner_attack(lower, x, box=None, **settings)
    assert result.verified.all()
    exact = linear_distance(model, x, None)
    assert (result.distance.numpy() / exact).min() >= 1 - 1e-3  # the logits' rounding is 8e-6 here
    assert (result.distance.numpy() / exact).max() <= 1.03


def test_curved_boundaries() -> None:
    rng = np.random.default_rng(0)
    centroid = NearestCentroid(rng.normal(size=(6, 5)))
    spheres = Spheres(np.array([[2.0, 0, 0], [-2, 0, 0], [0, 3, 0]]), np.array([1.0, 1.2, 0.8]))
    for model, dims in ((centroid, 5), (spheres, 3)):
        x = torch.tensor(rng.normal(size=(12, dims)) * 1.3, dtype=torch.float32)
        ratio = carlini_wagner_attack(model, x, box=None, max_iterations=80).distance.numpy() / model.distance(x)
        assert ratio.min() >= 1 - 1e-6
        assert ratio.max() <= 1.02


def test_relu_nets_never_below_the_enumerated_distance() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.uniform(-1, 1, (12, 3)), dtype=torch.float32)
    model = ReluNet(3, 6, 3, seed=3)
    for box in (None, (-1.0, 1.0)):
        ratio = carlini_wagner_attack(model, x, box=box, max_iterations=200).distance.numpy() / model.distance(x, box)
        assert ratio.min() >= 1 - 1e-6
        assert ratio.max() <= 1.02


def test_an_example_is_attacked_alike_alone_and_in_company() -> None:
    model, x = linear_case(12, 4, 9)
    attack = CarliniWagner(binary_search_steps=4, max_iterations=50)
    whole = score(model, x, method=attack)
    alone = carlini_wagner_attack(model, x[:1], binary_search_steps=4, max_iterations=50)
    np.testing.assert_allclose(alone.distance, whole.distance[:1], rtol=5e-3)
    reordered = score(model, torch.cat([x[:1], x[1:].flip(0)]), method=attack)
    np.testing.assert_allclose(reordered.distance[0], whole.distance[0], rtol=5e-3)
    for batch_size in (1, 4):
        part = score(model, x, method=attack, batch_size=batch_size)
        np.testing.assert_allclose(part.distance, whole.distance, rtol=5e-3)
        assert np.median(np.abs(part.distance / whole.distance - 1)) < 1e-4


def test_the_change_of_variable_reaches_the_ends_and_comes_back() -> None:
    bounds = make_bounds((np.array([0.0, -1.0, -np.inf, 2.0]), np.array([1.0, 3.0, np.inf, np.inf])), (4,))
    network = Network(lambda x: x, (4,), bounds, torch.device("cpu"))
    x = torch.tensor([[0.0, 3.0, 7.0, 2.0], [1.0, -1.0, -7.0, 5.0], [0.4, 0.1, 0.0, 3.0]])
    change = _Change(network, x)
    w = change.inverse(x)
    assert torch.isfinite(w).all()
    torch.testing.assert_close(change.forward(w), x, rtol=0, atol=1e-6)
    assert (change.slope(w)[:, :2] > 1e-3).all()
    far = change.forward(change.confine(torch.full_like(w, 1e9)))
    assert far[0, :2].tolist() == pytest.approx([1.0, 3.0], abs=1e-6)
    assert bounds.excess(far).max() == 0
