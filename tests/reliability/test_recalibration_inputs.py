"""Recalibration of inputs that leave little to fit: every method, and `auto`, says what it does or refuses.

Right values: the plain temperature where the data cannot tell more, the network without its masked classes, fits of
each part by scipy's search, and the same rows in another order.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

import robcal
from robcal.base.checks import InputError
from robcal.calibration.recalibration import LEAST_EXAMPLES, METHODS, Recalibrator, score_problem
from robcal.calibration.recalibration.stages import has_probmetrics

KEEPING = ("none", "temperature", "score-temperature")
HERE = [one for one in METHODS if has_probmetrics() or not one.startswith(("svs", "sms"))]
MIXING = [one for one in HERE if one not in KEEPING]
ALL = [*HERE, "auto"]
MASKS = (-1e9, -65504.0, -3.4e38, -np.inf)


def drawn(n: int, seed: int = 0, temperature: object = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of three classes and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, 3))
    true = softmax(logits / np.broadcast_to(temperature, (n,))[:, None], axis=1)
    return logits, (true.cumsum(1) > rng.random((n, 1))).argmax(1)


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T of least NLL by a bounded search over its logarithm."""
    rows = np.arange(len(labels))
    found = minimize_scalar(
        lambda log_t: -log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean(),
        bounds=(-5, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(np.exp(found.x))


def temperatures(probs: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """T of each row, from the two classes that its logits tell apart the most."""
    rows, high, low = np.arange(len(logits)), logits.argmax(1), logits.argmin(1)
    ratio = np.log(probs[rows, high] / probs[rows, low])
    return (logits[rows, high] - logits[rows, low]) / ratio


@pytest.mark.parametrize("method", ALL)
def test_fewer_than_fifty_examples_are_refused_and_fifty_are_enough(method: str) -> None:
    logits, labels = drawn(LEAST_EXAMPLES)
    with pytest.raises(InputError, match="49 examples were given"):
        Recalibrator(method).fit(logits[1:], labels[1:])
    probs = Recalibrator(method).fit(logits, labels).predict_proba(logits)
    assert (probs > 0).all()
    assert (probs < 1).all()
    assert -np.log(probs[np.arange(50), labels]).mean() <= -log_softmax(logits, axis=1)[np.arange(50), labels].mean()


@pytest.mark.parametrize("method", MIXING)
def test_a_method_that_fits_each_class_refuses_labels_of_one_class(method: str) -> None:
    logits, _ = drawn(200)
    with pytest.raises(InputError, match=r"class 1 only.*choose .temperature."):
        Recalibrator(method).fit(logits, np.full(200, 1))


def test_labels_of_one_class_leave_the_methods_that_keep_labels() -> None:
    """A network that is right on seven of ten rows of the one class that was collected."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(1000, 3))
    logits[:, 1] += 4
    labels = np.full(1000, 1)
    for method in ("temperature", "score-temperature", "auto"):
        found = Recalibrator(method).fit(logits, labels)
        assert found.method in KEEPING
        np.testing.assert_allclose(found.predict_proba(logits).argmax(1), logits.argmax(1))
    assert "one class only" in found.notes[0]
    assert {row.method for row in found.comparison} == set(KEEPING)
    plain = Recalibrator("temperature").fit(logits, labels).predict_proba(logits)
    np.testing.assert_allclose(temperatures(plain, logits), best_temperature(logits, labels), rtol=1e-5)


@pytest.mark.parametrize("method", ALL)
def test_a_split_that_is_all_right_does_not_make_a_network_certain(method: str) -> None:
    """60 right of 60 say that errors are rarer than about 1 in 60, at any score, and not that there are none."""
    logits, _ = drawn(60, temperature=1.0)
    labels = logits.argmax(1)
    found = Recalibrator(method).fit(logits, labels)
    probs = found.predict_proba(logits)
    plain = robcal.TemperatureScaling().fit(logits, labels).transform(logits)
    if method in ("temperature", "score-temperature", "auto"):
        np.testing.assert_allclose(probs, plain, rtol=1e-12)
    if method == "auto":
        assert "every example is right" in found.notes[0]
    assert probs.max(1).mean() < 0.995  # Laplace's rule: 61 / 62


@pytest.mark.parametrize("scores", ["constant", "all censored"])
@pytest.mark.parametrize("method", [one for one in HERE if one.endswith("score-temperature")])
def test_a_constant_score_leaves_one_temperature(method: str, scores: str) -> None:
    logits, labels = drawn(400)
    values = np.full(400, 7.0 if scores == "constant" else np.inf)
    found = Recalibrator(method, score="own").fit(logits, labels, values)
    probs = found.predict_proba(logits, values)
    np.testing.assert_array_equal(found.predict_proba(logits, np.linspace(-9, 9, 400)), probs)  # no score has a say
    if method == "score-temperature":
        plain = robcal.TemperatureScaling().fit(logits, labels).transform(logits)
        np.testing.assert_allclose(probs, plain, rtol=1e-12)
        return
    first = Recalibrator(method.split("+")[0]).fit(logits, labels).predict_proba(logits)
    apart = temperatures(probs, np.log(first))
    np.testing.assert_allclose(apart, apart[0], rtol=1e-6)


@pytest.mark.parametrize("method", ["score-temperature", "auto"])
def test_margins_that_are_all_equal_leave_one_temperature(method: str) -> None:
    """Hard votes: whichever class a row names, its logit is 5 and the others are 0."""
    logits, labels = drawn(2000)
    votes = 5 * np.eye(3)[logits.argmax(1)]
    plain = robcal.TemperatureScaling().fit(votes, labels)
    right = (votes.argmax(1) == labels).mean()
    assert plain.temperature == pytest.approx(5 / np.log(2 * right / (1 - right)), rel=1e-6)
    if method == "score-temperature":
        probs = Recalibrator(method).fit(votes, labels).predict_proba(votes)
        np.testing.assert_allclose(probs, plain.transform(votes), rtol=1e-12)
    else:
        assert "score-temperature" not in Recalibrator(method).fit(votes, labels).method


def test_tied_scores_share_a_temperature_close_to_that_of_their_group() -> None:
    group = np.arange(6000) % 3 * 1.0
    logits, labels = drawn(6000, temperature=np.array([5.0, 2.0, 1.0])[np.arange(6000) % 3])
    found = Recalibrator("score-temperature", score="own").fit(logits, labels, group)
    each = temperatures(found.predict_proba(logits, group), logits)
    for value in range(3):
        inside = group == value
        assert np.ptp(each[inside]) < 1e-6
        assert each[inside].mean() == pytest.approx(best_temperature(logits[inside], labels[inside]), rel=0.1)


def test_ties_at_one_end_are_one_group() -> None:
    """Half of the scores are 0, as of words that are missing; the others say nothing."""
    scores = np.where(np.arange(6000) % 2, 0.0, np.random.default_rng(1).uniform(1, 2, size=6000))
    logits, labels = drawn(6000, temperature=np.where(scores == 0, 5.0, 1.0))
    found = Recalibrator("score-temperature", score="own").fit(logits, labels, scores)
    each = temperatures(found.predict_proba(logits, scores), logits)
    for inside in (scores == 0, scores > 0):
        assert np.median(each[inside]) == pytest.approx(best_temperature(logits[inside], labels[inside]), rel=0.15)


def test_censored_scores_count_as_the_highest() -> None:
    scores = np.random.default_rng(1).uniform(size=6000)
    censored = scores > 0.6
    logits, labels = drawn(6000, temperature=np.where(censored, 1.0, 4.0))
    given = np.where(censored, np.inf, scores)
    found = Recalibrator("score-temperature", score="distance").fit(logits, labels, given)
    probs = found.predict_proba(logits, given)
    np.testing.assert_array_equal(found.predict_proba(logits, np.where(censored, 1e6, scores)), probs)
    assert temperatures(probs, logits)[censored].mean() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 3.5, -2e8])
def test_scores_that_are_either_censored_or_one_value_are_two_groups(value: float) -> None:
    """An attack of one fixed strength: it succeeds, or it does not."""
    censored = np.arange(6000) % 2 == 1
    logits, labels = drawn(6000, temperature=np.where(censored, 1.0, 5.0))
    scores = np.where(censored, np.inf, value)
    found = Recalibrator("score-temperature", score="attack").fit(logits, labels, scores)
    each = temperatures(found.predict_proba(logits, scores), logits)
    for inside in (censored, ~censored):
        assert each[inside].mean() == pytest.approx(best_temperature(logits[inside], labels[inside]), rel=0.1)


@pytest.mark.parametrize("mask", MASKS)
def test_a_masked_class_is_as_if_it_were_not_there(mask: float) -> None:
    """By whatever number it is masked, and whatever is added to a row."""
    logits, labels = drawn(400)
    masked = np.column_stack([logits, np.full(400, mask)])
    masked[:, :3] += 30.0
    for method in KEEPING:
        without = Recalibrator(method).fit(logits, labels).predict_proba(logits)
        probs = Recalibrator(method).fit(masked, labels).predict_proba(masked)
        np.testing.assert_allclose(probs[:, :3], without, atol=1e-9)
        assert (probs[:, 3] == 0).all()
    found = Recalibrator().fit(masked, labels)
    assert {row.method for row in found.comparison} == set(KEEPING)
    assert "masked" in found.notes[0]


@pytest.mark.parametrize("mask", [-1e9, -np.inf])
@pytest.mark.parametrize("method", MIXING)
def test_a_method_that_mixes_classes_refuses_masked_ones_when_fitted_and_when_used(method: str, mask: float) -> None:
    logits, labels = drawn(200)
    masked = logits.copy()
    masked[7, (labels[7] + 1) % 3] = mask
    with pytest.raises(InputError, match=r"masked in row 7.*Choose .temperature."):
        Recalibrator(method).fit(masked, labels)
    fitted = Recalibrator(method).fit(logits, labels)
    with pytest.raises(InputError, match="masked in row 7"):
        fitted.predict_proba(masked)


@pytest.mark.parametrize("mask", [-1e9, -np.inf])
def test_rows_with_one_class_left_are_certain_and_sway_nothing(mask: float) -> None:
    logits, labels = drawn(1200)
    alone = np.arange(1200) >= 900
    masked = np.where(alone[:, None] & (np.arange(3) != labels[:, None]), mask, logits)
    for method in ("temperature", "score-temperature"):
        probs = Recalibrator(method).fit(masked, labels).predict_proba(masked)
        assert (probs[alone, labels[alone]] == 1).all()
    without = robcal.TemperatureScaling().fit(logits[:900], labels[:900]).transform(logits[:900])
    found = Recalibrator("temperature").fit(masked, labels).predict_proba(masked)[:900]
    np.testing.assert_allclose(found, without, rtol=1e-6)


@pytest.mark.parametrize("mask", [-1e9, -np.inf])
@pytest.mark.parametrize("method", ALL)
def test_a_true_class_that_is_masked_is_refused(method: str, mask: float) -> None:
    logits, labels = drawn(2000)
    logits[11, labels[11]] = mask
    with pytest.raises(InputError, match=r"true class is.* in row 11.*[Ll]eave these rows out") as refused:
        Recalibrator(method).fit(logits, labels)
    if mask > -np.inf:
        (code,) = re.findall("`(.*)`", str(refused.value))
        kept = eval(code, {"np": np, "logits": logits, "labels": labels})
        np.testing.assert_array_equal(kept, np.arange(2000) != 11)


@pytest.mark.parametrize("scale", [1e-6, 1e5])
@pytest.mark.parametrize("method", ["temperature", "score-temperature", "vector"])
def test_large_logits_are_no_masks(method: str, scale: float) -> None:
    logits, labels = drawn(400)
    base = Recalibrator(method).fit(logits, labels).predict_proba(logits)
    scaled = Recalibrator(method).fit(scale * logits, labels).predict_proba(scale * logits)
    np.testing.assert_allclose(scaled, base, atol=1e-4)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("logits", ["all equal", "one row repeated"])
def test_a_network_that_always_says_the_same_gets_the_frequencies_or_stays(method: str, logits: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [600, 300, 100])[rng.permutation(1000)]
    constant = np.tile([0.0, 0, 0] if logits == "all equal" else [9.0, 0, -3], (1000, 1))
    probs = Recalibrator(method).fit(constant, labels).predict_proba(constant)
    assert np.ptp(probs, axis=0).max() < 1e-12
    if method in MIXING:
        np.testing.assert_allclose(probs[0], [0.6, 0.3, 0.1], atol=0.06)


@pytest.mark.parametrize("method", ALL)
def test_the_order_of_rows_makes_no_difference(method: str) -> None:
    scores = np.round(np.random.default_rng(5).normal(size=300), 1)  # with ties
    logits, labels = drawn(300, temperature=np.where(scores < 0, 4.0, 1.0))
    order = np.random.default_rng(0).permutation(300)
    base = Recalibrator(method, score="own").fit(logits, labels, scores)
    again = Recalibrator(method, score="own").fit(logits[order], labels[order], scores[order])
    assert again.method == base.method
    np.testing.assert_allclose(again.predict_proba(logits, scores), base.predict_proba(logits, scores), atol=2e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_fit_to_logits_that_underflow_ends_at_the_first_step_that_is_no_number(monkeypatch):
    steps, solve = [], score_problem.least_in_box
    monkeypatch.setattr(score_problem, "least_in_box", lambda *problem: steps.append(1) or solve(*problem))
    labels = np.arange(200) % 3
    logits = (np.random.default_rng(0).normal(size=(200, 3)) + np.eye(3)[labels]) * np.finfo(float).smallest_subnormal
    probs = robcal.Recalibrator("score-temperature").fit(logits, labels).predict_proba(logits)
    assert np.isfinite(probs).all()
    assert len(steps) < 200  # 1,440 where such a step is tried again and again
