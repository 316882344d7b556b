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
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import lsq_linear
from scipy.special import stdtrit

from robcal.base.checks import FloatArray, IntArray
from robcal.calibration.recalibration.maps import margins, shifted

ScaleKind = Literal["linear", "rank"]
Monotone = Literal["increasing", "decreasing"]

#: Splines, the penalties λN that cross-fitting chooses among (λN = 1/(2σ²) of a normal prior on each step δ: from
#: σ = .5 to σ = .04), and the share of scores on either side that count as the ends of the linear scale.
NUM_SPLINES, PENALTIES, TAIL = 8, (2.0, 10.0, 50.0, 250.0), 0.005

#: Each coefficient of log T moves by at most this much from the plain temperature, and between neighbours, and so does
#: log τ from 0: data that ask for more, such as a group without any error, have no finite optimum. λN of (log τ)²: a
#: normal prior with σ = .7.
REACH, TAIL_PENALTY = float(np.log(8)), 1.0

#: One-sided confidence with which the best of the penalties must save cross-fitted NLL.
EVIDENCE = 0.95

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
    """Divide the logits of an example with score s by T(s), those below the second largest also by τ.

    Attributes:
        scale: maps scores to [0, 1].
        coefficients: (K,) of the cubic B-splines of log T.
        tail: τ > 0, of what a logit lies below the second largest.
    """

    scale: ScoreScale
    coefficients: FloatArray
    tail: float = 1.0
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
        """Return the logits after both temperatures."""
        assert scores is not None
        return divided(logits, self.log_temperature(scores), np.full(len(logits), np.log(self.tail)))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, as plain numbers and lists."""
        points, coefficients = self.scale.points.tolist(), self.coefficients.tolist()
        return {"points": points, "coefficients": coefficients, "tail": self.tail}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> ScoreTemperature:
        """Return the map that `to_dict` described."""
        scale, coefficients = (np.array(stored[name], float) for name in ("points", "coefficients"))
        return cls(ScoreScale(scale), coefficients, float(stored.get("tail", 1.0)))


def divided(logits: FloatArray, log_temperature: FloatArray, log_tail: FloatArray) -> FloatArray:
    """Return logits (N, Z) of which row i is divided by T_i, and below its second largest by τ_i too."""
    if log_tail.any():
        below = shifted(logits)
        below -= np.partition(below, -2, axis=1)[:, -2:-1]
        logits = np.where(below > 0, below, below / np.exp(log_tail)[:, None])
    result: FloatArray = logits / np.exp(log_temperature)[:, None]
    return result


@dataclass(frozen=True)
class ScoreTemperatureFit:
    """A score temperature, and what cross-fitting says of it.

    Attributes:
        map: the map fitted on all rows, or None where one temperature does as well.
        log_temperature: (N,) cross-fitted: of each row, by the fit that did not see it.
        log_tail: (N,) log τ, likewise.
        penalty: λN; inf where one temperature does as well.
    """

    map: ScoreTemperature | None
    log_temperature: FloatArray
    log_tail: FloatArray
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

    One temperature is returned unless the best cross-fitted NLL is below its own (`_saves`): where the score says
    nothing, the result is the plain temperature. In the same way τ is 1 unless another is better than what one would
    take without it. One temperature it is where every example is right: sharper is then better at every score, and the
    data do not tell where errors are.

    Args:
        logits: (N, Z) logits; -inf off the true class is allowed.
        labels: (N,) true classes.
        scores: (N,) scores; +inf is allowed.
        folds: (N,) fold of every row, from 0.
        log_plain: (F + 1,) log of the one temperature fitted without fold f; the last of all rows.
        monotone: makes T increase or decrease with the score.
    """
    problem = _Problem.of(logits, labels, monotone)
    best = ScoreTemperatureFit(None, log_plain[folds], np.zeros(len(labels)), np.inf)
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
    """Tell whether the mean of paired differences (N,) is above 0, by Student's t at `EVIDENCE`.

    The sum may rest on a few rows, those that are wrong: (Σ d²)² / Σ d⁴ of them, which take the place of N in the
    degrees of freedom.
    """
    squares = saved**2
    if not squares.any():
        return False
    rows = squares.sum() ** 2 / (squares**2).sum()
    needed = stdtrit(max(rows - 1, 1.0), EVIDENCE) * saved.std(ddof=1) / np.sqrt(len(saved))
    return bool(saved.mean() > needed)


