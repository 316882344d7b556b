"""The error that the sampling of the fitted rows adds to what a temperature leaves at each level."""

from __future__ import annotations

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.calibration.recalibration.maps import Map, Temperature
from robcal.calibration.recalibration.score_problem import (
    NUM_SPLINES,
    Problem,
    cumulative_of,
    curvature_of,
    penalties_of,
)
from robcal.calibration.recalibration.score_temperature import ScoreTemperature, design_of


def gap_errors(
    fitted: Map,
    fit: tuple[FloatArray, IntArray, FloatArray],
    new: tuple[FloatArray, FloatArray, IntArray],
) -> FloatArray:
    """Return the standard error that the sampling of the fitted rows adds to each level's mean confidence.

    J H⁻¹ (Σ_i g_i g_iᵀ) H⁻¹ Jᵀ, the infinitesimal jackknife (Jaeckel 1972) or sandwich: g_i is the slope of row i's NLL
    by the parameters, H the curvature of the penalised sum, J the slope of the mean confidence of a level of new rows.

    Args:
        fitted: a `Temperature` or a `ScoreTemperature`.
        fit: logits (N, Z), labels (N,) and scores (N,) that it was fitted on.
        new: logits (M, Z), scores (M,) and levels (M,) of other rows.

    Returns:
        (L,) for the levels that occur, in their order.
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
