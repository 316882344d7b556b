from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import box_rows, least_distance

from robcal.base.checks import InputError
from robcal.robustness.box import make_bounds, multiplier_in_box, project_on_halfspaces


@given(seed=st.integers(0, 10_000), dims=st.integers(1, 6), share=st.floats(0.05, 1.2))
@settings(deadline=None, max_examples=60)
def test_nearest_point_on_one_boundary_in_the_box_is_the_quadratic_programme(
    seed: int, dims: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.uniform(size=dims).astype(np.float32), rng.normal(size=dims).astype(np.float32)
    x[rng.uniform(size=dims) < 0.3] = 0.0
    most = float(w @ (x - np.where(w > 0, 0, 1)))
    assume(most > 1e-3)
    r = share * most
    rows, bound = box_rows(x.astype(float), (0.0, 1.0))
    exact = least_distance(np.vstack([-w.astype(float), rows]), np.concatenate([[r], bound]))
    bounds = make_bounds((0.0, 1.0), (dims,))
    lam, distance = multiplier_in_box(torch.tensor(x)[None], torch.tensor(w)[None, None], torch.tensor([[r]]), bounds)
    if share > 1.001:
        assert np.isinf(distance.item())
        assert np.isinf(lam.item())
    elif share < 0.999:
        point = bounds.clamp(torch.tensor(x) - lam[0] * torch.tensor(w))
        assert distance.item() == pytest.approx(exact, rel=1e-4, abs=1e-6)
        assert (point - torch.tensor(x)).norm().item() == pytest.approx(exact, rel=1e-4, abs=1e-6)


def test_zero_gradient_is_out_of_reach_with_and_without_a_box() -> None:
    for box in (None, (0.0, 1.0)):
        bounds = make_bounds(box, (2,))
        lam, distance = multiplier_in_box(torch.full((1, 2), 0.5), torch.zeros(1, 1, 2), torch.ones(1, 1), bounds)
        assert torch.isinf(lam).all()
        assert torch.isinf(distance).all()


@given(seed=st.integers(0, 10_000), count=st.integers(1, 3), boxed=st.booleans())
@settings(deadline=None, max_examples=60)
def test_nearest_point_in_several_halfspaces_is_the_quadratic_programme(seed: int, count: int, boxed: bool) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.uniform(0.2, 0.8, size=5).astype(np.float32), rng.normal(size=(count, 5)).astype(np.float32)
    inside = rng.uniform(0.1, 0.9, size=5)  # a point that satisfies every constraint, so that there is a solution
    r = (w @ (x - inside) - rng.uniform(0, 0.2, size=count)).astype(np.float32)
    box = (0.0, 1.0) if boxed else None
    rows, bound = box_rows(x.astype(float), box)
    exact = least_distance(np.vstack([-w.astype(float), rows]), np.concatenate([r.astype(float), bound]))
    bounds = make_bounds(box, (5,))
    point, violation = project_on_halfspaces(
        torch.tensor(x)[None], torch.tensor(w)[None], torch.tensor(r)[None], bounds
    )
    if violation.item() < 1e-3 * np.abs(r).max():  # the caller's test; not met where Newton was cut short
        assert torch.linalg.norm(point[0] - torch.tensor(x)).item() == pytest.approx(exact, rel=2e-2, abs=1e-3)
        assert bounds.excess(point).item() == 0
    else:
        assert count > 1


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((1.0, 0.0), "every lower end"),
        ((float("nan"), 1.0), "NaN"),
        (0.5, "None .unbounded. or a pair"),
        ((np.zeros(3), np.ones(3)), "broadcasts"),
    ],
)
def test_bad_boxes_are_refused(box: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_bounds(box, (2,))


def test_box_per_feature_and_half_bounded() -> None:
    bounds = make_bounds((np.array([0.0, -np.inf]), np.array([1.0, 2.0])), (2,))
    assert bounds.clamp(torch.tensor([[-3.0, -3.0]])).tolist() == [[0.0, -3.0]]
    assert bounds.excess(torch.tensor([[0.5, 2.5], [0.5, -9.0]])).tolist() == [0.5, 0.0]
