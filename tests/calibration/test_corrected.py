"""Noise floor and corrected calibration error: exact enumeration, simulation and laws as oracles."""

import itertools

import numpy as np
import pytest
from calibration_samples import with_confidence
from scipy import stats

import robcal
from robcal.base.checks import InputError
from robcal.calibration import calibration_error, corrected_calibration_error, overall_metrics, paired_difference
from robcal.calibration.binning import TopLabel, bin_sums
from robcal.calibration.corrected import BinGaps, bin_floors, calibration_noise_floor, corrected_mean, mean_deviation


def top_of(confidence, correct):
    return TopLabel(np.asarray(confidence, float), np.zeros(len(confidence), int), np.asarray(correct, float))


def expected_error(confidence):
    """The mean ECE over all 2^N outcomes, each with its probability."""
    total = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=len(confidence)):
        chance = np.prod(np.where(outcome, confidence, 1 - np.asarray(confidence)))
        total += chance * BinGaps.of(bin_sums(top_of(confidence, outcome))).measured
    return total


@pytest.mark.parametrize("confidence", [[0.7] * 6, [0.5, 0.9, 0.9, 0.9, 1.0], [0.99] * 8 + [0.3] * 3])
def test_noise_floor_is_exact_where_confidences_of_a_bin_are_equal(confidence):
    probs, _ = with_confidence(confidence, np.ones(len(confidence)))
    assert calibration_noise_floor(probs) == pytest.approx(expected_error(probs.max(1)), abs=1e-12)


def test_noise_floor_where_confidences_of_a_bin_differ():
    confidence = [0.61, 0.63, 0.65, 0.66, 0.94, 0.96, 0.98, 0.999]
    assert bin_floors(bin_sums(top_of(confidence, np.ones(8)))).sum() == pytest.approx(
        expected_error(confidence), rel=0.03
    )


@pytest.mark.parametrize(("n", "near"), [(200, 0.35), (2000, 0.35), (2000, 2.0)])
def test_noise_floor_is_what_calibrated_models_measure(n, near):
    rng = np.random.default_rng(n)
    confidence = np.maximum(1 - 0.9 * rng.beta(near, 2.5, n), 0.11)
    errors = [
        BinGaps.of(bin_sums(top_of(confidence, rng.random(n) < confidence))).measured for _ in range(1500)
    ]  # fmt: skip
    floor = bin_floors(bin_sums(top_of(confidence, np.ones(n)))).sum()
    assert floor == pytest.approx(np.mean(errors), abs=4 * np.std(errors) / np.sqrt(1500))


def test_noise_floor_is_public_and_reads_no_labels():
    probs = np.tile([0.2, 0.8], (1000, 1))
    assert robcal.calibration_noise_floor(probs) == pytest.approx(np.sqrt(2 / np.pi * 0.16 / 1000), rel=1e-3)
    assert robcal.calibration_noise_floor(probs, bins=1) == robcal.calibration_noise_floor(probs)
    assert robcal.calibration_noise_floor([[0.0, 1.0]] * 5) == 0
    with pytest.raises(InputError, match="bins"):
        robcal.calibration_noise_floor(probs, bins=0)


@pytest.mark.parametrize(
    ("n", "p"), [(1, 0.3), (3, 2 / 3), (50, 0.999), (1000, 0.7), (7, 1.0), (7, 0.0), (10**6, 0.97)]
)
def test_mean_deviation_of_a_binomial(n, p):
    k = np.arange(n + 1)
    exact = np.abs(k - n * p) @ stats.binom.pmf(k, n, p)
    assert mean_deviation(np.array([n]), np.array([n * p]), np.array([n * p * (1 - p)]))[0] == pytest.approx(
        exact, rel=1e-6, abs=1e-12
    )


TRUTHS = {
    "calibrated": np.zeros(15),
    "half a standard error": np.full(15, 0.6),
    "one standard error": np.ones(15),
    "one, of either sign": np.where(np.arange(15) % 2, 1.2, -1.2),
    "two": np.full(15, 2.0),
    "spread": stats.norm.ppf((np.arange(15) + 0.5) / 15) * 1.5,
    "two large ones": np.where(np.arange(15) < 2, 8.0, 0.0),
    "large": np.full(15, 6.0),
}