def _best_penalty(
    problem: _Problem, scores: FloatArray, folds: IntArray, log_plain: FloatArray
) -> ScoreTemperatureFit | None:
    """Return the fit with the penalty and the scale of the lowest cross-fitted NLL; None if all scores are equal."""
    best, lowest = None, np.inf
    kinds: tuple[ScaleKind, ...] = ("linear", "rank")
    for scale in [scale for kind in kinds if (scale := ScoreScale.of(scores, kind)) is not None]:
        design = _design(scale(scores), NUM_SPLINES)
        solution = problem.at(_constant(log_plain[-1]), design)
        for penalty in reversed(PENALTIES):
            solution = problem.solve(design, penalty, solution, log_plain[-1])
            held = problem.cross_fit(design, penalty, solution, log_plain, folds)
            nll = float(problem.losses(*held).mean())
            if nll < lowest:
                best, lowest = ScoreTemperatureFit(_map(scale, solution), *held, penalty), nll
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
    problem, design = _Problem.of(logits, labels, monotone), _design(fitted.scale(scores), NUM_SPLINES)
    problem = replace(problem, tail=fitted.tail != 1)
    start = problem.at(np.append(np.diff(fitted.coefficients, prepend=0.0), np.log(fitted.tail)), design)
    return _map(fitted.scale, problem.solve(design, penalty, start, float(fitted.coefficients.mean())))


def _map(scale: ScoreScale, solution: _Solution) -> ScoreTemperature:
    return ScoreTemperature(scale, np.cumsum(solution.steps[:-1]), float(np.exp(solution.steps[-1])))


@dataclass(frozen=True)
class _Solution:
    """Steps (β_0, δ_1 …, log τ), and of each row the NLL (N,) there with its derivatives by log T and log τ.

    `first` are the two of first order (N, 2), `second` those of second order (N, 3): both T, mixed, both τ.
    """

    steps: FloatArray
    loss: FloatArray
    first: FloatArray
    second: FloatArray

    def rows(self, index: IntArray) -> _Solution:
        return _Solution(self.steps, self.loss[index], self.first[index], self.second[index])


