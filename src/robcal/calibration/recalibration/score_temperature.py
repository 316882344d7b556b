"""A temperature that depends on a per-example score: p = softmax(v / T(s)), log T a smooth function of s.

The temperature of a network that is over-confident on its least robust inputs and right on the others is not one number
(docs/recalibration.md). Here log T(s) = Σ_k β_k B_k(u(s)) with cubic B-splines B_k on u in [0, 1], and

    minimise  (1/N) Σ_i [ log Σ_j exp(v_ij / T(s_i)) - v_iy / T(s_i) ]  +  λ Σ_k (β_k - β_{k-1})²  +  (log τ)² / N,

after P-splines (Eilers and Marx 1996, with differences of first order): λ → ∞ leaves one temperature (Guo et al. 2017).
T > 0, so that no prediction changes. With β_k = β_0 + δ_1 + … + δ_k a sign of all δ makes T monotone in the score.

v are the logits z with the tail of each row divided by a temperature of its own: v_j = d_j where d_j = z_j - z_(2) > 0,
which holds for the largest, and v_j = d_j / τ for the others. A class ranks after v where it ranked before, and the
margin is the same. One T has to tell both how sure the prediction is and how the rest is shared, which it cannot where
the true class is the second more often than the sum of all others would have it: T(s) alone then leaves the least
robust levels over-confident, however many rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.special import student_quantile
from robcal.calibration.recalibration.maps import Map, Temperature, shifted
from robcal.calibration.recalibration.score_problem import (
    NUM_SPLINES,
    Monotone,
    Problem,
    Solution,
    constant_steps,
    cumulative_of,
    curvature_of,
    penalties_of,
)

ScaleKind = Literal["linear", "rank"]

#: The penalties λN that cross-fitting chooses among (λN = 1/(2σ²) of a normal prior on each step δ: from
#: σ = .5 to σ = .04), and the share of scores on either side that count as the ends of the linear scale.
PENALTIES, TAIL = (2.0, 10.0, 50.0, 250.0), 0.005

#: One-sided confidence with which the best of the penalties must save cross-fitted NLL.
EVIDENCE = 0.95

#: Degree of the splines, and number of the quantiles that are a scale of ranks.
DEGREE, _KNOTS = 3, 65


@dataclass(frozen=True)
class ScoreScale:
    """Map scores to u in [0, 1]; what lies beyond either end is put there, +inf (censored) too."""

    points: FloatArray  # (K,) increasing: the two ends, or quantiles of the scores for ranks; u grows by equal steps

    @classmethod
    def of(cls, scores: FloatArray, kind: ScaleKind) -> ScoreScale | None:
        """Return the scale of scores, None if all but the outermost are equal; +inf above equal ones is put at 1."""
        finite = scores[np.isfinite(scores)]
        if not len(finite):
            return None
        if finite.min() == finite.max() and len(finite) < len(scores):
            return cls(finite[0] + np.array([0.0, 1e-9 * max(1.0, abs(finite[0]))]))
        shares = np.linspace(0, 1, _KNOTS) if kind == "rank" else np.array([TAIL, 1 - TAIL])
        points = np.quantile(finite, shares)
        return cls(points) if points[-1] > points[0] else None

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return u, (N,) in [0, 1]; tied scores share it (the middle of their ranks)."""
        places = np.linspace(0, 1, len(self.points))
        distinct, inverse = np.unique(self.points, return_inverse=True)
        middle = np.bincount(inverse, weights=places) / np.bincount(inverse)
        middle[0], middle[-1] = (middle[0], middle[-1]) if len(self.points) > 2 else (0.0, 1.0)
        return np.interp(scores, distinct, middle)


