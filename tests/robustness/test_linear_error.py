from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robcal.robustness.linear_error import linear_error, log_error_counts


@given(st.floats(0.03, 0.3), st.floats(-0.3, 0.3), st.integers(0, 99))
def test_of_normal_logarithms_it_is_the_standard_deviation_wherever_they_lie(
    spread: float, centre: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(centre, spread, size=4000)
    assert linear_error([log_error_counts(values)]) == pytest.approx(spread, rel=0.07)


def test_it_is_the_range_between_two_quantiles_within_the_width_of_a_bin() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.1, size=500) - 0.5
    low, high = np.quantile(values, [0.1, 0.9])
    assert linear_error([log_error_counts(values)]) == pytest.approx((high - low) / 2.563, abs=0.01 / 2.563)


def test_parts_count_as_the_whole_in_any_order_and_some_outliers_do_not_matter() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, size=300)
    parts = [log_error_counts(part) for part in (values[:40], values[40:41], values[41:])]
    whole = linear_error([log_error_counts(values)])
    assert linear_error(parts) == linear_error(parts[::-1]) == whole
    wild = np.concatenate([values, [-9.0] * 5, [7.0] * 5, [np.nan, np.inf]])
    assert linear_error([log_error_counts(wild)]) == pytest.approx(whole, rel=0.1)


def test_a_few_descents_tell_nothing() -> None:
    assert linear_error([]) is None
    assert linear_error([log_error_counts([0.1] * 19 + [np.nan] * 5)]) is None
    assert linear_error([log_error_counts([0.1] * 20)]) == pytest.approx(0, abs=0.01)
