"""Which inputs are miscalibrated? Over-all metrics, reliability diagrams, and calibration per level or group."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.base.checks import (
    as_array,
    check_bins,
    check_fraction,
    check_labels,
    check_same_length,
    check_same_rows,
    check_scores,
    check_seed,
    refuse,
)
from robcal.base.metrics import METRIC_LIST
from robcal.base.types import Estimate, GroupRow, ReliabilityBin
from robcal.calibration import intervals
from robcal.calibration.binning import bin_index, bin_sums, summarise, top_from, width_edges
from robcal.calibration.corrected import bin_floors
from robcal.calibration.inversion import inverted_interval
from robcal.calibration.metrics import norm_of_gaps
from robcal.calibration.trends import trend_tests
from robcal.calibration.weighted import METRICS

__all__ = ["group_table", "level_table", "overall_metrics", "reliability_bins", "top_label_metrics", "trend_tests"]


def overall_metrics(
    probs: Any, labels: Any, *, bins: int = 15, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Return all over-all metrics of one set of predictions, each with its interval (see `metric_interval`).

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins.
        confidence: nominal coverage of the intervals, strictly between 0 and 1.
        resamples: simulated or resampled data sets.
        seed: seed of the simulations.

    Returns:
        The keys of `robcal.base.metrics.METRIC_LIST`, in their order, without those under shift.

    Raises:
        InputError: on bad input or options.

    >>> metrics = overall_metrics([[0.3, 0.7]] * 10, [1] * 7 + [0] * 3)
    >>> round(metrics["accuracy"].value, 3), round(metrics["brier"].value, 3)
    (0.7, 0.42)
    """
    names = [name for name in METRIC_LIST if name in METRICS]
    found = intervals.metric_intervals(
        names, probs, labels, bins=bins, confidence=confidence, resamples=resamples, seed=seed
    )
    return {name: intervals.within_range(name, estimate) for name, estimate in found.items()}


