"""benchmarks/metrics.py: its inputs are what it says, every job finds the same figure, and the judging is right."""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "metrics.py"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="benchmarks are not in the wheel")


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("benchmark_metrics", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs(bench, tmp_path_factory):
    found = {}
    for task, sizes in (("summary", (4000,)), ("full", (1500, 30))):
        folder = tmp_path_factory.mktemp(task)
        bench.write_inputs(task, sizes, folder)
        found[task] = np.load(folder / "values.npy"), np.load(folder / "truth.npy")
    return found


def test_the_inputs_are_over_confident_probabilities(inputs):
    confidence, correct = inputs["summary"]
    assert confidence.dtype == np.float32
    assert correct.mean() == pytest.approx(0.9 * confidence.mean(), abs=0.03)
    probs, labels = inputs["full"]
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    right = (probs.argmax(1) == labels).mean()
    assert right == pytest.approx(0.9 * probs.max(1).mean(), abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["summary", "full"])
def test_every_job_finds_the_same_error(bench, inputs, task):
    confidence, correct = inputs["summary"]
    if task == "full":
        probs, labels = inputs["full"]
        confidence, correct = probs.max(1), probs.argmax(1) == labels
    index = np.ceil(confidence.astype(np.float64) * 15)
    parts = [index == k for k in range(1, 16)]
    expected = sum(abs(confidence[part].sum(dtype=np.float64) - correct[part].sum()) for part in parts) / len(correct)
    for contender in bench.CONTENDERS[task]:
        if contender.package == "netcal" and importlib.util.find_spec("netcal") is None:  # of the benchmark only
            continue
        if contender.what.endswith("BootStrapper"):  # tells the mean over its resamples only
            continue
        value, low, high = contender.job(inputs[task], 20, 0)["ece"]
        assert value == pytest.approx(expected, abs=2e-6), contender
        assert low < high


def test_ratios_are_of_the_same_round_and_failures_are_said(bench):
    def record(seconds, megabytes):
        return {"seconds": seconds, "megabytes": megabytes, "figures": {"ece": [0.1, 0.0, 0.2]}}

    contenders = (
        bench.Contender("robcal", "10 figures with intervals", None, peer=False),
        bench.Contender("other", "one figure", None, peer=True),
        bench.Contender("broken", "one figure", None, peer=True),
    )
    rounds = [[record(t, 10 * t), record(50 * t, 1.0), {"error": "ImportError: no"}] for t in (1.0, 4.0, 2.0)]
    assert bench.paired_ratio(rounds, 1, 0) == 50.0
    assert np.isnan(bench.paired_ratio(rounds, 2, 0))
    lines = bench.table(contenders, rounds).splitlines()
    assert "| robcal | 10 figures with intervals | 2 | 40 | 0.10000 |  |" in lines
    assert "| other | one figure | 100 * | 1 | 0.10000 | 50 |" in lines
    assert "| broken | one figure | failed: ImportError: no |" in lines


def test_a_job_in_its_own_process_is_extrapolated_and_tells_its_memory(bench, inputs, tmp_path, monkeypatch):
    for name, array in zip(("values", "truth"), inputs["summary"], strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    options = argparse.Namespace(peer_resamples=20, resamples=40, seed=0)
    record = bench.start_job("summary", 0, str(tmp_path), options)
    assert record["seconds"] > 0
    assert record["megabytes"] >= 0
    assert len(record["figures"]) == 10

    def answer(command, **settings):
        assert command[command.index("--resamples") + 1] == "20"
        return argparse.Namespace(returncode=0, stdout='noise\n{"seconds": 3.0}', stderr="")

    monkeypatch.setattr(bench.subprocess, "run", answer)
    assert bench.start_job("summary", 1, str(tmp_path), options) == {"seconds": 6.0}


@pytest.mark.slow
def test_an_audit_of_a_file_tells_its_time_its_memory_and_the_size_of_its_report(bench):
    options = argparse.Namespace(resamples=20, seed=0)
    records = [bench.start_audit((n, 5, 3), options) for n in (400, 4000)]
    for record in records:
        assert record["seconds"] > 0
        assert record["megabytes"] > 50
        assert 10_000 < record["report"] < 500_000
    # Nothing in it grows with the examples but the list of wrong predictions, which ends at 10,000 lines.
    assert records[1]["report"] < 1.1 * records[0]["report"] + 40 * 4000
    lines = bench.large_table([*records, {"sizes": (1, 2, 3), "error": "no"}]).splitlines()
    assert lines[2].startswith("| 400 | 5 | 3 | ")
    assert lines[-1] == "| 1 | 2 | 3 | failed: no |"
