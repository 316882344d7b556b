from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import ReluNet, curved_cases, linear_distance, linear_model
from torch import nn

from robcal.robustness.attacks import attack_batch
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.engine import AttackResult
from robcal.robustness.projection import Projection
from robcal.robustness.scoring import score

Box = tuple[float, float] | None
BRIEF = {"binary_search_steps": 3, "max_iterations": 60}


def check_points(model: nn.Module, x: torch.Tensor, box: Box, result: AttackResult) -> None:
    """Verified points change the label when each is evaluated alone, lie in the box, and are as far as stated."""
    model.eval()
    with torch.no_grad():
        clean = torch.cat([model(row[None]) for row in x]).argmax(1)
        after = torch.cat([model(row[None]) for row in result.point]).argmax(1)
    ok = result.verified
    assert (result.prediction == clean).all()
    assert (after[ok] != clean[ok]).all()
    assert (after[ok] == result.rival[ok]).all()
    assert torch.isinf(result.distance[~ok]).all()
    assert (result.rival[~ok] == -1).all()
    away = (result.point.double() - x.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distance[ok], away[ok].float(), rtol=1e-6, atol=0)
    if box is not None:
        assert result.point.min() >= box[0]
        assert result.point.max() <= box[1]


@pytest.mark.parametrize(("box", "tolerance"), [(None, 1.01), ((0.0, 1.0), 1.03)])
@pytest.mark.parametrize(("dims", "classes"), [(4, 3), (12, 5), (300, 10)])
def test_linear_models(box: Box, tolerance: float, dims: int, classes: int) -> None:
    rng = np.random.default_rng(dims)
    model = linear_model(rng.normal(size=(classes, dims)), rng.normal(size=classes) * 0.2)
    x = torch.tensor(rng.uniform(-0.3, 1.3, size=(50, dims)).clip(0, 1), dtype=torch.float32)
    exact = linear_distance(model, x, box)
    result = attack_batch(Projection(num_rivals=99), model, x, box=box)
    check_points(model, x, box, result)
    reachable = np.isfinite(exact)
    np.testing.assert_array_equal(result.verified, reachable)
    ratio = result.distance.numpy()[reachable] / exact[reachable]
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= tolerance


def test_nearest_centroid_and_spheres() -> None:
    rng = np.random.default_rng(0)
    for model, dims in curved_cases(rng):
        x = torch.tensor(rng.normal(size=(40, dims)) * 1.3, dtype=torch.float32)
        result = attack_batch(Projection(num_rivals=9), model, x, box=None)
        check_points(model, x, None, result)
        ratio = result.distance.numpy() / model.distance(x)
        assert result.verified.all()
        assert ratio.min() >= 1 - 1e-6
        assert ratio.max() <= 1.02


@pytest.mark.parametrize("box", [None, (-1.0, 1.0)])
def test_relu_nets_never_below_the_enumerated_distance(box: Box) -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for seed, dims in ((0, 3), (3, 3), (4, 2)):
        model = ReluNet(dims, 5, 3, seed)
        x = torch.tensor(rng.uniform(-1, 1, (15, dims)), dtype=torch.float32)
        exact = model.distance(x, box)
        result = attack_batch(Projection(num_rivals=9), model, x, box=box)
        check_points(model, x, box, result)
        assert torch.isinf(result.distance[torch.tensor(np.isinf(exact))]).all()
        reachable = np.isfinite(exact)
        ratios.append(result.distance.numpy()[reachable] / exact[reachable])
    ratio = np.concatenate(ratios)
    assert ratio.min() >= 1 - 1e-6
    assert np.median(ratio) <= 1.01
    assert np.isfinite(ratio).mean() >= 0.95


@pytest.mark.slow
def test_digits_come_near_to_carlini_wagner(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, _ = digits
    x = x[:30]
    fast, slow = attack_batch(Projection(), model, x), attack_batch(CarliniWagner(restarts=3, **BRIEF), model, x)
    assert fast.verified.all()
    assert fast.passes.mean() <= 7
    ratio = fast.distance / slow.distance
    assert ratio.median() <= 1.02
    assert ratio.mean() <= 1.04
    check_points(model, x, (0.0, 1.0), fast)
    check_points(model, x, (0.0, 1.0), slow)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [Projection(), CarliniWagner(binary_search_steps=1, max_iterations=12, restarts=1)])
def test_nothing_depends_on_the_batch(
    digits: tuple[nn.Module, torch.Tensor, torch.Tensor], attack: Projection | CarliniWagner
) -> None:
    model, x, _ = digits
    x = x[:6]
    whole = score(model, x, method=attack, batch_size=64)
    for batch_size in (1, 4):
        part = score(model, x, method=attack, batch_size=batch_size)
        np.testing.assert_allclose(part.distance, whole.distance, rtol=1e-2)
        assert np.median(np.abs(part.distance / whole.distance - 1)) < 1e-4
    backwards = score(model, x.flip(0), method=attack, batch_size=5)
    np.testing.assert_allclose(backwards.distance[::-1], whole.distance, rtol=1e-2)


def test_a_truly_robust_input_is_censored() -> None:
    model = linear_model(np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([1.0, -1.0]))
    result = attack_batch(Projection(), model, torch.tensor([[0.3, 0.2]]))
    assert not result.verified.any()
    assert torch.isinf(result.distance).all()
    assert attack_batch(Projection(), model, torch.tensor([[0.3, 0.2]]), box=None).distance.item() == pytest.approx(
        1.5 / 2**0.5, 0.01
    )


def test_dead_regions_are_left() -> None:
    def dead(x: torch.Tensor) -> torch.Tensor:  # flat for x <= 0.5; crosses at 0.6
        step = torch.relu(x[:, 0] - 0.5)
        return torch.stack([torch.full_like(step, 0.1), step], 1)

    result = attack_batch(Projection(), dead, torch.tensor([[0.4, 0.5], [0.55, 0.5]]))
    assert result.verified.all()
    assert result.flat[0] > 0
    assert result.distance[0].item() == pytest.approx(0.2, rel=0.02)
