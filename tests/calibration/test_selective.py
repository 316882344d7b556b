import itertools

import numpy as np
import pytest
from calibration_samples import two_class
from hypothesis import given, settings
from hypothesis import strategies as st

from robcal.calibration import aurc, risk_coverage_curve
from robcal.calibration.binning import summarise
from robcal.calibration.selective import aurc_values


def area_of_one_order(correct):
    errors = 1 - np.asarray(correct)
    return np.mean(np.cumsum(errors) / np.arange(1, len(errors) + 1))


def test_ties_are_the_mean_over_all_orders():
    confidence = np.array([0.9, 0.8, 0.8, 0.8, 0.6, 0.6])
    correct = np.array([1, 1, 0, 0, 0, 1])
    areas = [
        area_of_one_order([1, *middle, *last])
        for middle in itertools.permutations([1, 0, 0])
        for last in itertools.permutations([0, 1])
    ]
    assert aurc(*two_class(confidence, correct)) == pytest.approx(np.mean(areas), abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(51, 60), st.booleans()), min_size=1, max_size=30), st.integers(0, 5))
def test_curve_and_area(pairs, seed):
    confidence, correct = np.array([c for c, _ in pairs]) / 60, np.array([y for _, y in pairs])
    probs, labels = two_class(confidence, correct)
    coverage, risk = risk_coverage_curve(probs, labels)
    area = aurc(probs, labels)
    assert area == pytest.approx(risk.mean(), abs=1e-12)
    assert risk[-1] == pytest.approx(1 - correct.mean())
    assert coverage[-1] == 1
    assert aurc_values(summarise(probs, labels)).mean() == pytest.approx(area, abs=1e-12)
    order = np.random.default_rng(seed).permutation(len(pairs))
    assert aurc(probs[order], labels[order]) == pytest.approx(area, abs=1e-12)


def test_equal_confidences_give_the_error_rate():
    assert aurc(*two_class([0.7] * 10, [1] * 6 + [0] * 4)) == pytest.approx(0.4)


@pytest.mark.parametrize("rounded", [True, False])
def test_influence_gives_the_bootstrap_variance(rounded):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    correct = rng.random(400) < confidence
    confidence = np.round(confidence, 1).clip(0.51) if rounded else confidence
    probs, labels = two_class(confidence, correct)
    draws = [rng.integers(400, size=400) for _ in range(600)]
    bootstrap = np.std([aurc(probs[d], labels[d]) for d in draws])
    assert aurc_values(summarise(probs, labels)).std() / 20 == pytest.approx(bootstrap, rel=0.12)
