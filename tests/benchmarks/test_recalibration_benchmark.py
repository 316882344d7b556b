"""What benchmarks/recalibration.py measures is what robcal and scikit-learn say of the same rows."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

import robcal

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not in the wheel")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("recalibration")
    every = module.contenders()
    few = ("none", "temperature", "score-temperature", "scikit-learn: temperature")
    monkeypatch.setattr(module, "contenders", lambda: {name: every[name] for name in few})
    monkeypatch.setattr(module, "CHANCE", {"temperature": 2})
    yield module
    sys.modules.pop("recalibration")


def drawn(n: int, seed: int):
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, 3))
    return logits, (softmax(logits / 2, axis=1).cumsum(1) > rng.random((n, 1))).argmax(1)


def test_figures_are_those_of_the_libraries_and_tables_hold_them(benchmark) -> None:
    (val, test), cells = (drawn(600, 0), drawn(900, 1)), np.stack([drawn(900, 1)[0], drawn(900, 1)[0]])
    network = benchmark.Network("made up", val, test, ("none at all", cells, test[1]))
    found = benchmark.measure(network)
    rows = found["rows"]
    probs = robcal.TemperatureScaling().fit(*val).transform(test[0])
    nll = -np.log(probs[np.arange(900), test[1]])
    np.testing.assert_allclose(rows["temperature"]["test"]["losses"], nll)
    np.testing.assert_allclose(rows["scikit-learn: temperature"]["test"]["losses"], nll, rtol=1e-3)
    assert rows["temperature"]["test"]["ece"] == pytest.approx(robcal.calibration_error(probs, test[1]))
    assert rows["temperature"]["test"]["brier"] == pytest.approx(robcal.brier_score(probs, test[1]))
    for name, row in rows.items():  # a shift that is none changes no figure
        for key in ("losses", "brier", "ece", "aurc"):
            np.testing.assert_allclose(row["shift"][key], row["test"][key], err_msg=f"{name} {key}")
        assert row["shift"]["outside"] == 2 * row["test"]["outside"]
    assert rows["none"]["test"]["outside"] > rows["temperature"]["test"]["outside"]
    text = benchmark._matrix([found], lambda one, row: benchmark._difference(one, row, "test"))
    above = np.mean(rows["none"]["test"]["losses"]) - nll.mean()
    assert f"| none | {above:+.4f} ±" in text


def test_chance_has_more_levels_outside_than_one_in_twenty_where_few_rows_are_fitted(benchmark) -> None:
    val, test = drawn(100, 0), drawn(20_000, 1)

    def right(logits: np.ndarray) -> np.ndarray:
        return softmax(logits / 2, axis=1)

    few = benchmark.by_chance(right, "temperature", benchmark.Network("", val, test), repeats=4)
    none = benchmark.by_chance(lambda z: softmax(z, axis=1), "none", benchmark.Network("", val, test), repeats=4)
    assert few > 2
    assert none < 2
