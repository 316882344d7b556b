from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import linear_model
from torch import nn

from robcal.base.checks import InputError
from robcal.base.storage import load_scores, save_checkpoint
from robcal.models import build_model
from robcal.robustness import auto
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.projection import Projection
from robcal.robustness.scoring import Scorer, score
from robcal.robustness.shards import score_in_shards
from robcal.robustness.steps import random_direction

ABOUT = {"model": "m", "data": "d"}


def case(count: int = 50) -> tuple[nn.Module, np.ndarray]:
    rng = np.random.default_rng(3)
    model = nn.Sequential(linear_model(rng.normal(size=(12, 6)), rng.normal(size=12)), nn.Tanh(), nn.Linear(12, 4))
    with torch.no_grad():
        model[2].weight.copy_(torch.as_tensor(rng.normal(size=(4, 12))))
        model[2].bias.zero_()
    return model, rng.uniform(size=(count, 6)).astype(np.float32)


def in_shards(tmp_path: Path, model: nn.Module, x: Any, name: str = "s", **options: Any) -> Any:
    return score_in_shards(model, x, out=tmp_path / f"{name}.parquet", about=ABOUT, **options)


@pytest.mark.parametrize("method", ["first-order", "projection"])
@pytest.mark.parametrize("shard_size", [1, 7, 1000])
def test_scores_do_not_depend_on_the_shards(tmp_path: Path, method: str, shard_size: int) -> None:
    model, x = case(20)
    whole = score(model, x, method=method, batch_size=1)
    made = in_shards(tmp_path, model, x, method=method, shard_size=shard_size, batch_size=1)
    for column in ("distance", "status", "prediction", "rival", "margin", "passes"):
        np.testing.assert_array_equal(getattr(made, column), getattr(whole, column))
        np.testing.assert_array_equal(getattr(load_scores(tmp_path / "s.parquet"), column), getattr(whole, column))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.parquet"]


class DeadHalf(nn.Module):
    """Logits (s, 0) with s = relu(x₀ - .5) - .1: flat and of class 1 below x₀ = .5, of class 0 above x₀ = .6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = torch.relu(x[:, 0] - 0.5) - 0.1
        return torch.stack([s, torch.zeros_like(s)], 1)


def half_dead(count: int = 24) -> np.ndarray:
    x = np.full((count, 2), 0.5, dtype=np.float32)
    x[:, 0] = np.random.default_rng(0).uniform(0.3, 0.5, size=count)
    return x


def test_random_draws_are_functions_of_the_seed_and_the_index_in_the_data_set() -> None:
    model, x = DeadHalf(), half_dead()
    whole = score(model, x, method="projection")
    assert (whole.distance < np.inf).all()
    assert whole.provenance["zero_gradient"] == len(x)
    part = score(model, x[10:], first_index=10)
    np.testing.assert_array_equal(part.distance, whole.distance[10:])
    order = np.random.default_rng(1).permutation(len(x))
    shuffled = score(model, x[order], first_index=order, batch_size=5)
    np.testing.assert_array_equal(shuffled.distance, whole.distance[order])
    np.testing.assert_array_equal(shuffled.passes, whole.passes[order])
    twins = np.repeat(x[:1], 24, axis=0)
    assert len(np.unique(score(model, twins).passes)) > 1  # the same input, other indices: other draws


def test_draws_differ_between_seeds_indices_and_attempts() -> None:
    like = torch.zeros(5)
    draws = [random_direction(like, *key) for key in [(0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 2), (0, 0, -1)]]
    assert len({tuple(draw.tolist()) for draw in draws}) == 5
    assert torch.equal(draws[0], random_direction(like, 0, 0, 1))


@pytest.mark.parametrize("index", [[0, 1, 1], [-1, 0, 1], [0.5, 1, 2], [0, 1]])
def test_bad_indices_are_refused(index: Any) -> None:
    with pytest.raises(InputError, match="first_index"):
        score(case()[0], case(3)[1], first_index=np.array(index))


def quantised(x: torch.Tensor) -> torch.Tensor:
    """Piecewise constant in x, with labels that change all over the box."""
    steps = torch.round(x * 2) / 2 + 0 * x
    return torch.stack([steps.sum(1), 2 * steps[:, 0] + 0.3, 1.5 - steps[:, 1]], 1)


@pytest.mark.parametrize("method", ["first-order", "projection"])
def test_a_piecewise_constant_model_is_refused_and_not_verified_by_luck(tmp_path: Path, method: str) -> None:
    x = np.random.default_rng(0).uniform(size=(12, 3)).astype(np.float32)
    labels = quantised(torch.rand(200, 3, generator=torch.Generator().manual_seed(0))).argmax(1)
    assert len(labels.unique()) == 3
    with pytest.raises(InputError, match="zero at all 12 examples"):
        score(quantised, x, method=method)


class PartlyConstant(nn.Module):
    """A linear classifier where x₁ is exactly .25; elsewhere flat, with labels that any random step may change."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stairs = torch.round(x[:, 0] * 4) % 2 - 0.5 + 0 * x[:, 0]
        s = torch.where(x[:, 1] == 0.25, x[:, 0] - 0.45, stairs)
        return torch.stack([s, -s], 1)


