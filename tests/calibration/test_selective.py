import itertools

import numpy as np
import pytest
from calibration_samples import two_class
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robcal.calibration import aurc, ood_metrics, risk_coverage_curve
from robcal.calibration.binning import summarise
from robcal.calibration.selective import aurc_values
from robcal.checks import InputError


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


@pytest.mark.parametrize("rounded", [True, False])
def test_ood_against_scikit_learn(rounded):
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(1, 1, 137), rng.normal(0, 1, 90)
    if rounded:
        inside, outside = inside.round(), outside.round()
    truth, scores = np.repeat([1, 0], [137, 90]), np.concatenate([inside, outside])
    ours = ood_metrics(inside, outside)
    assert ours.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert ours.aupr_in == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert ours.aupr_out == pytest.approx(average_precision_score(1 - truth, -scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert ours.fpr95 == pytest.approx(false[np.flatnonzero(true >= 0.95)[0]], abs=1e-12)


def test_ood_extremes():
    assert ood_metrics([0.9, 0.8], [0.1]).auroc == 1
    assert ood_metrics([0.5], [0.5, 0.5]).auroc == 0.5
    assert ood_metrics([0.9, 0.8], [0.1]).fpr95 == 0


@pytest.mark.parametrize(
    ("inside", "outside", "words"),
    [([], [0.1], "empty"), ([np.nan], [0.1], "nan"), ([0.5], [np.inf], "inf"), ([[0.5]], [0.1], "shape")],
)
def test_bad_scores_are_refused(inside, outside, words):
    with pytest.raises(InputError, match=words):
        ood_metrics(inside, outside)
