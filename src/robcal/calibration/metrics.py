"""Calibration and accuracy of probabilities: arrays in, numbers out (method, section 6).

Every function takes probabilities, never logits, and checks them first. N examples, Z classes, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from robcal.base.arrays import PRECISIONS
from robcal.base.checks import FloatArray, IntArray, check_choice
from robcal.calibration.binning import (
    BinSums,
    Edges,
    Scheme,
    TopLabel,
    bin_index,
    bin_sums,
    check_binning,
    summarise,
    total,
    width_edges,
)
from robcal.calibration.prob_rows import ProbRows, checked

Norm = Literal["l1", "l2", "max"]
NORMS: tuple[Norm, ...] = get_args(Norm)
Loss = Literal["nll", "brier"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


def calibration_error(
    probs: Any, labels: Any, *, bins: int = 15, scheme: Scheme = "width", edges: Edges = "guo", norm: Norm = "l1"
) -> float:
    """Return the calibration error of the top label: with norm "l1" the ECE, with "max" the MCE.

    ECE = Σ_k (n_k / N) |conf_k - acc_k| (Guo et al. 2017, equation 3); "l2" is the root of Σ_k (n_k / N) (conf_k -
    acc_k)²; "max" the largest |conf_k - acc_k| of a bin that is not empty. Bins hold (k/K, (k+1)/K], with 0 in the
    first; `bin_index` states how edges, ties and float32 are treated. The estimate is biased upward: a perfectly
    calibrated model measures .02 to .04 at N = 1,000 and K = 15. `calibration_noise_floor` tells how much,
    `corrected_calibration_error` takes most of it off, `calibration_error_interval` holds the true error.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: K.
        scheme: "width" (equal widths) or "mass" (equal numbers of examples; ties never split).
        edges: "guo", or "torchmetrics" for that library's `[a, b)` bins with an extra one for a confidence of 1.
        norm: "l1", "l2" or "max".

    Returns:
        A number in [0, 1].

    Raises:
        InputError: on bad probabilities or labels, bins < 1, or an unknown option.

    >>> calibration_error([[0.25, 0.75], [0.25, 0.75]], [1, 0])
    0.25
    """
    check_binning(bins, scheme, edges)
    check_choice(norm, NORMS, "norm")
    return norm_of_gaps(bin_sums(summarise(probs, labels), bins=bins, scheme=scheme, edges=edges), norm)


def norm_of_gaps(sums: BinSums, norm: Norm) -> float:
    """Return the calibration error that bin sums give under a norm (see `calibration_error`)."""
    gap = np.abs(sums.gap)
    if norm == "max":
        return float(gap.max())
    return float(sums.weight @ gap) if norm == "l1" else float(np.sqrt(sums.weight @ gap**2))


def debiased_calibration_error(probs: Any, labels: Any, *, bins: int = 15, scheme: Scheme = "mass") -> float:
    """Return the root of the debiased squared (l2) calibration error of the top label: not the ECE, which is l1.

    √max(0, Σ_k (n_k / N) [(conf_k - acc_k)² - acc_k (1 - acc_k) / (n_k - 1)]) (Kumar et al. 2019, definition 5.1). The
    square is nearly unbiased, so about half of all perfectly calibrated models measure exactly 0. A bin of one example
    tells nothing about its variance and counts 0.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins.
        scheme: "mass" or "width".

    Returns:
        A number in [0, 1], comparable with `calibration_error(norm="l2")`; for the ECE see
        `corrected_calibration_error`.

    Raises:
        InputError: on bad input or options.

    >>> debiased_calibration_error([[0.3, 0.7]] * 10, [1] * 7 + [0] * 3)
    0.0
    """
    check_binning(bins, scheme, "guo")
    return debiased(bin_sums(summarise(probs, labels), bins=bins, scheme=scheme))


def debiased(sums: BinSums) -> float:
    """Return the debiased calibration error that bin sums give (see `debiased_calibration_error`)."""
    return float(np.sqrt(max(0.0, debiased_square(sums))))


def debiased_square(sums: BinSums) -> float:
    """Return Σ_k (n_k / N) [(conf_k - acc_k)² - acc_k (1 - acc_k) / (n_k - 1)], nearly unbiased, not cut off at 0."""
    accuracy = sums.correct / np.maximum(sums.count, 1)
    noise = accuracy * (1 - accuracy) / np.maximum(sums.count - 1, 1)
    return float(sums.weight[sums.count > 1] @ (sums.gap**2 - noise)[sums.count > 1])


def classwise_calibration_error(probs: Any, labels: Any, *, bins: int = 15, scheme: Scheme = "width") -> float:
    """Return the mean over the classes of the calibration error of that class's probability.

    (1/Z) Σ_z Σ_k (n_kz / N) |mean p_z - share of class z| over bins of p_z (Kull et al. 2019, equation 3; Nixon et al.
    2019).

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins for each class.
        scheme: "width" or "mass".

    Returns:
        A number in [0, 1]. It shrinks with Z, because most probabilities of most classes are near 0.

    Raises:
        InputError: on bad input or options.

    >>> round(classwise_calibration_error([[0.25, 0.75], [0.25, 0.75]], [1, 0]), 12)
    0.25
    """
    check_binning(bins, scheme, "guo")
    return float(class_bins(*checked(probs, labels), bins=bins, scheme=scheme).share.mean())


@dataclass(frozen=True)
class ClassBins:
    """Every class's bins; Z classes, K bins, N examples."""

    count: FloatArray  # (Z, K) number of examples
    mass: FloatArray  # (Z, K) sum of p_z
    residual: FloatArray  # (Z, K) sum of p_z - [y = z]
    variance: FloatArray  # (Z, K) sum of p_z (1 - p_z): the variance of `residual` if the probabilities are calibrated
    share: FloatArray  # (N,) what each example adds to the classwise error: the mean of this is the error


