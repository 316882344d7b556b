"""The promise of a selective threshold, by simulation, and its arithmetic by scipy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from robcal.base.checks import InputError
from robcal.calibration.threshold import GRID, selective_threshold

CASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "calibrated": lambda c: c,
    "over-confident": lambda c: c - 0.3 * (1 - c) - 0.005,
    "worst where it is surest": lambda c: np.where(c > 0.99, 0.985, 0.995),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bound_fails_no_more_often_than_stated(case: str) -> None:
    rate, repeats, failed, found = CASES[case], 400, 0, 0
    population = np.sort(1 - np.random.default_rng(9).beta(0.35, 2.0, 200_000))
    right_rate = rate(population)
    wrong_above = np.cumsum((1 - right_rate)[::-1])[::-1] / np.arange(len(population), 0, -1)
    rng = np.random.default_rng(1)
    for _ in range(repeats):
        confidence = rng.choice(population, 1500)
        result = selective_threshold(confidence, rng.random(1500) < rate(confidence), risk=0.02)
        if math.isfinite(result.threshold):
            found += 1
            failed += bool(wrong_above[np.searchsorted(population, result.threshold)] > 0.02)
    assert failed <= 0.05 * repeats + 2 * math.sqrt(0.05 * 0.95 * repeats)
    assert found > 0.5 * repeats or case != "calibrated"


def test_coverage_and_risk_are_clopper_pearson() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(4000)
    correct = rng.random(4000) < confidence
    found = selective_threshold(confidence, correct, risk=0.1)
    chosen = confidence >= found.threshold
    assert found.threshold in GRID
    assert found.accepted == chosen.sum()
    for estimate, count, total in [
        (found.coverage, chosen.sum(), 4000),
        (found.risk, (~correct[chosen]).sum(), chosen.sum()),
    ]:
        ends = binomtest(int(count), int(total)).proportion_ci(0.95, method="exact")
        np.testing.assert_allclose((estimate.value, estimate.low, estimate.high), (count / total, *ends), atol=1e-12)


def test_where_nothing_can_be_shown_it_says_how_many_are_needed() -> None:
    found = selective_threshold(np.ones(100), np.ones(100), risk=0.01)
    assert math.isinf(found.threshold)
    assert "459 accepted examples" in found.note
    assert selective_threshold(np.ones(459), np.ones(459), risk=0.01).threshold < 1
    assert math.isinf(selective_threshold(np.ones(458), np.ones(458), risk=0.01).threshold)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5, 1.2], [1, 0], "np.max"),
        ([0.5], [1, 0], "same examples"),
        ([0.5, 0.2], [2, 0], "argmax"),
        ([np.nan, 0.2], [1, 0], "np.isnan"),
        ([], [], "empty"),
    ],
)
def test_bad_input_is_refused(confidence: list[float], correct: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        selective_threshold(confidence, correct)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wrong", [0.1, 0.7, 0.85])
def test_a_comparison_in_the_precision_of_the_confidences_accepts_what_was_tested(dtype, wrong):
    """Votes of trees are such numbers: in float32 0.7 lies below 0.7, and `confidence >= 0.7` holds all the same."""
    confidence, right = np.repeat(np.array([wrong, 0.99995], dtype), 300), np.repeat([False, True], 300)
    found = selective_threshold(confidence, right, risk=0.05)
    assert (confidence >= found.threshold).sum() == found.accepted == 300
    assert f"at least {found.threshold:.6g}:" in found.note


def test_the_sentence_names_the_threshold_to_its_last_digit():
    rng = np.random.default_rng(0)
    confidence = 1 - rng.random(30000) * 0.01
    found = selective_threshold(confidence, rng.random(30000) < 1 - 4 * (1 - confidence), risk=0.01)
    assert 0.99 < found.threshold < 1
    assert float(re.search(r"at least (\S+):", found.note)[1]) == found.threshold