@dataclass(frozen=True)
class ScoreTemperature:
    """Divide the logits of an example with score s by T(s), those below the second largest also by τ."""

    points: FloatArray  # of the `ScoreScale`, which maps scores to [0, 1]
    coefficients: FloatArray  # (K,) of the cubic B-splines of log T
    tail: float = 1.0  # τ > 0, of what a logit lies below the second largest
    penalty: float = PENALTIES[0]  # λN that it was fitted by
    kind: ClassVar[str] = "score-temperature"
    keeps_prediction: ClassVar[bool] = True

    @property
    def scale(self) -> ScoreScale:
        """What maps scores to [0, 1]."""
        return ScoreScale(self.points)

    def log_temperature(self, scores: FloatArray) -> FloatArray:
        """Return log T(s), (N,)."""
        return design_of(self.scale(scores), len(self.coefficients)) @ self.coefficients

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return the logits after both temperatures."""
        assert scores is not None
        return divided(logits, self.log_temperature(scores), np.full(len(logits), np.log(self.tail)))


def divided(logits: FloatArray, log_temperature: FloatArray, log_tail: FloatArray) -> FloatArray:
    """Return logits (N, Z) of which row i is divided by T_i, and below its second largest by τ_i too."""
    if log_tail.any():
        below = shifted(logits)
        below -= np.partition(below, -2, axis=1)[:, -2:-1]
        logits = np.where(below > 0, below, below / np.exp(log_tail)[:, None])
    return logits / np.exp(log_temperature)[:, None]


@dataclass(frozen=True)
class ScoreTemperatureFit:
    """A score temperature, and what cross-fitting says of it."""

    map: ScoreTemperature | None  # fitted on all rows, or None where one temperature does as well
    log_temperature: FloatArray  # (N,) cross-fitted: of each row, by the fit that did not see it
    log_tail: FloatArray  # (N,) log τ, likewise


def fit_score_temperature(
    logits: FloatArray,
    labels: IntArray,
    scores: FloatArray,
    folds: IntArray,
    *,
    log_plain: FloatArray,
    monotone: Monotone | None = None,
) -> ScoreTemperatureFit:
    """Fit log T(s), penalty and scale of the score by cross-fitted NLL; `log_plain` is (F + 1,), the last of all.

    One temperature is returned unless a fit saves NLL (`_saves`), and where every example is right: sharper is then
    better at every score. In the same way τ is 1 unless another is better than what one would take without it.
    """
    problem = Problem.of(logits, labels, monotone)
    best = ScoreTemperatureFit(None, log_plain[folds], np.zeros(len(labels)))
    if not problem.logits[np.arange(len(labels)), labels].any():
        return best
    lowest = problem.losses(best.log_temperature, best.log_tail)
    for tail in (False, True) if logits.shape[1] > 2 else (False,):
        found = _best_penalty(replace(problem, tail=tail), scores, folds, log_plain)
        if found is None:
            break
        losses = problem.losses(found.log_temperature, found.log_tail)
        if _saves(lowest - losses):
            best, lowest = found, losses
    return best


def _saves(saved: FloatArray) -> bool:
    """Tell whether the mean of d (N,) is above 0, by Student's t at `EVIDENCE`; of (Σ d²)² / Σ d⁴ rows, in effect."""
    squares = saved**2
    if not squares.any():
        return False
    rows = squares.sum() ** 2 / (squares**2).sum()
    needed = student_quantile(max(rows - 1, 1.0), EVIDENCE) * saved.std(ddof=1) / np.sqrt(len(saved))
    return bool(saved.mean() > needed)


def _best_penalty(
    problem: Problem, scores: FloatArray, folds: IntArray, log_plain: FloatArray
) -> ScoreTemperatureFit | None:
    """Return the fit with the penalty and the scale of the lowest cross-fitted NLL; None if all scores are equal."""
    best, lowest = None, np.inf
    kinds: tuple[ScaleKind, ...] = ("linear", "rank")
    for scale in [scale for kind in kinds if (scale := ScoreScale.of(scores, kind)) is not None]:
        design = design_of(scale(scores), NUM_SPLINES)
        solution = problem.at(constant_steps(log_plain[-1]), design)
        for penalty in reversed(PENALTIES):
            solution = problem.solve(design, penalty, solution, log_plain[-1])
            held = problem.cross_fit(design, penalty, solution, log_plain, folds)
            nll = float(problem.losses(*held).mean())
            if nll < lowest:
                best, lowest = ScoreTemperatureFit(_map(scale, solution, penalty), *held), nll
    return best


