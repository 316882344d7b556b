from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robcal.base import distributed
from robcal.base.checks import InputError
from robcal.base.distributed import Group, choose_device, is_main, process_group, rank_and_world
from robcal.base.progress import StopRequested
from robcal.base.storage import load_scores, save_checkpoint
from robcal.commands.cli import main
from robcal.models import build_model
from robcal.runs.directory import load_data, load_model
from robcal.runs.scores import score_split
from robcal.training.settings import TrainSettings

pytestmark = pytest.mark.slow

#: What every rank runs: several scorings after one another, so that the start of Python is paid once.
WORKER = """
import sys
from pathlib import Path
from robcal.base.distributed import rank_and_world, process_group
from robcal.base.checks import InputError
from robcal.runs.directory import load_data, load_model
from robcal.runs.scores import score_split
from robcal.training.settings import TrainSettings

folder, name = Path(sys.argv[1]), sys.argv[2]
rank, world = rank_and_world()


def say(*words):
    # A file of the rank's own: lines of two processes on one stream may be cut into each other.
    with (folder / f"said-{rank}.txt").open("a") as file:
        print(*words, file=file)


model, _ = load_model(folder / "model.safetensors")
settings = TrainSettings(data=f"npz:{folder / 'data.npz'}", model="mlp", method="vanilla", epochs=1)
data = load_data(settings)
for shard_size in (7, 64, 5000):
    scores = score_split(model, data, "test", folder / f"{name}-{shard_size}.parquet", shard_size=shard_size)
    assert len(scores) == 150
    say("has", shard_size, float(scores.distance.sum()))
label = score_split(model, data, "test", folder / f"{name}-label.parquet", shard_size=40, reference="label")
score_split(model, data, "test", folder / f"{name}-auto.parquet", shard_size=40, method="auto", num_levels=5)
with process_group() as group:
    assert group.world == world
    turns = list(group.queue("turns", 5))
    group.add("sum", sum(turns))
    group.barrier("all")
    assert group.add("sum", 0) == 10
    assert group.from_main("word", lambda: f"of {rank}") == "of 0"
try:
    with process_group() as group:
        group.agree("same", "word")
        group.agree(f"rank {rank}", "word")
except InputError as error:
    say("disagrees:", error)
try:
    with process_group() as group:
        if rank == world - 1:
            raise InputError("a bad input")
        group.wait(lambda: False)
except InputError as error:
    say("failed:", error)
"""


def table(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 8)).astype(np.float32), np.arange(150) % 3
    np.savez(folder / "data.npz", x_train=x[:30], y_train=y[:30], x_test=x, y_test=y)
    model = build_model("mlp", input_shape=(8,), num_classes=3, seed=0)
    about = {"model": "mlp", "input_shape": [8], "num_classes": 3}
    save_checkpoint(model.state_dict(), about, folder / "model.safetensors")
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")


