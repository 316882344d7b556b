"""Solvers of small problems: a root, the least value in a box, the least value of a smooth function."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from robcal.base.checks import FloatArray

#: Steps of L-BFGS at most, and pairs of steps and changes of the slope that it holds.
_MOST_STEPS, _MEMORY = 500, 10
#: It ends where no entry of the slope is larger, or where a step saves less than this part of the value.
_FLAT, _LITTLE = 1e-7, 1e-12
#: An entry leaves its bound where the slope draws it away by more than this part of the largest one at the start.
_PUSH = 1e-12
#: Of what the slope promises, a step of L-BFGS saves at least this part.
_SAVED = 1e-4


def root(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Return where a continuous function is 0 between ends of two signs, up to `tolerance` (Chandrupatla 1997)."""
    new, old = low, high
    of_new, of_old = function(new), function(old)
    share = of_new / (of_new - of_old)
    while True:
        x = new + share * (old - new)
        of_x = function(x)
        if of_x == 0:
            return x
        if (of_x > 0) == (of_new > 0):
            third, of_third = new, of_new
        else:
            third, of_third, old, of_old = old, of_old, new, of_new
        new, of_new = x, of_x
        best = new if abs(of_new) < abs(of_old) else old
        least = (2 * np.finfo(float).eps * abs(best) + tolerance / 2) / abs(old - new)
        if least > 0.5:
            return best
        place, height = (new - old) / (third - old), (of_new - of_old) / (of_third - of_old)
        share = 0.5
        if height**2 < place and (1 - height) ** 2 < 1 - place:
            share = of_new / (of_old - of_new) * of_third / (of_old - of_third)
            share += (third - new) / (old - new) * of_new / (of_third - of_new) * of_old / (of_third - of_old)
        share = min(max(share, least), 1 - least)


def least_in_box(hessian: FloatArray, slope: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the x with low <= x <= high where x'Hx / 2 + g'x is lowest, by the active-set method.

    The search begins at x = 0, which the box must hold; H (K, K) is positive definite. Entries at a bound stay there
    while the slope g pushes them on (Stark & Parker 1995, whose problem is this one).
    """
    x, free = np.zeros(len(slope)), np.ones(len(slope), dtype=bool)
    for _ in range(8 * len(x)):
        move = np.zeros(len(x))
        move[free] = np.linalg.solve(hessian[np.ix_(free, free)], -(slope + hessian @ x)[free])
        room = np.where(move > 0, high - x, x - low)
        shares = np.divide(room, np.abs(move), out=np.full(len(x), np.inf), where=move != 0)
        first = int(shares.argmin())
        if shares[first] < 1:
            x += shares[first] * move
            x[first] = high[first] if move[first] > 0 else low[first]
            free[first] = False
            continue
        x += move
        push = slope + hessian @ x
        inward = np.where(free | (low == high), 0.0, np.where(x >= high, push, -push))
        if inward.max() <= _PUSH * np.abs(slope).max():
            break
        free[inward.argmax()] = True
    return x


def minimised(objective: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray) -> FloatArray:
    """Return where a smooth convex function, (K,) → value and slope, is lowest, by L-BFGS from `start`.

    Nocedal & Wright 2006, algorithm 7.5; in units in which the curvature is alike in all directions.
    """
    x, (value, slope) = start, objective(start)
    pairs: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=_MEMORY)
    for _ in range(_MOST_STEPS):
        if np.abs(slope).max() <= _FLAT:
            break
        move = -_curved(slope, pairs)
        promised, size = float(slope @ move), 1.0 if pairs else min(1.0, 1 / float(np.linalg.norm(slope)))
        while True:
            now, new_slope = objective(x + size * move)
            saved = value - now
            if saved >= -_SAVED * size * promised or size < 1e-10:
                break
            size *= max(0.1, min(0.5, size * promised / (2 * (saved + size * promised))))
        if size * float(move @ (new_slope - slope)) > 0:  # not where rounding hides the curvature
            pairs.append((size * move, new_slope - slope))
        x, slope, value = x + size * move, new_slope, now
        if saved <= _LITTLE * max(abs(value), 1.0):
            break
    return x


def _curved(slope: FloatArray, pairs: deque[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Return the inverse Hessian that pairs of steps and changes of the slope tell, times the slope (algorithm 7.4)."""
    result, parts = slope.copy(), []
    for step, change in reversed(pairs):
        parts.append(float(step @ result) / float(step @ change))
        result -= parts[-1] * change
    if pairs:
        step, change = pairs[-1]
        result *= float(step @ change) / float(change @ change)
    for (step, change), part in zip(pairs, reversed(parts), strict=True):
        result += (part - float(change @ result) / float(step @ change)) * step
    return result
