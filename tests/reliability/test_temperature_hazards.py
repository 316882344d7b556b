"""Temperature scaling where public reports found it wrong: masks, odd scales, zeros, all right, probabilities."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from robcal import TemperatureScaling, calibration_error, negative_log_likelihood
from robcal.base.checks import InputError

N, Z = 60, 4


def sample(sharpen: float = 3.0, seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpen` times too large, and labels."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, Z))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return sharpen * logits, (probs.cumsum(1) > rng.random((n, 1))).argmax(1)


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T of least NLL, in 60 digits: the derivative by b = 1/T, which rises, is halved on a bracket of log b."""
    mpmath.mp.dps = 60
    rows = [[mpmath.mpf(float(z)) for z in row if z > -np.inf] for row in logits]
    true = [mpmath.mpf(float(row[label])) for row, label in zip(logits, labels, strict=True)]

    def slope(b: mpmath.mpf) -> mpmath.mpf:
        total = mpmath.mpf(0)
        for row, of_label in zip(rows, true, strict=True):
            weights = [mpmath.exp(b * (z - max(row))) for z in row]
            total += mpmath.fdot(weights, row) / mpmath.fsum(weights) - of_label
        return total

    low, high = mpmath.mpf(-800), mpmath.mpf(800)  # of log b
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(mpmath.exp(middle)) < 0 else (low, middle)
    return float(mpmath.exp(-low))


def masked(value: float) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = sample()
    logits = np.column_stack([logits, np.full(N, value)])
    logits[::3, 1] = np.where(labels[::3] == 1, logits[::3, 1], value)
    return logits, labels


def nearly_constant() -> tuple[np.ndarray, np.ndarray]:
    logits, labels = sample(40.0)
    logits[: N // 2 + 4] = 1e-4 * np.random.default_rng(1).standard_normal((N // 2 + 4, Z))
    return logits, labels


CASES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    **{f"mask {value:g}": masked(value) for value in (-1e4, -65504.0, -1e9, -3.4e38, -1.7e308, -np.inf)},
    "more than half nearly constant": nearly_constant(),
    "one wrong by a hair": (np.array([[3.0, 0.0]] * 30 + [[1e-6, 0.0]]), np.array([0] * 30 + [1])),
    "one right of many": (np.array([[3.0, 0.0]] * 30), np.array([1] * 14 + [0] * 16)),
    "offset": (sample()[0] + 1e6, sample()[1]),
    "offsets a row": (sample()[0] + np.linspace(-1e5, 1e5, N)[:, None], sample()[1]),
    **{f"scale {scale:g}": (sample()[0] * scale, sample()[1]) for scale in (1e-300, 1e-30, 1e-6, 1e6, 1e30, 1e300)},
}


@pytest.mark.parametrize("name", CASES)
def test_the_temperature_is_the_best_at_any_scale_and_under_any_mask(name: str) -> None:
    logits, labels = CASES[name]
    fitted = TemperatureScaling().fit(logits, labels)
    assert fitted.temperature == pytest.approx(best_temperature(logits, labels), rel=1e-6)
    probs = fitted.transform(logits)
    assert np.isfinite(probs).all()
    assert probs.sum(1) == pytest.approx(1)


