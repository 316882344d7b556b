"""The penalised NLL of a score temperature as a function of its parameters, and its optimum (see `score_temperature`).

Parameters are steps: β_0, the differences δ_k = β_k - β_{k-1}, and log τ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.solve import least_in_box
from robcal.calibration.recalibration.maps import margins, shifted

Monotone = Literal["increasing", "decreasing"]

#: Number of splines.
NUM_SPLINES = 8

#: Each coefficient of log T moves by at most this much from the plain temperature, and between neighbours, and so does
#: log τ from 0: data that ask for more, such as a group without any error, have no finite optimum. λN of (log τ)²: a
#: normal prior with σ = .7.
REACH, TAIL_PENALTY = float(np.log(8)), 1.0

_STEPS, _BLOCK = 30, 1 << 17

#: NLL that the next Newton step saves where a fit stops; without a fold, a thousandth of one example's nat is enough.
_TOLERANCE, _ENOUGH = 1e-9, 1e-3


@dataclass(frozen=True)
class Solution:
    """Steps (β_0, δ_1 …, log τ), and what follows from them for each row."""

    steps: FloatArray  # (K + 1,)
    loss: FloatArray  # (N,) NLL
    first: FloatArray  # (N, 2) its derivatives by log T and log τ
    second: FloatArray  # (N, 3) those of second order: both T, mixed, both τ

    def rows(self, index: IntArray) -> Solution:
        """Return the same of some rows."""
        return Solution(self.steps, self.loss[index], self.first[index], self.second[index])


@dataclass(frozen=True)
class Problem:
    """The penalised NLL as a function of steps (β_0, δ_1 …, log τ)."""

    logits: FloatArray  # (N, Z), finite, rows have maximum 0
    labels: IntArray  # (N,) true classes
    top: IntArray  # (N,) classes with the largest logit
    margin: FloatArray  # (N,) by how much
    monotone: Monotone | None = None  # the sign of all δ
    tail: bool = False  # whether τ is fitted; else it stays where it is

    @classmethod
    def of(cls, logits: FloatArray, labels: IntArray, monotone: Monotone | None = None) -> Problem:
        """Return the problem of logits (N, Z), of which a copy is made only where it is needed."""
        finite = logits if logits.min() > -np.inf and not logits.max(axis=1).any() else shifted(logits)
        return cls(finite, labels, finite.argmax(axis=1), margins(finite), monotone)

    def rows(self, index: IntArray) -> Problem:
        """Return the problem of some rows."""
        logits, labels, top, margin = self.logits[index], self.labels[index], self.top[index], self.margin[index]
        return Problem(logits, labels, top, margin, self.monotone, self.tail)

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

    def at(self, steps: FloatArray, design: FloatArray) -> Solution:
        """Return what steps give, with the (N, K) splines of every row."""
        tail = np.full(len(self.labels), steps[-1])
        return Solution(steps, *self.derivatives(design @ np.cumsum(steps[:-1]), tail))

    def cross_fit(
        self, design: FloatArray, penalty: float, solution: Solution, log_plain: FloatArray, folds: IntArray
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
        self, design: FloatArray, penalty: float, start: Solution, log_plain: float, tolerance: float = _TOLERANCE
    ) -> Solution:
        """Return the optimum in a box by Fisher scoring with backtracking, until a step saves less than `tolerance`."""
        size, ridge = len(self.labels), 2 / len(self.labels) * np.diag(penalties_of(penalty))
        free = slice(None) if self.tail else slice(NUM_SPLINES)
        low, high = self._bounds(log_plain)
        cumulative = cumulative_of(design)
        inside = np.clip(start.steps, low, high)
        reached = start if (inside == start.steps).all() else self.at(inside, design)
        for _ in range(_STEPS):
            steps = reached.steps
            gradient = np.append(cumulative.T @ reached.first[:, 0], reached.first[:, 1].sum()) / size + ridge @ steps
            hessian = curvature_of(cumulative, reached.second) / size + ridge + 1e-10 * np.eye(len(steps))
            room = np.minimum(low - steps, 0)[free], np.maximum(high - steps, 0)[free]
            move = np.zeros(len(steps))
            move[free] = least_in_box(hessian[free, free], gradient[free], *room)
            expected = -(gradient @ move)
            if not expected >= tolerance:
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


def constant_steps(log_t: float) -> FloatArray:
    """Return the steps of a constant log T, and τ = 1."""
    return np.concatenate([[log_t], np.zeros(NUM_SPLINES)])


def penalties_of(penalty: float) -> FloatArray:
    """Return λN of the square of each step."""
    return np.concatenate([[0.0], np.full(NUM_SPLINES - 1, penalty), [TAIL_PENALTY]])


def curvature_of(cumulative: FloatArray, second: FloatArray) -> FloatArray:
    """Return the curvature of the sum of the losses by the steps, from that of each row by log T and log τ."""
    steps, mixed = (cumulative * second[:, :1]).T @ cumulative, cumulative.T @ second[:, 1:2]
    return np.block([[steps, mixed], [mixed.T, second[:, 2:].sum(keepdims=True)]])


def cumulative_of(design: FloatArray) -> FloatArray:
    """Return the design of the steps, from that of the coefficients."""
    return np.cumsum(design[:, ::-1], axis=1)[:, ::-1]
