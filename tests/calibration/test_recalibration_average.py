"""The average of recalibrations: its weights against their optimality conditions, and what `auto` makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from robcal.base.checks import InputError
from robcal.calibration.recalibration import Recalibrator, average, load_recalibrator, recalibrator, selection
from robcal.calibration.recalibration.average import Average, stacked_weights, weights_without_each
from robcal.calibration.recalibration.maps import Affine, Temperature

BIAS = np.random.default_rng(7).normal(size=6)


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are too large where the margin is small, and too low for some classes; labels, true probabilities."""
    rng = np.random.default_rng(seed)
    true = 1.5 * rng.normal(size=(n, 6))
    true[np.arange(n), rng.integers(6, size=n)] += rng.gamma(2.5, 2.0, size=n)
    probs = softmax(true, axis=1)
    two = np.sort(true, axis=1)
    logits = true * (1 + 1.5 * np.exp(two[:, -2] - two[:, -1]))[:, None] - 0.4 * BIAS
    return logits, (probs.cumsum(1) > rng.random((n, 1))).argmax(1), probs


def test_two_methods_that_are_good_at_different_rows_share_the_weight() -> None:
    losses = np.repeat([[0.1, 2.0], [2.0, 0.1]], [5, 5], axis=1)
    np.testing.assert_allclose(stacked_weights(losses), [0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_weights_meet_the_conditions_of_the_optimum(seed: int) -> None:
    """Karush, Kuhn and Tucker: the mean of p_k / p is 1 for each member, and at most 1 for what is left out."""
    rng = np.random.default_rng(seed)
    losses = rng.exponential(size=400) + 0.3 * rng.normal(size=(7, 400)) + rng.uniform(0, 0.1, size=(7, 1))
    weights = stacked_weights(losses)
    probs = np.exp(-losses)
    slopes = (probs / (weights @ probs)).mean(axis=1)
    assert weights.sum() == pytest.approx(1)
    assert 1 < (weights > 0).sum() < 7
    np.testing.assert_allclose(slopes[weights > 0], 1, atol=5e-3)
    assert (slopes <= 1 + 5e-3).all()  # what had less than a hundredth was left out


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_exact_with_methods_that_are_nearly_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conditions of the optimum to seven digits; the last method is the first to nine, and one row has one hope."""
    monkeypatch.setattr(average, "LEAST_WEIGHT", 0.0)
    losses = np.random.default_rng(seed).exponential(size=(6, 300))
    losses[:, 0] = np.where(np.arange(6) == 2, 1.0, 2000.0)
    losses = np.vstack([losses, losses[:1] + 1e-9])
    weights = stacked_weights(losses)
    probs = np.exp(-losses)
    slopes = (probs / (weights @ probs)).mean(axis=1)
    assert weights[2] > 1 / 300
    np.testing.assert_allclose(slopes[weights > 0], 1, atol=1e-6)
    assert (slopes <= 1 + 1e-6).all()


def test_weights_without_each_row_are_those_of_the_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against fits to all rows but one: the likelihood of each row agrees, and the mean to a part of the difference."""
    monkeypatch.setattr(average, "LEAST_WEIGHT", 0.0)
    losses = np.random.default_rng(0).gamma(2.0, 0.5, size=(3, 200))
    weights = stacked_weights(losses)
    assert (weights > 0.1).all()
    found = weights_without_each(losses, weights)
    exact = np.stack([stacked_weights(np.delete(losses, row, axis=1)) for row in range(200)], axis=1)
    np.testing.assert_allclose(found.sum(axis=0), 1)
    np.testing.assert_allclose(found, exact, atol=2e-3)
    nll = [-np.log((one * np.exp(-losses)).sum(axis=0)).mean() for one in (found, exact, weights[:, np.newaxis])]
    assert nll[0] - nll[2] == pytest.approx(nll[1] - nll[2], rel=0.05)


@pytest.mark.parametrize(("times", "chosen"), [(0.98, "temperature"), (1.02, "average")])
def test_a_simple_method_stays_where_the_average_gains_no_more_than_chance(times: float, chosen: str) -> None:
    """Two methods of equal weight: the likelihood of the average of 100 rows is exp(gain) times the temperature's."""
    gain = times / (2 * 100)
    right = {"none": 0.4, "temperature": 0.5, "vector": 0.5 * (2 * np.exp(gain) - 1), "average": 0.5}
    average_of = Average(("temperature", "vector"), ((), ()), np.array([0.5, 0.5]))
    candidates = [
        selection.Candidate(name, (average_of,) if name == "average" else (), np.log(np.tile([p, 1 - p], (100, 1))))
        for name, p in right.items()
    ]
    labels = np.zeros(100, dtype=np.int64)
    assert candidates[selection.choose(candidates, labels)].method == chosen
    assert candidates[selection.choose(candidates, labels, averaged=True)].method == "average"


def test_weights_that_chance_fits_gain_half_a_unit_each() -> None:
    """Where the first method is right: twice the gain of the log-likelihood has the mean of chi-square (Wilks)."""
    gains: dict[int, list[float]] = {}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=400)
        labels = rng.random(400) < 1 / (1 + np.exp(-logits))
        wrong = logits + 0.8 * np.array([[0.0], [1.0], [-1.0]]) * rng.normal(size=(3, 400))
        losses = np.logaddexp(0, np.where(labels, -wrong, wrong))
        weights = stacked_weights(losses)
        gain = losses[0].sum() + np.log(weights @ np.exp(-losses)).sum()
        gains.setdefault(int((weights > 0).sum()), []).append(gain)
    assert len(gains[2]) > 80
    assert np.mean(gains[2]) == pytest.approx(0.5, abs=3 * np.std(gains[2]) / len(gains[2]) ** 0.5)


def test_an_average_of_methods_that_keep_labels_keeps_them() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 5))
    kept = Average(("none", "temperature"), ((), (Temperature(3.0),)), np.array([0.3, 0.7]))
    assert kept.keeps_prediction
    np.testing.assert_array_equal(kept(logits, None).argmax(axis=1), logits.argmax(axis=1))
    moved = Affine(1.0, np.ones(5), np.arange(5.0), mixture=0.0, least=None)
    assert not Average(("none", "vector"), ((), (moved,)), np.array([0.3, 0.7])).keeps_prediction


