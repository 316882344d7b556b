"""The solvers of small problems find what SciPy's find, and end where rounding or a bound is in the way."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import lsq_linear, minimize
from scipy.special import lambertw

from robcal.base.solve import least_in_box, minimised, root

FUNCTIONS = {
    "smooth": (lambda x: np.exp(x) - 3 + x, -3.0, 4.0, 3 - lambertw(np.exp(3)).real),
    "falling": (lambda x: 1 - x**3, -5.0, 9.0, 1.0),
    "flat at the root": (lambda x: (x - 0.3) ** 9, -1.0, 2.0, 0.3),
    "steep": (lambda x: np.tanh(1e6 * (x - 0.123)), -1.0, 1.0, 0.123),
    "of two lines": (lambda x: max(x - 1, 100 * (x - 1)), 0.0, 50.0, 1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_roots(name):
    function, low, high, expected = FUNCTIONS[name]
    calls = []
    found = root(lambda x: calls.append(x) or float(function(x)), low, high, 1e-12)
    assert_allclose(found, expected, atol=1e-11)
    assert len(calls) < 80


def test_a_root_at_an_end():
    assert root(lambda x: x, 0.0, 1.0, 1e-12) == 0
    assert root(lambda x: x - 1, 0.0, 1.0, 1e-12) == 1


def test_the_least_value_in_a_box():
    rng, at_bounds = np.random.default_rng(0), 0
    for size in rng.integers(1, 10, 200):
        factor = np.linalg.qr(rng.normal(size=(size, size)))[1] * np.exp(rng.normal(size=size))
        slope, low, high = rng.normal(size=size), -np.exp(2 * rng.normal(size=size)), np.exp(rng.normal(size=size))
        low[0], high[-1] = 0.0, np.inf
        hessian = factor.T @ factor
        found = least_in_box(hessian, slope, low, high)
        target = -np.linalg.solve(factor.T, slope)
        expected = lsq_linear(factor, target, bounds=(low, high), method="bvls", tol=1e-15).x
        assert ((low <= found) & (found <= high)).all()
        assert_allclose(found, expected, atol=1e-7 * max(1, abs(expected).max()))
        at_bounds += ((found == low) | (found == high)).sum()
    assert at_bounds > 100


def test_a_box_without_room():
    assert least_in_box(np.eye(2), np.array([1.0, -1.0]), np.zeros(2), np.zeros(2)).tolist() == [0, 0]


def test_the_least_value_of_a_smooth_function():
    """A penalised logistic regression of 30 numbers; SciPy's is found to the last digits."""
    rng = np.random.default_rng(0)
    x, signs = rng.normal(size=(300, 30)), rng.choice([-1.0, 1.0], 300)
    calls = []

    def objective(u):
        calls.append(u)
        odds = signs * (x @ u)
        slope = -(x.T @ (signs / (1 + np.exp(odds)))) / 300 + u / 300
        return float(np.logaddexp(0, -odds).mean() + u @ u / 600), slope

    found = minimised(objective, np.full(30, 5.0))
    used = len(calls)
    exact = minimize(objective, found, jac=True, method="BFGS", options={"gtol": 1e-12, "xrtol": 1e-14}).x
    assert_allclose(found, exact, atol=1e-5)
    assert objective(found)[0] - objective(exact)[0] < 1e-11
    assert used < 80


def test_the_search_ends_where_it_begins():
    calls = []
    start = np.array([3.0, -1.0])
    found = minimised(lambda u: (calls.append(u) or float(((u - start) ** 2).sum()), 2 * (u - start)), start)
    assert (found == start).all()
    assert len(calls) == 1


def test_where_the_slope_does_not_change_the_search_goes_on() -> None:
    """Huber's loss: of two points on its straight part the curvature is 0, by which nothing can be divided."""

    def huber(x: np.ndarray) -> tuple[float, np.ndarray]:
        away = x - 20.0
        value = np.where(np.abs(away) < 1, away**2 / 2, np.abs(away) - 0.5)
        return float(value.sum()), np.clip(away, -1, 1)

    np.testing.assert_allclose(minimised(huber, np.zeros(2)), 20.0, atol=1e-6)