def test_examples_without_gradients_are_censored_and_judged_over_all_shards(tmp_path: Path) -> None:
    x = np.full((20, 2), 0.25, dtype=np.float32)
    x[:, 0] = np.linspace(0.1, 0.9, 20)
    x[:10, 1] = 0.75  # these fill the first two shards
    scores = in_shards(tmp_path, PartlyConstant(), x, shard_size=5)
    assert (scores.status[:10] == "censored").all()
    assert np.isinf(scores.distance[:10]).all()
    assert (scores.rival[:10] == -1).all()
    np.testing.assert_allclose(scores.distance[10:], np.abs(x[10:, 0] - 0.45), rtol=0.02, atol=1e-4)
    assert scores.provenance["zero_gradient"] == 10
    with pytest.raises(InputError, match="zero at all 10 examples"):
        in_shards(tmp_path, PartlyConstant(), x[:10], name="flat", shard_size=5)
    assert not (tmp_path / "flat.parquet").exists()


def test_bad_inputs_are_refused_before_any_work_and_the_check_is_not_repeated(tmp_path: Path) -> None:
    model, x = case()
    bad = x.copy()
    bad[-1, 0] = np.nan
    calls = 0

    def counted(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.register_forward_pre_hook(counted)
    with pytest.raises(InputError, match="first at index 49"):
        in_shards(tmp_path, model, bad, shard_size=5)
    assert calls == 0
    assert list(tmp_path.iterdir()) == []


class Interrupted(Exception):
    pass


class Reads:
    """Inputs that note which rows were read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.rows: list[np.ndarray] = []

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        self.rows.append(index)
        return self.values[index]


def interrupt(tmp_path: Path, model: nn.Module, x: Any, done: int, **options: Any) -> None:
    """Score until `done` examples are finished, then fail."""

    class Stops:
        def task(self, description: str, total: int) -> Any:
            def advance(now: int) -> None:
                if now >= done:
                    raise Interrupted

            return advance

    with pytest.raises(Interrupted):
        in_shards(tmp_path, model, x, reporter=Stops(), **options)


def test_a_resumed_run_reads_what_is_left_only_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    model, x = case()
    in_shards(tmp_path, model, x, name="whole", shard_size=8)
    interrupt(tmp_path, model, x, 30, shard_size=8)
    parts = tmp_path / "s.parquet.parts"
    assert len(list(parts.glob("*.parquet"))) == 3
    (parts / ".score-000003.parquet.abc.tmp").write_bytes(b"half")
    (tmp_path / ".s.parquet.xyz.tmp").write_bytes(b"half")
    (tmp_path / ".other.parquet.xyz.tmp").write_bytes(b"another's")
    (parts / "score-000001.parquet").write_bytes(b"damaged by a crash of the machine")
    seen = Reads(x)
    in_shards(tmp_path, model, seen, shard_size=8)
    first, *rest = seen.rows
    assert first.tolist() == list(range(16))  # the trial of the model
    assert sorted(np.concatenate(rest).tolist()) == [*range(8, 16), *range(24, 50)]
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.parquet.xyz.tmp", "s.parquet", "whole.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("done", [40, 250, 300, 390])
def test_the_cascade_resumes_in_any_round_and_ends_in_the_same_bytes(
    tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of inputs too large to be judged together in memory."""
    monkeypatch.setattr(auto, "GATHERED_VALUES", 100)
    model, x = case(400)
    whole = in_shards(tmp_path, model, x, name="whole", method="auto", shard_size=32, num_levels=4)
    interrupt(tmp_path, model, x, done, method="auto", shard_size=32, num_levels=4)
    with pytest.raises(InputError, match="another model, data set or setting"):
        in_shards(tmp_path, model, x, method="auto", shard_size=32, num_levels=5)
    in_shards(tmp_path, model, x, method="auto", shard_size=32, num_levels=4)
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    at_once = score(model, x, method="auto", num_levels=4)
    np.testing.assert_allclose(whole.distance, at_once.distance, rtol=1e-4)
    assert whole.provenance["rounds"] == at_once.provenance["rounds"] == [32, 96, 128, 144]
    assert whole.provenance["linear_error"] == at_once.provenance["linear_error"] > 0
    assert whole.method == at_once.method == "auto"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.parquet", "whole.parquet"]


def test_examples_that_are_judged_together_are_one_shard(tmp_path: Path) -> None:
    model, x = case(100)
    made = in_shards(tmp_path, model, x, method="auto", shard_size=8, num_levels=4)
    at_once = score(model, x, method="auto", num_levels=4)
    np.testing.assert_array_equal(made.distance, at_once.distance)
    assert made.provenance["rounds"] == at_once.provenance["rounds"] == [100]
    interrupt(tmp_path, model, x, 100, name="t", method="auto", shard_size=8, num_levels=4)
    in_shards(tmp_path, model, x, name="t", method="auto", shard_size=8, num_levels=4)
    assert (tmp_path / "t.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()


def test_more_levels_than_examples_are_refused_before_any_work(tmp_path: Path) -> None:
    model, x = case(5)
    with pytest.raises(InputError, match="5 examples for 10 levels"):
        in_shards(tmp_path, model, x, method="auto")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"about": {"model": "other", "data": "d"}},
        {"about": {"model": "m", "data": "other"}},
        {"method": "first-order"},
        {"method": Projection(max_steps=3)},
        {"batch_size": 9},
        {"seed": 1},
        {"box": (-1.0, 1.0)},
        {"box": (np.zeros(6), np.ones(6))},
        {"precision": "bf16"},
        {"shard_size": 9},
        {"reference": "label", "labels": np.zeros(50, dtype=np.int64)},
    ],
    ids=str,
)
def test_shards_of_another_model_data_set_or_setting_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    model, x = case()
    interrupt(tmp_path, model, x, 30, shard_size=8)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "s.parquet.parts").iterdir())
    options = {"about": ABOUT, "shard_size": 8, **change}
    with pytest.raises(InputError, match="another model, data set or setting"):
        score_in_shards(model, x, out=tmp_path / "s.parquet", **options)
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "s.parquet.parts").iterdir()) == before


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    model, x = case(5)
    (tmp_path / "s.parquet").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists"):
        in_shards(tmp_path, model, x)
    assert (tmp_path / "s.parquet").read_bytes() == b"mine"
    in_shards(tmp_path, model, x, overwrite=True)
    assert len(load_scores(tmp_path / "s.parquet")) == 5


