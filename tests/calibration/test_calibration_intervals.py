import numpy as np
import pytest
from calibration_samples import probabilities, softmax_sample, with_confidence
from scipy import stats

import robcal
from robcal.base.checks import InputError
from robcal.base.metrics import METRIC_LIST
from robcal.calibration import (
    brier_decomposition,
    brier_score,
    calibration_error,
    calibration_error_interval,
    level_table,
    metric_interval,
    overall_metrics,
    paired_difference,
    seed_mean,
    signed_gap,
    trend_tests,
)
from robcal.calibration.binning import TopLabel, bin_sums, summarise, top_from
from robcal.calibration.intervals import gap_interval, jeffreys_interval, largest_gap_interval, mean_interval
from robcal.calibration.inversion import inverted_interval
from robcal.calibration.metrics import norm_of_gaps
from robcal.calibration.replicates import Resampling


def calibrated(c):
    return c


def over_confident(gap):
    return lambda c: np.clip(c - gap, 0, 1)


def last_bin_only(c):
    return np.where(c > 14 / 15, c - 0.03, c)


def sample(rng, n, truth):
    confidence = np.maximum(1 - 0.9 * rng.beta(0.35, 2.5, n), 0.11)
    return TopLabel(confidence, np.zeros(n, int), (rng.random(n) < truth(confidence)).astype(float))


def true_error(truth, norm):
    confidence = np.maximum(1 - 0.9 * np.random.default_rng(9).beta(0.35, 2.5, 10**6), 0.11)
    return norm_of_gaps(bin_sums(TopLabel(confidence, np.zeros(10**6, int), truth(confidence))), norm)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "norm"), [(100, "l1"), (1000, "l1"), (10000, "l1"), (1000, "l2")])
@pytest.mark.parametrize(
    "truth", [calibrated, over_confident(0.02), over_confident(0.2), last_bin_only], ids=["0", ".02", ".2", "last"]
)
def test_inversion_covers_the_true_error(truth, n, norm):
    true, rng, covered = true_error(truth, norm), np.random.default_rng(3), 0
    for _ in range(60):
        sums = bin_sums(sample(rng, n, truth))
        low, high = inverted_interval(sums, norm=norm, confidence=0.95, resamples=80, rng=rng)
        assert low <= norm_of_gaps(sums, norm) <= high
        covered += low - 1e-9 <= true <= high + 1e-9
    assert covered >= stats.binom.ppf(0.001, 60, 0.94)


def test_percentile_bootstrap_misses_a_calibrated_model():
    rng, covered = np.random.default_rng(4), 0
    for _ in range(50):
        confidence, correct = (top := sample(rng, 1000, calibrated)).confidence, top.correct
        draws = rng.integers(1000, size=(100, 1000))
        errors = [
            norm_of_gaps(bin_sums(TopLabel(confidence[draw], np.zeros(1000, int), correct[draw])), "l1")
            for draw in draws
        ]
        covered += np.quantile(errors, 0.025) <= 0
    assert covered == 0


def test_intervals_narrow_with_the_number_of_examples():
    widths = []
    for n in (100, 1000, 10000, 100000):
        low, high = inverted_interval(
            bin_sums(sample(np.random.default_rng(5), n, over_confident(0.1))),
            norm="l1",
            confidence=0.95,
            resamples=200,
            rng=np.random.default_rng(0),
        )
        widths.append(high - low)
    assert np.all(np.array(widths[1:]) < 0.5 * np.array(widths[:-1]))
    assert widths[-1] < 0.01


def test_one_bin_at_zero_gap_is_a_half_normal():
    # One bin, gap exactly 0: low is 0; the upper end is the median of |e| plus 1.96 standard deviations.
    probs, labels = with_confidence(np.full(1000, 0.7), np.arange(1000) < 700)
    low, high = calibration_error_interval(probs, labels, resamples=5000)
    sd = np.sqrt(0.21 / 1000)
    assert low == 0
    assert high == pytest.approx((stats.halfnorm.ppf(0.5) + 1.96) * sd, rel=0.06)


def test_large_gap_is_a_normal_interval():
    probs, labels = with_confidence(np.full(1000, 0.9), np.arange(1000) < 600)
    low, high = calibration_error_interval(probs, labels, resamples=5000)
    assert (low, high) == pytest.approx(
        (0.3 - 1.96 * np.sqrt(0.24 / 1000), 0.3 + 1.96 * np.sqrt(0.24 / 1000)), abs=2e-3
    )


