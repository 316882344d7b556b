"""Special functions and quantiles agree with SciPy over wide ranges, and with closed forms at the ends of these."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special as scipy_special
from scipy import stats

from robcal.base.special import (
    beta_quantile,
    binomial_cdf,
    erf,
    log_gamma,
    log_softmax,
    normal_cdf,
    normal_quantile,
    softmax,
    student_quantile,
)

DRAWS = 400


def chances(rng: np.random.Generator) -> np.ndarray:
    """Probabilities in the middle, in both tails, and those of intervals."""
    tails = 10 ** rng.uniform(-12, -1, DRAWS)
    kinds = [rng.uniform(size=DRAWS), tails, 1 - tails, rng.choice([0.0025, 0.025, 0.5, 0.975, 0.9975], DRAWS)]
    return np.choose(rng.integers(0, 4, DRAWS), kinds)


def sizes(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), DRAWS))


def test_quantiles_of_beta():
    rng = np.random.default_rng(0)
    a, b, p = sizes(rng, 0.3, 1e6), sizes(rng, 0.3, 1e6), chances(rng)
    found = np.array([beta_quantile(*one) for one in zip(a, b, p, strict=True)])
    assert_allclose(found, scipy_special.betaincinv(a, b, p), rtol=1e-11, atol=0)


def test_quantiles_of_student():
    """SciPy's own quantiles below one degree of freedom are right to nine digits or so in the middle."""
    rng = np.random.default_rng(1)
    degrees, p = sizes(rng, 1.0, 1e9), chances(rng)
    found = np.array([student_quantile(*one) for one in zip(degrees, p, strict=True)])
    expected = np.where(p == 0.5, 0.0, scipy_special.stdtrit(degrees, p))
    assert_allclose(found, expected, rtol=1e-10, atol=1e-300)  # SciPy 1.15 is right to 3e-11


def test_distribution_of_the_binomial():
    rng = np.random.default_rng(2)
    n, p = sizes(rng, 1, 1e6).astype(int), 10 ** rng.uniform(-4, -0.05, DRAWS)
    k = np.clip(np.round(n * p + rng.uniform(-6, 6, DRAWS) * np.sqrt(n * p * (1 - p))), 0, n).astype(int)
    found = np.array([binomial_cdf(*one) for one in zip(k.tolist(), n.tolist(), p, strict=True)])
    assert_allclose(found, stats.binom.cdf(k, n, p), rtol=1e-8)


def test_the_normal_distribution():
    z, p = np.linspace(-38, 38, 500), chances(np.random.default_rng(3))
    assert_allclose(normal_cdf(z), scipy_special.ndtr(z), rtol=1e-12, atol=1e-300)
    found = np.array([normal_quantile(one) for one in p])
    assert_allclose(found, scipy_special.ndtri(p), rtol=1e-13, atol=1e-15)


def test_functions_of_arrays():
    x = np.array([[-np.inf, -3.0, -1e-10], [0.5, 6.0, np.inf]])
    assert_allclose(erf(x), scipy_special.erf(x), rtol=1e-15)
    x = np.array([[0.5, 1.0, 2.5], [171.0, 1e6, 1e300]])
    assert_allclose(log_gamma(x), scipy_special.gammaln(x), rtol=1e-14)
    logits = np.random.default_rng(4).normal(size=(50, 7)) * 300
    logits[::2, 0] = -np.inf
    assert_allclose(softmax(logits), scipy_special.softmax(logits, axis=1), rtol=1e-15)
    assert_allclose(log_softmax(logits), scipy_special.log_softmax(logits, axis=1), rtol=1e-15)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_ends_of_the_quantiles(p):
    end = -math.inf if p == 0 else math.inf
    assert beta_quantile(2.5, 7.5, p) == p
    assert student_quantile(3, p) == end == normal_quantile(p) == student_quantile(math.inf, p)


def test_what_is_no_probability_has_no_quantile():
    found = [f(p) for p in (math.nan, -0.1, 1.1) for f in (normal_quantile, lambda p: beta_quantile(1, 1, p))]
    assert np.isnan(found).all()


def test_huge_degrees_of_freedom_are_the_normal_distribution():
    for degrees in (1e15, 1e300, math.inf):
        assert_allclose(student_quantile(degrees, 0.975), normal_quantile(0.975), rtol=1e-12)


@pytest.mark.parametrize("n", [1e9, 1e12])
def test_quantiles_of_more_examples_than_there_are(n):
    """Where the density is evaluated to the last digits only, Newton's method must end all the same."""
    for right in (0.5, 40.5, 0.3 * n, n - 0.5):
        for p in (0.025, 0.5, 0.975):
            found = beta_quantile(right, n - right + 1, p)
            assert_allclose(found, scipy_special.betaincinv(right, n - right + 1, p), rtol=1e-10)


def test_closed_forms_far_in_the_tails():
    """Beta(1, b) and Beta(a, 1), Cauchy, and Student with two degrees of freedom."""
    for p in (1e-300, 1e-30, 1e-5, 0.3):
        assert_allclose(beta_quantile(1, 40, p), -math.expm1(math.log1p(-p) / 40), rtol=1e-12)
        assert_allclose(beta_quantile(3, 1, p), p ** (1 / 3), rtol=1e-12)
        assert_allclose(student_quantile(1, p), -1 / math.tan(math.pi * p), rtol=1e-12)
        assert_allclose(student_quantile(2, p), (2 * p - 1) / math.sqrt(2 * p * (1 - p)), rtol=1e-12)
    assert binomial_cdf(0, 10**6, 1e-7) == pytest.approx((1 - 1e-7) ** 10**6, rel=1e-9)
