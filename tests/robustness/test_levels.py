from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robcal.base.checks import InputError
from robcal.base.levels import assign_levels, levels_by_thresholds
from robcal.base.types import Scores

distances = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 2.5, float("inf")]), min_size=1, max_size=60)


def make_scores(distance: list[float], margin: list[float]) -> Scores:
    n = len(distance)
    return Scores(
        distance=np.array(distance, dtype=np.float32),
        status=np.array(["verified"] * n),
        prediction=np.zeros(n, dtype=np.int64),
        rival=np.ones(n, dtype=np.int64),
        margin=np.array(margin, dtype=np.float32),
        passes=np.ones(n, dtype=np.float32),
    )


@given(values=distances, data=st.data())
def test_levels_are_monotone_and_of_equal_size(values: list[float], data: st.DataObject) -> None:
    num_levels = data.draw(st.integers(1, len(values)))
    level = assign_levels(values, num_levels)
    sizes = np.bincount(level, minlength=num_levels)
    assert len(sizes) == num_levels
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(sizes) <= 0).all()  # the least robust levels get the extra examples
    array = np.array(values)
    for lower in range(num_levels - 1):
        assert array[level == lower].max() <= array[level == lower + 1].min()


@given(values=distances, seed=st.integers(0, 99))
def test_levels_do_not_depend_on_the_order_but_for_ties(values: list[float], seed: int) -> None:
    array = np.array(values)
    order = np.random.default_rng(seed).permutation(len(array))
    num_levels = min(3, len(array))
    for number in range(num_levels):
        there = np.sort(array[assign_levels(array, num_levels) == number])
        np.testing.assert_array_equal(np.sort(array[order][assign_levels(array[order], num_levels) == number]), there)


def test_ties_go_by_margin_and_then_by_a_draw() -> None:
    scores = make_scores([1.0, 1.0, 1.0, 1.0], [0.4, 0.1, 0.1, 0.3])
    drawn = {tuple(assign_levels(scores, 4, seed=seed).tolist()) for seed in range(20)}
    assert drawn == {(3, 0, 1, 2), (3, 1, 0, 2)}
    assert len({tuple(assign_levels([1.0] * 4, 4, seed=seed).tolist()) for seed in range(200)}) == 24
    assert assign_levels(scores, 4, ties="share").tolist() == [1, 1, 1, 1]


def test_censored_examples_come_last() -> None:
    level = assign_levels([float("inf"), 3.0, float("inf"), 1.0], 2)
    assert level.tolist() == [1, 0, 1, 0]


def test_refusals() -> None:
    with pytest.raises(InputError, match="3 examples for 4 levels"):
        assign_levels([1.0, 2.0, 3.0], 4)
    with pytest.raises(InputError, match="num_levels is 0"):
        assign_levels([1.0], 0)
    with pytest.raises(InputError, match="nan"):
        assign_levels([1.0, float("nan")], 1)
    with pytest.raises(InputError, match="empty"):
        assign_levels([], 1)


# thresholds of another split -----------------------------------------------------------------------------------------


@given(values=distances, others=distances, data=st.data())
def test_thresholds_give_other_examples_the_levels_of_their_neighbours(
    values: list[float], others: list[float], data: st.DataObject
) -> None:
    """The oracle: how many whole levels of the split lie below an example, by distance and then by margin."""
    num_levels = data.draw(st.integers(1, len(values)))
    margins = data.draw(st.lists(st.integers(-2, 2), min_size=len(values) + len(others), max_size=100))
    cut = make_scores(values, [float(m) for m in margins[: len(values)]])
    rest = make_scores(others, [float(m) for m in margins[len(values) : len(values) + len(others)]])
    level = assign_levels(cut, num_levels)
    keys = list(zip(cut.distance.tolist(), cut.margin.tolist(), strict=True))
    last = [max(key for key, r in zip(keys, level, strict=True) if r == below) for below in range(num_levels - 1)]
    expected = [
        sum(key > one for one in last) for key in zip(rest.distance.tolist(), rest.margin.tolist(), strict=True)
    ]
    assert levels_by_thresholds(cut, level, rest).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_split_without_ties_keeps_its_levels_by_its_own_thresholds(seed: int, num_levels: int) -> None:
    values = np.random.default_rng(seed).permutation(30) / 7
    level = assign_levels(values, num_levels)
    assert levels_by_thresholds(values, level, values).tolist() == level.tolist()


def test_distances_that_are_no_numbers_get_no_level_by_thresholds() -> None:
    with pytest.raises(InputError, match="holds nan"):
        levels_by_thresholds([0.1, 0.2], np.array([0, 1]), [float("nan")])
