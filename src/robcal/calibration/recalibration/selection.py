"""Cross-fitting of every candidate on the same folds, and the choice between them.

Each row is judged by fits that did not see it. A score temperature on top of a first stage is fitted on that stage's
*cross-fitted* outputs, as in stacking (Wolpert 1992), so that it cannot over-fit what the first has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.types import Estimate
from robcal.calibration.binning import bin_index, summarise
from robcal.calibration.conditional import joint_confidence
from robcal.calibration.intervals import calibration_error_interval, gap_interval, mean_interval
from robcal.calibration.metrics import calibration_error
from robcal.calibration.prob_rows import RowKeys
from robcal.calibration.recalibration import stages
from robcal.calibration.recalibration.average import Average, pooled, stacked_weights, weights_without_each
from robcal.calibration.recalibration.maps import Map, Temperature, apply
from robcal.calibration.recalibration.score_problem import Monotone
from robcal.calibration.recalibration.score_temperature import (
    ScoreTemperature,
    divided,
    fit_score_temperature,
    refit_score_temperature,
)
from robcal.calibration.temperature import TemperatureScaling, optimal_temperature

SCORE_TEMPERATURE = "score-temperature"

#: Every method by its name, the simplest first: of two that the data cannot tell apart, `auto` takes the earlier.
METHODS = (
    "none",
    "temperature",
    SCORE_TEMPERATURE,
    "vector",
    "svs",
    "isotonic",
    f"vector+{SCORE_TEMPERATURE}",
    f"svs+{SCORE_TEMPERATURE}",
    "dirichlet",
    "sms",
    f"isotonic+{SCORE_TEMPERATURE}",
    f"dirichlet+{SCORE_TEMPERATURE}",
    f"sms+{SCORE_TEMPERATURE}",
)

FOLDS, LEVELS = 5, 10

#: The methods that never change a prediction, and the name of an average of methods.
KEEPING, AVERAGE = METHODS[:3], "average"

#: Without an average, a simpler method is taken whose NLL is at most one standard error of the paired difference, and
#: at most this much, above the lowest.
NLL_TOLERANCE = 2e-4


@dataclass(frozen=True)
class CandidateResult:
    """What cross-fitting says of one method; every figure is of rows that the fit did not see."""

    method: str  #: its name, one of `METHODS`, or `AVERAGE`
    nll: Estimate  #: mean negative log-likelihood (natural logarithm), with interval
    nll_above_best: Estimate  #: paired difference to the method with the lowest NLL, with interval; 0 for that one
    brier: Estimate  #: multi-class Brier score, with interval
    ece: Estimate  #: expected calibration error (15 equal-width bins), with the interval for the true error
    worst_level: int  #: of ten equal parts by the score, lowest first, the one whose gap is largest in absolute value
    worst_gap: Estimate  #: mean confidence - accuracy there; the interval holds for all ten levels at once (Bonferroni)
    keeps_prediction: bool  #: whether the method can never change a prediction
    chosen: bool  #: whether it is the one in use


@dataclass(frozen=True)
class Candidate:
    """A method fitted on all rows, and cross-fitted."""

    method: str  # its name
    maps: tuple[Map, ...]  # in order
    held: FloatArray  # (N, Z) float64 log-probabilities of each row by the fits that did not see it


@dataclass(frozen=True)
class Rows:
    """The rows that methods are fitted on: logits (N, Z) whose rows have maximum 0, labels, scores, folds (N,)."""

    logits: FloatArray
    labels: IntArray
    scores: FloatArray
    folds: IntArray

    def part(self, index: IntArray) -> Rows:
        """Return some of the rows."""
        return Rows(self.logits[index], self.labels[index], self.scores[index], self.folds[index])


def fold_order(true: FloatArray, labels: IntArray, scores: FloatArray, keys: Callable[[], RowKeys]) -> IntArray:
    """Return an order of the rows by what they hold, however they were stored; `keys` settles equal ones."""
    order = np.lexsort((true, scores, labels))
    alike = [key[order][1:] == key[order][:-1] for key in (true, scores, labels)]
    return np.lexsort((keys(), true, scores, labels)) if np.logical_and.reduce(alike).any() else order


def drawn_folds(order: IntArray, *, folds: int, seed: int) -> IntArray:
    """Return a fold of every row, drawn along an order of the rows and without regard to labels.

    Folds balanced over the classes would show a fit the very frequencies that judge it: a class-wise method would seem
    better than it is on new rows, by about (Z - 1) / 2N of NLL.
    """
    result = np.empty(len(order), dtype=np.int64)
    result[order] = np.random.default_rng(seed).permutation(len(order)) % folds
    return result


def cross_fit(methods: Sequence[str], rows: Rows, monotone: Monotone | None) -> list[Candidate]:
    """Fit every method on all rows and on all but each fold; a first stage that several share is fitted once."""
    fitted: list[Candidate] = []
    for first in dict.fromkeys(first_of(method) for method in methods):
        held, stage = _first_stage(first, rows)
        fitted += _second_stage([one for one in methods if first_of(one) == first], rows, held, stage, monotone)
    return sorted(fitted, key=lambda candidate: methods.index(candidate.method))


def first_of(method: str) -> str:
    """Return the name of a method's first stage: "none" where the logits are taken as they are."""
    return "none" if method in ("temperature", SCORE_TEMPERATURE) else method.split("+")[0]