LAUNCHER = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """The command under torchrun on this machine, at a port that the launcher finds free and keeps."""
    command = [*LAUNCHER, "--standalone", f"--nproc-per-node={processes}", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def free_port() -> int:
    """A port that is free, and below those that the system hands out by itself."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def score_alone(folder: Path) -> None:
    """The worker's scorings in this process."""
    model, _ = load_model(folder / "model.safetensors")
    data = load_data(TrainSettings(data=f"npz:{folder / 'data.npz'}", model="mlp", method="vanilla", epochs=1))
    for size in (7, 64, 5000):
        score_split(model, data, "test", folder / f"one-{size}.parquet", shard_size=size)
    score_split(model, data, "test", folder / "one-label.parquet", shard_size=40, reference="label")
    score_split(model, data, "test", folder / "one-auto.parquet", shard_size=40, method="auto", num_levels=5)


def test_two_processes_write_the_bytes_of_one_and_share_failures(tmp_path: Path) -> None:
    table(tmp_path)
    score_alone(tmp_path)
    both = torchrun(str(tmp_path / "worker.py"), str(tmp_path), "two")
    assert both.returncode == 0, both.stderr
    for name in ("7", "64", "5000", "label", "auto"):  # 150 examples: uneven shards, and fewer shards than processes
        one, two = (tmp_path / f"{count}-{name}.parquet" for count in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        assert len(load_scores(two)) == 150
    total = float(load_scores(tmp_path / "one-7.parquet").distance.sum())
    for rank, failed in enumerate(("rank 1: a bad input", "a bad input")):
        has, *_, disagrees, fails = (tmp_path / f"said-{rank}.txt").read_text().splitlines()
        assert has == f"has 7 {total}"
        assert "disagrees: rank 1 was started with another word than rank 0" in disagrees
        assert fails == f"failed: {failed}"
    left = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in left if name.endswith((".parts", ".tmp"))]


def test_two_launchers_as_on_two_machines_share_the_work_by_one_command(tmp_path: Path) -> None:
    """Each starts one process; both see the same files."""
    table(tmp_path)
    score = ["score", "--quiet", "--model", str(tmp_path / "model.safetensors"), "--shard-size", "20"]
    score += ["--data", f"npz:{tmp_path / 'data.npz'}"]
    nodes = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    command = [*LAUNCHER, *nodes, "-m", "robcal", *score, "--out", str(tmp_path / "two.parquet")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(command, env=ENVIRONMENT, **pipes) for _ in range(2)]
    try:
        said = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    assert sum("two.parquet" in text for text in said) == 1  # one of all processes reports
    with pytest.raises(SystemExit, match="0"):
        main([*score, "--out", str(tmp_path / "one.parquet")])
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


# Groups of threads on one store: every order of events can be made ----------------------------------------------------


def threads(count: int, work: Any) -> list[Any]:
    """What `work(group)` returns or raises on each of `count` ranks that share a store."""
    from torch.distributed import HashStore

    store, outcomes = HashStore(), [None] * count

    def one(rank: int) -> None:
        group = Group(rank, count, store)
        try:
            outcomes[rank] = work(group)
        except (InputError, RuntimeError, KeyboardInterrupt, SystemExit) as error:
            group.fail(error)
            outcomes[rank] = error

    started = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(timeout=300)
        assert not thread.is_alive()
    return outcomes


@pytest.mark.parametrize(("ranks", "size"), [(1, 5), (3, 0), (3, 2), (4, 50)])
def test_a_queue_hands_out_everything_once(ranks: int, size: int) -> None:
    handed = threads(ranks, lambda group: list(group.queue("q", size)))
    assert sorted(number for part in handed for number in part) == list(range(size))
    assert all(part == sorted(part) for part in handed)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (InputError("bad"), InputError, "rank 2: bad"),
        (RuntimeError("out of memory"), RuntimeError, "rank 2 failed: RuntimeError: out of memory"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_a_failure_ends_the_waiting_of_all(error: BaseException, kind: type[BaseException], words: str) -> None:
    def work(group: Group) -> None:
        if group.rank == 2:
            raise error
        group.barrier("never complete")

    outcomes = threads(3, work)
    assert outcomes[2] is error
    for outcome in outcomes[:2]:
        assert type(outcome) is kind
        assert str(outcome) == words


def test_a_start_after_another_has_a_name_of_its_own() -> None:
    """torchrun keeps its store: what a killed start left there is neither taken for an answer nor answered twice."""
    from torch.distributed import HashStore

    store, names = HashStore(), []
    for start in range(3):
        found: dict[int, str] = {}

        def meet(rank: int, found: dict[int, str] = found) -> None:
            found[rank] = distributed._invite(store, 3) if rank == 0 else distributed._accept(store, rank)

        started = [threading.Thread(target=meet, args=(rank,)) for rank in (2, 0, 1)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join(timeout=60)
            assert not thread.is_alive()
        assert len(found) == 3
        assert len(set(found.values())) == 1
        names.append(found[0])
        store.set("robcal/ask/1", f"{start:016x}")  # rank 1 of a start whose rank 0 was killed before it answered
    assert len(set(names)) == 3
    assert store.get(distributed._CURRENT).decode() == names[-1]


def test_a_process_that_is_left_behind_notices_that_the_others_began_anew() -> None:
    """As on a second machine, whose launcher does not know that the first one started its processes again."""
    from torch.distributed import HashStore

    group = Group(1, 2, HashStore(), is_current=lambda: False)
    with pytest.raises(RuntimeError, match="started again"):
        group.wait(lambda: False)


def test_rank_zero_computes_and_all_have_the_value() -> None:
    computed = []
    outcomes = threads(3, lambda group: group.from_main("v", lambda: computed.append(1) or {"a": [1, None]}))
    assert outcomes == [{"a": [1, None]}] * 3
    assert computed == [1]


def test_a_group_of_one_needs_no_store() -> None:
    with process_group() as group:
        group.agree("x", "word")
        group.barrier("b")
        assert (group.rank, group.world, group.is_main) == (0, 1, True)
        assert list(group.queue("q", 3)) == [0, 1, 2]
        assert list(group.queue("other", 1)) == [0]
    assert is_main()


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("0", "0"), ("a", "2")])
def test_an_environment_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, world: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match="RANK is"):
        rank_and_world()


def test_processes_without_a_place_to_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="MASTER_ADDR"), process_group():
        pass


def test_a_stop_ends_the_waiting() -> None:
    stop = StopRequested()

    def work(group: Group) -> None:
        group.stop = stop
        if group.rank == 1:
            stop.signal = signal.SIGTERM
        group.wait(lambda: False)

    assert {type(outcome) for outcome in threads(2, work)} <= {SystemExit, KeyboardInterrupt}


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None) == choose_device("cuda") == "cuda:1"
    assert choose_device("cuda:0") == "cuda:0"
    assert choose_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"process 2 \(counted from 0\) of a machine with 2 GPUs"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == "cpu"
    with pytest.raises(InputError, match="no GPU"):
        choose_device("cuda")
