from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from robcal.base.checks import InputError
from robcal.data.dataset import Split
from robcal.data.splits import CutOptions, Parts, assemble, stratified_cut


@st.composite
def labelled(draw: st.DrawFn) -> np.ndarray:
    counts = draw(st.lists(st.integers(2, 40), min_size=2, max_size=8))
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(draw(st.integers(0, 9))).permutation(labels)


@settings(max_examples=150, deadline=None)
@given(labelled(), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_stratified_cut_laws(labels: np.ndarray, fraction: float, seed: int) -> None:
    counts, total = np.bincount(labels), round(fraction * len(labels))
    if min(total, len(labels) - total) < len(counts):
        with pytest.raises(InputError, match="both sides"):
            stratified_cut(labels, fraction, seed)
        return
    chosen = stratified_cut(labels, fraction, seed)
    quotas = np.bincount(labels[chosen], minlength=len(counts))
    assert len(chosen) == total
    assert (np.diff(chosen) > 0).all()
    assert (quotas >= 1).all()
    assert (quotas < counts).all()
    assert np.array_equal(chosen, stratified_cut(labels, fraction, seed))
    exact = total * counts / len(labels)
    if (exact >= 1).all() and (exact <= counts - 1).all():  # no bound is active: each quota is its share, rounded
        assert (np.abs(quotas - exact) < 1).all()


def test_quotas_agree_with_scikit_learn() -> None:
    labels = np.random.default_rng(3).choice(4, 997, p=[0.5, 0.3, 0.15, 0.05])
    peer = StratifiedShuffleSplit(1, test_size=round(0.23 * 997), random_state=0)
    _, taken = next(peer.split(labels[:, None], labels))
    ours = stratified_cut(labels, 0.23, seed=0)
    assert np.abs(np.bincount(labels[taken]) - np.bincount(labels[ours])).max() <= 1


def test_every_example_of_a_class_is_equally_likely() -> None:
    labels = np.repeat([0, 1], [10, 20])
    hits = sum(np.bincount(stratified_cut(labels, 0.5, seed), minlength=30) for seed in range(400))
    assert np.abs(hits / 400 - 0.5).max() < 4 * np.sqrt(0.25 / 400)


def _parts(n: int = 200, *, val: bool = False, test: bool = True) -> Parts:
    def split(start: int) -> Split:
        return Split(np.arange(start, start + n, dtype=np.float32)[:, None], np.arange(n) % 4)

    parts = {"train": split(0)} | ({"val": split(1000)} if val else {}) | ({"test": split(2000)} if test else {})
    return Parts("toy", parts, tuple("abcd"), None, "table")


def _ids(split: Split) -> set[int]:
    return set(split.inputs[np.arange(len(split))][:, 0].astype(int).tolist())


def test_train_and_validation_part_the_training_data() -> None:
    data = assemble(_parts(), CutOptions(seed=5), spec="toy")
    assert len(data.split("val")) == 20
    assert _ids(data.split("train")) | _ids(data.split("val")) == set(range(200))
    assert not _ids(data.split("train")) & _ids(data.split("val"))
    assert _ids(data.split("test")) == set(range(2000, 2200))


def test_validation_is_cut_before_the_limit() -> None:
    whole = assemble(_parts(), CutOptions(seed=5), spec="toy")
    few = assemble(_parts(), CutOptions(seed=5, train_limit=40), spec="toy")
    assert _ids(few.split("val")) == _ids(whole.split("val"))
    assert _ids(few.split("train")) < _ids(whole.split("train"))
    assert np.bincount(few.split("train").labels).tolist() == [10, 10, 10, 10]


def test_seed_moves_validation_and_never_test() -> None:
    one, two = (assemble(_parts(test=False), CutOptions(seed=seed, test_limit=12), spec="toy") for seed in (1, 2))
    assert _ids(one.split("val")) != _ids(two.split("val"))
    assert _ids(one.split("test")) == _ids(two.split("test"))
    assert "40 examples" in one.notes[0]


def test_own_validation_part_is_kept_and_not_cut_again() -> None:
    data = assemble(_parts(val=True), CutOptions(), spec="toy")
    assert _ids(data.split("val")) == set(range(1000, 1200))
    with pytest.raises(InputError, match="validation part of its own"):
        assemble(_parts(val=True), CutOptions(val_fraction=0.2), spec="toy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction is 0.0"),
        ({"val_fraction": 1}, "val_fraction is 1"),
        ({"val_fraction": float("nan")}, "val_fraction is nan"),
        ({"train_limit": 0}, "train_limit is 0"),
        ({"test_limit": 2.5}, "test_limit is 2.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CutOptions(**options)


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([0, 0, 0, 1], 0.5, "class 1 has 1 training example"),
        ([0, 0, 2, 2], 0.5, "class 1 has 0 training example"),
        ([0, 0, 1, 1], 0.1, "both sides"),
        ([0, 0, 1, 1], 0.9, "both sides"),
        ([0.0, 1.0], 0.5, "dtype float64"),
    ],
)
def test_cuts_that_cannot_be_stratified(labels: list, fraction: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stratified_cut(np.array(labels), fraction, seed=0)


def test_limit_below_the_number_of_classes() -> None:
    with pytest.raises(InputError, match="test_limit is 3 for 4 classes"):
        assemble(_parts(), CutOptions(test_limit=3), spec="toy")