def class_bins(probs: ProbRows, labels: IntArray, *, bins: int, scheme: Scheme) -> ClassBins:
    """Sum residuals over each class's bins; scheme "mass" holds all probabilities in float64 at once."""
    shape, whole = (probs.num_classes, bins), scheme == "mass"
    count, mass, residual, variance = (np.zeros(shape) for _ in range(4))
    for part, block in probs.blocks(whole=whole):
        cell, miss = _class_cells(block, bins, scheme, probs.precision.dtype), _misses(block, labels[part])
        for sums, values in ((mass, block), (residual, miss), (variance, block * (1 - block))):
            sums += total(cell.ravel(), values.ravel(), sums.size).reshape(shape)
        count += np.bincount(cell.ravel(), minlength=count.size).reshape(shape)
    share, sign = np.empty(len(probs)), np.sign(residual).ravel()
    for part, block in probs.blocks(whole=whole):
        cell = _class_cells(block, bins, scheme, probs.precision.dtype)
        share[part] = np.einsum("nz,nz->n", sign[cell], _misses(block, labels[part]))
    return ClassBins(count, mass, residual, variance, share / probs.num_classes)


def _class_cells(block: FloatArray, bins: int, scheme: Scheme, dtype: np.dtype[Any]) -> IntArray:
    """Return the cell of every entry, K times its class plus its bin there; `dtype` is the precision of the edges."""
    cells = np.tile(np.arange(block.shape[1]) * bins, (len(block), 1))
    if scheme == "mass":
        cells += np.stack([bin_index(column, bins=bins, scheme=scheme) for column in block.astype(dtype).T], axis=1)
    else:
        beyond = np.flatnonzero(block > width_edges(bins, dtype)[1])  # most entries are near 0, in the first bin
        cells.ravel()[beyond] += bin_index(block.ravel()[beyond].astype(dtype), bins=bins)
    return cells


def _misses(block: FloatArray, labels: IntArray) -> FloatArray:
    """Return p_z - [y = z]."""
    misses = block.copy()
    misses[np.arange(len(block)), labels] -= 1
    return misses


def accuracy(probs: Any, labels: Any) -> float:
    """Return the share of examples whose most probable class (lowest index among equals) is the true one.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: on bad probabilities or labels.

    >>> accuracy([[0.2, 0.8], [0.6, 0.4]], [1, 1])
    0.5
    """
    return float(summarise(probs, labels).correct.mean())


def signed_gap(probs: Any, labels: Any) -> float:
    """Return the mean confidence minus accuracy: positive is over-confident.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.

    Returns:
        A number in [-1, 1]; its absolute value is the ECE with one bin.

    Raises:
        InputError: on bad probabilities or labels.

    >>> signed_gap([[0.25, 0.75], [0.25, 0.75]], [1, 0])
    0.25
    """
    return float(summarise(probs, labels).residual.mean())