def test_a_method_that_is_best_on_every_row_is_alone() -> None:
    losses = np.random.default_rng(0).exponential(size=(3, 200)).cumsum(axis=0)
    assert stacked_weights(losses).tolist() == [1.0, 0.0, 0.0]


def test_losses_beyond_what_a_probability_holds_are_no_hindrance() -> None:
    weights = stacked_weights(np.array([[900.0, 0.1, 0.1], [2000.0, 0.2, 0.2]]))
    assert weights.tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_the_average_is_of_its_members_probabilities_and_survives_a_file(tmp_path: Path) -> None:
    logits, labels, _ = drawn(0, 1000)
    found = Recalibrator("average").fit(logits, labels)
    (average,) = found.maps
    assert isinstance(average, Average)
    assert average.weights.sum() == pytest.approx(1)
    assert (average.weights >= 0.01).all()
    new = drawn(1, 500)[0]
    parts = [Recalibrator(name).fit(logits, labels).predict_proba(new) for name in average.methods]
    expected = np.einsum("k,knz->nz", average.weights, np.stack(parts))
    np.testing.assert_allclose(found.predict_proba(new), expected, rtol=1e-9)
    loaded = load_recalibrator(found.save(tmp_path / "r.json"))
    np.testing.assert_array_equal(loaded.predict_proba(new), found.predict_proba(new))
    assert loaded.method == "average"
    heaviest = average.methods[int(average.weights.argmax())]
    assert found.notes[-1].startswith(f"The average is of {average.weights.max():.2f} {heaviest}")
    row = found.comparison[-1]
    assert (row.method, row.chosen, row.keeps_prediction) == ("average", True, False)
    with pytest.raises(InputError, match="masked in row 0"):
        found.predict_proba(np.where(np.arange(6) == 5, -1e9, new))


@pytest.mark.slow
def test_the_average_is_better_on_new_data_than_the_method_with_the_lowest_cross_fitted_nll() -> None:
    """The NLL that is to be expected, for the true probabilities are known; and what cross-fitting says comes true."""
    new, _, true = drawn(99, 5000)
    names = ["temperature", "score-temperature", "vector", "isotonic", "vector+score-temperature", "dirichlet"]
    of_average, of_picked, foretold = [], [], []
    for seed in range(8):
        logits, labels, _ = drawn(seed, 600)
        scores = _margins(logits)
        folds = np.random.default_rng(seed).permutation(600) % 5
        rows = selection.Rows(logits - logits.max(1, keepdims=True), labels, scores, folds)
        single = selection.cross_fit(names, rows, None)
        average = selection.average(single, rows)
        held = [-one.held[np.arange(600), labels].mean() for one in single]
        picked = single[int(np.argmin(held))]
        used = picked if average is None else average
        foretold.append(-used.held[np.arange(600), labels].mean())
        for one, expected in ((used, of_average), (picked, of_picked)):
            expected.append(-(true * selection.apply(one.maps, new, _margins(new))).sum(1).mean())
    assert np.mean(of_average) < np.mean(of_picked)
    error = np.std(foretold, ddof=1) / np.sqrt(8)
    assert abs(np.mean(foretold) - np.mean(of_average)) < 2.5 * error


@pytest.mark.slow
def test_an_average_chosen_on_a_sample_is_fitted_on_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, _ = drawn(0, 1000)
    monkeypatch.setattr(recalibrator, "SAMPLE", 6 * 500)
    found = Recalibrator("average").fit(logits, labels)
    assert "compared on" in found.notes[0]
    (average,) = found.maps
    assert isinstance(average, Average)
    for name, maps in zip(average.methods, average.members, strict=True):
        alone = Recalibrator(name)
        monkeypatch.setattr(recalibrator, "SAMPLE", 1 << 22)
        alone.fit(logits, labels)
        np.testing.assert_allclose(
            selection.apply(maps, logits, None if not name.endswith("score-temperature") else _margins(logits)),
            np.log(alone.predict_proba(logits)),
            atol=1e-6,
        )


def _margins(logits: np.ndarray) -> np.ndarray:
    two = np.sort(logits, axis=1)
    return np.asarray(two[:, -1] - two[:, -2])


@pytest.mark.slow
def test_the_average_does_not_depend_on_the_order_of_rows() -> None:
    logits, labels, _ = drawn(3, 600)
    order = np.random.default_rng(0).permutation(600)
    one, other = (Recalibrator("average").fit(logits[rows], labels[rows]) for rows in (slice(None), order))
    np.testing.assert_allclose(one.predict_proba(logits), other.predict_proba(logits), atol=2e-4)
