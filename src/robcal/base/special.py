"""Special functions and quantiles of distributions, made of NumPy and the standard library alone.

Beta, Student's t and the binomial law come from one integral. The log-odds v = log(x / (1 - x)) of x ~ Beta(a, b) have
the density exp(g(v)) / B(a, b) with g(v) = -a log(1 + e^-v) - b log(1 + e^v), which is smooth on the whole line and
log-concave for all a, b > 0 (substitute v in the Beta integral). With u = v - log(a / b), the distance from the mode,

    g = const - a log(1 - q + q e^-u) - b log(1 - p + p e^u),   p = a / (a + b),   q = 1 - p,

where nothing large cancels. The mass on either side of a point is found by Gauss and Legendre's rule up to where the
density has fallen by e^-40, to 13 digits or so. The ratio of the two masses needs no gamma function, and keeps its
digits in the tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from statistics import NormalDist

import numpy as np

from robcal.base.checks import FloatArray

_NODES, _DROP = 64, 40.0
#: Beyond so many degrees of freedom Student's t is the normal distribution in every digit of a float.
_NORMAL = 1e20
#: Newton's method ends with a step that began this near, in units of log probability: it squares the distance.
_NEAR = 1e-8


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return the logarithms of the softmax over the last axis; -inf where a logit is."""
    moved: FloatArray = logits - logits.max(axis=-1, keepdims=True)
    moved -= np.log(np.exp(moved).sum(axis=-1, keepdims=True))
    return moved


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis."""
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
    """Return P(Z <= x) of a standard normal Z for every entry; small ones keep their digits."""
    return _each(math.erfc, -x / math.sqrt(2)) / 2


def normal_quantile(p: float) -> float:
    """Return the z with P(Z <= z) = p of a standard normal Z (Wichura 1988)."""
    if 0 < p < 1:
        return NormalDist().inv_cdf(p)
    return math.inf if p == 1 else -math.inf if p == 0 else math.nan


def beta_quantile(a: float, b: float, p: float) -> float:
    """Return the x with P(X <= x) = p of X ~ Beta(a, b), a and b of at least 1/2."""
    odds = a / b * math.exp(_log_odds_quantile(a, b, p))
    return 1.0 if odds == math.inf else odds / (1 + odds)


def student_quantile(degrees: float, p: float) -> float:
    """Return the t with P(T <= t) = p of Student's T, `degrees` >= 1, +inf allowed; ν / (ν + T²) ~ Beta(ν/2, 1/2)."""
    if degrees > _NORMAL:
        return normal_quantile(p)
    u = _log_odds_quantile(degrees / 2, 0.5, 2 * min(p, 1 - p))
    return math.copysign(math.exp(-u / 2), p - 0.5)


def binomial_cdf(successes: int, n: int, p: float) -> float:
    """Return P(X <= k successes) of X ~ Bin(n, p), 0 < p < 1: it is P(Y <= 1 - p) of Y ~ Beta(n - k, k + 1)."""
    if successes >= n:
        return 1.0
    law = _LogOdds(n - successes, successes + 1)
    return math.exp(law.log_below(math.log1p(-p) - math.log(p * law.a / law.b)) - law.log_total)


def _each(function: Callable[[float], float], x: FloatArray) -> FloatArray:
    """Return a function of floats of every entry; 60 ns an entry."""
    return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


@lru_cache(maxsize=1 << 12)
def _log_odds_quantile(a: float, b: float, p: float) -> float:
    """Return the p-quantile of u, the log-odds of Beta(a, b) from their mode, by Newton's method for log P(U <= u).

    That function is concave, as the density is log-concave: from the second step on the steps lead up to the root.
    """
    if not 0 < p < 1:
        return math.inf if p == 1 else -math.inf if p == 0 else math.nan
    if p > 0.5:
        return -_log_odds_quantile(b, a, 1 - p)
    law, u, excess = _LogOdds(a, b), normal_quantile(p) * math.sqrt(1 / a + 1 / b), math.inf
    while abs(excess) > _NEAR:
        below = law.log_below(u)
        excess = below - law.log_total - math.log(p)
        u -= excess * math.exp(below - law.log_density(u))
    return u


@dataclass(frozen=True)
class _LogOdds:
    """The log-odds of Beta(a, b) from their mode with the density exp(g(u)), which is not normalised."""

    a: float
    b: float

    @cached_property
    def _halves(self) -> tuple[float, float, float]:
        """Return the logarithms of the masses on either side of the mode, and where the right one ends."""
        high = self._end(0.0, 1)
        return self._log_mass(self._end(0.0, -1), 0.0), self._log_mass(0.0, high), high

    @property
    def log_total(self) -> float:
        return _log_sum(*self._halves[:2])

    def log_below(self, u: float) -> float:
        """Return the logarithm of the mass below u."""
        if u <= 0:
            return self._log_mass(self._end(u, -1), u)
        left, _, end = self._halves
        return _log_sum(left, self._log_mass(0.0, min(u, end)))

    def log_density(self, u: float) -> float:
        """Return g(u), 0 at the mode."""
        p, q = self.a / (self.a + self.b), self.b / (self.a + self.b)
        return -self.a * _log_mean_exp(q, p, -u) - self.b * _log_mean_exp(p, q, u)

    def _log_mass(self, low: float, high: float) -> float:
        nodes, weights = _gauss()
        logs = [self.log_density(low + (high - low) * node) for node in nodes]
        top = max(logs)
        mean = sum(weight * math.exp(log - top) for weight, log in zip(weights, logs, strict=True))
        return top + math.log((high - low) * mean)

    def _end(self, start: float, side: int) -> float:
        """Return where g is about 40 below g(start), on the side on which it falls: by Newton's method."""
        top, (slope, curvature) = self.log_density(start), self._derivatives(start)
        distance = 2 * _DROP / (slope + math.sqrt(slope**2 + 2 * _DROP * curvature))
        while not _DROP - 1 <= (drop := top - self.log_density(start + side * distance)) <= _DROP + 5:
            distance -= (drop - _DROP) / self._derivatives(start + side * distance)[0]
        return start + side * distance

    def _derivatives(self, u: float) -> tuple[float, float]:
        """Return |g'| and -g'', a - (a + b) x in size and (a + b) x (1 - x)."""
        odds = self.a / self.b * math.exp(max(-700.0, min(u, 700.0)))
        x, n = odds / (1 + odds), self.a + self.b
        return abs(self.a - n * x), n * x / (1 + odds)


@cache
def _gauss() -> tuple[list[float], list[float]]:
    """Return nodes and weights of Gauss and Legendre's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return ((1 + nodes) / 2).tolist(), (weights / 2).tolist()


def _log_sum(x: float, y: float) -> float:
    """Return log(e^x + e^y)."""
    return max(x, y) + math.log1p(math.exp(-abs(x - y)))


def _log_mean_exp(p: float, q: float, u: float) -> float:
    """Return log(q + p e^u), where p + q = 1."""
    if u > 700:  # beyond the largest float
        return u + math.log(p)
    change = p * math.expm1(u)
    return math.log1p(change) if change > -0.5 else math.log(q + p * math.exp(u))