def negative_log_likelihood(probs: Any, labels: Any) -> float:
    """Return the mean negative log-likelihood of the true class, in nats: -(1/N) Σ ln p_y.

    A probability of 0 counts as the smallest positive number of the precision it came in, so an example whose true
    class got it costs 16.6 nats in float16, 92.2 in bfloat16, 103.3 in float32 and 744.4 in float64, instead of an
    infinite mean: where it has underflowed, as softmax does at large gaps of the logits, the truth is more than that.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.

    Returns:
        A number >= 0.

    Raises:
        InputError: on bad probabilities or labels.

    >>> round(negative_log_likelihood([[0.5, 0.5]], [1]), 6)
    0.693147
    """
    return float(losses_of("nll", *checked(probs, labels)).mean())


def brier_score(probs: Any, labels: Any) -> float:
    """Return the mean squared distance of the probabilities from the one-hot label: (1/N) Σ_i Σ_z (p_iz - [y_i = z])².

    Brier (1950): the multi-class form, in [0, 2]. For two classes it is twice scikit-learn's `brier_score_loss`.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.

    Returns:
        A number in [0, 2].

    Raises:
        InputError: on bad probabilities or labels.

    >>> brier_score([[0.5, 0.5]], [1])
    0.5
    """
    return float(losses_of("brier", *checked(probs, labels)).mean())


def brier_decomposition(
    probs: Any, labels: Any, *, bins: int = 15, scheme: Scheme = "width"
) -> tuple[float, float, float]:
    """Split the Brier score of the top label, (1/N) Σ (c - [ŷ = y])², into calibration and refinement.

    Calibration is Σ_k (n_k / N) (conf_k - acc_k)²: exactly what the score loses if every confidence of bin k is moved
    by that bin's gap. Refinement is what is left, (1/N) Σ (c - gap_k - [ŷ = y])². This is the split of DeGroot &
    Fienberg (1983) without its loss from treating all confidences of a bin as equal, so the two parts sum to the score
    for any bins (cf. Stephenson et al. 2008). The score is that of the top label, a number in [0, 1], not the
    multi-class `brier_score`.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins.
        scheme: "width" or "mass".

    Returns:
        (calibration, refinement, top-label Brier score). Calibration is biased upward, as the ECE is.

    Raises:
        InputError: on bad input or options.

    >>> brier_decomposition([[0.25, 0.75], [0.25, 0.75]], [1, 0])
    (0.0625, 0.25, 0.3125)
    """
    check_binning(bins, scheme, "guo")
    top = summarise(probs, labels)
    index = bin_index(top.confidence, bins=bins, scheme=scheme)
    left = refinement_losses(top, bins=bins, scheme=scheme)
    sums = bin_sums(top, bins=bins, index=index)
    return float(sums.weight @ sums.gap**2), float(left.mean()), float((top.residual**2).mean())


def refinement_losses(top: TopLabel, *, bins: int = 15, scheme: Scheme = "width") -> FloatArray:
    """Return each example's squared error after its bin's gap is taken off its confidence, (N,)."""
    index = bin_index(top.confidence, bins=bins, scheme=scheme)
    return (top.residual - bin_sums(top, bins=bins, index=index).gap[index]) ** 2


def log_losses(
    probs: FloatArray, labels: IntArray, cost_of_zero: float = PRECISIONS["float64"].cost_of_zero
) -> FloatArray:
    """Return -ln p_y of each example, (N,), from checked arrays; `cost_of_zero` (of `precision_of`) where p_y is 0."""
    true = probs[np.arange(len(probs)), labels]
    return np.where(true > 0, -np.log(np.where(true > 0, true, 1)), cost_of_zero)


def brier_losses(probs: FloatArray, labels: IntArray) -> FloatArray:
    """Return each example's squared distance from its one-hot label, (N,), from checked arrays."""
    true = probs[np.arange(len(probs)), labels]
    losses: FloatArray = np.einsum("nz,nz->n", probs, probs) - true**2 + (1 - true) ** 2
    return losses


def losses_of(metric: Loss, probs: ProbRows, labels: IntArray) -> FloatArray:
    """Return the loss of each example, (N,): what the mean of is the NLL or the Brier score."""
    if metric == "brier":
        return probs.each(brier_losses, labels)
    return probs.each(lambda block, truth: log_losses(block, truth, probs.precision.cost_of_zero), labels)