@pytest.mark.parametrize("truth", TRUTHS)
def test_at_most_a_quarter_of_the_floor_is_left_as_bias(truth):
    """In units of a bin's standard error; the floor of a bin is √(2/π) of it."""
    gap, rng = TRUTHS[truth], np.random.default_rng(0)
    floor = np.full((1, 15), np.sqrt(2 / np.pi))
    drawn = gap + rng.standard_normal((3000, 1, 15))
    bias = corrected_mean(drawn, floor) - np.abs(gap).sum()
    assert abs(bias.mean()) < 0.26 * floor.sum()
    if truth in ("calibrated", "spread", "two large ones"):
        assert np.abs(drawn).sum((1, 2)).mean() - np.abs(gap).sum() > 0.3 * floor.sum()  # as measured


def test_replicates_vary_as_the_estimate_does_where_gaps_are_large_and_no_less_elsewhere():
    rng, floor = np.random.default_rng(1), np.full((1, 15), np.sqrt(2 / np.pi))
    for gap, most in ((np.zeros(15), 1.6), (np.ones(15), 1.6), (np.full(15, 8.0), 1.05)):
        spread = corrected_mean(gap + rng.standard_normal((1500, 1, 15)), floor).std()
        drawn = gap + rng.standard_normal((60, 1, 1, 15))
        resampled = corrected_mean(drawn + rng.standard_normal((60, 40, 1, 15)), floor, variance=2.0)
        assert 0.9 < np.sqrt(resampled.var(1).mean()) / spread < most


def test_many_bins_tell_the_law_of_the_gaps():
    rng, floor = np.random.default_rng(2), np.full((40, 15), np.sqrt(2 / np.pi))
    gap = np.where(rng.random((40, 15)) < 0.6, 0.0, rng.normal(0, 3, (40, 15)))
    errors = [corrected_mean(gap + rng.standard_normal(gap.shape), floor) for _ in range(200)]
    assert np.mean(errors) == pytest.approx(np.abs(gap).sum(1).mean(), abs=0.12 * floor[0].sum())


def test_gaps_far_beyond_noise_are_not_touched_and_bins_without_noise_neither():
    probs, labels = with_confidence(np.full(1000, 0.9), np.arange(1000) < 600)
    assert corrected_calibration_error(probs, labels) == pytest.approx(0.3, abs=1e-5)
    certain, labels = with_confidence(np.ones(50), np.arange(50) < 40)
    assert corrected_calibration_error(certain, labels) == pytest.approx(calibration_error(certain, labels))


def test_corrected_error_is_among_the_metrics_beside_the_measured_one():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.5, 1, 1000)
    probs, labels = with_confidence(confidence, rng.random(1000) < confidence)
    metrics = overall_metrics(probs, labels, resamples=50)
    assert metrics["ece_corrected"].value == corrected_calibration_error(probs, labels)
    assert metrics["ece_corrected"].value < 0.5 * metrics["ece"].value
    assert metrics["ece_corrected"].high == metrics["ece"].high  # both intervals are of the true error


def test_difference_of_errors_is_that_of_the_corrected_ones():
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.5, 1, 2000)
    one, labels = with_confidence(confidence, rng.random(2000) < confidence)
    other = np.sqrt(one) / np.sqrt(one).sum(1, keepdims=True)
    found = paired_difference("ece", [one], [other], labels)
    assert found.value == corrected_calibration_error(one, labels) - corrected_calibration_error(other, labels)
    assert found == paired_difference("ece_corrected", [one], [other], labels)
    assert found.bias_left > 0


def test_bias_left_of_a_difference_is_no_more_than_the_gaps_differ():
    rng, floor = np.random.default_rng(5), np.full((2, 15), 0.001)
    one, same = BinGaps(rng.normal(0, 0.001, (2, 15)), floor), rng.normal(0, 0.001, (2, 15))
    assert one.bias_left_of_difference(one) == 0
    near = BinGaps(one.gap + 1e-7, floor)
    assert one.bias_left_of_difference(near) == pytest.approx(15e-7)
    far = one.bias_left_of_difference(BinGaps(same, floor))
    assert max(one.bias_left, BinGaps(same, floor).bias_left) < far < 2 * one.bias_left
    assert BinGaps(one.gap + 1.0, floor).bias_left == 0
