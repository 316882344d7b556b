import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from robcal.base.checks import InputError
from robcal.calibration.seeds import group_means, run_variance


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_of_two_runs_it_is_half_the_squared_difference(pairs):
    one, two = np.array(pairs).T
    np.testing.assert_allclose(run_variance([one, two]), (one - two) ** 2 / 2, atol=1e-15)


def test_one_disagreement_of_many_runs():
    # One of S runs says 1, the others 0: sum of squares S (1/S)(1 - 1/S), over S - 1: 1/S.
    for runs in (2, 3, 10):
        probs = np.zeros((runs, 1))
        probs[0] = 1
        assert run_variance(probs)[0] == pytest.approx(1 / runs, abs=1e-15)


def test_it_is_unbiased_for_the_variance_of_a_run():
    drawn = beta(2, 5).rvs((3, 200_000), random_state=np.random.default_rng(0))
    assert run_variance(drawn).mean() == pytest.approx(beta(2, 5).var(), rel=0.01)


def test_levels_that_differ():
    probs = np.array([[0.1, 0.5, 0.9, 0.9], [0.3, 0.5, 0.9, 0.5]])
    means = group_means(run_variance(probs), [0, 0, 1, 2])
    np.testing.assert_allclose(means, [0.01, 0.0, 0.08], atol=1e-15)


@pytest.mark.parametrize(("probs", "words"), [([[0.5]], "two runs"), ([0.5], "shape"), ([[0.5], [1.2]], r"\[0, 1\]")])
def test_what_are_no_runs_is_refused(probs, words):
    with pytest.raises(InputError, match=words):
        run_variance(probs)


def test_groups_of_another_length_are_refused():
    with pytest.raises(InputError):
        group_means([1.0, 2.0], [0])