def test_finished_scores_of_the_same_work_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started again, because one was lost after the result was written, find it done."""
    model, x = case(5)
    made = in_shards(tmp_path, model, x)
    before = (tmp_path / "s.parquet").read_bytes()
    (tmp_path / "s.parquet.parts").mkdir()  # the kill came before they were removed
    (tmp_path / "s.parquet.parts/score-000000.parquet").write_bytes(before)
    monkeypatch.setattr(Scorer, "run", lambda *_, **__: pytest.fail("they are made again"))
    np.testing.assert_array_equal(in_shards(tmp_path, model, x).distance, made.distance)
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]
    with pytest.raises(InputError, match="exists"):
        in_shards(tmp_path, model, x, num_rivals=1)
    assert (tmp_path / "s.parquet").read_bytes() == before


def test_any_positions_of_a_data_set_score_as_in_the_whole() -> None:
    model, x = case()
    scorer = Scorer(model, x, method="projection", batch_size=4)
    whole = score(model, x, method="projection", batch_size=4)
    positions = np.array([3, 4, 11, 40])
    with scorer.opened() as network:
        part = scorer.run(network, positions)
        first = scorer.run(network, positions, attack=FirstOrder())
    np.testing.assert_allclose(part.distance, whole.distance[positions], rtol=1e-5)
    np.testing.assert_allclose(first.distance, score(model, x, method="first-order").distance[positions], rtol=1e-5)


# Real processes, killed -----------------------------------------------------------------------------------------------

#: Runs `robcal` with the arguments of each line in a process of its own, and says its number and how it ended.
NURSERY = """
import json, os, sys
import robcal.runs.train
import robcal.robustness.shards as shards
from robcal.commands.cli import main
shards.SHARD_SIZE = 16
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        main(json.loads(line))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def nursery() -> Iterator[Callable[[list[str]], tuple[int, Callable[[], int]]]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    process = subprocess.Popen([sys.executable, "-c", NURSERY], env=environment, **pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    lines, stdin = process.stdout, process.stdin

    def numbers() -> int:
        return int(next(line for line in lines if line.strip().lstrip("-").isdigit()))

    def start(arguments: list[str]) -> tuple[int, Callable[[], int]]:
        stdin.write(json.dumps(arguments) + "\n")
        return numbers(), numbers

    yield start
    stdin.close()
    assert process.wait(timeout=300) == 0
    lines.close()


def table(folder: Path, count: int) -> list[str]:
    """A table, an untrained network for it, and the arguments that score it in many shards."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 8)).astype(np.float32), np.arange(count) % 3
    np.savez(folder / "data.npz", x_train=x[:30], y_train=y[:30], x_test=x, y_test=y)
    model = build_model("mlp", input_shape=(8,), num_classes=3, seed=0)
    save_checkpoint(
        model.state_dict(), {"model": "mlp", "input_shape": [8], "num_classes": 3}, folder / "model.safetensors"
    )
    return [
        *("score", "--quiet", "--method", "projection", "--model", str(folder / "model.safetensors")),
        *("--data", f"npz:{folder / 'data.npz'}"),
    ]


def test_killed_at_any_moment_and_started_again_it_ends_in_the_same_bytes(
    tmp_path: Path, nursery: Callable[[list[str]], tuple[int, Callable[[], int]]]
) -> None:
    command = table(tmp_path, 560)
    out, parts, draws = tmp_path / "killed.parquet", tmp_path / "killed.parquet.parts", random.Random(0)
    assert nursery([*command, "--out", str(tmp_path / "whole.parquet")])[1]() == 0
    progress = [0]
    for _ in range(5):
        child, status = nursery([*command, "--out", str(out)])
        goal, deadline = progress[-1] + draws.randint(1, 6), time.monotonic() + 600
        while len(list(parts.glob("score-*"))) < goal and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert status() == signal.SIGKILL
        assert not out.exists()
        progress.append(len(list(parts.glob("score-*"))))
    assert progress == sorted(set(progress))  # every run went on from where the last was killed
    assert nursery([*command, "--out", str(out)])[1]() == 0
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