@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_same_seed_same_interval(scheme):
    logits, labels, _ = softmax_sample(0)
    probs = probabilities(logits)
    options = {"scheme": scheme, "resamples": 100}
    one = calibration_error_interval(probs, labels, seed=1, **options)
    assert one == calibration_error_interval(probs, labels, seed=1, **options)
    assert one != calibration_error_interval(probs, labels, seed=2, **options)
    assert 0 <= one[0] <= one[1] <= 1


def test_a_single_example_has_a_wide_interval():
    low, high = calibration_error_interval([[0.1, 0.9]], [1])
    assert low == 0
    assert high == pytest.approx(0.9 - stats.beta.ppf(0.025, 1.5, 0.5))


def test_few_right_answers_do_not_exclude_over_confidence():
    # 100 of 100 right at confidence .99: an accuracy of .975 is well possible, so an error of .0247 - .01 is too.
    probs, labels = with_confidence(np.full(100, 0.99), np.ones(100))
    assert calibration_error_interval(probs, labels)[1] == pytest.approx(0.99 - stats.beta.ppf(0.025, 100.5, 0.5))


def test_jeffreys_is_the_posterior_quantile_and_covers():
    assert jeffreys_interval(7, 10) == pytest.approx(tuple(stats.beta.ppf([0.025, 0.975], 7.5, 3.5)))
    assert jeffreys_interval(0, 10)[0] == 0
    assert jeffreys_interval(10, 10)[1] == 1
    p, n = 0.9, 50
    x = np.arange(n + 1)
    inside = [low <= p <= high for low, high in (jeffreys_interval(k, n) for k in x)]
    assert stats.binom.pmf(x, n, p)[inside].sum() == pytest.approx(0.95, abs=0.03)


def test_mean_interval_is_students():
    values = np.array([1.0, 2.0, 4.0])
    expected = stats.t.interval(0.9, 2, loc=values.mean(), scale=stats.sem(values))
    estimate = mean_interval(values, confidence=0.9)
    assert (estimate.low, estimate.high) == pytest.approx(expected)
    assert mean_interval(values[:1]).low is None


@pytest.mark.parametrize("n", [20, 300])
def test_gap_interval_covers_where_almost_all_are_right(n):
    rng, covered = np.random.default_rng(7), 0
    for _ in range(400):
        top = sample(rng, n, calibrated)
        estimate = gap_interval(top)
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= 0 <= estimate.high
    assert covered >= stats.binom.ppf(0.001, 400, 0.94)


def test_gap_interval_covers_where_the_few_that_are_wrong_have_the_lowest_confidence():
    """A correlation of 1 between confidence and right answers, seen on one wrong example, is no certainty."""
    rng, covered = np.random.default_rng(9), 0
    for _ in range(400):
        confidence = np.where(rng.random(35) < 0.95, 0.999, 0.6)
        correct = rng.random(35) < np.where(confidence > 0.9, 0.995, 0.4)
        estimate = gap_interval(summarise(np.column_stack([1 - confidence, confidence]), correct.astype(int)))
        covered += estimate.low <= 0.95 * 0.004 + 0.05 * 0.2 <= estimate.high
    assert covered >= stats.binom.ppf(0.001, 400, 0.95)


def test_gap_interval_is_the_t_interval_for_many_examples():
    top = sample(np.random.default_rng(8), 20000, over_confident(0.05))
    ours, student = gap_interval(top), mean_interval(top.residual)
    assert (ours.low, ours.high) == pytest.approx((student.low, student.high), abs=2e-4)


@pytest.mark.parametrize(("classes", "sharpen", "n"), [(3, 1.0, 200), (10, 1.0, 500), (10, 1.5, 500), (50, 1.0, 200)])
def test_classwise_interval_covers(classes, sharpen, n):
    true = 0.0
    if sharpen != 1:
        logits, _, chance = softmax_sample(99, n=40000, classes=classes, sharpen=sharpen)
        probs, total = probabilities(logits), 0.0
        for z in range(classes):
            index = np.minimum((probs[:, z] * 15).astype(int), 14)
            total += np.abs(np.bincount(index, probs[:, z] - chance[:, z], 15)).sum()
        true = total / probs.size
    covered = 0
    for seed in range(60):
        logits, labels, _ = softmax_sample(seed, n=n, classes=classes, sharpen=sharpen)
        estimate = metric_interval("classwise_ece", probabilities(logits), labels)
        covered += estimate.low <= true <= estimate.high
    assert covered >= stats.binom.ppf(0.001, 60, 0.94)


