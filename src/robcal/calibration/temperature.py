"""Temperature scaling: one number that divides all logits, fitted on validation data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, IntArray, check_labels, check_no_probs, check_probs, check_same_rows, refuse
from robcal.base.solve import root
from robcal.base.special import softmax

#: T where the logits are no better than chance, in units of the largest difference between two of them: probabilities
#: are then uniform to 1e-4.
NEARLY_UNIFORM = 1e4

_BLOCK = 1 << 20  # entries of logits handled at a time
_LARGEST_LOG = 600.0  # of 1/T in units of the typical gap of wrong examples: nothing in float64 lies beyond


class TemperatureScaling:
    """Divide logits by the temperature T that minimises the NLL on validation data: softmax(z / T).

    Guo et al. (2017), section 4.2. With b = 1/T the NLL, mean[log Σ_j exp(b z_j) - b z_y], is convex in the one number
    b, so its derivative mean[Σ_j softmax(b z)_j z_j - z_y] has at most one root. The bracket around it is widened until
    it holds the root, at any scale of the logits; Chandrupatla's method solves for log b: T(8z) = 8 T(z). A logit of
    -inf marks a class that cannot be (a mask); it may be that of any class but the true one.

    Where no T > 0 is optimal:

    - Every example is right: sharper is always better, and T would be 0. The data then say only that errors are rare.
      T is the one at which the mean confidence is (N + 1) / (N + 2), the chance that the next example is right after N
      that were (Laplace's rule of succession), but at most 1: nothing here says that the model is over-confident.
    - The logits are no better than chance on the labels: flatter is always better. T is 1e4 times the largest
      difference between two logits of an example, nearly uniform probabilities.
    - All logits of every example are equal: T changes nothing, and is 1.

    It follows the conventions of scikit-learn (`clone` copies it unfitted).

    Attributes:
        temperature: T, after `fit` or `fit_probs`.
        uniform_share: share of the uniform distribution that `fit_probs` found to be mixed in; 0 after `fit`.

    >>> logits = [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
    >>> scaling = TemperatureScaling().fit(logits, [0, 0, 0, 1])  # right 3 times of 4: e^(2/T) = 3
    >>> round(scaling.temperature, 6)
    1.820478
    >>> scaling.transform([[2.0, 0.0]]).round(6).tolist()
    [[0.75, 0.25]]
    """

    temperature: float
    uniform_share: float

    def fit(self, logits: Any, labels: Any) -> TemperatureScaling:
        """Find the temperature of validation logits.

        Args:
            logits: (N, Z) logits (any constant may be added to a row); -inf for a class that cannot be.
            labels: (N,) integers in 0 … Z - 1.

        Returns:
            This object, with `temperature` set.

        Raises:
            InputError: on bad logits or labels, if the logits are probabilities, or if one of a true class is -inf.
        """
        array = check_no_probs(logits, "`fit`", "Pass them to `fit_probs`")
        check_same_rows(logits=logits, labels=labels)
        truth = check_labels(labels, n=len(array), num_classes=array.shape[1])
        check_possible(array, truth)
        self.temperature, self.uniform_share = optimal_temperature(array, truth), 0.0
        return self

    def fit_probs(self, probs: Any, labels: Any) -> TemperatureScaling:
        """Find the temperature of log-probabilities, for classifiers that have no logits: ensembles, trees, forests.

        softmax(ln p / T): for a network's probabilities the same as `fit` of its logits. A probability of 0 stays 0.
        Where a true class has probability 0, though, no T helps: frequencies (a leaf of a tree, votes, neighbours) are
        0 for what is merely rare, and small probabilities underflow. p is then replaced by (1 - ε) p + ε / Z, with
        the ε that maximises the likelihood of the validation labels at T = 1 (a concave problem in one number), and T
        is fitted to that: both steps lower the NLL. A fixed small number in place of 0 would not do: its logarithm, the
        choice of nobody, would decide T.

        Args:
            probs: (N, Z) probabilities.
            labels: (N,) integers in 0 … Z - 1.

        Returns:
            This object, with `temperature` and `uniform_share` (ε) set.

        Raises:
            InputError: on bad probabilities or labels.

        >>> votes = [[1.0, 0.0]] * 10  # sure each time, and right 8 times of 10
        >>> scaling = TemperatureScaling().fit_probs(votes, [0] * 8 + [1] * 2)
        >>> scaling.transform_probs([[1.0, 0.0]]).round(6).tolist()
        [[0.8, 0.2]]
        """
        array = check_probs(probs)
        check_same_rows(probs=probs, labels=labels)
        truth = check_labels(labels, n=len(array), num_classes=array.shape[1])
        self.uniform_share = _uniform_share(array[np.arange(len(array)), truth], array.shape[1])
        self.temperature = optimal_temperature(_log(array, self.uniform_share), truth)
        return self

    def transform(self, logits: Any) -> FloatArray:
        """Return softmax(logits / T): probabilities, not logits.

        Args:
            logits: (N, Z) logits.

        Returns:
            (N, Z) float64 probabilities. The order of the classes of an example never changes.

        Raises:
            InputError: on bad logits, if they are probabilities, or before `fit`.
        """
        self._check_fitted()
        if self.uniform_share:
            refuse(
                "the temperature was fitted by fit_probs",
                "it belongs to probabilities, with a share of the uniform distribution mixed in",
                "Pass probabilities to `transform_probs`",
            )
        return self._scaled(check_no_probs(logits, "`transform`", "Pass them to `transform_probs`"))

    def transform_probs(self, probs: Any) -> FloatArray:
        """Return softmax(ln p / T), the counterpart of `fit_probs`; p with the share of uniform that it found.

        Args:
            probs: (N, Z) probabilities.

        Returns:
            (N, Z) float64 probabilities.

        Raises:
            InputError: on bad probabilities, or before `fit`.
        """
        self._check_fitted()
        return self._scaled(_log(check_probs(probs), self.uniform_share))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings, of which there are none (scikit-learn's convention)."""
        return {}

    def set_params(self, **params: Any) -> TemperatureScaling:
        """Return this object: there is nothing to set (scikit-learn's convention).

        Raises:
            InputError: if there is any setting.
        """
        if params:
            refuse(f"{', '.join(params)} was given", "TemperatureScaling has no settings", "Pass nothing")
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "temperature"):
            refuse("the temperature is not fitted", "it comes from validation data", "Call `fit` or `fit_probs` first")

    def _scaled(self, logits: FloatArray) -> FloatArray:
        return softmax(_from_largest(logits) / self.temperature)


def check_possible(logits: FloatArray, labels: IntArray) -> None:
    """Refuse logits of -inf at the true class."""
    impossible = np.flatnonzero(np.isneginf(logits[np.arange(len(logits)), labels]))
    if impossible.size:
        refuse(
            f"the logit of the true class is -inf in row {int(impossible[0])} ({impossible.size} rows)",
            "-inf says that a class cannot be: nothing gives it a probability",
            "Leave these rows out: `np.isfinite(np.asarray(logits)[np.arange(len(labels)), labels])` tells those "
            "to keep, in every array",
        )


def _log(probs: FloatArray, uniform_share: float) -> FloatArray:
    mixed = (1 - uniform_share) * probs + uniform_share / probs.shape[1]
    with np.errstate(divide="ignore"):
        logs: FloatArray = np.log(mixed)
    return logs


def _uniform_share(true: FloatArray, num_classes: int) -> float:
    """Return the ε in [0, 1] that maximises Σ log((1 - ε) p_y + ε / Z), or 0 where every p_y is positive.

    The derivative falls in ε, and is positive at 1 / 2N: a p_y = 0 adds 2N, all others at least -1 / (1 - ε) each.
    """
    if (true > 0).all():
        return 0.0

    def slope(share: float) -> float:
        return float(((1 / num_classes - true) / ((1 - share) * true + share / num_classes)).sum())

    return 1.0 if slope(1.0) >= 0 else root(slope, 1 / (2 * len(true)), 1.0, 1e-15)


def _from_largest(logits: FloatArray) -> FloatArray:
    """Return each row minus its largest entry."""
    with np.errstate(over="ignore"):  # beyond -1.8e308 it is -inf: a class that cannot be
        difference: FloatArray = logits - logits.max(axis=1, keepdims=True)
    return difference


def optimal_temperature(logits: FloatArray, labels: IntArray, *, near: float | None = None) -> float:
    """Return T of logits and labels that were checked; the search begins at `near`, which changes only its length."""
    logits = _from_largest(logits)
    finite = np.isfinite(logits)
    largest = -float(logits.min(where=finite, initial=0.0))
    if largest == 0:
        return 1.0
    wrong = -logits[np.arange(len(labels)), labels]
    if not wrong.any():
        return _after_successes(logits)
    with np.errstate(over="ignore"):
        if (logits.sum(axis=1, where=finite) / finite.sum(axis=1) + wrong).mean() >= 0:  # the slope at b = 0
            return NEARLY_UNIFORM * largest
        unit = float(np.median(wrong[wrong > 0]))
        logits /= unit
    masked = bool(logits.min() == -np.inf)
    start, step = (0.0, 1.0) if near is None else (float(np.log(unit / near)), 0.02)
    return unit / _root(lambda b: _slope(logits, labels, masked, b), start, step)


def _after_successes(logits: FloatArray) -> float:
    """Return T <= 1 where every example is right: the mean confidence is (N + 1) / (N + 2) of that at T = 0."""
    target = float(np.mean(1 / (logits == 0).sum(axis=1))) * (len(logits) + 1) / (len(logits) + 2)

    def excess(b: float) -> float:
        return float(np.mean(1 / np.exp(b * logits).sum(axis=1))) - target

    return 1.0 if excess(1.0) >= 0 else 1 / _root(excess)


def _slope(logits: FloatArray, labels: IntArray, masked: bool, b: float) -> float:
    """Return the derivative of the NLL by b = 1/T, for logits of row maximum 0; `masked` if some are -inf."""
    total = 0.0
    rows = max(1, _BLOCK // logits.shape[1])
    for begin in range(0, len(logits), rows):
        block = logits[begin : begin + rows]
        with np.errstate(over="ignore"):
            weight = np.exp(b * block)
        values = np.where(weight > 0, block, 0) if masked else block
        mean = np.einsum("nz,nz->n", weight, values) / weight.sum(axis=1)
        total += float((mean - block[np.arange(len(block)), labels[begin : begin + rows]]).sum())
    return total / len(logits)


def _root(function: Callable[[float], float], start: float = 0.0, step: float = 1.0) -> float:
    """Return where a function of b > 0 rises through 0; the bracket widens from log b = `start`, ever faster."""

    @cache
    def of_log(log_b: float) -> float:
        return function(float(np.exp(log_b)))

    low = high = start
    while of_log(low) > 0 and low > -_LARGEST_LOG:
        high, low, step = low, max(low - step, -_LARGEST_LOG), 2 * step
    while of_log(high) < 0 and high < _LARGEST_LOG:
        low, high, step = high, min(high + step, _LARGEST_LOG), 2 * step
    if of_log(low) * of_log(high) >= 0:  # one of them is the root, or beyond every number
        return float(np.exp(min(low, high, key=lambda end: abs(of_log(end)))))
    return float(np.exp(root(of_log, low, high, 1e-12)))