def top_label_metrics(
    confidences: Any, correct: Any, *, bins: int = 15, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Return those over-all metrics that the top label decides, where the full probabilities are too many to keep.

    The same numbers and intervals as `overall_metrics`, without NLL, Brier and classwise ECE.

    Args:
        confidences: (N,) probability of each example's predicted class, in [0, 1], in the precision of the model.
        correct: (N,) booleans, whether the prediction is the true class.
        bins: number of bins.
        confidence: nominal coverage of the intervals, strictly between 0 and 1.
        resamples: simulated data sets.
        seed: seed of the simulations.

    Returns:
        Estimates by the keys of `robcal.base.metrics.METRIC_LIST`, in their order.

    Raises:
        InputError: on bad input or options.

    >>> metrics = top_label_metrics([0.7] * 10, [True] * 7 + [False] * 3)
    >>> round(metrics["accuracy"].value, 3), round(metrics["ece"].value, 3)
    (0.7, 0.0)
    """
    top = top_from(confidences, correct, name="confidences")
    check_bins(bins)
    intervals.check_resampling(confidence, resamples)
    names = [name for name in METRIC_LIST if name in intervals.TOP_LABEL_METRICS]
    found = intervals.top_label_intervals(names, top, bins=bins, confidence=confidence, resamples=resamples, seed=seed)
    return {name: intervals.within_range(name, estimate) for name, estimate in found.items()}


def reliability_bins(
    probs: Any, labels: Any, *, bins: int = 15, confidence: float = 0.95
) -> tuple[ReliabilityBin, ...]:
    """Bin the confidence of the top label in equal widths, with Jeffreys intervals of the accuracy: the diagram's bins.

    A bin is calibrated if its accuracy equals its *mean confidence*; the diagonal at the bin's centre is not the
    reference.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        bins: number of bins.
        confidence: nominal coverage of the intervals.

    Returns:
        One entry a bin, empty ones included (count 0, NaN values, no interval).

    Raises:
        InputError: on bad input or options.

    >>> [b.count for b in reliability_bins([[0.3, 0.7]] * 10, [1] * 7 + [0] * 3, bins=4)]
    [0, 0, 10, 0]
    """
    check_bins(bins)
    check_fraction(confidence, "confidence")
    sums, edges = bin_sums(summarise(probs, labels), bins=bins), width_edges(bins)
    jointly = joint_confidence(confidence, int((sums.count > 0).sum()))
    rows = []
    for k in range(bins):
        n, lower, upper = int(sums.count[k]), float(edges[k]), float(edges[k + 1])
        if n:
            right = sums.correct[k]
            share, joint = (
                Estimate(float(right / n), *intervals.jeffreys_interval(right, n, confidence=level))
                for level in (confidence, jointly)
            )
            rows.append(ReliabilityBin(lower, upper, n, float(sums.confidence[k] / n), share, joint))
        else:
            rows.append(ReliabilityBin(lower, upper, 0, float("nan"), Estimate(float("nan"))))
    return tuple(rows)


def joint_confidence(confidence: float, count: int) -> float:
    """Return the coverage that each of `count` intervals needs so that all hold at once (Bonferroni)."""
    return 1 - (1 - confidence) / max(count, 1)


def group_table(
    probs: Any,
    labels: Any,
    groups: Any,
    *,
    scores: Any = None,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[GroupRow, ...]:
    """Return the calibration of each group of examples, with intervals.

    A group's ECE rests on its own few examples and is dominated by noise if they are hundreds: each row has the floor
    that a perfectly calibrated model measures there (`calibration_noise_floor`), the interval holds the true error
    (`calibration_error_interval`), and the signed gap is the steadier number. Each row's `gap` has an interval of its
    own; the intervals of `joint_gap` hold for all rows at once (see `joint_confidence`).

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        groups: (N,) integers, booleans or strings; equal entries form a group.
        scores: (N,) per-example scores whose range each row reports; +inf is allowed.
        bins: number of equal-width bins of the ECE.
        confidence: nominal coverage of the intervals.
        resamples: simulated data sets for the interval of the ECE.
        seed: seed of the simulation.

    Returns:
        One row a group that has examples, in sorted order.

    Raises:
        InputError: on bad input or options.

    >>> rows = group_table([[0.3, 0.7]] * 4, [1, 1, 1, 0], ["a", "a", "b", "b"])
    >>> [(row.group, row.n, row.accuracy.value) for row in rows]
    [('a', 2, 1.0), ('b', 2, 0.5)]
    """
    check_bins(bins)
    intervals.check_resampling(confidence, resamples)
    top = summarise(probs, labels)
    check_same_rows(probs=probs, labels=labels, groups=groups, scores=scores)
    names = _check_groups(groups, len(top))
    values = None if scores is None else check_scores(scores, n=len(top))
    index = bin_index(top.confidence, bins=bins)
    rng = np.random.default_rng(check_seed(seed))
    distinct, member = np.unique(names, return_inverse=True)
    jointly, rows = joint_confidence(confidence, len(distinct)), []
    for number, name in enumerate(distinct):
        chosen = np.flatnonzero(member == number)
        part, scored = top.subset(chosen), None if values is None else values[chosen]
        sums = bin_sums(part, bins=bins, index=index[chosen])
        ends = inverted_interval(sums, norm="l1", confidence=confidence, resamples=resamples, rng=rng)
        sure = intervals.mean_interval(part.confidence.astype(np.float64), confidence=confidence)
        row = GroupRow(
            group=str(name),
            n=len(part),
            score_low=None if scored is None else float(scored.min()),
            score_high=None if scored is None else float(scored.max()),
            accuracy=intervals.accuracy_interval(part, confidence),
            confidence=intervals.within_range("confidence", sure),
            gap=intervals.gap_interval(part, confidence),
            ece=Estimate(norm_of_gaps(sums, "l1"), *ends),
            joint_gap=intervals.gap_interval(part, jointly),
            ece_floor=float(bin_floors(sums).sum()),
        )
        rows.append(row)
    return tuple(rows)


def level_table(
    probs: Any,
    labels: Any,
    levels: Any,
    *,
    scores: Any = None,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[GroupRow, ...]:
    """Return the calibration of each robustness level, least robust first: `group_table` for integer levels.

    Args:
        probs: (N, Z) probabilities.
        labels: (N,) integers in 0 … Z - 1.
        levels: (N,) integers from 0; 0 is the least robust (`robcal.base.types.Levels.level`).
        scores: (N,) distances whose range each row reports.
        bins: number of equal-width bins of the ECE.
        confidence: nominal coverage of the intervals.
        resamples: simulated data sets for the interval of the ECE.
        seed: seed of the simulation.

    Returns:
        One row a level that has examples; its group is the level's number.

    Raises:
        InputError: on bad input or options.
    """
    check_same_rows(probs=probs, labels=labels, levels=levels)
    checked = check_labels(levels, name="levels")
    return group_table(
        probs, labels, checked, scores=scores, bins=bins, confidence=confidence, resamples=resamples, seed=seed
    )


def _check_groups(groups: Any, n: int) -> Any:
    names = as_array(groups, "groups")
    if names.ndim != 1 or names.dtype.kind not in "iubUS":
        fix = "`np.asarray(groups, dtype=str)` gives each value a group of its own"
        if names.ndim != 1:
            fix = (
                "One grouping is one column, such as `np.asarray(groups)[:, 0]`; an audit takes several as a dictionary"
            )
        elif names.dtype.kind == "f" and not np.isnan(names).any():
            fix = "Cut a score into groups first: `robcal.assign_levels(groups, 5, ties='share')`; or " + fix
        refuse(f"groups is {names.dtype} of shape {names.shape}", "it must be (N,): integers, booleans or strings", fix)
    check_same_length(n, len(names), "the examples", "groups")
    return names
