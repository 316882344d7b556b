"""Special functions and quantiles of distributions, made of NumPy and the standard library alone.

Beta, Student's t and the binomial law come from one integral. The log-odds v = log(x / (1 - x)) of x ~ Beta(a, b) have
the density exp(g(v)) / B(a, b) with

    g(v) = -a log(1 + e^-v) - b log(1 + e^v),

which is smooth on the whole line and log-concave for all a, b > 0 (substitute v in the Beta integral). So its mass on
either side of a point is found by Gauss and Legendre's rule up to where the density has fallen by e^-40, to about 14
digits. The ratio of the two masses needs no gamma function, and none of them cancels in the tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist

import numpy as np

from robcal.base.checks import FloatArray

_NODES, _DROP = 64, 40.0
#: Newton's method ends with a step that began this near, in units of log probability: it squares the distance.
_NEAR = 1e-8


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return the logarithms of the softmax over the last axis; -inf where a logit is.

    >>> log_softmax(np.array([[0.0, 0.0, -np.inf]])).round(6).tolist()
    [[-0.693147, -0.693147, -inf]]
    """
    moved: FloatArray = logits - logits.max(axis=-1, keepdims=True)
    moved -= np.log(np.exp(moved).sum(axis=-1, keepdims=True))
    return moved


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis.

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    weights: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def erf(x: FloatArray) -> FloatArray:
    """Return the error function of every entry."""
    return _each(math.erf, x)


def log_gamma(x: FloatArray) -> FloatArray:
    """Return log |Γ(x)| of every entry."""
    return _each(math.lgamma, x)


def normal_cdf(x: FloatArray) -> FloatArray:
    """Return P(Z <= x) of a standard normal Z for every entry; small ones keep their digits.

    >>> [float(f"{p:.9g}") for p in normal_cdf(np.array([-10.0, 0.0]))]
    [7.61985302e-24, 0.5]
    """
    return _each(math.erfc, -x / math.sqrt(2)) / 2


def normal_quantile(p: float) -> float:
    """Return the z with P(Z <= z) = p of a standard normal Z (Wichura 1988).

    >>> round(normal_quantile(0.975), 6), normal_quantile(1.0)
    (1.959964, inf)
    """
    if 0 < p < 1:
        return NormalDist().inv_cdf(p)
    return math.inf if p == 1 else -math.inf if p == 0 else math.nan


def beta_quantile(a: float, b: float, p: float) -> float:
    """Return the x with P(X <= x) = p of X ~ Beta(a, b), a and b > 0.

    >>> round(beta_quantile(1.0, 2.0, 0.75), 12)  # 1 - (1 - x)² = 3/4
    0.5
    """
    return _share(_log_odds_quantile(a, b, p))


def student_quantile(degrees: float, p: float) -> float:
    """Return the t with P(T <= t) = p of Student's T with positive degrees of freedom, +inf allowed.

    ν / (ν + T²) ~ Beta(ν/2, 1/2), so that its log-odds are log ν - log T².

    >>> round(student_quantile(1, 0.75), 12)  # Cauchy: tan(π/4)
    1.0
    """
    if math.isinf(degrees):
        return normal_quantile(p)
    v = _log_odds_quantile(degrees / 2, 0.5, 2 * min(p, 1 - p))
    return math.copysign(math.exp((math.log(degrees) - v) / 2), p - 0.5)


def binomial_cdf(successes: int, n: int, p: float) -> float:
    """Return P(X <= successes) of X ~ Bin(n, p), p strictly between 0 and 1.

    It is P(Y <= 1 - p) of Y ~ Beta(n - successes, successes + 1).

    >>> round(binomial_cdf(0, 10, 0.1), 6), binomial_cdf(10, 10, 0.1)
    (0.348678, 1.0)
    """
    if successes >= n:
        return 1.0
    law = _LogOdds(n - successes, successes + 1)
    return math.exp(law.log_below(math.log1p(-p) - math.log(p)) - law.log_total)


def _each(function: Callable[[float], float], x: FloatArray) -> FloatArray:
    """Return a function of floats of every entry; 60 ns an entry."""
    return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _log_odds_quantile(a: float, b: float, p: float) -> float:
    """Return the p-quantile of the log-odds of Beta(a, b), by Newton's method for log P(V <= v) = log p.

    That function is concave, as the density is log-concave: from the second step on the steps lead up to the root.
    """
    if not 0 < p < 1:
        return math.inf if p == 1 else -math.inf if p == 0 else math.nan
    if p > 0.5:
        return -_log_odds_quantile(b, a, 1 - p)
    law, excess = _LogOdds(a, b), math.inf
    v = law.mode
    while abs(excess) > _NEAR:
        below = law.log_below(v)
        excess = below - law.log_total - math.log(p)
        v -= excess * math.exp(below - law.log_density(v))
    return v


@dataclass(frozen=True)
class _LogOdds:
    """The log-odds of Beta(a, b) with their density exp(g(v)), which is not normalised."""

    a: float
    b: float

    @property
    def mode(self) -> float:
        return math.log(self.a / self.b)

    @cached_property
    def _halves(self) -> tuple[float, float, float]:
        """Return the logarithms of the masses on either side of the mode, and where the right one ends."""
        low, high = self._end(self.mode, -1), self._end(self.mode, 1)
        return self._log_mass(low, self.mode), self._log_mass(self.mode, high), high

    @property
    def log_total(self) -> float:
        return _log_sum(*self._halves[:2])

    def log_below(self, v: float) -> float:
        """Return the logarithm of the mass below v."""
        if v <= self.mode:
            return self._log_mass(self._end(v, -1), v)
        left, _, end = self._halves
        return _log_sum(left, self._log_mass(self.mode, min(v, end)))

    def log_density(self, v: float) -> float:
        """Return g(v)."""
        tail = math.log1p(math.exp(-abs(v)))
        return -self.a * (tail + max(-v, 0.0)) - self.b * (tail + max(v, 0.0))

    def _log_mass(self, low: float, high: float) -> float:
        nodes, weights = _gauss()
        v = low + (high - low) * nodes
        tail = np.log1p(np.exp(-np.abs(v)))
        logs = -self.a * (tail + np.maximum(-v, 0)) - self.b * (tail + np.maximum(v, 0))
        top = float(logs.max())
        return top + math.log((high - low) * float(weights @ np.exp(logs - top)))

    def _end(self, start: float, side: int) -> float:
        """Return where g is about 40 below g(start), on the side on which it falls: by Newton's method."""
        top, slope = self.log_density(start), abs(self._slope(start))
        curvature = (self.a + self.b) * _share(start) * _share(-start)
        distance = 2 * _DROP / (slope + math.sqrt(slope**2 + 2 * _DROP * curvature))
        while not _DROP - 1 <= (drop := top - self.log_density(start + side * distance)) <= _DROP + 5:
            distance -= (drop - _DROP) / abs(self._slope(start + side * distance))
        return start + side * distance

    def _slope(self, v: float) -> float:
        return self.a * _share(-v) - self.b * _share(v)


@cache
def _gauss() -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of Gauss and Legendre's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (1 + nodes) / 2, weights / 2


def _log_sum(x: float, y: float) -> float:
    """Return log(e^x + e^y)."""
    return max(x, y) + math.log1p(math.exp(-abs(x - y)))


def _share(v: float) -> float:
    """Return 1 / (1 + e^-v)."""
    return 1 / (1 + math.exp(-v)) if v > 0 else math.exp(v) / (1 + math.exp(v))