@pytest.mark.parametrize(
    ("gap", "n"), [((0.2,) * 10, 1000), ((0.05,) * 10, 10_000), ((0.0,) * 4 + (0.2,) + (0.0,) * 5, 300)]
)
def test_the_interval_of_the_largest_gap_holds_the_truth(gap, n):
    """One confidence a bin, so that the truth is known; by test inversion the interval held it in 69% to 84%."""
    stated, rng = (np.arange(5, 15) + 0.5) / 15, np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        bins = rng.integers(10, size=n)
        right = rng.random(n) < (stated - gap)[bins]
        sums = bin_sums(top_from(stated[bins], right, name="confidence"), bins=15)
        low, high = largest_gap_interval(sums, 0.95)
        covered += low <= max(gap) <= high
    assert covered >= 95


def test_the_interval_of_the_largest_gap_is_made_of_those_of_the_bins():
    """Two bins: 30 of 100 right where 0.5 is stated, 88 of 100 where 0.9 is; ends by scipy's exact test."""
    probs, labels = with_confidence(np.repeat([0.5, 0.9], 100), np.arange(200) % 100 < np.repeat([30, 88], 100))
    outer, inner = (stats.binomtest(30, 100).proportion_ci(1 - error) for error in (0.025, 0.0125))
    low, high = calibration_error_interval(probs, labels, norm="max")
    assert (low, high) == pytest.approx((0.5 - inner.high, 0.5 - outer.low))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_interval_of_the_largest_gap_holds_what_was_measured_to_the_last_bit(count):
    """All right: the bin's gap is 1 - confidence, which the mean over the examples rounds in another way."""
    for stated in np.arange(51, 100) / 100:
        probs, labels = with_confidence(np.full(count, stated), np.ones(count, bool))
        low, high = calibration_error_interval(probs, labels, norm="max")
        assert low <= calibration_error(probs, labels, norm="max") <= high
        assert type(low) is type(high) is float


def test_overall_metrics_has_every_metric_in_order():
    logits, labels, _ = softmax_sample(1, n=200)
    probs = probabilities(logits)
    metrics = overall_metrics(probs, labels, resamples=100)
    assert list(metrics) == [name for name in METRIC_LIST if not name.startswith(("shift_", "level_", "ood_"))]
    for estimate in metrics.values():
        assert estimate.low <= estimate.value <= estimate.high
    assert metrics["ece"].value == calibration_error(probs, labels)
    assert metrics["mce"].value == calibration_error(probs, labels, norm="max")
    assert metrics["ece_mass"].value == calibration_error(probs, labels, scheme="mass")
    assert metrics["gap"].value == pytest.approx(signed_gap(probs, labels), abs=1e-12)
    assert metrics["brier"].value == brier_score(probs, labels)
    parts = brier_decomposition(probs, labels)
    assert (metrics["brier_calibration"].value, metrics["brier_refinement"].value) == pytest.approx(parts[:2])


def test_no_errors_leave_the_aurc_uncertain():
    probs, labels = with_confidence(np.linspace(0.8, 0.99, 30), np.ones(30))
    estimate = metric_interval("aurc", probs, labels)
    assert (estimate.value, estimate.low) == (0, 0)
    assert estimate.high == pytest.approx(1 - stats.beta.ppf(0.025, 30.5, 0.5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"resamples": 3}, "at least 20"),
        ({"bins": 0}, "bins"),
        ({"norm": "l7"}, "norm"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        calibration_error_interval([[0.5, 0.5]], [0], **options)


def test_unknown_metric_is_refused():
    with pytest.raises(InputError, match="Did you mean 'ece'"):
        metric_interval("ecee", [[0.5, 0.5]], [0])
    assert summarise([[0.5, 0.5]], [0]).correct.tolist() == [1]


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_that_is_none_is_refused_by_all_that_draw(seed):
    probs, labels = np.array([[0.75, 0.25], [0.5, 0.5]] * 20), np.arange(40) % 2
    top, options = (probs.max(1), labels == 0), {"resamples": 20, "seed": seed}
    for call in (
        lambda: calibration_error_interval(probs, labels, **options),
        lambda: level_table(probs, labels, labels, **options),
        lambda: seed_mean("ece", [probs], labels, **options),
        lambda: paired_difference("ece", [probs], [probs], labels, **options),
        lambda: trend_tests(*top, labels, permutations=20, seed=seed),
        lambda: Resampling.draw(40, seed=seed),
        lambda: robcal.audit(probs, labels, **options),
        lambda: robcal.audit_confidence(*top, **options),
    ):
        with pytest.raises(InputError, match="a seed is an integer from 0"):
            call()
