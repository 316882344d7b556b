import numpy as np
import pytest
from calibration_samples import probabilities, softmax_sample
from scipy import stats

from robcal.base.checks import InputError
from robcal.base.types import Estimate
from robcal.calibration import (
    accuracy,
    average_over_seeds,
    calibration_error,
    negative_log_likelihood,
    overall_metrics,
    paired_bootstrap_variance,
    paired_difference,
    seed_mean_interval,
)
from robcal.calibration.weighted import METRICS, weighted_metric


def runs(seeds, n=300):
    """Noisy versions of one network on the same test examples."""
    logits, labels, _ = softmax_sample(0, n=n, sharpen=1.5)
    noise = np.random.default_rng(1).standard_normal((seeds, *logits.shape)) * 0.5
    return [probabilities(logits + e) for e in noise], labels


@pytest.mark.parametrize("metric", METRICS)
def test_equal_weights_give_the_metric_itself(metric):
    (probs,), labels = runs(1)
    expected = overall_metrics(probs, labels, resamples=20)[metric].value
    assert weighted_metric(metric, probs, labels)(np.ones(300)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["ece", "mce", "accuracy", "nll", "brier_calibration"])
def test_weights_are_repetitions(metric):
    (probs,), labels = runs(1, n=50)
    counts = np.random.default_rng(2).integers(0, 4, 50)
    repeated = np.repeat(np.arange(50), counts)
    expected = weighted_metric(metric, probs[repeated], labels[repeated])(np.ones(counts.sum()))
    assert weighted_metric(metric, probs, labels)(counts.astype(float)) == pytest.approx(expected, abs=1e-12)


def test_seed_mean_is_students_interval():
    values = [0.02, 0.03, 0.025, 0.04]
    estimate = seed_mean_interval(values, confidence=0.9)
    expected = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(expected)
    assert estimate.per_seed == tuple(values)
    wider = seed_mean_interval(values, 1e-4, confidence=0.9)
    half = stats.t.ppf(0.95, 3) * np.sqrt(np.var(values, ddof=1) / 4 + 1e-4)
    assert wider.high - wider.value == pytest.approx(half)


def test_seed_mean_of_one_seed():
    assert seed_mean_interval([0.5]) == Estimate(0.5, per_seed=(0.5,))
    estimate = seed_mean_interval([0.5], 0.01)
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=1e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_mean_covers_both_sources(seeds):
    rng = np.random.default_rng(seeds)
    shared, own = rng.normal(0, 1, 4000), rng.normal(0, 1, (4000, seeds))
    covered = np.mean(
        [e.low <= 0 <= e.high for e in (seed_mean_interval(s + o, 1.0) for s, o in zip(shared, own, strict=True))]
    )
    assert covered >= 0.945


def test_average_over_seeds_keeps_the_shared_part():
    same = [Estimate(0.3, 0.2, 0.5)] * 3
    average = average_over_seeds(same)
    assert (average.value, average.low, average.high) == pytest.approx((0.3, 0.2, 0.5))
    spread = average_over_seeds([Estimate(v, v - 0.1, v + 0.1) for v in (0.2, 0.3, 0.4)])
    t = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert spread.high - spread.value == pytest.approx(np.hypot(0.1, t))
    bare = average_over_seeds([Estimate(0.1), Estimate(0.3)])
    assert bare == seed_mean_interval([0.1, 0.3])
    empty = average_over_seeds([Estimate(float("nan")), Estimate(0.2, 0.1, 0.3)])
    assert (empty.value, empty.low, empty.high) == pytest.approx((0.2, 0.1, 0.3))
    assert np.isnan(average_over_seeds([Estimate(float("nan"))]).value)


def direct_variance(metric, first, labels, second=()):
    rng, means = np.random.default_rng(9), []
    for _ in range(500):
        draw = rng.integers(len(labels), size=len(labels))
        ours = np.mean([metric(p[draw], labels[draw]) for p in first])
        means.append(ours - (np.mean([metric(p[draw], labels[draw]) for p in second]) if len(second) else 0))
    return np.var(means, ddof=1)


@pytest.mark.parametrize(
    ("name", "metric"), [("accuracy", accuracy), ("nll", negative_log_likelihood), ("ece", calibration_error)]
)
def test_paired_variance_is_that_of_resampled_examples(name, metric):
    probs, labels = runs(4)
    one = paired_bootstrap_variance(name, probs[:2], labels)
    assert one == pytest.approx(direct_variance(metric, probs[:2], labels), rel=0.3)
    difference = paired_bootstrap_variance(name, probs[:2], labels, other=probs[2:])
    assert difference == pytest.approx(direct_variance(metric, probs[:2], labels, probs[2:]), rel=0.3)
    assert difference < one  # the methods make their errors on the same examples


@pytest.mark.parametrize("metric", METRICS)
def test_a_method_does_not_differ_from_itself(metric):
    probs, labels = runs(3, n=100)
    estimate = paired_difference(metric, probs, probs, labels, resamples=20)
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_paired_difference():
    probs, labels = runs(6)
    sharp = [p**2 / (p**2).sum(1, keepdims=True) for p in probs]
    estimate = paired_difference("nll", sharp, probs, labels)
    values = [
        negative_log_likelihood(a, labels) - negative_log_likelihood(b, labels)
        for a, b in zip(sharp, probs, strict=True)
    ]
    assert estimate.per_seed == pytest.approx(values)
    assert estimate.low > 0
    opposite = paired_difference("nll", probs, sharp, labels)
    assert (opposite.low, opposite.high) == pytest.approx((-estimate.high, -estimate.low))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, y: seed_mean_interval([]), "one finite number"),
        (lambda p, y: seed_mean_interval([np.nan]), "one finite number"),
        (lambda p, y: seed_mean_interval([1.0], -1), "variance"),
        (lambda p, y: average_over_seeds([]), "no estimates"),
        (lambda p, y: paired_bootstrap_variance("ece", p[0], y), "holds 20 runs"),
        (lambda p, y: paired_bootstrap_variance("ece", [], y), "holds 0 runs"),
        (lambda p, y: paired_bootstrap_variance("eec", p, y), "metric"),
        (lambda p, y: paired_difference("ece", p, p[:1], y), "pairs"),
        (lambda p, y: paired_bootstrap_variance("nll", p, y[:5]), "same examples"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(*runs(2, n=20))
