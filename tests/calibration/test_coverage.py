"""Coverage of intervals in some scenarios of benchmarks/interval_coverage.py; what was done before fails each."""

import importlib.util
import sys
from pathlib import Path

import pytest
from scipy import stats

FILE = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="benchmarks are not in the wheel")


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("benchmark_coverage", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def least(repetitions, level=0.93):
    """What an interval of this coverage falls below once in a thousand."""
    return stats.binom.ppf(0.001, repetitions, level) / repetitions


@pytest.mark.parametrize(
    ("name", "n", "seeds"),
    [
        (".022 against calibrated", 10_000, 1),
        (".022 against calibrated", 10_000, 3),
        ("±.02, bins alternate, against calibrated", 10_000, 3),
        (".02 against calibrated, confidences near 1", 10_000, 3),
        (".025 against .006", 1_000, 5),
    ],
)
def test_paired_difference_covers_the_true_one_where_errors_as_measured_do_not(coverage, name, n, seeds):
    (pair,) = (one for one in coverage.PAIRS if one.name == name)
    found = coverage.pair_coverage(pair, n, seeds, repetitions=40, resamples=100)
    assert found["corrected"][1].coverage >= least(40)
    assert found["measured"][1].coverage < least(40)


def test_paired_difference_is_as_narrow_as_before_where_gaps_are_large(coverage):
    (pair,) = (one for one in coverage.PAIRS if one.name == "both .07")
    found = coverage.pair_coverage(pair, 10_000, 3, repetitions=30, resamples=100)
    assert found["corrected"][1].coverage >= least(30)
    assert found["corrected"][1].width < 1.1 * found["measured"][1].width


def test_mean_over_cells_of_shift_is_compared_without_the_noise_of_each(coverage):
    (pair,) = (one for one in coverage.PAIRS if one.name == "mean of 20 cells, .01 to .05 against calibrated")
    found = coverage.pair_coverage(pair, 1_000, 3, repetitions=20, resamples=100)
    assert found["corrected"][1].coverage >= least(20)
    assert found["measured"][1].coverage < 0.2


def test_dense_gaps_of_both_signs_are_covered_at_large_n(coverage):
    """With gaps shrunk to a common mean the upper end of the interval was too low: .84 were covered."""
    (truth,) = (one for one in coverage.SINGLES if one.name.startswith("±.02") and one.law == "near 1")
    found = coverage.single_coverage(truth, 30_000, repetitions=200, resamples=100)
    assert found["inversion"].coverage >= least(200, 0.95)
