from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import linear_distance, linear_model, relu_case

from robcal.robustness.attacks import attack_batch
from robcal.robustness.engine import AttackResult
from robcal.robustness.long_projection import LongProjection
from robcal.robustness.scoring import score
from robcal.robustness.watched import example_noise

Box = tuple[float, float] | None


def attack(settings: LongProjection, model: torch.nn.Module, x: torch.Tensor, box: Box) -> AttackResult:
    return attack_batch(settings, model, x, None, box)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_linear_models(box: Box) -> None:
    rng = np.random.default_rng(5)
    model = linear_model(rng.normal(size=(5, 12)), rng.normal(size=5) * 0.2)
    x = torch.tensor(rng.uniform(-0.3, 1.3, size=(20, 12)).clip(0, 1), dtype=torch.float32)
    ratio = attack(LongProjection(restarts=2), model, x, box).distance.numpy() / linear_distance(model, x, box)
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.002


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "net"), [(4, 2), (3, 3), (3, 5), (4, 6)])
def test_every_example_of_relu_nets(dims: int, net: int) -> None:
    model, x = relu_case(dims, net, 15)
    box = (-1.0, 1.0) if net % 2 else None
    exact = model.distance(x, box)
    reachable = np.isfinite(exact)
    assert reachable.sum() >= 10
    result = attack(LongProjection(restarts=40), model, x, box)
    np.testing.assert_array_equal(result.verified, reachable)
    ratio = result.distance.numpy()[reachable] / exact[reachable]
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.02
    assert np.median(ratio) <= 1.002


def test_an_example_is_attacked_alike_alone_and_in_company() -> None:
    model, x = relu_case(4, 0, 8)
    settings = LongProjection(restarts=6)
    whole = score(model, x, method=settings, box=None)
    for order in (np.arange(8)[::-1].copy(), np.array([4]), np.array([5, 1, 7])):
        part = score(model, x[order], method=settings, box=None, first_index=order, batch_size=2)
        np.testing.assert_allclose(part.distance, whole.distance[order], rtol=1e-3)


def test_noise_is_a_function_of_seed_index_and_draw_alone() -> None:
    base = example_noise(0, 1, 2, 1000)
    assert torch.equal(base, example_noise(0, 1, 2, 1000))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (2**40, 1, 2), (0, 1_000_004, 2)):
        noise = example_noise(*other, 1000)
        assert not torch.equal(base, noise)
        assert abs(float(np.corrcoef(base[:-1], noise[:-1])[0, 1])) < 0.15
    assert abs(float(base[:-1].mean())) < 0.15
    assert float(base[:-1].std()) == pytest.approx(1, abs=0.1)
    assert 0 <= base[-1] < 1