def average(candidates: Sequence[Candidate], rows: Rows) -> Candidate | None:
    """Return the average of methods of most cross-fitted likelihood, None if one has all; of equal ones take one."""
    losses = np.stack([_losses(candidate.held, rows.labels) for candidate in candidates])
    distinct = np.sort(np.unique(losses, axis=0, return_index=True)[1])
    candidates, losses = [candidates[number] for number in distinct], losses[distinct]
    weights = stacked_weights(losses)
    members = [(one, weight) for one, weight in zip(candidates, weights, strict=True) if weight > 0]
    if len(members) == 1:
        return None
    without = weights_without_each(losses[weights > 0], weights[weights > 0])
    held = pooled([one.held for one, _ in members], without[:, :, np.newaxis])
    maps = Average(
        tuple(one.method for one, _ in members),
        tuple(one.maps for one, _ in members),
        np.array([weight for _, weight in members]),
    )
    return Candidate(AVERAGE, (maps,), held)


def choose(candidates: Sequence[Candidate], labels: IntArray, *, averaged: bool = False) -> int:
    """Return the position of the average, or of a simpler method beside which it gains no more than chance would.

    The m - 1 weights of an average raise the log-likelihood by (m - 1) / 2 on average where one method is right alone
    (Wilks 1938; Self and Liang 1987): the simplest that keeps predictions may be below it by that. Without an average
    all are compared with the lowest NLL, in the order of `METHODS`. `averaged` takes the average in any case.
    """
    losses = _compared(candidates, labels)[0]
    names = [candidate.method for candidate in candidates]
    nll = [float(one.mean()) for one in losses]
    if AVERAGE in names:
        position = names.index(AVERAGE)
        allowed = _likely(candidates[position], dict(zip(names, losses, strict=True)))
        simple = [names.index(name) for name in KEEPING if name in names and nll[names.index(name)] <= allowed]
        return position if averaged or not simple else simple[0]
    position = int(np.argmin(nll))
    for name in METHODS:
        if name in names and not averaged:
            above = losses[names.index(name)] - losses[position]
            if above.mean() <= min(above.std(ddof=1) / np.sqrt(len(above)), NLL_TOLERANCE):
                return names.index(name)
    return position


def _likely(averaged: Candidate, losses: dict[str, FloatArray]) -> float:
    """Return the mean NLL of an average at the rows that its weights are fitted to, and what chance gains there."""
    (average,) = averaged.maps
    assert isinstance(average, Average)
    logs = pooled([-losses[name] for name in average.methods], average.weights)
    return float(-logs.mean() + (len(average.methods) - 1) / (2 * len(logs)))


def compare(candidates: Sequence[Candidate], rows: Rows, chosen: int, *, seed: int) -> tuple[CandidateResult, ...]:
    """Return the figures of every candidate."""
    losses, best = _compared(candidates, rows.labels)
    levels = bin_index(rows.scores, bins=LEVELS, scheme="mass")
    truth = np.zeros_like(rows.logits)
    truth[np.arange(len(truth)), rows.labels] = 1
    results = []
    for number, (candidate, nll) in enumerate(zip(candidates, losses, strict=True)):
        probs = np.exp(candidate.held)
        level, gap = _worst_level(probs, rows.labels, levels)
        ends = calibration_error_interval(probs, rows.labels, seed=seed)
        results.append(
            CandidateResult(
                method=candidate.method,
                nll=mean_interval(nll),
                nll_above_best=mean_interval(nll - best),
                brier=mean_interval(((probs - truth) ** 2).sum(axis=1)),
                ece=Estimate(calibration_error(probs, rows.labels), *ends),
                worst_level=level,
                worst_gap=gap,
                keeps_prediction=all(one.keeps_prediction for one in candidate.maps),
                chosen=number == chosen,
            )
        )
    return tuple(results)


def refit(candidate: Candidate, rows: Rows, monotone: Monotone | None) -> Candidate:
    """Return a candidate that was chosen on a sample, fitted on all rows with the settings that were chosen."""
    last = candidate.maps[-1] if candidate.maps else None
    if candidate.method == SCORE_TEMPERATURE and isinstance(last, ScoreTemperature):
        refitted = refit_score_temperature(last, rows.logits, rows.labels, rows.scores, monotone)
        return replace(candidate, maps=(refitted,))
    if candidate.method in KEEPING:
        temperature = TemperatureScaling().fit(rows.logits, rows.labels).temperature
        return replace(candidate, maps=() if candidate.method == "none" else (Temperature(temperature),))
    if isinstance(last, Average):
        maps = {one.method: one.maps for one in cross_fit(last.methods, rows, monotone)}
        return replace(candidate, maps=(replace(last, members=tuple(maps[name] for name in last.methods)),))
    return cross_fit([candidate.method], rows, monotone)[0]


