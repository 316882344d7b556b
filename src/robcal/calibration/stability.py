"""How much does a prediction depend on the run? Variance of the predicted probability over independent runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.base.array_hints import softmax_of
from robcal.base.checks import FloatArray, as_numbers, check_labels, check_same_length, precision_of, refuse


def run_variance(true_class: Any) -> FloatArray:
    """Return the variance over runs of the probability of the true class, example by example.

    v_i = Σ_s (p_s(y_i|x_i) - p̄(y_i|x_i))² / (S - 1): unbiased for the variance of a further run (method,
    section 6).

    Args:
        true_class: (S, N) probability of the true class of N examples by S >= 2 runs, which differ in their seeds.

    Returns:
        (N,) float64, at most S / (4 (S - 1)).

    Raises:
        InputError: if there are fewer than two runs, or what they predict are no probabilities.

    >>> run_variance([[0.5, 1.0], [0.7, 1.0]]).round(6).tolist()  # (0.5 - 0.7)² / 2
    [0.02, 0.0]
    """
    probs, precision = as_numbers(true_class, "true_class"), precision_of(true_class)
    if probs.ndim != 2 or len(probs) < 2 or probs.shape[1] == 0:
        refuse(
            f"true_class has shape {probs.shape}",
            "it must be (S, N): one row a run, at least two runs",
            "With `runs` the (N, Z) probabilities of each: "
            "`np.stack([probs[np.arange(len(labels)), labels] for probs in runs])`",
        )
    if not ((probs >= -precision.of_entry) & (probs <= 1 + precision.of_entry)).all():
        refuse(
            "true_class holds values outside [0, 1]",
            "they are probabilities",
            f"Of logits take the softmax first, over all classes: {softmax_of('logits')}",
        )
    return np.asarray(probs.var(axis=0, ddof=1))


def group_means(values: Any, groups: Any) -> FloatArray:
    """Return the mean of a per-example quantity in each of the groups 0 … R - 1; NaN where a group is empty.

    Args:
        values: (N,) finite numbers.
        groups: (N,) integers, for instance robustness levels.

    Raises:
        InputError: if the two differ in length.

    >>> group_means([1.0, 3.0, 5.0], [0, 0, 2]).tolist()
    [2.0, nan, 5.0]
    """
    found, of = as_numbers(values, "values"), check_labels(groups, name="groups")
    check_same_length(len(found), len(of), "values", "groups")
    counts = np.bincount(of).astype(np.float64)
    return np.bincount(of, found) / np.where(counts > 0, counts, np.nan)
