"""Is the confidence a good ranking? Selective risk."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.base.checks import FloatArray
from robcal.calibration.binning import TopLabel, summarise, total


def risk_coverage_curve(probs: Any, labels: Any) -> tuple[FloatArray, FloatArray]:
    """Return the error rate of the i most confident examples, for i = 1 … N.

    Geifman & El-Yaniv (2017). Among equal confidences the order is arbitrary, so the curve is the expected value over
    all orders: a set of m ties holding e errors adds e/m errors an example.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.

    Returns:
        Coverage i/N and risk, each (N,) float64.

    Raises:
        InputError: on bad probabilities or labels.

    >>> coverage, risk = risk_coverage_curve([[0.1, 0.9], [0.2, 0.8]], [1, 0])
    >>> coverage.tolist(), risk.tolist()
    ([0.5, 1.0], [0.0, 0.5])
    """
    sizes, errors = ties(summarise(probs, labels))
    kept = np.arange(1, int(sizes.sum()) + 1)
    risk: FloatArray = np.cumsum(np.repeat(errors / sizes, sizes.astype(np.int64))) / kept
    return kept / len(kept), risk


def aurc(probs: Any, labels: Any) -> float:
    """Return the area under the risk-coverage curve: the mean error rate of the i most confident over all i.

    (1/N) Σ_i risk(i) (Geifman et al. 2019, equation 1), in expectation over the orders of equal confidences.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.

    Returns:
        A number in [0, 1]; a confidence that says nothing gives the error rate.

    Raises:
        InputError: on bad probabilities or labels.

    >>> aurc([[0.1, 0.9], [0.2, 0.8]], [1, 0])
    0.25
    """
    sizes, errors = ties(summarise(probs, labels))
    return area(sizes, errors, harmonic_numbers(int(sizes.sum())))


def ties(top: TopLabel) -> tuple[FloatArray, FloatArray]:
    """Return size and number of errors of each set of equal confidences, most confident first."""
    _, inverse, sizes = np.unique(-top.confidence, return_inverse=True, return_counts=True)
    return sizes.astype(np.float64), total(inverse, 1 - top.correct, len(sizes))


def area(sizes: FloatArray, errors: FloatArray, harmonic: FloatArray) -> float:
    """Return the AURC from sizes (G,) and errors (G,) of sets of ties, most confident first, and H_0 … H_N.

    A set at ranks a + 1 … b with e errors, after E errors, adds Σ_i (E + (i - a) e / (b - a)) / i over its ranks,
    which is E h + e (1 - a h / (b - a)) with h = H_b - H_a.
    """
    b = np.cumsum(sizes)
    a = b - sizes
    h = harmonic[b.astype(np.int64)] - harmonic[a.astype(np.int64)]
    parts = (np.cumsum(errors) - errors) * h + errors * (1 - a * h / np.maximum(sizes, 1))
    return float(parts.sum() / b[-1])


def harmonic_numbers(n: int) -> FloatArray:
    """Return H_0 … H_n."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])


def aurc_values(top: TopLabel) -> FloatArray:
    """Return (N,) values whose mean is the AURC and whose variance over N is, to first order, that of the AURC.

    With u the share of examples at least as confident, AURC = E[e (-ln u)] for errors e, and its influence function is
    e₀ (-ln u₀) - E[e [u >= u₀] / u] + E[e] - AURC (derived by perturbing the distribution at one example). Both parts
    are averaged over the orders of equal confidences.
    """
    _, group, sizes = np.unique(-top.confidence, return_inverse=True, return_counts=True)
    n = len(top)
    errors = total(group, 1 - top.correct, len(sizes))
    rank = np.arange(1, n + 1)
    risk = np.repeat(errors / sizes, sizes) / rank
    starts = np.cumsum(sizes) - sizes
    own = np.add.reduceat(np.cumsum(1 / rank[::-1])[::-1], starts) / sizes  # the discrete -ln u
    others = np.add.reduceat(np.cumsum(risk[::-1])[::-1], starts) / sizes
    influence = (1 - top.correct) * own[group] - others[group]
    value = area(sizes.astype(np.float64), errors, harmonic_numbers(n))
    values: FloatArray = value + influence - influence.mean()
    return values
