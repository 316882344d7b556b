"""A temperature that depends on a per-example score: p = softmax(z / T(s)), log T a smooth function of s.

The temperature of a network that is over-confident on its least robust inputs and right on the others is not one number
(docs/recalibration.md). Here log T(s) = Σ_k β_k B_k(u(s)) with cubic B-splines B_k on u in [0, 1], and

    minimise  (1/N) Σ_i [ log Σ_j exp(z_ij / T(s_i)) - z_iy / T(s_i) ]  +  λ Σ_k (β_k - β_{k-1})²,

after P-splines (Eilers and Marx 1996, with differences of first order): λ → ∞ leaves one temperature (Guo et al. 2017).
T > 0, so that no prediction changes. With β_k = β_0 + δ_1 + … + δ_k a sign of all δ makes T monotone in the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import lsq_linear

from robcal.base.checks import FloatArray, IntArray
from robcal.calibration.recalibration.maps import shifted

ScaleKind = Literal["linear", "rank"]
Monotone = Literal["increasing", "decreasing"]

#: Splines, the penalties λN that cross-fitting chooses among (λN = 1/(2σ²) of a normal prior on each step δ: from
#: σ = .7 to σ = .06), and the share of scores on either side that count as the ends of the linear scale.
NUM_SPLINES, PENALTIES, TAIL = 8, (1.0, 5.0, 25.0, 125.0), 0.005

#: Each coefficient of log T moves by at most this much from the plain temperature, and between neighbours: data that
#: ask for more, such as a group without any error, have no finite optimum.
REACH = float(np.log(8))

#: Standard errors by which the best of the penalties must save cross-fitted NLL: the one-sided 95% point of the normal.
EVIDENCE = 1.645

_DEGREE, _KNOTS, _STEPS, _BLOCK = 3, 65, 30, 1 << 17

#: NLL that the next Newton step saves where a fit stops; without a fold, a thousandth of one example's nat is enough.
_TOLERANCE, _ENOUGH = 1e-9, 1e-3


@dataclass(frozen=True)
class ScoreScale:
    """Map scores to u in [0, 1]; what lies beyond either end is put there, +inf (censored) too.

    Attributes:
        points: (K,) increasing scores: the two ends, or quantiles of the scores for ranks; u grows by equal steps.
    """

    points: FloatArray

    @classmethod
    def of(cls, scores: FloatArray, kind: ScaleKind) -> ScoreScale | None:
        """Return the scale of these scores, None if all (but the outermost) are equal.

        Where all finite ones are equal and others are +inf, what is above them is put at 1.
        """
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
        u: FloatArray = np.interp(scores, distinct, middle)
        return u


@dataclass(frozen=True)
class ScoreTemperature:
    """Divide the logits of an example with score s by T(s).

    Attributes:
        scale: maps scores to [0, 1].
        coefficients: (K,) of the cubic B-splines of log T.
    """

    scale: ScoreScale
    coefficients: FloatArray
    kind: ClassVar[str] = "score-temperature"
    keeps_prediction: ClassVar[bool] = True

    def log_temperature(self, scores: FloatArray) -> FloatArray:
        """Return log T(s), (N,)."""
        value: FloatArray = _design(self.scale(scores), len(self.coefficients)) @ self.coefficients
        return value

    def spline(self) -> BSpline:
        """Return log T as a function of u."""
        return BSpline(_knots(len(self.coefficients)), self.coefficients, _DEGREE)

    def __call__(self, logits: FloatArray, scores: FloatArray | None) -> FloatArray:
        """Return logits / T(s)."""
        assert scores is not None
        scaled: FloatArray = logits / np.exp(self.log_temperature(scores))[:, None]
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, as plain numbers and lists."""
        return {"points": self.scale.points.tolist(), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> ScoreTemperature:
        """Return the map that `to_dict` described."""
        return cls(ScoreScale(np.array(stored["points"], float)), np.array(stored["coefficients"], float))


@dataclass(frozen=True)
class ScoreTemperatureFit:
    """A score temperature, and what cross-fitting says of it.

    Attributes:
        map: the map fitted on all rows, or None where one temperature does as well.
        log_temperature: (N,) cross-fitted: of each row, by the fit that did not see it.
        penalty: λN; inf where one temperature does as well.
    """

    map: ScoreTemperature | None
    log_temperature: FloatArray
    penalty: float


def fit_score_temperature(
    logits: FloatArray,
    labels: IntArray,
    scores: FloatArray,
    folds: IntArray,
    *,
    log_plain: FloatArray,
    monotone: Monotone | None = None,
) -> ScoreTemperatureFit:
    """Fit log T(s), with the penalty and the scale of the score (linear or rank) by cross-fitted NLL.

    One temperature is returned unless the best cross-fitted NLL is below its own by more than `EVIDENCE` standard
    errors of the paired difference: where the score says nothing, the result is the plain temperature. So it is where
    every example is right: sharper is then better at every score, and the data do not tell where errors are.

    Args:
        logits: (N, Z) logits; -inf off the true class is allowed.
        labels: (N,) true classes.
        scores: (N,) scores; +inf is allowed.
        folds: (N,) fold of every row, from 0.
        log_plain: (F + 1,) log of the one temperature fitted without fold f; the last of all rows.
        monotone: makes T increase or decrease with the score.
    """
    problem = _Problem(shifted(logits), labels, monotone)
    constant = log_plain[folds]
    if not problem.logits[np.arange(len(labels)), labels].any():
        return ScoreTemperatureFit(None, constant, np.inf)
    baseline = problem.losses(constant)
    best = ScoreTemperatureFit(None, constant, np.inf)
    lowest, chosen = baseline, None
    kinds: tuple[ScaleKind, ...] = ("linear", "rank")
    for scale in [scale for kind in kinds if (scale := ScoreScale.of(scores, kind)) is not None]:
        design = _design(scale(scores), NUM_SPLINES)
        solution = problem.at(_constant(log_plain[-1]), design)
        for penalty in reversed(PENALTIES):
            solution = problem.solve(design, penalty, solution, log_plain[-1])
            out = problem.cross_fit(design, penalty, solution, log_plain, folds)
            losses = problem.losses(out)
            if losses.mean() < lowest.mean():
                lowest, chosen = losses, ScoreTemperature(scale, np.cumsum(solution.steps))
                best = ScoreTemperatureFit(chosen, out, penalty)
    saved = baseline - lowest
    if chosen is None or saved.mean() <= EVIDENCE * saved.std(ddof=1) / np.sqrt(len(saved)):
        return ScoreTemperatureFit(None, constant, np.inf)
    return best


def refit_score_temperature(
    fitted: ScoreTemperature,
    penalty: float,
    logits: FloatArray,
    labels: IntArray,
    scores: FloatArray,
    monotone: Monotone | None = None,
) -> ScoreTemperature:
    """Fit on more rows, whose maximum is 0, with the scale and the penalty λN that a sample chose."""
    finite = shifted(logits) if logits.min() == -np.inf else logits  # a copy of a large array only where it is needed
    problem, design = _Problem(finite, labels, monotone), _design(fitted.scale(scores), NUM_SPLINES)
    start = problem.at(np.diff(fitted.coefficients, prepend=0.0), design)
    solution = problem.solve(design, penalty, start, float(fitted.coefficients.mean()))
    return ScoreTemperature(fitted.scale, np.cumsum(solution.steps))


@dataclass(frozen=True)
class _Solution:
    """Steps (β_0, δ_1 …), and the NLL (N,) of each row there with its first and second derivative by log T."""

    steps: FloatArray
    loss: FloatArray
    first: FloatArray
    second: FloatArray

    def rows(self, index: IntArray) -> _Solution:
        return _Solution(self.steps, self.loss[index], self.first[index], self.second[index])


@dataclass(frozen=True)
class _Problem:
    """The penalised NLL of log T as a function of steps (β_0, δ_1 …): (N, Z) logits of `shifted`."""

    logits: FloatArray
    labels: IntArray
    monotone: Monotone | None = None

    def rows(self, index: IntArray) -> _Problem:
        return _Problem(self.logits[index], self.labels[index], self.monotone)

    def losses(self, log_t: FloatArray) -> FloatArray:
        """Return (N,) NLL of each row."""
        return self.derivatives(log_t)[0]

    def derivatives(self, log_t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the NLL of each row, its first derivative by log T, and a second that is never negative.

        With b = 1/T, m and v mean and variance of the logits under softmax(b z): -b (m - z_y) and b² v + b (m - z_y),
        the last term only where it is positive.
        """
        size = len(self.labels)
        loss, first, second = np.empty(size), np.empty(size), np.empty(size)
        step = max(1, _BLOCK // self.logits.shape[1])
        for begin in range(0, size, step):
            part = slice(begin, begin + step)
            z, b = self.logits[part], np.exp(-log_t[part])
            true = z[np.arange(len(z)), self.labels[part]]
            weight = z * b[:, None]
            np.exp(weight, out=weight)
            total = weight.sum(axis=1)
            weight *= z
            mean = weight.sum(axis=1) / total
            variance = np.maximum(np.einsum("nz,nz->n", weight, z) / total - mean**2, 0)
            excess = b * (mean - true)
            loss[part], first[part] = np.log(total) - b * true, -excess
            second[part] = b * b * variance + np.maximum(excess, 0)
        return loss, first, second

    def at(self, steps: FloatArray, design: FloatArray) -> _Solution:
        return _Solution(steps, *self.derivatives(design @ np.cumsum(steps)))

    def cross_fit(
        self, design: FloatArray, penalty: float, solution: _Solution, log_plain: FloatArray, folds: IntArray
    ) -> FloatArray:
        """Return log T (N,) of each row by the fit without its fold, each from the solution of all rows."""
        out = np.empty(len(self.labels))
        for fold in range(folds.max() + 1):
            kept, held = np.flatnonzero(folds != fold), folds == fold
            found = self.rows(kept).solve(
                design[kept], penalty, solution.rows(kept), log_plain[fold], _ENOUGH / len(kept)
            )
            out[held] = design[held] @ np.cumsum(found.steps)
        return out

    def solve(
        self, design: FloatArray, penalty: float, start: _Solution, log_plain: float, tolerance: float = _TOLERANCE
    ) -> _Solution:
        """Return the optimum by Newton's method, each step a bounded least-squares problem, with backtracking.

        It stops where the next step is expected to save less than `tolerance` of NLL.
        """
        size, ridge = len(self.labels), 2 * penalty / len(self.labels) * _differences()
        low, high = self._bounds(log_plain)
        cumulative = np.cumsum(design[:, ::-1], axis=1)[:, ::-1]  # of β into the steps
        inside = np.clip(start.steps, low, high)
        reached = start if (inside == start.steps).all() else self.at(inside, design)
        for _ in range(_STEPS):
            steps = reached.steps
            gradient = cumulative.T @ reached.first / size + ridge @ steps
            hessian = (cumulative * reached.second[:, None]).T @ cumulative / size + ridge + 1e-10 * np.eye(len(steps))
            factor = np.linalg.cholesky(hessian)
            room = (low - steps - 1e-12, high - steps + 1e-12)
            move = lsq_linear(factor.T, -np.linalg.solve(factor, gradient), bounds=room).x
            expected = -(gradient @ move)
            if expected < tolerance:
                break
            value, share = reached.loss.mean() + steps @ ridge @ steps / 2, 1.0
            while True:
                reached = self.at(steps + share * move, design)
                now = reached.loss.mean() + reached.steps @ ridge @ reached.steps / 2
                if now <= value - 1e-4 * share * expected or share < 1e-6:
                    break
                share /= 2
        return reached

    def _bounds(self, log_plain: float) -> tuple[FloatArray, FloatArray]:
        low, high = np.full(NUM_SPLINES, -REACH), np.full(NUM_SPLINES, REACH)
        if self.monotone is not None:
            (low if self.monotone == "increasing" else high)[1:] = 0.0
        low[0], high[0] = log_plain - REACH, log_plain + REACH
        return low, high


def _constant(log_t: float) -> FloatArray:
    """Return the steps of a constant log T."""
    return np.concatenate([[log_t], np.zeros(NUM_SPLINES - 1)])


def _differences() -> FloatArray:
    """Return the matrix of Σ δ²."""
    return np.diag(np.concatenate([[0.0], np.ones(NUM_SPLINES - 1)]))


def _design(u: FloatArray, splines: int) -> FloatArray:
    """Return the (N, K) values of cubic B-splines with equally spaced knots on [0, 1]."""
    values: FloatArray = BSpline.design_matrix(u, _knots(splines), _DEGREE).toarray()
    return values


def _knots(splines: int) -> FloatArray:
    """Return the equally spaced knots, those at the ends repeated."""
    return np.concatenate([np.zeros(_DEGREE), np.linspace(0, 1, splines - _DEGREE + 1), np.ones(_DEGREE)])