def refit_score_temperature(
    fitted: ScoreTemperature, logits: FloatArray, labels: IntArray, scores: FloatArray, monotone: Monotone | None = None
) -> ScoreTemperature:
    """Fit on more rows, whose maximum is 0, with the scale and the penalty λN that a sample chose."""
    problem, design = Problem.of(logits, labels, monotone), design_of(fitted.scale(scores), NUM_SPLINES)
    problem = replace(problem, tail=fitted.tail != 1)
    start = problem.at(np.append(np.diff(fitted.coefficients, prepend=0.0), np.log(fitted.tail)), design)
    solution = problem.solve(design, fitted.penalty, start, float(fitted.coefficients.mean()))
    return _map(fitted.scale, solution, fitted.penalty)


def _map(scale: ScoreScale, solution: Solution, penalty: float) -> ScoreTemperature:
    return ScoreTemperature(scale.points, np.cumsum(solution.steps[:-1]), float(np.exp(solution.steps[-1])), penalty)


def design_of(u: FloatArray, splines: int) -> FloatArray:
    """Return (N, K) values at u of cubic B-splines with equally spaced knots on [0, 1] (de Boor 1978, chapter X)."""
    knots = knots_of(splines)
    place = np.clip(np.searchsorted(knots, u, side="right") - 1, DEGREE, splines - 1)
    values = [np.ones(len(u))]
    for degree in range(1, DEGREE + 1):
        above, new = np.zeros(len(u)), []
        for number, value in enumerate(values):
            right, left = knots[place + number + 1], knots[place + number + 1 - degree]
            part = value / (right - left)
            new.append(above + (right - u) * part)
            above = (u - left) * part
        values = [*new, above]
    design = np.zeros((len(u), splines))
    for number, value in enumerate(values):
        design[np.arange(len(u)), place - DEGREE + number] = value
    return design


def knots_of(splines: int) -> FloatArray:
    """Return the equally spaced knots, those at the ends repeated."""
    return np.concatenate([np.zeros(DEGREE), np.linspace(0, 1, splines - DEGREE + 1), np.ones(DEGREE)])


def gap_errors(
    fitted: Map, fit: tuple[FloatArray, IntArray, FloatArray], new: tuple[FloatArray, FloatArray, IntArray]
) -> FloatArray:
    """Return (L,) the standard error that the sampling of the fitted rows adds to each level's mean confidence.

    J H⁻¹ (Σ_i g_i g_iᵀ) H⁻¹ Jᵀ, the infinitesimal jackknife (Jaeckel 1972) or sandwich: g_i is the slope of row i's NLL
    by the parameters, H the curvature of the penalised sum, J the slope of the mean confidence of a level of new rows.
    """
    logits, labels, scores = fit
    _, slopes, curvature = _slopes(fitted, logits, labels, scores)
    logits, scores, level = new
    losses, confidence, _ = _slopes(fitted, logits, logits.argmax(axis=1), scores)
    confidence *= -np.exp(-losses)[:, None]
    means = np.stack([confidence[level == n].mean(axis=0) for n in np.unique(level)])
    moved = np.linalg.solve(curvature, means.T).T @ slopes.T
    result: FloatArray = np.sqrt((moved**2).sum(axis=1))
    return result


def _slopes(
    fitted: Map, logits: FloatArray, labels: IntArray, scores: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the NLL of each row (N,), its slopes by the parameters (N, K), and the curvature of the sum (K, K)."""
    problem, size = Problem.of(logits, labels), len(labels)
    if not isinstance(fitted, ScoreTemperature):
        assert isinstance(fitted, Temperature)
        loss, first, second = problem.derivatives(np.full(size, np.log(fitted.temperature)), np.zeros(size))
        return loss, first[:, :1], second[:, :1].sum(keepdims=True)
    design = design_of(fitted.scale(scores), NUM_SPLINES)
    log_tail = np.full(size, np.log(fitted.tail))
    loss, first, second = problem.derivatives(fitted.log_temperature(scores), log_tail)
    cumulative = cumulative_of(design)
    slopes = np.hstack([cumulative * first[:, :1], first[:, 1:]])
    curvature = curvature_of(cumulative, second) + 2 * np.diag(penalties_of(fitted.penalty))
    free = NUM_SPLINES + int(fitted.tail != 1)
    return loss, slopes[:, :free], curvature[:free, :free]
