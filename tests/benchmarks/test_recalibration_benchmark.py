"""What benchmarks/recalibration.py measures is what robcal and scikit-learn say of the same rows."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

import robcal

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not in the wheel")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("recalibration")
    for name in ("recalibration", "recalibration_levels", "recalibration_page", "recalibration_networks"):
        sys.modules.pop(name)


@pytest.fixture
def benchmark(whole, monkeypatch: pytest.MonkeyPatch):
    every = whole.contenders()
    few = ("none", "temperature", "score-temperature", "scikit-learn: temperature")
    monkeypatch.setattr(whole, "contenders", lambda: {name: every[name] for name in few})
    monkeypatch.setattr(whole.levels, "REPEATS", {"temperature": (30, 2)})
    return whole


def drawn(n: int, seed: int):
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, 3))
    return logits, (softmax(logits / 2, axis=1).cumsum(1) > rng.random((n, 1))).argmax(1)


def test_figures_are_those_of_the_libraries_and_tables_hold_them(benchmark) -> None:
    pytest.importorskip("sklearn", minversion="1.8")  # before, it has no temperature
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
    rows["auto"] = rows["temperature"]  # which it chooses here
    record = benchmark.reduced(found)
    above = np.array(rows["none"]["test"]["losses"]) - nll
    error = 1.96 * above.std(ddof=1) / 30
    assert record["rows"]["none"]["test"]["above"] == pytest.approx((above.mean(), error))
    assert record["rows"]["none"]["test"]["nll"] == pytest.approx(np.mean(rows["none"]["test"]["losses"]))
    assert record["regret"]["above"] == (0, 0)
    text = benchmark.recalibration_page._matrix([record], lambda row: benchmark.recalibration_page._above(row["test"]))
    assert f"| none | {above.mean():+.4f} ± {error:.4f} |" in text


def test_the_pages_hold_the_tables_of_the_results_that_are_kept(whole, tmp_path: Path) -> None:
    """Each table stands in one of the two pages at least, and no page has a number that the results do not give."""
    page, docs = whole.recalibration_page, FOLDER.parent / "docs"
    (tmp_path / "evidence").mkdir()
    for name in (*page.PAGES, page.RESULTS):
        (tmp_path / name).write_text((docs / name).read_text(encoding="utf-8"), encoding="utf-8")
    page.write(tmp_path)
    texts = {name: (docs / name).read_text(encoding="utf-8") for name in page.PAGES}
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in page.PAGES} == texts
    kept = json.loads((docs / page.RESULTS).read_text(encoding="utf-8"))
    made = {**page.tables(kept["networks"]), **page.choice_tables(kept["choice"])}
    assert set(re.findall(r"<!-- made: (\S+) -->", "".join(texts.values()))) == set(made)
    assert len(kept["networks"]) == 8
    kept["networks"]["digits"]["rows"]["auto"]["test"]["nll"] += 0.1
    page.keep(tmp_path, "networks", {"digits": kept["networks"]["digits"]})
    assert (tmp_path / page.PAGES[0]).read_text(encoding="utf-8") != texts[page.PAGES[0]]


def right(logits: np.ndarray) -> np.ndarray:
    return softmax(logits / 2, axis=1)


def test_chance_has_more_levels_outside_than_one_in_twenty_where_few_rows_are_fitted(benchmark) -> None:
    network = benchmark.Network("", drawn(100, 0), drawn(20_000, 1))

    def count(predict, method: str) -> float:
        found = benchmark.levels.by_chance(predict, method, network, repeats=4)
        return float(np.mean([len(benchmark.levels.outside(benchmark.levels.ends(one))) for one in found]))

    assert count(right, "temperature") > 2
    assert count(lambda z: softmax(z, axis=1), "none") < 2


def test_an_interval_with_the_error_of_the_fit_holds_a_gap_of_0_in_19_of_20_cases(benchmark) -> None:
    """One temperature is right here, and 100 rows tell it badly; 10,000 test rows tell the gap well."""
    levels, alone, with_fit = benchmark.levels, 0, 0
    for seed in range(12):
        val, test = drawn(100, 2 * seed), drawn(10_000, 2 * seed + 1)
        probs = robcal.TemperatureScaling().fit(*val).transform(test[0])
        level = levels.levels_of(test[0])
        found = levels.ends(levels.gaps(probs, test[1], level))
        fits = [softmax(test[0] / maps[0].temperature, axis=1) for maps in levels.resampled(*val, "temperature", 30)]
        errors = np.std([levels.means(fit, test[1], level) for fit in fits], axis=0, ddof=1)
        alone += 10 - len(levels.outside(found))
        with_fit += 10 - len(levels.outside(levels.both(found, errors, 30)))
    assert alone < 0.75 * 120
    assert with_fit >= 0.88 * 120


def test_levels_that_are_looked_at_together_are_outside_by_holm(benchmark) -> None:
    """By hand: p of .003, .03 and .5 against .05 / 3, .05 / 2 and .05."""
    z = [-2.968, 2.170, 0.674]
    found = [[value - 1.96, value, value + 1.96] for value in z]
    assert benchmark.levels.outside(found) == [0, 1]
    assert benchmark.levels.together(found) == [0]
    assert benchmark.levels.together(found[:2]) == [0, 1]
