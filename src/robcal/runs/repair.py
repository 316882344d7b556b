"""What a recalibration would repair of the probabilities that an audit was given, and what it would leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.levels import assign_levels
from robcal.base.results import Repair, RepairedLevel
from robcal.base.special import normal_quantile
from robcal.base.types import Estimate
from robcal.calibration.binning import TopLabel
from robcal.calibration.conditional import joint_confidence
from robcal.calibration.intervals import calibration_error_interval, gap_interval, mean_interval, within_range
from robcal.calibration.metrics import calibration_error
from robcal.calibration.prob_rows import ProbRows
from robcal.calibration.recalibration import LEAST_EXAMPLES, Recalibrator, cross_fitted
from robcal.calibration.recalibration.maps import margins
from robcal.calibration.recalibration.score_temperature import gap_errors
from robcal.report.verdicts import side

#: Methods that are tried: those that can never change a label. `robcal recalibrate` has more.
METHODS = ("none", "temperature", "score-temperature")
#: More logits than this are represented by a sample of the rows.
MOST_LOGITS = 1 << 22
#: Probabilities, labels and scores of other examples.
Validation = tuple[ProbRows, IntArray, FloatArray | None]


def repair_of(
    probs: ProbRows,
    labels: IntArray,
    scores: FloatArray | None,
    *,
    score_name: str,
    num_levels: int,
    bins: int,
    resamples: int,
    seed: int,
    validation: Validation | None = None,
) -> Repair:
    """Return what recalibration would repair; `why_no_repair` says where that cannot be told.

    Without scores (N,) of the audit the logit margin takes their place. Without `validation`, other examples to fit on,
    every example is judged by a fit of the four other fifths of the same.
    """
    score = "margin" if scores is None else score_name
    fit = None
    if validation is None:
        found = cross_fitted(METHODS, probs, labels, scores, most=MOST_LOGITS, seed=seed)
        method, truth, by = found.method, labels[found.rows], None if scores is None else scores[found.rows]
        blocks: Iterable[tuple[FloatArray, FloatArray]] = [(probs.take(found.rows), np.exp(found.log_probs))]
        judged = f"{len(truth)} examples, each by a fit of others"
    else:
        recalibrator = Recalibrator(METHODS, score=score, seed=seed)
        fit = (_logs(validation[0].take(slice(None))), validation[1], validation[2])
        recalibrator.fit(*fit)
        method, truth, by = recalibrator.method, labels, scores
        blocks = (
            (block, recalibrator.predict_proba(_logs(block), None if scores is None else scores[part]))
            for part, block in probs.blocks()
        )
        judged = f"{len(truth)} examples, by a fit of {len(validation[1])} others"
    both, margin = _reduced(blocks, truth)
    values = margin if by is None else by
    level = assign_levels(values, num_levels, ties="share")
    levels = _levels(both, level)
    nll = tuple(within_range("nll", mean_interval(-np.log(one.true))) for one in both)
    options: dict[str, Any] = {"bins": bins, "resamples": resamples, "seed": seed}
    ece = tuple(
        Estimate(calibration_error(one.top, truth, bins=bins), *calibration_error_interval(one.top, truth, **options))
        for one in both
    )
    closed = None if fit is None else _closed_by_more(recalibrator, fit, probs, values, level, levels)
    return Repair(method, score, judged, nll, ece, levels, _sentence(method, score, nll, ece, levels, closed))


def why_no_repair(probs: ProbRows, labels: IntArray, num_levels: int, validation: Validation | None) -> str | None:
    """Return why it cannot be told what a recalibration would repair, in a sentence; None where it can."""
    fitted_on = labels if validation is None else validation[1]
    if len(fitted_on) < LEAST_EXAMPLES or len(labels) < num_levels:
        return (
            "What a recalibration would repair is not told: that takes "
            f"at least {LEAST_EXAMPLES} examples to fit on, and one for each level."
        )
    pairs = [(probs, labels), *([] if validation is None else [validation[:2]])]
    impossible = sum(int((one.of_class(true) == 0).sum()) for one, true in pairs)
    if impossible:
        return (
            "What a recalibration would repair is not told: the true class has a probability of 0, which no "
            f"temperature changes, in {impossible} of the examples "
            "(robcal.TemperatureScaling().fit_probs fits these too)."
        )
    return None


@dataclass(frozen=True)
class _Judged:
    """What is judged of probabilities: the top labels, and the probability of the true class (N,)."""

    top: TopLabel
    true: FloatArray


def _reduced(
    blocks: Iterable[tuple[FloatArray, FloatArray]], labels: IntArray
) -> tuple[tuple[_Judged, _Judged], FloatArray]:
    """Return what is judged before and after, and the margins before, of blocks of probabilities before and after."""
    parts, begin = [], 0
    for before, after in blocks:
        truth, begin = labels[begin : begin + len(before)], begin + len(before)
        rows = np.arange(len(before))
        columns = [margins(_logs(before))]
        for probs in (before, after):
            predicted = probs.argmax(axis=1)
            columns += [probs[rows, predicted], predicted, probs[rows, truth]]
        parts.append(columns)
    margin, *both = (np.concatenate(column) for column in zip(*parts, strict=True))
    judged = (
        _Judged(TopLabel(sure, predicted, (predicted == labels).astype(np.float64)), true)
        for sure, predicted, true in (both[:3], both[3:])
    )
    return (next(judged), next(judged)), margin


def _logs(probs: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        logs: FloatArray = np.log(probs)
    return logs


def _levels(both: tuple[_Judged, _Judged], levels: IntArray) -> tuple[RepairedLevel, ...]:
    found = np.unique(levels)
    jointly = joint_confidence(0.95, len(found))
    rows = []
    for level in found:
        inside = np.flatnonzero(levels == level)
        gaps = (gap_interval(one.top.subset(inside), jointly) for one in both)
        rows.append(RepairedLevel(int(level), len(inside), *gaps))
    return tuple(rows)


def _closed_by_more(
    recalibrator: Recalibrator,
    fit: tuple[FloatArray, IntArray, FloatArray | None],
    probs: ProbRows,
    values: FloatArray,
    level: IntArray,
    levels: tuple[RepairedLevel, ...],
) -> str:
    """Say which of the gaps that are left a fit to more examples may close: those that the error of this one explains.

    That error is independent of that of the rows which show the gap, so that squares add. It is computed on a sample of
    these rows, where they are many, which holds an example of every level.
    """
    left = _left(levels)
    if not left or not recalibrator.maps:
        return ""
    evenly = np.arange(0, len(level), -(-len(level) * probs.num_classes // MOST_LOGITS))
    rows = np.union1d(evenly, np.unique(level, return_index=True)[1])
    scores = margins(fit[0]) if fit[2] is None else fit[2]
    new = (_logs(probs.take(rows)), values[rows], level[rows])
    errors = gap_errors(recalibrator.maps[0], (fit[0], fit[1], scores), new)
    times = normal_quantile((1 + joint_confidence(0.95, len(levels))) / 2)
    stay = 0  # levels whose gap is not 0 if its interval holds a further, independent error
    for gap, error in ((row.after, error) for row, error in zip(levels, errors, strict=True) if row in left):
        end = gap.ends[0 if gap.value > 0 else 1] if gap.ends is not None else 0.0
        stay += bool(abs(gap.value) > np.hypot(gap.value - end, times * error))
    beyond = f" A fit to more than these {len(fit[1])} examples "
    if stay == len(left):
        return f"{beyond}would hardly close {'them' if stay > 1 else 'it'}."
    return f"{beyond}may close {f'all but {stay}' if stay else 'all'} of them."


def _left(levels: tuple[RepairedLevel, ...]) -> list[RepairedLevel]:
    """Return the levels whose gap after the recalibration can be told from 0."""
    return [row for row in levels if side(row.after) in ("lower", "higher")]


def _sentence(
    method: str,
    score: str,
    nll: tuple[Estimate, ...],
    ece: tuple[Estimate, ...],
    levels: tuple[RepairedLevel, ...],
    closed: str | None,
) -> str:
    """Say what to do, what it repairs and what it leaves."""
    if method == "none":
        return (
            "No recalibration is needed: neither one temperature nor one that depends on the "
            f"{score} lowers the NLL by more than chance explains."
        )
    what = "One temperature" if method == "temperature" else f"A temperature that depends on the {score}"
    effect = f"{what} would lower the NLL from {nll[0].value:.3f} to {nll[1].value:.3f} and change the ECE from " + (
        f"{ece[0].value:.3f} to {ece[1].value:.3f}, without changing a label (robcal recalibrate)."
    )
    told = _left(levels)
    if not told:
        return f"{effect} No level's gap could then be told from 0."
    worst = max(told, key=lambda row: abs(row.after.value))
    which = "over" if worst.after.value > 0 else "under"
    return (
        f"{effect} It would leave {len(told)} of {len(levels)} levels with a gap, the largest at level {worst.level}, "
        f"{which}-confident by {abs(worst.after.value):.3f}.{closed or ''}"
    )
