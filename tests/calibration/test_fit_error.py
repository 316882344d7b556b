"""The error that a fit adds to the gap of a level is that of many fits to other rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from robcal.calibration.recalibration.maps import Map, Temperature, apply, margins
from robcal.calibration.recalibration.score_temperature import ScoreTemperature, gap_errors, refit_score_temperature
from robcal.calibration.temperature import TemperatureScaling

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, 4))
    logits -= logits.max(axis=1, keepdims=True)
    true = softmax(logits / np.where(margins(logits) < 3, 3.0, 1.5)[:, None], axis=1)
    return logits, (true.cumsum(1) > rng.random((n, 1))).argmax(1), margins(logits)


def temperature(rows: Rows) -> Map:
    return Temperature(TemperatureScaling().fit(*rows[:2]).temperature)


def scored(tail: float):
    start = ScoreTemperature(np.array([0.0, 9.0]), np.zeros(8), tail, 5.0)
    return lambda rows: refit_score_temperature(start, *rows)


@pytest.mark.parametrize("fit", [temperature, scored(1.0), scored(0.9)], ids=["temperature", "score", "with tail"])
def test_the_error_of_a_level_is_its_spread_over_many_fits(fit) -> None:
    new = drawn(3000, 1000)
    level = np.digitize(new[2], [1, 3, 6])

    def means(one: Map) -> np.ndarray:
        confidence = np.exp(apply((one,), new[0], new[2])).max(axis=1)
        return np.array([confidence[level == n].mean() for n in range(4)])

    samples = [drawn(3000, seed) for seed in range(60)]
    fits = [fit(rows) for rows in samples]
    spread = np.std([means(one) for one in fits], axis=0, ddof=1)
    told = [gap_errors(one, rows, (new[0], new[2], level)) for one, rows in zip(fits[:20], samples, strict=False)]
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(told), axis=0)), spread, rtol=0.3)
