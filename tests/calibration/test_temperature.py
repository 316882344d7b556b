import numpy as np
import pytest
import sklearn
from calibration_samples import probabilities, softmax_sample
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from scipy.optimize import minimize_scalar
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from robcal.base.checks import InputError
from robcal.calibration import TemperatureScaling, negative_log_likelihood
from robcal.calibration.temperature import NEARLY_UNIFORM


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 0.3, 1.0, 8.0, 1e6])
def test_scale_equivariance(factor):
    logits, labels, _ = softmax_sample(0, sharpen=1.7)
    plain = TemperatureScaling().fit(logits, labels).temperature
    assert TemperatureScaling().fit(logits * factor, labels).temperature == pytest.approx(plain * factor, rel=1e-8)


@pytest.mark.parametrize("sharpen", [0.1, 1.0, 3.0, 30.0])
def test_against_direct_minimisation(sharpen):
    logits, labels, _ = softmax_sample(1, n=2000, sharpen=sharpen)
    best = minimize_scalar(
        lambda log_t: negative_log_likelihood(probabilities(logits / np.exp(log_t)), labels),
        bounds=(-6, 6),
        method="bounded",
        options={"xatol": 1e-9},
    )
    fitted = TemperatureScaling().fit(logits, labels).temperature
    assert fitted == pytest.approx(np.exp(best.x), rel=1e-4)
    assert fitted == pytest.approx(sharpen, rel=0.15)


@pytest.mark.skipif(Version(sklearn.__version__) < Version("1.8"), reason="scikit-learn has temperatures since 1.8")
def test_scikit_learn_agrees():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 3))
    y = (x @ [1.0, 2.0, -1.0] + rng.standard_normal(600) > 0).astype(int) + (x[:, 0] > 1)
    model = LogisticRegression(C=100).fit(x[:60], y[:60])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(x[60:], y[60:])
    ours = TemperatureScaling().fit(model.decision_function(x[60:]), y[60:])
    expected = theirs.predict_proba(x[60:])
    assert ours.transform(model.decision_function(x[60:])) == pytest.approx(expected, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 5), st.floats(0.05, 20))
def test_laws(seed, n, classes, scale):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((n, classes)) * scale, rng.integers(classes, size=n)
    scaling = TemperatureScaling().fit(logits, labels)
    scaled = scaling.transform(logits)
    assert np.array_equal(scaled.argmax(1), logits.argmax(1))
    assert scaled.sum(1) == pytest.approx(np.ones(n))
    before = negative_log_likelihood(probabilities(logits), labels)
    assert negative_log_likelihood(scaled, labels) <= before + 1e-3  # 1e-3: T = ∞ is cut off
    shifted = TemperatureScaling().fit(logits + rng.standard_normal((n, 1)), labels).temperature
    assert shifted == pytest.approx(scaling.temperature, rel=1e-6)


def test_after_n_successes_the_mean_confidence_is_that_of_laplace():
    logits, _, _ = softmax_sample(2, n=30, sharpen=0.2)
    fitted = TemperatureScaling().fit(logits, logits.argmax(1))
    assert fitted.temperature < 1
    assert fitted.transform(logits).max(1).mean() == pytest.approx(31 / 32)


def test_success_throughout_softens_nothing():
    logits, _, _ = softmax_sample(2, n=30, sharpen=200)
    assert TemperatureScaling().fit(logits, logits.argmax(1)).temperature == 1


def test_success_throughout_with_ties_of_the_largest_logits():
    logits = np.array([[0.1, 0.1, 0.0]] * 4 + [[0.1, 0.0, 0.0]] * 4)
    fitted = TemperatureScaling().fit(logits, np.zeros(8, int))
    assert fitted.transform(logits).max(1).mean() == pytest.approx(0.75 * 9 / 10)


def test_worse_than_chance_is_nearly_uniform():
    logits, _, _ = softmax_sample(2)
    fitted = TemperatureScaling().fit(logits, logits.argmin(1))
    assert fitted.temperature == pytest.approx(np.ptp(logits, axis=1).max() * NEARLY_UNIFORM)
    assert fitted.transform(logits) == pytest.approx(np.full(logits.shape, 0.2), abs=1e-4)


def test_equal_logits_leave_the_temperature_at_one():
    assert TemperatureScaling().fit(np.full((3, 4), 7.0), [0, 1, 2]).temperature == 1.0


def test_blocks_do_not_change_the_result(monkeypatch):
    logits, labels, _ = softmax_sample(5, sharpen=2)
    whole = TemperatureScaling().fit(logits, labels).temperature
    monkeypatch.setattr("robcal.calibration.temperature._BLOCK", 37)
    assert TemperatureScaling().fit(logits, labels).temperature == pytest.approx(whole, rel=1e-10)


def test_log_probabilities():
    logits, labels, _ = softmax_sample(3, sharpen=2.5)
    probs = probabilities(logits)
    by_logits, by_probs = TemperatureScaling().fit(logits, labels), TemperatureScaling().fit_probs(probs, labels)
    assert by_probs.temperature == pytest.approx(by_logits.temperature, rel=1e-8)
    assert by_probs.transform_probs(probs) == pytest.approx(by_logits.transform(logits), abs=1e-10)
    zeros = TemperatureScaling().fit_probs([[1.0, 0.0], [0.4, 0.6], [0.7, 0.3]], [0, 0, 0])
    assert zeros.uniform_share == 0
    assert zeros.transform_probs([[1.0, 0.0]]).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        ([[np.inf, 0.0]], [0], "infinite"),
        ([[2.0, 0.0]], [2], "0 to 1"),
        ([[2.0, 0.0]], [0, 1], "same examples"),
        ([1.0, 0.0], [0, 1], "shape"),
    ],
)
def test_bad_input_is_refused(logits, labels, words):
    with pytest.raises(InputError, match=words):
        TemperatureScaling().fit(logits, labels)


def test_transform_needs_a_fit():
    with pytest.raises(InputError, match="Call `fit`"):
        TemperatureScaling().transform([[2.0, 0.0]])
