"""The promise of prediction sets per level, by simulation, and the sets themselves by MAPIE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from robcal.base.checks import InputError
from robcal.calibration.prediction_sets import audit_sets, prediction_sets


def drawn(seed: int, n: int, classes: int = 5, levels: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of a network that is far too sure at level 0 and right at the last, labels, and levels."""
    rng = np.random.default_rng(seed)
    level, logits = rng.integers(levels, size=n), 3 * rng.normal(size=(n, classes))
    true = softmax(logits / np.linspace(4, 1, levels)[level][:, None], axis=1)
    return softmax(logits, axis=1), (true.cumsum(1) > rng.random((n, 1))).argmax(1), level


def test_coverage_holds_at_every_level_where_one_threshold_fails_at_the_worst() -> None:
    repeats, coverage = 300, 0.9
    by_level, by_one, sizes = np.zeros((repeats, 4)), np.zeros((repeats, 4)), np.zeros((repeats, 4))
    for number in range(repeats):
        probs, labels, levels = drawn(number, 1200)
        held, new = slice(0, 400), slice(400, None)
        given = {"levels": levels[held], "new_levels": levels[new]}
        for store, options in ((by_level, given), (by_one, {})):
            found = prediction_sets(probs[held], labels[held], probs[new], coverage=coverage, **options)
            store[number] = [row.coverage.value for row in audit_sets(found.sets, labels[new], levels[new])]
        sizes[number] = [(levels[held] == level).sum() for level in range(4)]
    error = by_level.std(axis=0) / np.sqrt(repeats)
    assert (by_level.mean(axis=0) >= coverage - 3 * error).all()
    assert (by_level.mean(axis=0) <= coverage + (1 / (sizes + 1)).mean(axis=0) + 3 * error).all()
    assert by_one.mean(axis=0)[0] < 0.85
    assert by_one.mean(axis=0)[3] > 0.95