def _first_stage(name: str, rows: Rows) -> tuple[FloatArray, tuple[Map, ...]]:
    """Return cross-fitted outputs (N, Z), and the maps fitted on all rows."""
    if name == "none":
        return rows.logits, ()
    if name == "dirichlet":
        fit, held = _best_dirichlet(rows)
    else:
        own: dict[str, stages.FitStage] = {"vector": stages.fit_vector, "isotonic": stages.fit_isotonic}
        fit = own.get(name, partial(stages.fit_structured, name))
        held = _held_out(fit, rows)
    return held, (fit(rows.logits, rows.labels),)


def _best_dirichlet(rows: Rows) -> tuple[stages.FitStage, FloatArray]:
    """Return the fit with the prior of the lowest cross-fitted NLL, and its outputs; wider ones while they help."""
    fits = [partial(stages.fit_dirichlet, width=width) for width in stages.OFF_DIAGONAL]
    best, held, lowest = fits[0], rows.logits, np.inf
    for fit in fits:
        outputs = _held_out(fit, rows)
        nll = float(_losses(apply((), outputs, rows.scores), rows.labels).mean())
        if nll >= lowest:
            break
        best, held, lowest = fit, outputs, nll
    return best, held


def _held_out(fit: stages.FitStage, rows: Rows) -> FloatArray:
    """Return what fits without a row's fold make of it."""
    held = np.empty_like(rows.logits)
    for fold in range(rows.folds.max() + 1):
        out = rows.folds == fold
        held[out] = fit(rows.logits[~out], rows.labels[~out])(rows.logits[out], rows.scores[out])
    return held


def _second_stage(
    methods: Sequence[str], rows: Rows, held: FloatArray, stage: tuple[Map, ...], monotone: Monotone | None
) -> list[Candidate]:
    """Return the methods of one first stage: it as it is, or followed by a temperature of either kind."""
    fitted = []
    temperatures = _temperatures(held, rows) if any(_divides(method) for method in methods) else None
    for method in methods:
        if temperatures is None or not _divides(method):
            fitted.append(Candidate(method, stage, apply((), held, rows.scores)))
            continue
        plain = Temperature(float(np.exp(temperatures[-1])))
        if method == "temperature":
            fitted.append(Candidate(method, (plain,), _divided(held, temperatures[rows.folds], np.zeros(1))))
            continue
        fit = fit_score_temperature(
            held, rows.labels, rows.scores, rows.folds, log_plain=temperatures, monotone=monotone
        )
        outputs = _divided(held, fit.log_temperature, fit.log_tail)
        fitted.append(Candidate(method, (*stage, fit.map or plain), outputs))
    return fitted


def _divides(method: str) -> bool:
    return method == "temperature" or method.endswith(SCORE_TEMPERATURE)


def _temperatures(held: FloatArray, rows: Rows) -> FloatArray:
    """Return log T of the fits without each fold, and last that of all rows."""
    whole = TemperatureScaling().fit(held, rows.labels).temperature
    parts = [rows.folds != fold for fold in range(rows.folds.max() + 1)]
    return np.log([*(optimal_temperature(held[kept], rows.labels[kept], near=whole) for kept in parts), whole])


def _divided(logits: FloatArray, log_temperature: FloatArray, log_tail: FloatArray) -> FloatArray:
    return apply((), divided(logits, log_temperature, log_tail), log_temperature)


def _losses(logs: FloatArray, labels: IntArray) -> FloatArray:
    return -logs[np.arange(len(labels)), labels]


def _compared(candidates: Sequence[Candidate], labels: IntArray) -> tuple[list[FloatArray], FloatArray]:
    """Return the losses (N,) of every candidate, and those of the one with the lowest mean."""
    losses = [_losses(candidate.held, labels) for candidate in candidates]
    return losses, min(losses, key=lambda values: float(values.mean()))


def _worst_level(probs: FloatArray, labels: IntArray, levels: IntArray) -> tuple[int, Estimate]:
    """Return the level with the largest gap in absolute value, and that gap; intervals hold for all levels at once."""
    found = np.unique(levels)
    jointly = joint_confidence(0.95, len(found))
    gaps = [gap_interval(summarise(probs[levels == n], labels[levels == n]), jointly) for n in found]
    worst = int(np.argmax([abs(gap.value) for gap in gaps]))
    return int(found[worst]), gaps[worst]
