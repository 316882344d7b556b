from __future__ import annotations

import numpy as np
import pytest
import torch
from online_samples import network
from oracles import linear_distance, linear_model
from torch import nn

from robcal.robustness.first_order import FirstOrder
from robcal.robustness.online_refresh import look
from robcal.robustness.online_slopes import ClassSlopes
from robcal.robustness.steps import attack_batch


def true_slopes(weight: np.ndarray) -> ClassSlopes:
    return ClassSlopes(((weight[:, None] - weight[None]) ** 2).sum(2))


def test_with_the_true_slopes_a_linear_model_gives_the_exact_distance() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 6)) * rng.uniform(0.4, 1.6, (5, 1))
    model = linear_model(weight, rng.normal(size=5))
    x = torch.tensor(rng.normal(size=(40, 6)), dtype=torch.float32)
    found = look(model, x, true_slopes(weight), None)
    np.testing.assert_allclose(found[:, 0], linear_distance(model, x, None), rtol=1e-4)
    logits = model(x).detach()
    top = logits.topk(2)
    torch.testing.assert_close(found[:, 1], top.values[:, 0] - top.values[:, 1])
    assert torch.equal(found[:, 2].long(), top.indices[:, 0])
    other = found[:, 3].long()
    assert not torch.equal(other, top.indices[:, 1])  # the largest logit is not always the nearest boundary
    gaps = logits.gather(1, top.indices[:, :1]) - logits
    size = np.linalg.norm(weight[top.indices[:, 0].numpy()] - weight[other.numpy()], axis=1)
    np.testing.assert_allclose(found[:, 0], gaps.gather(1, other[:, None])[:, 0].numpy() / size, rtol=1e-4)


def test_the_box_is_kept() -> None:
    rng = np.random.default_rng(1)
    model = linear_model(rng.normal(size=(2, 6)), np.array([0.4, 0.0]))
    x = torch.tensor(rng.uniform(0, 1, size=(60, 6)), dtype=torch.float32)
    exact = linear_distance(model, x, (0.0, 1.0))
    inside = np.isfinite(exact)
    assert inside.mean() > 0.8
    found = look(model, x, None, (0.0, 1.0))[:, 0].numpy()
    np.testing.assert_allclose(found[inside], exact[inside], rtol=1e-3)
    outside = linear_distance(model, x, None)
    assert (exact[inside] > 1.02 * outside[inside]).any()  # the box has mattered
    np.testing.assert_allclose(found[~inside], outside[~inside], rtol=1e-3)


@pytest.mark.parametrize("secant", [False, True])
def test_without_slopes_it_is_the_first_order_estimate_with_one_rival(secant: bool) -> None:
    model = network()
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    expected = attack_batch(FirstOrder(num_rivals=1, secant=secant), model, x)
    found = look(model, x, None, (0.0, 1.0), secant=secant)
    torch.testing.assert_close(found[:, 0], expected.distance, rtol=1e-4, atol=1e-6)
    assert torch.equal(found[:, 3].long(), expected.rival)
    same = look(
        model, x, ClassSlopes(np.ones((1, 1))), (0.0, 1.0), secant=secant
    )  # one slope for all pairs chooses nothing
    assert torch.equal(found, same)


def test_the_network_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.rand(8, 1, 4, 4).contiguous(memory_format=torch.channels_last)
    torch.set_rng_state(state)
    found = look(model, x, None, (0.0, 1.0))
    assert torch.equal(found, look(model, x, None, (0.0, 1.0)))  # no dropout
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter in model.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad


def test_a_forward_at_the_point_is_spent_for_the_secant_only() -> None:
    calls = []
    model = network()
    model.register_forward_hook(lambda *told: calls.append(1))
    look(model, torch.full((3, 4), 0.3), None, None, secant=False)
    assert len(calls) == 1
    look(model, torch.full((3, 4), 0.3), None, None)
    assert len(calls) == 3


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_a_gradient_that_says_nothing_gives_no_distance(scale: float) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = torch.nn.functional.hardtanh(x[:, :1] * 100)  # flat but at 0
            return (
                torch.cat([first + 1, 0 * first], 1) if scale == 0 else torch.cat([x[:, :1].sqrt() + 1, 0 * first], 1)
            )

    x = torch.tensor([[0.5], [0.001]]) if scale == 0 else torch.tensor([[0.0], [0.5]])
    found = look(Odd(), x, None, None)[:, 0]
    assert torch.isnan(found[0])
    assert torch.isfinite(found[1])
