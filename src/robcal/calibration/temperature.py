"""Temperature scaling: one number that divides all logits, fitted on validation data."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from robcal.calibration.metrics import SMALLEST_PROBABILITY
from robcal.checks import FloatArray, IntArray, check_labels, check_logits, check_probs, refuse

#: The temperature is sought between 1 / TEMPERATURE_RANGE and TEMPERATURE_RANGE times the typical spread of the logits.
TEMPERATURE_RANGE = 1e4

_BLOCK = 1 << 20  # entries of logits handled at a time


class TemperatureScaling:
    """Divide logits by the temperature T that minimises the NLL on validation data: softmax(z / T).

    Guo et al. (2017), section 4.2. With b = 1/T the NLL, mean[log Σ_j exp(b z_j) - b z_y], is convex in the one number
    b, so its derivative mean[Σ_j softmax(b z)_j z_j - z_y] has at most one root. It is bracketed on a logarithmic
    scale and solved by Brent's method, in units of the logits' own spread: T(8z) = 8 T(z), for logits of any size.

    The spread is the median over examples of max z - mean z. T stays within 1e-4 … 1e4 times it, which matters only
    where no finite T > 0 is optimal:

    - every example is right (its true class has the largest logit): sharpening never ends, T is 1e-4 spreads;
    - the logits are no better than chance on the labels: T is 1e4 spreads, nearly uniform probabilities;
    - all logits of every example are equal: T changes nothing, and is 1.

    Attributes:
        temperature: T, after `fit` or `fit_probs`.

    >>> logits = [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
    >>> scaling = TemperatureScaling().fit(logits, [0, 0, 0, 1])  # right 3 times of 4: e^(2/T) = 3
    >>> round(scaling.temperature, 6)
    1.820478
    >>> scaling.transform([[2.0, 0.0]]).round(6).tolist()
    [[0.75, 0.25]]
    """

    temperature: float

    def fit(self, logits: Any, labels: Any) -> TemperatureScaling:
        """Find the temperature of validation logits.

        Args:
            logits: (N, Z) logits (any constant may be added to a row).
            labels: (N,) integers in 0 … Z - 1.

        Returns:
            This object, with `temperature` set.

        Raises:
            InputError: on bad logits or labels.
        """
        array = check_logits(logits)
        truth = check_labels(labels, n=len(array), num_classes=array.shape[1])
        self.temperature = _optimal_temperature(array, truth)
        return self

    def fit_probs(self, probs: Any, labels: Any) -> TemperatureScaling:
        """Find the temperature of log-probabilities, for averaged probabilities of an ensemble, which have no logits.

        softmax(ln p / T), with p clipped from below at 2.2e-308. For a single network's probabilities this is the same
        as `fit` of its logits, unless a probability has underflowed to 0.

        Args:
            probs: (N, Z) probabilities.
            labels: (N,) integers in 0 … Z - 1.

        Returns:
            This object, with `temperature` set.

        Raises:
            InputError: on bad probabilities or labels.
        """
        return self.fit(_log(check_probs(probs)), labels)

    def transform(self, logits: Any) -> FloatArray:
        """Return softmax(logits / T): probabilities, not logits.

        Args:
            logits: (N, Z) logits.

        Returns:
            (N, Z) float64 probabilities. The order of the classes of an example never changes.

        Raises:
            InputError: on bad logits, or before `fit`.
        """
        if not hasattr(self, "temperature"):
            refuse(
                "the temperature is not fitted", "transform needs a temperature", "Call fit on validation data first"
            )
        array = check_logits(logits)
        array -= array.max(axis=1, keepdims=True)
        array /= self.temperature
        probs: FloatArray = softmax(array, axis=1)
        return probs

    def transform_probs(self, probs: Any) -> FloatArray:
        """Return softmax(ln p / T), the counterpart of `fit_probs`.

        Args:
            probs: (N, Z) probabilities.

        Returns:
            (N, Z) float64 probabilities.

        Raises:
            InputError: on bad probabilities, or before `fit`.
        """
        return self.transform(_log(check_probs(probs)))


def _log(probs: FloatArray) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(probs, SMALLEST_PROBABILITY))
    return logs


def _optimal_temperature(logits: FloatArray, labels: IntArray) -> float:
    logits = logits - logits.max(axis=1, keepdims=True)
    spreads = -logits.mean(axis=1)
    if not (spreads > 0).any():
        return 1.0
    spread = float(np.median(spreads[spreads > 0]))
    logits /= spread

    @cache
    def slope(log_b: float) -> float:
        return _slope(logits, labels, float(np.exp(log_b)))

    low, high = -float(np.log(TEMPERATURE_RANGE)), float(np.log(TEMPERATURE_RANGE))
    start = 0.0
    step = 1.0
    while start > low and slope(start) > 0:  # the root lies at a smaller b
        high, start, step = start, max(low, start - step), 2 * step
    if start == low and slope(start) >= 0:
        return spread * TEMPERATURE_RANGE
    end = start
    while end < high and slope(end) <= 0:  # … or at a larger one
        start, end, step = end, min(high, end + step), 2 * step
    if slope(end) <= 0:
        return spread / TEMPERATURE_RANGE
    return spread / float(np.exp(brentq(slope, start, end, xtol=1e-12, rtol=1e-12)))


def _slope(logits: FloatArray, labels: IntArray, b: float) -> float:
    """Derivative of the NLL by b = 1/T, for logits whose rows have their maximum at 0."""
    total = 0.0
    rows = max(1, _BLOCK // logits.shape[1])
    for begin in range(0, len(logits), rows):
        block = logits[begin : begin + rows]
        weight = np.exp(b * block)
        mean = np.einsum("nz,nz->n", weight, block) / weight.sum(axis=1)
        total += float((mean - block[np.arange(len(block)), labels[begin : begin + rows]]).sum())
    return total / len(logits)