@dataclass(frozen=True)
class _Problem:
    """The penalised NLL as a function of steps (β_0, δ_1 …, log τ).

    Attributes:
        logits: (N, Z), finite, rows have maximum 0.
        labels: (N,) true classes.
        top: (N,) classes with the largest logit.
        margin: (N,) by how much.
        monotone: the sign of all δ.
        tail: whether τ is fitted; else it stays where it is.
    """

    logits: FloatArray
    labels: IntArray
    top: IntArray
    margin: FloatArray
    monotone: Monotone | None = None
    tail: bool = False

    @classmethod
    def of(cls, logits: FloatArray, labels: IntArray, monotone: Monotone | None = None) -> _Problem:
        """Return the problem of logits (N, Z), of which a copy is made only where it is needed."""
        finite = logits if logits.min() > -np.inf and not logits.max(axis=1).any() else shifted(logits)
        return cls(finite, labels, finite.argmax(axis=1), margins(finite), monotone)

    def rows(self, index: IntArray) -> _Problem:
        logits, labels, top, margin = self.logits[index], self.labels[index], self.top[index], self.margin[index]
        return _Problem(logits, labels, top, margin, self.monotone, self.tail)

    def losses(self, log_t: FloatArray, log_tail: FloatArray) -> FloatArray:
        """Return (N,) NLL of each row."""
        return self.derivatives(log_t, log_tail)[0]

    def derivatives(self, log_t: FloatArray, log_tail: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the NLL of each row (N,), its derivatives by log T and log τ (N, 2), and a curvature (N, 3).

        With b = 1/T and t_j = v_j for the classes below the largest, 0 for that, these are -b (E v - v_y) and
        -b (E t - t_y), where E is the mean under softmax(b v). The curvature is what is expected of the second
        derivatives if labels are drawn from softmax(b v) (Fisher): b² times the covariance matrix of v and t.
        """
        size = len(self.labels)
        loss, first, second = np.empty(size), np.empty((size, 2)), np.empty((size, 3))
        step = max(1, _BLOCK // self.logits.shape[1])
        for begin in range(0, size, step):
            part = slice(begin, begin + step)
            margin, b = self.margin[part], np.exp(-log_t[part])
            v = self._tailed(part, log_tail[part])
            wrong = self.labels[part] != self.top[part]
            true = v[np.arange(len(v)), self.labels[part]]
            weight = v * b[:, None]
            np.exp(weight, out=weight)
            total = weight.sum(axis=1)
            weight *= v
            mean, square = weight.sum(axis=1) / total, np.einsum("nz,nz->n", weight, v) / total
            # v has maximum 0, at the prediction; t = v + margin at all other classes, whose probability is this:
            below = (total - 1) / total
            tail = mean + margin * below
            excess = np.stack([mean - true, tail - true - margin * wrong], axis=1)
            moments = np.stack([square, square + margin * mean, square + 2 * margin * mean + margin**2 * below], axis=1)
            moments -= np.stack([mean**2, mean * tail, tail**2], axis=1)
            loss[part], first[part] = np.log(total) - b * true, -b[:, None] * excess
            second[part] = b[:, None] ** 2 * moments
        return loss, first, second

    def _tailed(self, part: slice, log_tail: FloatArray) -> FloatArray:
        """Return v of some rows, moved so that the largest is 0."""
        z = self.logits[part]
        if not log_tail.any():
            return z
        share = np.exp(-log_tail)[:, None]
        v: FloatArray = z * share
        v += (share - 1) * self.margin[part, None]
        v[np.arange(len(v)), self.top[part]] = 0
        return v

    def at(self, steps: FloatArray, design: FloatArray) -> _Solution:
        tail = np.full(len(self.labels), steps[-1])
        return _Solution(steps, *self.derivatives(design @ np.cumsum(steps[:-1]), tail))

    def cross_fit(
        self, design: FloatArray, penalty: float, solution: _Solution, log_plain: FloatArray, folds: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return log T and log τ (N,) of each row by the fit without its fold, each from the solution of all rows."""
        log_t, log_tail = np.empty(len(self.labels)), np.empty(len(self.labels))
        for fold in range(folds.max() + 1):
            kept, held = np.flatnonzero(folds != fold), folds == fold
            found = self.rows(kept).solve(
                design[kept], penalty, solution.rows(kept), log_plain[fold], _ENOUGH / len(kept)
            )
            log_t[held], log_tail[held] = design[held] @ np.cumsum(found.steps[:-1]), found.steps[-1]
        return log_t, log_tail

    def solve(
        self, design: FloatArray, penalty: float, start: _Solution, log_plain: float, tolerance: float = _TOLERANCE
    ) -> _Solution:
        """Return the optimum by Fisher scoring, each step a bounded least-squares problem, with backtracking.

        It stops where the next step is expected to save less than `tolerance` of NLL.
        """
        size, ridge = len(self.labels), 2 / len(self.labels) * np.diag(_penalties(penalty))
        free = slice(None) if self.tail else slice(NUM_SPLINES)
        low, high = self._bounds(log_plain)
        cumulative = np.cumsum(design[:, ::-1], axis=1)[:, ::-1]  # of β into the steps
        inside = np.clip(start.steps, low, high)
        reached = start if (inside == start.steps).all() else self.at(inside, design)
        for _ in range(_STEPS):
            steps = reached.steps
            gradient = np.append(cumulative.T @ reached.first[:, 0], reached.first[:, 1].sum()) / size + ridge @ steps
            hessian = _curvature(cumulative, reached.second) / size + ridge + 1e-10 * np.eye(len(steps))
            factor = np.linalg.cholesky(hessian[free, free])
            room = ((low - steps - 1e-12)[free], (high - steps + 1e-12)[free])
            move = np.zeros(len(steps))
            move[free] = lsq_linear(factor.T, -np.linalg.solve(factor, gradient[free]), bounds=room).x
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
        low, high = np.full(NUM_SPLINES + 1, -REACH), np.full(NUM_SPLINES + 1, REACH)
        if self.monotone is not None:
            (low if self.monotone == "increasing" else high)[1:-1] = 0.0
        low[0], high[0] = log_plain - REACH, log_plain + REACH
        return low, high


def _constant(log_t: float) -> FloatArray:
    """Return the steps of a constant log T, and τ = 1."""
    return np.concatenate([[log_t], np.zeros(NUM_SPLINES)])


def _penalties(penalty: float) -> FloatArray:
    """Return λN of the square of each step."""
    return np.concatenate([[0.0], np.full(NUM_SPLINES - 1, penalty), [TAIL_PENALTY]])


def _curvature(cumulative: FloatArray, second: FloatArray) -> FloatArray:
    """Return the curvature of the sum of the losses by the steps, from that of each row by log T and log τ."""
    steps, mixed = (cumulative * second[:, :1]).T @ cumulative, cumulative.T @ second[:, 1:2]
    return np.block([[steps, mixed], [mixed.T, second[:, 2:].sum(keepdims=True)]])


def _design(u: FloatArray, splines: int) -> FloatArray:
    """Return the (N, K) values of cubic B-splines with equally spaced knots on [0, 1]."""
    values: FloatArray = BSpline.design_matrix(u, _knots(splines), _DEGREE).toarray()
    return values


def _knots(splines: int) -> FloatArray:
    """Return the equally spaced knots, those at the ends repeated."""
    return np.concatenate([np.zeros(_DEGREE), np.linspace(0, 1, splines - _DEGREE + 1), np.ones(_DEGREE)])
