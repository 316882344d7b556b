"""Confidence intervals of a calibration error, from bin sums alone.

The measured ECE is a sum of absolute values, so noise only ever adds to it: it overstates the true error, and
resampling the data adds the same noise once more. The percentile bootstrap therefore never covers a true error of 0.
Here the interval is the set of true errors that would make the measured one unsurprising (test inversion):

1. A family of possible truths: the bins' gaps are t · d_k, t >= 0, along a fixed direction d.
2. For each t the measured error is simulated: bin counts from Multinomial(N, n_k / N), right answers of a bin from
   Binomial(n*_k, conf_k - t d_k), its deviation scaled down to Σ p_i (1 - p_i) (confidences differ within a bin). At t
   = 0 this is consistency resampling (Bröcker & Smith 2007), valid however few examples a bin holds.
3. Low is the true error at the smallest t whose upper α/2 quantile reaches the measured error, high at the largest t
   whose lower α/2 quantile does not exceed it.

The direction decides how much noise adds, for a bin's absolute gap grows the less by noise the larger it is in standard
errors s_k. The lower end sets gaps within two standard errors to zero and shrinks the others,
d_k = ĝ_k max(0, 1 - 4 s_k²/ĝ_k²): sparse gaps, much added noise. For the upper end the gaps within two standard errors
keep their signs and share one size in standard errors, their root mean square: even gaps of either sign, to which noise
adds least (what it adds is convex in the size). Both err on the wide side where the data cannot tell. A measured error
below the median of a calibrated model's counts as that median for the upper end, so that luck cannot exclude what the
data could not have shown (power-constrained limits, Cowan et al. 2011). Nor does the upper end lie below the largest
|mean confidence - accuracy| that the number of right answers allows (Jeffreys), which no calibration error can be
below: the family has one sign a bin, and few examples that are all right do not exclude over-confidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.special import beta_quantile
from robcal.calibration.binning import BinSums
from robcal.calibration.metrics import Norm, norm_of_gaps

_STEPS = 24  # halvings of the bracket: the ends are exact to 1e-6 or better


@dataclass(frozen=True)
class _Bins:
    """Occupied bins: `spread` is the variance of the confidence in a bin, `noise` that of a calibrated bin's gap."""

    count: FloatArray
    weight: FloatArray
    confidence: FloatArray
    spread: FloatArray
    gap: FloatArray
    noise: FloatArray

    @classmethod
    def of(cls, sums: BinSums) -> _Bins:
        sums = sums.occupied()
        mean = sums.confidence / sums.count
        spread = np.maximum(sums.squared / sums.count - mean**2, 0)
        noise = np.maximum(mean * (1 - mean) - spread, 1e-12) / sums.count
        return cls(sums.count, sums.weight, mean, spread, sums.gap, noise)


def inverted_interval(
    sums: BinSums, *, norm: Norm, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the interval (see the module), which always contains the measured error; the same draws serve every t."""
    bins = _Bins.of(sums)
    observed = norm_of_gaps(sums, norm)
    counts = rng.multinomial(int(bins.count.sum()), bins.weight, size=resamples)
    seed = int(rng.integers(1 << 62))
    tail = (1 - confidence) / 2
    low = _solve(_simulator(bins, _sparse(bins), counts, seed, norm, 1 - tail), observed)
    even = _even(bins)
    typical = _simulator(bins, even, counts, seed, norm, 0.5)(0.0)[1]
    high = _solve(_simulator(bins, even, counts, seed, norm, tail), max(observed, typical))
    return min(low, observed), max(high, observed, _largest_mean_gap(bins, tail))


def combine(weight: FloatArray, gap: FloatArray, norm: Norm) -> FloatArray:
    """Return the norm of absolute gaps over the last axis, "l1" or "l2"."""
    result: FloatArray = (weight * (gap if norm == "l1" else gap**2)).sum(axis=-1)
    return result if norm == "l1" else np.sqrt(result)


def _sparse(bins: _Bins) -> FloatArray:
    """Return gaps shrunk to zero, those within two standard errors entirely; raw gaps where nothing is left."""
    direction = bins.gap * np.maximum(0, 1 - 4 * bins.noise / np.maximum(bins.gap**2, 1e-300))
    return direction if direction.any() else _nonzero(bins.gap)


def _even(bins: _Bins) -> FloatArray:
    """Return the gaps; those within two standard errors get one size in standard errors, their root mean square."""
    error = np.sqrt(bins.noise)
    ratio, small = bins.gap / error, np.abs(bins.gap) <= 2 * error
    mean_square = np.average(ratio[small] ** 2, weights=(bins.weight * error)[small]) if small.any() else 0.0
    return _nonzero(np.where(small, np.copysign(np.sqrt(mean_square) * error, bins.gap), bins.gap))


def _largest_mean_gap(bins: _Bins, tail: float) -> float:
    """Return the largest absolute signed gap that the accuracy allows; confidences explain part of its noise."""
    n, confidence = float(bins.count.sum()), float(bins.weight @ bins.confidence)
    accuracy = confidence - float(bins.weight @ bins.gap)
    right = float(np.round(n * accuracy))
    low = 0.0 if right == 0 else beta_quantile(right + 0.5, n - right + 0.5, tail)
    high = 1.0 if right == n else beta_quantile(right + 0.5, n - right + 0.5, 1 - tail)
    explained = float(bins.weight @ (bins.noise * bins.count)) / max(confidence * (1 - confidence), 1e-12)
    scale = np.sqrt(min(1.0, explained))
    gap = confidence - accuracy
    return float(max(abs(gap - scale * (high - accuracy)), abs(gap + scale * (accuracy - low))))


def _nonzero(direction: FloatArray) -> FloatArray:
    return direction if direction.any() else np.ones_like(direction)


def _simulator(
    bins: _Bins, direction: FloatArray, counts: IntArray, seed: int, norm: Norm, quantile: float
) -> Callable[[float], tuple[float, float]]:
    """Return a function of t that gives the true error at t and a quantile of the error measured then."""
    direction = direction / combine(bins.weight, np.abs(direction), norm)
    total = counts.sum(axis=1, keepdims=True)

    def law(t: float) -> tuple[float, float]:
        p = np.clip(bins.confidence - t * direction, 0, 1)
        gap = bins.confidence - p
        bernoulli = p * (1 - p)
        scale = np.sqrt(np.maximum(bernoulli - bins.spread, 0) / np.where(bernoulli > 0, bernoulli, 1))
        right = np.random.default_rng(seed).binomial(counts, p)
        gaps = np.abs(gap - (right / np.maximum(counts, 1) - p) * scale) * (counts > 0)
        measured = combine(counts / total, gaps, norm)
        return float(combine(bins.weight, np.abs(gap), norm)), float(np.quantile(measured, quantile))

    return law


def _solve(law: Callable[[float], tuple[float, float]], observed: float) -> float:
    """Return the true error at the t where the quantile reaches the measured error (0 if it starts above)."""
    if law(0.0)[1] >= observed:
        return 0.0
    below, above = 0.0, observed
    while law(above)[1] < observed:
        if above > 4:  # every accuracy has been clipped to 0 or 1: no larger error is possible
            return law(above)[0]
        below, above = above, 1.5 * above
    for _ in range(_STEPS):
        middle = (below + above) / 2
        if law(middle)[1] < observed:
            below = middle
        else:
            above = middle
        if above - below < 1e-6:
            break
    return law(above)[0]
