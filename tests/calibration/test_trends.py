import numpy as np
import pytest
from scipy import stats

from robcal.base.checks import InputError
from robcal.calibration import trend_tests, trends
from robcal.calibration.binning import TopLabel, top_from
from robcal.calibration.trends import QUANTITIES


def sample(rng, n, gap_of_level):
    """Ten levels whose accuracy rises from .5 to .9; confidence = accuracy + gap."""
    level = np.arange(n) % 10
    chance = np.clip(0.5 + 0.045 * level + 0.05 * rng.uniform(-1, 1, n), 0, 1)
    return np.clip(chance + gap_of_level(level), 0, 1), rng.random(n) < chance, level


def p_values(*arrays, **options):
    return {test.quantity: test.p_value for test in trend_tests(*arrays, **options)}


def test_statistics_by_hand():
    rng = np.random.default_rng(0)
    confidence, correct, level = sample(rng, 200, lambda r: 0.02 * r)
    bins = np.minimum((np.ceil(confidence * 15) - 1).astype(int), 14)
    gap_residual, x = confidence - correct, level - level.mean()

    def linear(v):
        return (x @ v) / np.sqrt((x**2) @ (v - v.mean()) ** 2)

    def squared(cells):
        numerator = chance = signal = 0.0
        for r in range(10):
            for cell in np.unique(cells):
                v = gap_residual[(level == r) & (cells == cell)]
                if len(v) > 1:
                    s2, n = v.var(ddof=1), len(v)
                    square, slope = v.mean() ** 2 - s2 / n, r - level.mean()
                    numerator += slope * n * square
                    chance += slope**2 * 2 * s2**2 * n / (n - 1)
                    signal += slope**2 * 4 * square * s2 * n
        return numerator / np.sqrt(max(chance + signal, chance / 2))

    tests = {test.quantity: test.statistic for test in trend_tests(confidence, correct, level, permutations=20)}
    assert tuple(tests) == QUANTITIES
    assert tests["gap"] == pytest.approx(linear(gap_residual))
    assert tests["accuracy"] == pytest.approx(linear(correct.astype(float)))
    assert tests["absolute gap"] == pytest.approx(squared(np.zeros(200, int)))
    assert tests["ECE"] == pytest.approx(squared(bins))


def test_size_when_levels_differ_in_accuracy_but_not_in_calibration():
    rng, rejected = np.random.default_rng(1), dict.fromkeys(QUANTITIES, 0)
    for seed in range(60):
        for name, p in p_values(*sample(rng, 400, lambda r: 0 * r), permutations=59, seed=seed).items():
            rejected[name] += p <= 0.05
    allowed = stats.binom.ppf(0.999, 60, 0.06)
    assert rejected["accuracy"] == 60
    assert max(rejected[name] for name in ("gap", "absolute gap", "ECE")) <= allowed


def test_exact_under_independence():
    rng, small = np.random.default_rng(2), 0
    for seed in range(200):
        confidence = rng.uniform(0.5, 1, 60)
        tests = p_values(confidence, rng.random(60) < confidence**2, rng.integers(0, 4, 60), permutations=39, seed=seed)
        small += tests["gap"] <= 0.1
    assert stats.binom.ppf(0.001, 200, 0.1) <= small <= stats.binom.ppf(0.999, 200, 0.1)


@pytest.mark.parametrize("falls", [True, False])
def test_finds_a_trend_with_the_right_sign(falls):
    confidence, correct, level = sample(
        np.random.default_rng(3), 4000, lambda r: 0.015 * (9 - r) if falls else 0.015 * r - 0.05
    )
    tests = {test.quantity: test for test in trend_tests(confidence, correct, level, permutations=199)}
    assert tests["gap"].p_value == 1 / 200
    assert (tests["gap"].statistic < 0) == falls
    if falls:
        assert tests["absolute gap"].p_value < 0.05
        assert tests["ECE"].p_value < 0.05
        assert tests["ECE"].statistic < 0


def test_the_order_of_examples_does_not_change_the_statistics():
    confidence, correct, level = sample(np.random.default_rng(4), 300, lambda r: 0.01 * r)
    order = np.random.default_rng(5).permutation(300)
    top = TopLabel(confidence, np.zeros(300, int), correct.astype(float))
    mixed = TopLabel(confidence[order], np.zeros(300, int), correct[order].astype(float))
    expected = trends._statistics(trends._summing(top, 15, int(level.max()) + 1)(level))
    assert trends._statistics(trends._summing(mixed, 15, int(level.max()) + 1)(level[order])) == pytest.approx(expected)


