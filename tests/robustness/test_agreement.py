from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from robcal.checks import InputError
from robcal.robustness.agreement import level_agreement


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_figures_are_counts_and_a_peer_s_rank_correlation(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = np.arange(40) % levels, rng.integers(0, levels, 40)
    found = level_agreement(one, other)
    off = [abs(int(a) - int(b)) for a, b in zip(one, other, strict=True)]
    assert found.same_level == sum(value == 0 for value in off) / 40
    assert found.within_one == sum(value <= 1 for value in off) / 40
    if len(set(other)) > 1:
        assert found.spearman == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)
    assert level_agreement(other, one).within_one == found.within_one
    assert level_agreement(one, one).same_level == 1


def test_independent_levels_agree_as_stated() -> None:
    """Every pair of levels once: the shares that the docstring gives for independence."""
    one, other = np.divmod(np.arange(100), 10)
    found = level_agreement(one, other)
    assert (found.same_level, found.within_one) == (1 / 10, (3 * 10 - 2) / 100)
    assert found.spearman == pytest.approx(0, abs=1e-12)


def test_one_level_has_no_rank() -> None:
    found = level_agreement([0, 0, 0], [0, 1, 2])
    assert (found.same_level, found.within_one) == (1 / 3, 2 / 3)
    assert np.isnan(found.spearman)


@pytest.mark.parametrize("bad", [[0, 1], [], [0.5, 1.0, 2.0], [[0, 1, 2]]])
def test_bad_levels_are_refused(bad: object) -> None:
    with pytest.raises(InputError):
        level_agreement([0, 1, 2], bad)
