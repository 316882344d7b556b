"""How far a cheap score can be trusted: its agreement with strong references, with intervals (method, section 1.1).

AR-AdaLS needs levels, so what counts is the share of examples that get the same level, not only a rank correlation: a
Spearman correlation of .95 still puts half the examples in a wrong level. Strong attacks do not agree with each other
either; their own agreement, the noise ceiling, stands beside every figure. No torch here: scores in, numbers out.

Levels within a sample. What matters is the level in the whole split, of which only a sample has a reference. The
sample is therefore stratified: every level of the candidate over the whole split gives its share (`stratified_sample`).
Cutting the candidate within such a sample repeats its levels of the whole split, and cutting the reference within it
estimates the reference's thresholds of the whole split from a sample drawn in proportion, so neither side is measured
against thresholds of other data. (Thresholds of the candidate applied to the reference would count a harmless change
of scale, say distances 5 % shorter throughout, as disagreement.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from robcal.base.checks import (
    FloatArray,
    IntArray,
    check_fraction,
    check_num_levels,
    check_positive_int,
    check_same_length,
    check_scores,
    check_seed,
    refuse,
)
from robcal.base.levels import assign_levels, level_of_ranks
from robcal.base.types import FIDELITY_TITLES, Estimate, Scores
from robcal.calibration.prob_rows import canonical_order


@dataclass(frozen=True)
class Agreement:
    """How one set of scores agrees with another, on the same examples.

    Attributes:
        name: whose scores.
        against: whose scores they are held against.
        metrics: by the keys of `FIDELITY_TITLES`.
    """

    name: str
    against: str
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Fidelity:
    """The fidelity of a candidate, beside the noise ceiling.

    Attributes:
        candidate: the candidate against the best of the references.
        ceiling: the two strongest references against each other (None with a single one): what agreement between two
            good answers looks like on these examples.
        references: each reference against the best of all (to which it contributes: flattering).
        n: number of examples.
        num_levels: R.
        confidence: of the intervals.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """

    candidate: Agreement
    ceiling: Agreement | None
    references: tuple[Agreement, ...]
    n: int
    num_levels: int
    confidence: float
    resamples: int
    seed: int


def fidelity(
    candidate: Scores,
    references: Mapping[str, Scores],
    *,
    num_levels: int = 10,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Fidelity:
    """Measure how well a candidate's scores agree with the best of strong references.

    The best reference of an example is the smallest verified distance that any of them found. Levels of both sides are
    cut within the examples given, which are a stratified sample of a split (see the module), or all of it. Intervals
    are percentile bootstrap intervals: examples are drawn with replacement within each level of the candidate, as the
    sample was, and the levels are cut anew in every resample.

    Args:
        candidate: scores of N examples.
        references: scores of the same examples by name, at least one.
        num_levels: R, from 1 to N.
        confidence: of the intervals, strictly between 0 and 1.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Fidelity. The two strongest references are those that come within 1 % of the best most often.

    Raises:
        InputError: no references, different lengths, predictions that differ (other models or examples), bad settings.

    Example:
        >>> import numpy as np
        >>> d = np.arange(20, dtype=np.float32) + 1
        >>> scores = Scores(d, np.full(20, "verified"), *(np.zeros(20, dtype=np.int64),) * 2, d, d)
        >>> fidelity(scores, {"itself": scores}, num_levels=5).candidate.metrics["same_level"].value
        1.0
    """
    _check(candidate, references, num_levels)
    check_fraction(confidence, "confidence")
    check_positive_int(resamples, "resamples")
    order = canonical_order(*(column for scores in (candidate, *references.values()) for column in _numbers(scores)))
    candidate, references = candidate.subset(order), {name: s.subset(order) for name, s in references.items()}
    best = best_of(references)
    draws = _draws(assign_levels(candidate, num_levels), resamples, check_seed(seed))

    def agree(first: Scores, second: Scores, name: str, against: str) -> Agreement:
        return Agreement(name, against, _metrics(first, second, num_levels, confidence, draws))

    rated = {name: agree(scores, best, name, "best") for name, scores in references.items()}
    strongest = sorted(rated, key=lambda name: -rated[name].metrics["near"].value)[:2]
    ceiling = None
    if len(strongest) == 2:
        first, second = strongest
        ceiling = agree(references[first], references[second], first, second)
    return Fidelity(
        candidate=agree(candidate, best, candidate.method, "best"),
        ceiling=ceiling,
        references=tuple(rated.values()),
        n=len(candidate),
        num_levels=num_levels,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def best_of(references: Mapping[str, Scores]) -> Scores:
    """Example by example, the reference with the smallest verified distance; its passes are those of all together.

    Raises:
        InputError: no references, or references of different examples.
    """
    if not references:
        refuse("there are no references", "at least one is needed", "Pass references={'carlini-wagner': scores}")
    every = list(references.values())
    for scores in every[1:]:
        check_same_length(len(every[0]), len(scores), "the first reference", "another")
    distance = np.stack([np.where(s.status == "verified", s.distance, np.inf) for s in every])
    pick = distance.argmin(0)

    def picked(column: str) -> Any:
        return np.stack([getattr(s, column) for s in every])[pick, np.arange(len(pick))]

    won = {name: int((pick == i).sum()) for i, name in enumerate(references)}
    found = np.isfinite(distance.min(0))
    return Scores(
        distance=distance.min(0).astype(np.float32),
        status=np.where(found, "verified", "censored").astype(np.str_),
        prediction=every[0].prediction,
        rival=np.where(found, picked("rival"), -1),
        margin=every[0].margin,
        passes=np.sum([s.passes for s in every], axis=0).astype(np.float32),
        method="best",
        reference=every[0].reference,
        provenance={"references": {n: dict(s.provenance) for n, s in references.items()}, "nearest": won},
    )


def stratified_sample(scores: Scores | Any, n: int = 1000, *, num_levels: int = 10, seed: int = 0) -> IntArray:
    """Draw n examples without replacement, every level giving its share.

    Args:
        scores: cheap `Scores` or distances (N,) of the whole split, which cut it into levels.
        n: examples to draw; N or more gives all of them.
        num_levels: R, at most n.
        seed: of the draw.

    Returns:
        (min(n, N),) int64 indices, increasing: q or q + 1 of each level, the first levels more, as in `assign_levels`.

    Raises:
        InputError: bad scores, n below the number of levels, more levels than examples.

    Example:
        >>> stratified_sample([0.4, 0.1, 0.3, 0.2], 2, num_levels=2).size
        2
    """
    level = assign_levels(scores, num_levels)
    n = min(check_positive_int(n, "n"), len(level))
    check_num_levels(num_levels, n, split="the sample")
    generator = np.random.default_rng(check_seed(seed))
    shares = [len(part) for part in np.array_split(np.arange(n), num_levels)]
    drawn = [generator.permutation(np.flatnonzero(level == r))[:share] for r, share in enumerate(shares)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _check(candidate: Scores, references: Mapping[str, Scores], num_levels: int) -> None:
    check_scores(candidate.distance, name="the candidate's distances")
    check_num_levels(num_levels, len(candidate), split="the sample")
    if not references:
        refuse("there are no references", "at least one is needed", "Pass references={'carlini-wagner': scores}")
    for name, scores in references.items():
        check_scores(scores.distance, n=len(candidate), name=f"the distances of {name}")
        same = float((scores.prediction == candidate.prediction).mean())
        if same < 0.99:  # rounding may turn a few
            refuse(
                f"the candidate and {name} agree on the prediction of {same:.0%} of the examples only",
                "all scores must be of one model and the same examples, in one order",
                "Score the same inputs with both",
            )


def _numbers(scores: Scores) -> tuple[Any, ...]:
    """The columns of numbers that tell one example from another."""
    return scores.distance, scores.margin, scores.prediction, scores.rival, scores.passes


def _draws(level: IntArray, resamples: int, seed: int) -> IntArray:
    """(resamples, N) indices drawn with replacement within each level."""
    generator = np.random.default_rng(seed)
    parts = [np.flatnonzero(level == r) for r in np.unique(level)]
    return np.concatenate([part[generator.integers(len(part), size=(resamples, len(part)))] for part in parts], axis=1)


def _metrics(first: Scores, second: Scores, levels: int, confidence: float, draws: IntArray) -> dict[str, Estimate]:
    """Every figure of one pair, with its interval."""
    a, b = first.distance.astype(np.float64), second.distance.astype(np.float64)
    margins = first.margin.astype(np.float64), second.margin.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b) & (b > 0)
    ratio = np.where(both, a / np.where(both, b, 1), np.nan)
    near = (a <= 1.01 * b).astype(np.float64)
    verified = (first.status == "verified").astype(np.float64)

    def same_examples(function: Callable[[IntArray], float]) -> tuple[float, FloatArray]:
        whole = function(np.arange(len(a)))
        return whole, np.array([function(draw) for draw in draws])

    def apart(draw: IntArray) -> IntArray:
        difference: IntArray = _levels(a[draw], margins[0][draw], levels) - _levels(b[draw], margins[1][draw], levels)
        return np.abs(difference)

    values: dict[str, tuple[float, FloatArray]] = {
        "same_level": same_examples(lambda draw: float((apart(draw) == 0).mean())),
        "within_one": same_examples(lambda draw: float((apart(draw) <= 1).mean())),
        "spearman": same_examples(lambda draw: _correlation(rankdata(a[draw]), rankdata(b[draw]))),
        "kendall": same_examples(lambda draw: float(kendalltau(a[draw], b[draw], method="asymptotic").statistic)),
        "ratio_median": same_examples(lambda draw: _finite(np.median, ratio[draw])),
        "ratio_mean": same_examples(lambda draw: _finite(np.mean, ratio[draw])),
        "near": same_examples(lambda draw: float(near[draw].mean())),
        "verified": same_examples(lambda draw: float(verified[draw].mean())),
        "passes": same_examples(lambda draw: float(first.passes[draw].mean())),
    }
    return {key: _estimate(values[key], confidence) for key in FIDELITY_TITLES}


def _levels(distance: FloatArray, margin: FloatArray, num_levels: int) -> IntArray:
    """`assign_levels` of distances and the margins that break their ties, without its checks."""
    draw = np.random.default_rng(0).permutation(len(distance))
    level = np.empty(len(distance), dtype=np.int64)
    level[np.lexsort((draw, margin, distance))] = level_of_ranks(len(distance), num_levels)
    return level


def _correlation(x: FloatArray, y: FloatArray) -> float:
    """Pearson's correlation; NaN where either is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else float("nan")


def _finite(function: Callable[[FloatArray], Any], values: FloatArray) -> float:
    """A statistic of the values that are not NaN; NaN where all are."""
    kept = values[~np.isnan(values)]
    return float(function(kept)) if kept.size else float("nan")


def _estimate(measured: tuple[float, FloatArray], confidence: float) -> Estimate:
    value, replicates = measured
    known = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not known.size:
        return Estimate(value)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))
