"""What a recalibration would repair of the probabilities that an audit was given, and what it would leave."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.levels import assign_levels
from robcal.base.types import Estimate, Repair, RepairedLevel
from robcal.calibration.binning import summarise
from robcal.calibration.conditional import joint_confidence
from robcal.calibration.intervals import calibration_error_interval, gap_interval, mean_interval
from robcal.calibration.metrics import calibration_error
from robcal.calibration.recalibration import LEAST_EXAMPLES, Recalibrator, cross_fitted
from robcal.calibration.recalibration.maps import margins

#: Methods that are tried: those that can never change a label. `robcal recalibrate` has more.
METHODS = ("none", "temperature", "score-temperature")

#: More logits than this are represented by a sample of the rows.
MOST_LOGITS = 1 << 22


def repair_of(
    probs: FloatArray,
    labels: IntArray,
    scores: FloatArray | None,
    *,
    score_name: str,
    num_levels: int,
    bins: int,
    resamples: int,
    seed: int,
    validation: tuple[FloatArray, IntArray, FloatArray | None] | None = None,
) -> Repair:
    """Return what recalibration would repair; `why_no_repair` says where that cannot be told.

    Args:
        probs: (N, Z) checked probabilities.
        labels: (N,) true classes.
        scores: (N,) score of the audit, or None: the logit margin then takes its place.
        score_name: what the score is called.
        num_levels: number of levels.
        bins: bins of the ECE.
        resamples: simulated data sets behind its interval.
        seed: of folds and simulations.
        validation: probabilities, labels and scores of other examples to fit on; without them every example is judged
            by a fit of the four other fifths of the same ones.
    """
    logits = _logs(probs)
    if validation is None:
        found = cross_fitted(METHODS, logits, labels, scores, most=MOST_LOGITS, seed=seed)
        method, rows, after = found.method, found.rows, np.exp(found.log_probs)
        judged = f"{len(rows)} examples, each by a fit of others"
    else:
        recalibrator = Recalibrator(METHODS, score="margin" if scores is None else score_name, seed=seed)
        recalibrator.fit(_logs(validation[0]), validation[1], validation[2])
        method, rows = recalibrator.method, np.arange(len(labels))
        after = recalibrator.predict_proba(logits, scores)
        judged = f"{len(rows)} examples, by a fit of {len(validation[1])} others"
    before, truth = probs[rows], labels[rows]
    by = margins(_logs(before)) if scores is None else scores[rows]
    levels = _levels(before, after, truth, assign_levels(by, num_levels, ties="share"))
    both = (before, after)
    nll = tuple(mean_interval(-np.log(one[np.arange(len(truth)), truth])) for one in both)
    options: dict[str, Any] = {"bins": bins, "resamples": resamples, "seed": seed}
    ece = tuple(
        Estimate(calibration_error(one, truth, bins=bins), *calibration_error_interval(one, truth, **options))
        for one in both
    )
    score = "margin" if scores is None else score_name
    return Repair(method, score, judged, nll, ece, levels, _sentence(method, score, nll, ece, levels))


def why_no_repair(
    probs: FloatArray,
    labels: IntArray,
    num_levels: int,
    validation: tuple[FloatArray, IntArray, FloatArray | None] | None,
) -> str | None:
    """Return why it cannot be told what a recalibration would repair, in a sentence; None where it can."""
    fitted_on = labels if validation is None else validation[1]
    if len(fitted_on) < LEAST_EXAMPLES or len(labels) < num_levels:
        return (
            "What a recalibration would repair is not told: that takes "
            f"at least {LEAST_EXAMPLES} examples to fit on, and one for each level."
        )
    pairs = [(probs, labels), *([] if validation is None else [validation[:2]])]
    impossible = sum(int((one[np.arange(len(true)), true] == 0).sum()) for one, true in pairs)
    if impossible:
        return (
            "What a recalibration would repair is not told: the true class has a probability of 0, which no "
            f"temperature changes, in {impossible} of the examples "
            "(robcal.TemperatureScaling().fit_probs fits these too)."
        )
    return None


def _logs(probs: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        logs: FloatArray = np.log(probs)
    return logs


def _levels(before: FloatArray, after: FloatArray, labels: IntArray, levels: IntArray) -> tuple[RepairedLevel, ...]:
    found = np.unique(levels)
    jointly = joint_confidence(0.95, len(found))
    rows = []
    for level in found:
        inside = levels == level
        gaps = (gap_interval(summarise(probs[inside], labels[inside]), jointly) for probs in (before, after))
        rows.append(RepairedLevel(int(level), int(inside.sum()), *gaps))
    return tuple(rows)


def _sentence(
    method: str, score: str, nll: tuple[Estimate, ...], ece: tuple[Estimate, ...], levels: tuple[RepairedLevel, ...]
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
    told = [row for row in levels if not _may_be_zero(row.after)]
    if not told:
        return f"{effect} No level's gap could then be told from 0."
    worst = max(told, key=lambda row: abs(row.after.value))
    side = "over" if worst.after.value > 0 else "under"
    return (
        f"{effect} It would leave {len(told)} of {len(levels)} levels with a gap, the largest at level {worst.level}, "
        f"{side}-confident by {abs(worst.after.value):.3f}."
    )


def _may_be_zero(gap: Estimate) -> bool:
    return gap.low is None or gap.high is None or gap.low <= 0 <= gap.high