def test_one_level_or_constant_values_test_nothing():
    for test in trend_tests([0.9, 0.8, 0.7], [1, 0, 1], [2, 2, 2], permutations=20):
        assert (test.statistic, test.p_value) == (0, 1)
    assert p_values([1.0] * 6, [1] * 6, [0, 0, 1, 1, 2, 2], permutations=20) == dict.fromkeys(QUANTITIES, 1.0)


@pytest.mark.parametrize(
    ("confidence", "correct", "levels", "words"),
    [
        ([1.2], [1], [0], r"\[0, 1\]"),
        ([np.nan], [1], [0], "nan"),
        ([0.5], [2], [0], "0 and 1"),
        ([0.5], [[1]], [0], "0 and 1"),
        ([0.5, 0.6], [1], [0, 1], "same examples"),
        ([0.5], [1], [-1], "levels"),
        ([0.5], [1], [0.5], "integers"),
    ],
)
def test_bad_input_is_refused(confidence, correct, levels, words):
    with pytest.raises(InputError, match=words):
        trend_tests(confidence, correct, levels)


def statistics_of(draws, seed, top, levels):
    return np.array([trends._statistics(sums) for sums in draws(top, levels, 15, 1500, np.random.default_rng(seed))])


@pytest.mark.parametrize("all_right", [False, True])
def test_permuted_tables_have_the_law_of_permuted_rows(all_right):
    rng = np.random.default_rng(4)
    confidence = rng.beta(6, 1.5, 3000)
    correct = np.ones(3000) if all_right else (rng.random(3000) < 0.9 * confidence).astype(float)
    levels = np.sort(rng.integers(5, size=3000))
    top = top_from(confidence, correct, name="confidence")
    rows = statistics_of(trends._row_permutations, 0, top, levels)
    tables = statistics_of(trends._table_permutations, 1, top, levels)
    for quantity, one, other in zip(trends.QUANTITIES, rows.T, tables.T, strict=True):
        if quantity == "accuracy" and all_right:  # nothing varies
            assert not one.any()
            assert not other.any()
        else:
            assert stats.ks_2samp(one, other).pvalue > 0.001, quantity


def test_permuted_tables_keep_the_sizes_of_levels_and_what_each_bin_holds():
    rng = np.random.default_rng(5)
    confidence, levels = rng.random(500), rng.integers(3, size=500)
    correct = rng.random(500) < confidence
    top = top_from(confidence, correct, name="confidence")
    index = np.minimum((confidence * 15).astype(int), 14)
    for sums in trends._table_permutations(top, levels, 15, 20, rng):
        np.testing.assert_array_equal(sums.number.sum(1), np.bincount(levels))
        np.testing.assert_array_equal(sums.number.sum(0), np.bincount(index))
        np.testing.assert_allclose(sums.correct.sum(0), np.bincount(index, correct), atol=1e-9)
        np.testing.assert_allclose(sums.residual.sum(0), np.bincount(index, confidence - correct), atol=1e-9)


def test_many_examples_are_tested_by_tables_in_any_order_of_the_rows(monkeypatch):
    rng = np.random.default_rng(6)
    confidence, levels = rng.random(4000).round(3), rng.integers(4, size=4000)
    correct = rng.random(4000) < confidence * (1 - 0.05 * levels)
    by_rows = trend_tests(confidence, correct, levels)
    monkeypatch.setattr(trends, "MOST_PERMUTED", 3999)
    by_tables = trend_tests(confidence, correct, levels)
    order = rng.permutation(4000)
    for one, other, moved in zip(
        by_rows, by_tables, trend_tests(confidence[order], correct[order], levels[order]), strict=True
    ):
        assert other.statistic == one.statistic
        assert other.p_value == pytest.approx(one.p_value, abs=0.06)  # of 1,000 permutations each
        assert moved.p_value == other.p_value
        assert moved.statistic == pytest.approx(other.statistic, abs=1e-9)
    assert by_tables[0].p_value < 0.01
