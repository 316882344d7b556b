"""benchmarks/online.py: watchers at one training say what each says alone, and tables say what was measured."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robcal.methods import make_method
from robcal.models import build_model
from robcal.robustness.online import OnlineScores
from robcal.training import fit

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not in the wheel")


@pytest.fixture(scope="module")
def online():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("online")
    finally:
        sys.path.remove(str(FOLDER))


def test_watchers_at_one_training_say_what_each_says_alone(online):
    data, epochs = online.synthetic("mlp", 120, 12), 6
    ways = {"free": {"every": 4}, "refreshed": {"every": 4, "refresh": "secant"}}

    def train(watcher):
        network = build_model("mlp", input_shape=data.input_shape, num_classes=10, seed=0)
        fit(network, data, make_method("vanilla"), epochs=epochs, batch_size=32, device="cpu", online=watcher)

    together = online.Watchers({name: OnlineScores(120, **way) for name, way in ways.items()})
    train(together)
    assert [len(said) for said in together.said.values()] == [epochs, epochs]
    for name, way in ways.items():
        alone = OnlineScores(120, **way)
        train(alone)
        np.testing.assert_array_equal(together.said[name][-1], alone.scores().distance)
        np.testing.assert_array_equal(together.watchers[name].scores().passes, alone.scores().passes)
    assert not np.array_equal(together.said["free"][-1], together.said["refreshed"][-1])


def test_a_run_compares_every_estimate_with_the_final_network(online, monkeypatch):
    monkeypatch.setattr(online, "EPOCHS_SHOWN", 2)
    options = online.parse(["--epochs", "3", "--train-limit", "200"])
    run = online.one_run(options, "mlp", "vanilla", "none", 0)
    assert (run["examples"], list(run["epochs"])) == (200, [2, 3])
    assert set(run["figures"]) == set(online.PASSES)
    assert run["epochs"][3] == run["figures"][online.FREE]
    same = {name: row[0] for name, row in run["figures"].items()}
    assert same["first-order, 3 rivals"] > 0.8  # the closest to projection of all
    assert all(0 <= share <= same["first-order, 3 rivals"] for share in same.values())


def test_figures_worked_by_hand(online):
    """Twenty distances, two a level; the ends of two neighbouring levels and of two far ones change places."""
    reference, distance = np.arange(20.0), np.arange(20.0)
    distance[[1, 2]] = distance[[2, 1]]
    distance[[4, 19]] = [np.inf, 4]
    same, within, rho = online.figures(distance, reference)
    assert (same, within) == (16 / 20, 18 / 20)
    assert rho == pytest.approx(1 - 6 * (1 + 1 + 15**2 + 15**2) / (20 * (20**2 - 1)))


def test_tables_show_means_and_intervals_over_seeds(online):
    runs = [
        {
            "data": "digits", "examples": 755, "accuracy": 0.9,
            "figures": {online.FREE: (same, 0.9, 0.95)}, "epochs": {8: (same, 0.9, 0.95), 30: (0.7, 0.9, 0.95)},
        }
        for same in (0.5, 0.6, 0.7)
    ]  # fmt: skip
    lines = online.cell_lines("mlp", runs, online.parse(["--seeds", "3"]))
    assert "| online | 0 | 0.600 ± 0.248 | 0.900 ± 0.000 | 0.950 ± 0.000 |" in lines
    assert "| same level | 0.600 ± 0.248 | 0.700 ± 0.000 |" in lines
    assert "755 training examples, 30 epochs, 3 seeds, validation accuracy 0.900 ± 0.000." in lines


def test_turns_and_what_comes_beside_steps_are_timed(online):
    turns, watched = online.turn_seconds("mlp", online.synthetic("mlp", 256, 26), 3)
    assert turns.shape == (3, 3)
    assert (turns > 0).all()
    assert [len(watcher.ends) for watcher in watched.values()] == [3, 3, 3]
    assert [len(watcher.looks) for watcher in watched.values()] == [0, 1, 1]
    assert watched[online.SECANT].scores().passes.tolist() == [1.5] * 256


def test_shares_of_a_whole_training_worked_by_hand(online):
    """Thirty epochs: four looked at without refresh; one with it, and a look of an epoch and a half."""
    step = (1.1, 1.0, 1.2)
    assert online.share_text(online.FREE, 30, step, 0.0, 0.0) == "1.3% (0.0–2.7)"
    assert online.share_text(online.SECANT, 30, step, 0.05, 1.5) == "5.5% (5.2–5.8)"


def test_one_seed_has_no_interval(online, capsys):
    with pytest.raises(SystemExit):
        online.parse(["--seeds", "1"])
    assert "at least 2" in capsys.readouterr().err


def test_what_was_printed_is_kept(online, monkeypatch, tmp_path, capsys):
    small = "--models mlp --methods vanilla --augment none --seeds 2 --epochs 2 --train-limit 150"
    monkeypatch.setattr(sys, "argv", ["online.py", *small.split(), "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    try:
        online.main()
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "online-digits.md").read_text() == capsys.readouterr().out
