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
    paired_difference,
    seed_mean,
    seed_mean_interval,
    shared_variance,
)
from robcal.calibration.seeds import shared_part
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
    z = stats.norm.ppf(0.95)
    half = np.hypot(stats.t.ppf(0.95, 3) * np.std(values, ddof=1) / 2, z * np.sqrt(1e-4))
    assert wider.high - wider.value == pytest.approx(half)
    widest = seed_mean_interval(values, 1e-4, 0.02, confidence=0.9)
    assert widest.high - widest.value == pytest.approx(np.hypot(half, z * 0.02))


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


def test_an_interval_can_be_computed_again_from_what_is_stored():
    probs, labels = runs(6)
    for metric in METRICS:
        for made in (seed_mean(metric, probs, labels), paired_difference(metric, probs[:3], probs[3:], labels)):
            if made.low is not None:
                assert seed_mean_interval(made.per_seed, made.test_variance, made.bias_left) == made


def test_shared_variance_is_that_of_what_moves_all_seeds():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 2, 20000), rng.normal(0, 3, (5, 20000))
    assert shared_variance(shared + own + np.arange(5)[:, None]) == pytest.approx(4, rel=0.05)
    assert shared_part(shared + own) == pytest.approx(4 / 13, rel=0.05)
    assert shared_variance(own) < 0.2
    assert shared_variance(own[:1]) == pytest.approx(9, rel=0.05)  # of one seed, all of it


def test_noise_of_a_single_run_is_not_counted_twice():
    """Five seeds, all differences due to the test examples, half of that noise the network's own."""
    rng, covered, ratio = np.random.default_rng(1), [], []
    for _ in range(2000):
        value = rng.normal() + rng.normal(size=5)
        replicates = rng.normal(size=200) + rng.normal(size=(5, 200))
        found = seed_mean_interval(value, shared_variance(replicates))
        covered.append(found.low <= 0 <= found.high)
        twice = stats.t.ppf(0.975, 4) * np.sqrt(value.var(ddof=1) / 5 + replicates.mean(0).var(ddof=1))
        ratio.append((found.high - found.value) / twice)
    assert 0.94 <= np.mean(covered) <= 0.975  # counted twice with t for both parts: .99
    assert np.median(ratio) < 0.8


def test_an_average_lies_in_its_interval_where_that_of_a_seed_is_one_sided():
    """Every example is right: what can be off is on one side, and sharing little of it must not move the interval."""
    seeds = [Estimate(-0.0002, -0.0003, 0.017), Estimate(-0.0001, -0.0002, 0.017)]
    for shared in (1.0, 0.25, 0.01):
        average = average_over_seeds(seeds, shared=shared)
        assert average.low < average.value < 0
        assert average.high < 0.0171
    assert average_over_seeds(seeds, shared=0.01).high < average_over_seeds(seeds).high


def test_average_over_seeds_keeps_the_shared_part():
    same = [Estimate(0.3, 0.2, 0.5)] * 3
    average = average_over_seeds(same)
    assert (average.value, average.low, average.high) == pytest.approx((0.3, 0.2, 0.5))
    spread = average_over_seeds([Estimate(v, v - 0.1, v + 0.1) for v in (0.2, 0.3, 0.4)])
    t = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert spread.high - spread.value == pytest.approx(np.hypot(0.1, t))
    part = average_over_seeds([Estimate(v, v - 0.1, v + 0.1) for v in (0.2, 0.3, 0.4)], shared=0.25)
    assert part.high - part.value == pytest.approx(np.hypot(0.05, t))
    bare, expected = average_over_seeds([Estimate(0.1), Estimate(0.3)]), seed_mean_interval([0.1, 0.3])
    assert (bare.value, bare.low, bare.high) == (expected.value, expected.low, expected.high)
    empty = average_over_seeds([Estimate(float("nan")), Estimate(0.2, 0.1, 0.3)])
    assert (empty.value, empty.low, empty.high) == pytest.approx((0.2, 0.1, 0.3))
    assert np.isnan(average_over_seeds([Estimate(float("nan"))]).value)


def direct_variance(metric, first, labels, second=()):
    """The shared variance, from each resample of the examples by itself."""
    rng, values = np.random.default_rng(9), []
    for _ in range(500):
        draw = rng.integers(len(labels), size=len(labels))
        ours = np.array([metric(p[draw], labels[draw]) for p in first])
        values.append(ours - (np.array([metric(p[draw], labels[draw]) for p in second]) if len(second) else 0))
    return shared_variance(np.transpose(values))


@pytest.mark.parametrize(
    ("name", "metric"), [("accuracy", accuracy), ("nll", negative_log_likelihood), ("ece", calibration_error)]
)
def test_test_variance_is_that_of_resampled_examples(name, metric):
    probs, labels = runs(4)
    one = seed_mean(name, probs[:2], labels).test_variance
    assert one == pytest.approx(direct_variance(metric, probs[:2], labels), rel=0.3)
    if name != "ece":  # whose difference is that of the corrected errors
        flat = [np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True) for p in probs[:2]]
        difference = paired_difference(name, probs[:2], flat, labels).test_variance
        assert difference == pytest.approx(direct_variance(metric, probs[:2], labels, flat), rel=0.3, abs=1e-12)
        assert difference < one  # the methods make their errors on the same examples


@pytest.mark.parametrize("metric", METRICS)
def test_a_method_does_not_differ_from_itself(metric):
    probs, labels = runs(3, n=100)
    estimate = paired_difference(metric, probs, probs, labels, resamples=20)
    assert (estimate.value, estimate.low, estimate.high) == ((0, None, None) if metric == "mce" else (0, 0, 0))


def test_paired_difference_of_models_that_know_different_classes():
    rng = np.random.default_rng(3)
    two, three, labels = rng.dirichlet([1, 1], 60), rng.dirichlet([1, 1, 1], 60), rng.integers(2, size=60)
    difference = paired_difference("classwise_ece", [two], [three], labels, resamples=40)
    opposite = paired_difference("classwise_ece", [three], [two], labels, resamples=40)
    one, other = (seed_mean("classwise_ece", [probs], labels, resamples=40).value for probs in (two, three))
    assert difference.value == -opposite.value
    assert abs(difference.value - (one - other)) < 0.2  # these have their noise in them
    assert difference.low < difference.value < difference.high


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
        (lambda p, y: seed_mean_interval([1.0], 1, np.nan), "bias_left"),
        (lambda p, y: average_over_seeds([]), "no estimates"),
        (lambda p, y: seed_mean("ece", p[0], y), r"For one seed pass `\[probs_per_seed\]`"),
        (lambda p, y: seed_mean("ece", [], y), "a list of one array a seed"),
        (lambda p, y: seed_mean("eec", p, y), "metric"),
        (lambda p, y: paired_difference("ece", p, p[:1], y), "pairs"),
        (lambda p, y: seed_mean("nll", p, y[:5]), "same examples"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(*runs(2, n=20))