def test_masked_classes_get_nothing_whatever_says_that_they_are_masked() -> None:
    probs = [TemperatureScaling().fit(*masked(value)).transform(masked(value)[0]) for value in (-1e9, -np.inf)]
    np.testing.assert_allclose(probs[0], probs[1], rtol=1e-9)
    assert (probs[0][:, -1] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_every_precision_of_tensors_that_require_gradients(dtype: str) -> None:
    logits, labels = sample()
    tensor = torch.tensor(logits).to(getattr(torch, dtype)).requires_grad_()
    fitted = TemperatureScaling().fit(tensor, torch.tensor(labels, dtype=torch.uint8))
    rounded = tensor.detach().double().numpy()
    assert fitted.temperature == pytest.approx(best_temperature(rounded, labels), rel=1e-6)
    assert fitted.transform(tensor).shape == logits.shape


def split(name: str, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three parts of a data set, drawn at random: training, validation, test."""
    if name == "made":
        x, y = make_classification(3000, 20, n_informative=6, n_classes=3, flip_y=0.1, random_state=seed)
    else:
        x, y = {"digits": load_digits, "cancer": load_breast_cancer}[name](return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    return [(x[part], y[part]) for part in np.array_split(order, 3)]


MODELS = {
    "tree": lambda seed: DecisionTreeClassifier(random_state=seed),
    "tree of depth 4": lambda seed: DecisionTreeClassifier(max_depth=4, random_state=seed),
    "neighbours": lambda seed: KNeighborsClassifier(5),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("data", ["digits", "cancer", "made"])
@pytest.mark.parametrize("model", MODELS)
def test_frequencies_with_zeros_are_better_calibrated_afterwards_on_data_held_out(
    model: str, data: str, seed: int
) -> None:
    train, val, test = split(data, seed)
    classifier: Any = MODELS[model](seed).fit(*train)
    scaling = TemperatureScaling().fit_probs(classifier.predict_proba(val[0]), val[1])
    before = classifier.predict_proba(test[0])
    after = scaling.transform_probs(before)
    assert scaling.uniform_share > 0
    assert 0.5 < scaling.temperature < 2  # 401 with a fixed small number in place of 0
    assert calibration_error(after, test[1]) <= calibration_error(before, test[1]) + 0.005
    assert negative_log_likelihood(after, test[1]) < negative_log_likelihood(before, test[1])
    assert (after.argmax(1) == before.argmax(1)).all()


def test_a_tree_is_better_calibrated_on_every_seed() -> None:
    changes = []
    for seed in range(3):
        train, val, test = split("digits", seed)
        classifier = MODELS["tree of depth 4"](seed).fit(*train)
        scaling = TemperatureScaling().fit_probs(classifier.predict_proba(val[0]), val[1])
        before = classifier.predict_proba(test[0])
        changes.append(calibration_error(scaling.transform_probs(before), test[1]) - calibration_error(before, test[1]))
    assert max(changes) < 0


def test_the_share_of_the_uniform_distribution_is_the_most_likely_one() -> None:
    rng = np.random.default_rng(4)
    probs = rng.dirichlet([0.5, 0.5, 0.5], size=400)
    probs[probs < 0.1] = 0
    probs /= probs.sum(1, keepdims=True)
    labels = np.where(
        rng.random(400) < 0.3, rng.integers(3, size=400), (probs.cumsum(1) > rng.random((400, 1))).argmax(1)
    )
    found = TemperatureScaling().fit_probs(probs, labels)
    true, shares = probs[np.arange(400), labels], np.linspace(1e-4, 1, 20_000)
    likelihood = [np.log((1 - share) * true + share / 3).sum() for share in shares]
    assert found.uniform_share == pytest.approx(shares[np.argmax(likelihood)], abs=1e-4)


def test_probabilities_worse_than_uniform_become_uniform() -> None:
    found = TemperatureScaling().fit_probs([[1.0, 0.0], [0.0, 1.0]], [1, 0])
    assert found.transform_probs([[1.0, 0.0]]).tolist() == [[0.5, 0.5]]


def test_zeros_off_the_true_class_change_nothing() -> None:
    logits, labels = masked(-np.inf)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    by_probs, by_logits = TemperatureScaling().fit_probs(probs, labels), TemperatureScaling().fit(logits, labels)
    assert by_probs.uniform_share == 0
    assert by_probs.temperature == pytest.approx(by_logits.temperature, rel=1e-8)


def test_a_validation_split_that_is_all_right_gives_no_one_hot_outputs() -> None:
    """30 right of 30, from a model that is right 97 times of 100: better than it was, and finite, on new data."""
    rng = np.random.default_rng(5)
    gaps = []
    for _ in range(40):
        margins = rng.uniform(1.5, 2.5, size=2030)  # of an under-confident model: confidence .88, accuracy .97
        right = rng.random(2030) < 0.97
        right[:30] = True
        logits, labels = np.column_stack([margins, np.zeros(2030)]), np.where(right, 0, 1)
        scaling = TemperatureScaling().fit(logits[:30], labels[:30])
        before, after = TemperatureScaling(), scaling.transform(logits[30:])
        before.temperature, before.uniform_share = 1.0, 0.0
        one = negative_log_likelihood(before.transform(logits[30:]), labels[30:])
        gaps.append((negative_log_likelihood(after, labels[30:]), one))
    assert np.mean(gaps, axis=0)[0] < np.mean(gaps, axis=0)[1]
    assert max(gap for gap, _ in gaps) < 0.25


@pytest.mark.parametrize("function", ["fit", "transform"])
def test_probabilities_in_place_of_logits_are_refused(function: str) -> None:
    logits, labels = sample(2.0)
    probs = TemperatureScaling().fit(logits, labels).transform(logits)
    fitted = TemperatureScaling().fit_probs(probs, labels)
    call = getattr(fitted, function)
    with pytest.raises(InputError, match=f"`{function}_probs`"):
        call(probs, labels) if function == "fit" else call(probs)
    right = TemperatureScaling().fit_probs(probs, labels).temperature
    assert TemperatureScaling().fit(np.log(probs), labels).temperature == pytest.approx(right)
    assert TemperatureScaling().fit(probs - 1, labels).temperature == pytest.approx(best_temperature(probs, labels))


def test_scikit_learn_clones_it() -> None:
    fitted = TemperatureScaling().fit(*sample())
    copy = clone(fitted)
    assert type(copy) is TemperatureScaling
    assert not hasattr(copy, "temperature")
    assert copy.get_params() == {}
    assert copy.set_params() is copy
    with pytest.raises(InputError, match="no settings"):
        copy.set_params(bins=3)