@pytest.fixture
def network() -> Any:
    """A fitted classifier for MAPIE, which hands the probabilities of a network through: rows are level, then probs."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(5)

        def fit(self, inputs: Any, labels: Any) -> Any:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, inputs: Any) -> Any:
            return inputs[:, 1:]

        def predict(self, inputs: Any) -> Any:
            return inputs[:, 1:].argmax(axis=1)

    return Given()


@pytest.mark.parametrize(("seed", "n"), [(0, 400), (1, 60), (2, 40)])
def test_sets_are_those_of_mapies_conditional_classifier_with_levels_as_features(
    seed: int, n: int, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapie = pytest.importorskip("mapie.conditional_conformal_prediction", exc_type=ImportError)
    # its exact solution sets up a problem for cvxpy and never solves it
    monkeypatch.setattr(mapie, "setup_cvx_problem", lambda *args: None)
    probs, labels, levels = drawn(seed, n + 100)
    inputs = np.column_stack([levels, probs])
    theirs = mapie.ConditionalSplitConformalClassifier(
        lambda rows: np.eye(4)[np.asarray(rows)[:, 0].astype(int)], network, confidence_level=0.9
    )
    theirs.conformalize(inputs[:n], labels[:n])
    expected = theirs.predict_set(inputs[n:])[1][:, :, 0]
    ours = prediction_sets(probs[:n], labels[:n], probs[n:], levels=levels[:n], new_levels=levels[n:], coverage=0.9)
    np.testing.assert_array_equal(ours.sets, expected)
    assert 0.2 < expected.mean() < 0.95


def test_with_ties_the_sets_of_a_level_are_mapies_split_conformal_ones(network: Any) -> None:
    mapie = pytest.importorskip("mapie.classification", exc_type=ImportError)
    probs, labels, levels = drawn(3, 500)
    probs = np.minimum(np.round(probs * 16), 12) / 16  # exact in binary
    probs[:, 0] = 1 - probs[:, 1:].sum(axis=1)
    kept = probs[:, 0] >= 0
    probs, labels, levels = probs[kept], labels[kept], levels[kept]
    inputs = np.column_stack([levels, probs])
    ours = prediction_sets(probs[:300], labels[:300], probs[300:], levels=levels[:300], new_levels=levels[300:])
    for level in range(4):
        held, new = levels[:300] == level, levels[300:] == level
        theirs = mapie.SplitConformalClassifier(network, confidence_level=0.9, prefit=True)
        theirs.conformalize(inputs[:300][held], labels[:300][held])
        np.testing.assert_array_equal(ours.sets[new], theirs.predict_set(inputs[300:][new])[1][:, :, 0])


def test_a_level_that_was_not_held_out_gets_every_class_and_is_named() -> None:
    probs, labels, levels = drawn(0, 200)
    found = prediction_sets(probs, labels, probs[:2], levels=levels, new_levels=[0, 5], coverage=0.95)
    assert not found.sets[0].all()
    assert found.sets[1].all()
    assert np.isneginf(found.thresholds[1])
    (note,) = found.notes
    assert note.startswith("Level 5 has 0 held-out examples; its sets hold every class: 19 are the least")


def test_nineteen_examples_are_enough_for_a_coverage_of_95_and_eighteen_are_not() -> None:
    probs, labels, _ = drawn(0, 40)
    for n, finite in ((18, False), (19, True), (20, True)):
        found = prediction_sets(probs[:n], labels[:n], probs[20:], coverage=0.95)
        assert np.isfinite(found.thresholds).all() == finite
        assert bool(found.notes) != finite


def test_an_audit_is_clopper_pearson_and_means() -> None:
    rng = np.random.default_rng(0)
    sets, labels, levels = rng.random((300, 4)) < 0.6, rng.integers(4, size=300), rng.integers(3, size=300)
    for row in audit_sets(sets, labels, levels):
        of_level = levels == row.level
        hit = sets[np.arange(300), labels][of_level]
        ends = binomtest(int(hit.sum()), len(hit)).proportion_ci(0.95, method="exact")
        np.testing.assert_allclose((row.coverage.value, row.coverage.low, row.coverage.high), (hit.mean(), *ends))
        sizes = [int(one.sum()) for one in sets[of_level]]
        assert row.size.value == pytest.approx(sum(sizes) / len(sizes))
        assert (row.n, row.empty) == (len(sizes), sizes.count(0) / len(sizes))


def test_nothing_depends_on_the_order_of_rows() -> None:
    probs, labels, levels = drawn(0, 300)
    order = np.random.default_rng(1).permutation(200)
    first = prediction_sets(probs[:200], labels[:200], probs[200:], levels=levels[:200], new_levels=levels[200:])
    again = prediction_sets(
        probs[:200][order], labels[:200][order], probs[200:], levels=levels[:200][order], new_levels=levels[200:]
    )
    np.testing.assert_array_equal(first.sets, again.sets)


BAD = {
    "other classes": (lambda p, y, r: prediction_sets(p, y, p[:, :3] / p[:, :3].sum(1, keepdims=True)), "same classes"),
    "levels of one": (lambda p, y, r: prediction_sets(p, y, p, levels=r), "levels of both"),
    "scores for levels": (lambda p, y, r: prediction_sets(p, y, p, levels=r / 7, new_levels=r), "levels has dtype"),
    "percent": (lambda p, y, r: prediction_sets(p, y, p, coverage=90), "coverage=0.9"),
    "logits": (lambda p, y, r: prediction_sets(np.log(p), y, p), "probs holds"),
    "lists of classes": (lambda p, y, r: audit_sets([0, 1, 2], y), "a row of booleans"),
    "probabilities": (lambda p, y, r: audit_sets(p, y), "whether each class is in the set"),
    "short": (lambda p, y, r: audit_sets(p > 0.1, y[:-1]), "same examples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    act, message = BAD[name]
    with pytest.raises(InputError, match=message):
        act(*drawn(0, 50))
