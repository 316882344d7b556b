"""Prediction sets that hold the true class with a stated probability, at every level of robustness by itself."""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import (
    FloatArray,
    IntArray,
    as_array,
    check_fraction,
    check_labels,
    check_probs,
    check_same_rows,
    refuse,
)
from robcal.base.types import Estimate
from robcal.calibration.intervals import clopper_pearson, mean_interval


@dataclass(frozen=True)
class PredictionSets:
    """The sets of new examples."""

    sets: npt.NDArray[np.bool_]  #: (M, Z) bool: which classes the set of each new example holds; it may hold none
    #: (M,) class k is in the set where p_k >= threshold; -inf where a level is too small to leave any class out
    thresholds: FloatArray
    notes: tuple[str, ...]  #: sentences on levels whose sets hold every class, and what would be needed


@dataclass(frozen=True)
class SetsOfLevel:
    """What the sets of one level are worth."""

    level: int  #: its number
    n: int  #: examples of it
    coverage: Estimate  #: share of them whose set holds the true class, with its Clopper-Pearson interval of 95%
    size: Estimate  #: mean number of classes in a set, with its interval
    empty: float  #: share of sets that hold no class


def prediction_sets(
    probs: Any, labels: Any, new_probs: Any, *, levels: Any = None, new_levels: Any = None, coverage: float = 0.9
) -> PredictionSets:
    """Return sets of classes that hold the true class of new examples with probability `coverage`, at every level.

    Split conformal prediction (Vovk et al. 2005; scores 1 - p_y as in Sadinle et al. 2019), level by level: with n
    held-out examples of a level, class k is in the set where p_k is at least the ⌊(1 - coverage)(n + 1)⌋-th smallest
    probability that they gave to their true class. Where new examples of a level are drawn like the held-out ones of
    it, coverage <= P(true class in the set | level) <= coverage + 1 / (n + 1) (the latter without ties),
    whatever the network and however its probabilities are calibrated; calibrated ones make the sets smaller. The
    probability is over the held-out examples too: for those at hand it varies by about √(coverage (1 - coverage) / n).

    This is what the conditional conformal prediction of Gibbs et al. (2025) is with levels as its features (MAPIE's
    ConditionalSplitConformalClassifier; the tests compare the two): one quantile a level in place of a linear program
    an example.

    Args:
        probs: (N, Z) probabilities of held-out examples, which neither training nor a recalibration has seen.
        labels: (N,) their true classes.
        new_probs: (M, Z) probabilities of the examples that sets are made for.
        levels: (N,) integers from 0: levels, or groups of any kind; one level if none are given. What puts an example
            into a level must not depend on its label, nor on which of the two arrays it stands in: cut both by the same
            edges, `np.digitize(scores, edges)`.
        new_levels: (M,) levels of the new examples.
        coverage: in (0, 1).

    Returns:
        The sets.

    Raises:
        InputError: on bad probabilities, labels or levels, or levels of one of the two only.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> probs = rng.dirichlet([0.3] * 4, size=4000)
        >>> labels = (probs.cumsum(1) > rng.random((4000, 1))).argmax(1)
        >>> found = prediction_sets(probs[:2000], labels[:2000], probs[2000:], coverage=0.8)
        >>> bool(found.sets[np.arange(2000), labels[2000:]].mean().round(2) == 0.8)
        True
    """
    check_fraction(coverage, "coverage")
    given, new = check_probs(probs), check_probs(new_probs, name="new_probs")
    check_same_rows(probs=probs, labels=labels, levels=levels)
    check_same_rows(new_probs=new_probs, new_levels=new_levels)
    truth = check_labels(labels, n=len(given), num_classes=given.shape[1])
    if new.shape[1] != given.shape[1]:
        refuse(
            f"new_probs has {new.shape[1]} classes and probs {given.shape[1]}",
            "both must be probabilities of the same classes",
            "Pass predictions of the same model",
        )
    if (levels is None) != (new_levels is None):
        refuse(
            f"levels were given for the {'new' if levels is None else 'held-out'} examples only",
            "sets that hold per level need the levels of both",
            "Pass levels= and new_levels=, or neither",
        )
    held, wanted = _levels(levels, len(given), "levels"), _levels(new_levels, len(new), "new_levels")
    true = given[np.arange(len(truth)), truth]
    thresholds, few = np.empty(len(new)), {}
    for level in np.unique(wanted).tolist():
        values = true[held == level]
        thresholds[wanted == level] = _threshold(values, coverage)
        if math.isinf(_threshold(values, coverage)):
            few[level] = len(values)
    return PredictionSets(new >= thresholds[:, None], thresholds, _notes(few, coverage))


def audit_sets(sets: Any, labels: Any, levels: Any = None) -> tuple[SetsOfLevel, ...]:
    """Return the coverage and the size of prediction sets per level, on examples that no set was made from.

    Args:
        sets: (N, Z) booleans, or 0 and 1: `PredictionSets.sets`, or those of any other method.
        labels: (N,) true classes.
        levels: (N,) integers from 0; one level if none are given.

    Returns:
        One entry a level that has examples.

    Raises:
        InputError: on sets, labels or levels of another form.

    >>> [level.coverage.value for level in audit_sets([[1, 0], [1, 1], [0, 0]], [0, 1, 1], levels=[0, 0, 1])]
    [1.0, 0.0]
    """
    ragged = isinstance(sets, list) and len({len(one) for one in sets if isinstance(one, Sized)}) > 1
    array = np.empty(0) if ragged else as_array(sets, "sets")
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        refuse(
            "sets has rows of different lengths" if ragged else f"sets is {array.dtype} of shape {array.shape}",
            "it must be (N, Z) booleans, or 0 and 1: whether each class is in the set",
            "Pass `prediction_sets(...).sets`; of classes a row, of Z, make a row of booleans: "
            "`[np.isin(np.arange(Z), row) for row in sets]`",
        )
    chosen = array.astype(np.bool_)
    check_same_rows(sets=sets, labels=labels, levels=levels)
    truth = check_labels(labels, n=len(chosen), num_classes=chosen.shape[1])
    of_level = _levels(levels, len(chosen), "levels")
    hit, size = chosen[np.arange(len(truth)), truth], chosen.sum(axis=1)
    found = []
    for level in np.unique(of_level).tolist():
        own, sizes = hit[of_level == level], size[of_level == level].astype(np.float64)
        coverage = clopper_pearson(int(own.sum()), len(own))
        found.append(SetsOfLevel(level, len(own), coverage, mean_interval(sizes), float((sizes == 0).mean())))
    return tuple(found)


def _threshold(true: FloatArray, coverage: float) -> float:
    """Return the ⌊(1 - coverage)(n + 1)⌋-th smallest probability of a true class, -inf for the 0-th."""
    place = math.floor((1 - coverage) * (len(true) + 1) + 1e-9)
    return float(np.partition(true, place - 1)[place - 1]) if place else -math.inf


def _levels(levels: Any, n: int, name: str) -> IntArray:
    return np.zeros(n, dtype=np.int64) if levels is None else check_labels(levels, n=n, name=name)


def _notes(few: dict[int, int], coverage: float) -> tuple[str, ...]:
    needed = math.ceil(1 / (1 - coverage) - 1 - 1e-9)
    return tuple(
        f"Level {level} has {n} held-out examples; its sets hold every class: {needed} are the least that can leave "
        f"one out at a coverage of {coverage:g}."
        for level, n in few.items()
    )
