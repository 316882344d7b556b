from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from oracles import NearestCentroid, ReluNet, linear_distance, linear_model
from test_projection import check_points
from torch import Tensor, nn

from robcal.robustness import ATTACKS
from robcal.robustness.attacks import attack_batch, make_attack
from robcal.robustness.quick import Quick
from robcal.robustness.scoring import score

Box = tuple[float, float] | None


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_linear_models_are_met_within_the_overshoot_in_three_passes(box: Box) -> None:
    rng = np.random.default_rng(1)
    model = linear_model(rng.normal(size=(3, 12)), rng.normal(size=3) * 0.2)
    x = torch.tensor(rng.uniform(size=(40, 12)).round(1), dtype=torch.float32)
    exact = linear_distance(model, x, box)
    result = attack_batch(Quick(), model, x, box=box)
    check_points(model, x, box, result)
    assert result.verified.all()
    assert result.passes.max() <= 3.0  # 1 + 2 halves at x, one pass at the next point, a forward
    ratio = result.distance.numpy() / exact
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1 + Quick().overshoot + 1e-4


def test_never_below_the_exact_distance() -> None:
    rng = np.random.default_rng(2)
    for box in (None, (-1.0, 1.0)):
        model = ReluNet(3, 5, 3, 0)
        x = torch.tensor(rng.uniform(-1, 1, (15, 3)), dtype=torch.float32)
        result = attack_batch(Quick(), model, x, box=box)
        check_points(model, x, box, result)
        exact = model.distance(x, box)
        assert result.verified.numpy()[np.isfinite(exact)].mean() >= 0.8
        assert (result.distance.numpy() >= exact * (1 - 1e-6)).all()
    centroids = NearestCentroid(rng.normal(size=(5, 6)))
    x = torch.tensor(rng.normal(size=(30, 6)), dtype=torch.float32)
    found = attack_batch(Quick(num_rivals=9), centroids, x, box=None).distance.numpy()
    np.testing.assert_array_less(centroids.distance(x) * (1 - 1e-6), found)
    np.testing.assert_array_less(found, centroids.distance(x) * (1.01 + Quick().overshoot))


def test_the_point_lies_between_ray_and_plane_on_the_mean_direction() -> None:
    asked: list[Tensor] = []
    turn, over = 0.8, Quick().overshoot

    def turning(x: Tensor) -> Tensor:  # the gap 1 - x0 (1 + turn x1): its boundary on the first gradient is at 1
        asked.append(x.detach().clone())
        return torch.stack([1 - x[:, 0] * (1 + turn * x[:, 1]), torch.zeros(len(x))], 1)

    def query(attack: Quick) -> tuple[Tensor, float]:
        asked.clear()
        result = attack_batch(attack, turning, torch.zeros(1, 2), box=None)
        assert result.verified.all()
        return asked[-1][0], result.passes.item()

    # the gradient at (1 + over, 0) is (-1, -turn (1 + over)), and its plane, overshot, is (1 + over) / |gradient| away
    normal = torch.tensor([1.0, turn * (1 + over)])
    plane = (1 + over) / normal.norm()
    mean = torch.tensor([1.0, 0.0]) + normal / normal.norm()
    point, passes = query(Quick(agreement=9.0))
    torch.testing.assert_close(point, plane.sqrt() * mean / mean.norm(), rtol=1e-4, atol=1e-4)
    assert passes == 2.5  # one rival: a pass at x, one at the next point, a forward
    ratio = 1 / plane.item()
    assert query(Quick(agreement=ratio * 1.01))[1] == passes
    assert query(Quick(agreement=ratio * 0.99))[1] > passes


def test_a_point_short_of_the_boundary_goes_on_by_the_secant() -> None:
    def fading(x: Tensor) -> Tensor:  # the gap exp(-x0) - .1: the first gradient says .9, the boundary is at log 10
        return torch.stack([torch.exp(-x[:, 0]) - 0.1, torch.zeros(len(x))], 1)

    result = attack_batch(Quick(), fading, torch.zeros(1, 2), box=None)
    assert result.verified.all()
    assert math.log(10) < result.distance.item() < 1.15 * math.log(10)
    assert result.passes.item() <= 5
    few = attack_batch(Quick(max_searches=1), fading, torch.zeros(1, 2), box=None)
    assert not few.verified.any()
    assert torch.isinf(few.distance).all()
    # where another class can never lead, the search ends
    robust = linear_model(np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([1.0, -1.0]))
    assert torch.isinf(attack_batch(Quick(), robust, torch.tensor([[0.3, 0.2]])).distance).all()


def test_dead_regions_are_left_and_errors_are_worth_zero() -> None:
    def dead(x: Tensor) -> Tensor:  # flat for x <= 0.5, then a slope of 1 that crosses at 0.6
        step = torch.relu(x[:, 0] - 0.5)
        return torch.stack([torch.full_like(step, 0.1), step], 1)

    result = attack_batch(Quick(), dead, torch.tensor([[0.4, 0.5], [0.55, 0.5]]))
    assert result.verified.all()
    assert result.flat[0] > 0
    np.testing.assert_allclose(result.distance, [0.2, 0.05], rtol=0.06)
    wrong = attack_batch(Quick(), dead, torch.tensor([[0.55, 0.5]]), torch.tensor([1]))
    assert wrong.distance.tolist() == [0.0]


def test_the_number_of_rivals_is_its_own_unless_it_is_said() -> None:
    model, x = nn.Linear(6, 5), torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    told = [score(model, x, method="quick", **more).provenance["attack"] for more in ({}, {"num_rivals": 4})]
    assert told == [{"name": "quick", **dataclasses.asdict(Quick(num_rivals=count))} for count in (2, 4)]
    assert score(model, x, method="projection").provenance["attack"]["num_rivals"] == 3
    assert score(model, x).provenance["attack"]["num_rivals"] == 3


@pytest.mark.slow
def test_digits_are_ranked_as_by_the_projection_for_fewer_passes(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, _ = digits
    quick, slow = (score(model, x[:300], method=name) for name in ("quick", "projection"))
    assert quick.passes.mean() <= 3.5 < slow.passes.mean()
    assert set(quick.status.tolist()) == {"verified"}
    ranks = [np.argsort(np.argsort(scores.distance)) for scores in (quick, slow)]
    assert np.corrcoef(ranks)[0, 1] >= 0.99
    np.testing.assert_allclose(score(model, x[:9].flip(0), method="quick", batch_size=4).distance[::-1],
                               quick.distance[:9], rtol=1e-3)  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_named_attacks_look_at_three_rivals_as_ever_and_quick_at_two(name: str) -> None:
    """Since they may be left out, long-projection had looked at nine; the help of `robcal score` says three."""
    assert make_attack(name).num_rivals == (2 if name == "quick" else 3)
    assert make_attack(name, num_rivals=4).num_rivals == 4
