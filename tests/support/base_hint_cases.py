"""Advice about processes, devices, files and what robcal stores, carried out."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hint_cases import Call, Case, Steps, in_turn, robcal
from runs_hint_cases import SMALL, TRAIN, a_run, quick_fidelity

from robcal.base import distributed, npy
from robcal.base.distributed import Group, choose_device, process_group, rank_and_world
from robcal.base.errors import InputError
from robcal.base.jobs import run_tasks
from robcal.base.storage import (
    load_arrays,
    load_checkpoint,
    load_fidelity,
    load_json,
    load_levels,
    load_predictions,
    load_scores,
    save_arrays,
    save_json,
)
from robcal.base.types import Scores
from robcal.runs.directory import open_run


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that torchrun sets, and no others of its."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    distributed._rendezvous_store.cache_clear()
    with mock.patch.dict(os.environ, {**kept, **values}, clear=True):
        yield


def _started(wrong: dict[str, str], call: Call, **right: str) -> Callable[[Path], Steps]:
    """A call in a wrong environment, and in the one that the advice asks for."""

    def steps(folder: Path) -> Steps:
        with _environment(**wrong):
            yield call
        with _environment(**right):
            yield call

    return steps


def _opened() -> None:
    with process_group() as group:
        assert group.world == 1


def _gpus(count: int) -> contextlib.AbstractContextManager[Any]:
    return mock.patch.multiple("torch.cuda", is_available=lambda: count > 0, device_count=lambda: count)


def _no_gpu(folder: Path) -> Steps:
    with _gpus(0):
        yield lambda: choose_device("cuda")
        yield lambda: choose_device("cpu")


def _few_gpus(folder: Path) -> Steps:
    with _gpus(1):
        with _environment(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2"):
            yield lambda: choose_device("cuda")
        with _environment(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1"):
            yield lambda: choose_device("cuda")


def _disagreeing(folder: Path) -> Steps:
    """Another rank holds other bytes; then the same."""

    def gathered(theirs: bool) -> Call:
        def gather(everyone: list[torch.Tensor], mine: torch.Tensor) -> None:
            everyone[:] = [mine, mine + theirs]

        def call() -> None:
            with mock.patch.multiple("torch.distributed", get_backend=lambda: "gloo", all_gather=gather):
                Group(0, 2).agree("digest", "data")

        return call

    yield gathered(True)
    yield gathered(False)


def _another_rank(folder: Path) -> Steps:
    """What another rank was refused is told by every rank; there it is carried out."""
    import torch.distributed as dist

    store = dist.HashStore()
    Group(1, 2, store).fail(InputError("seed is -1; a seed is an integer from 0 to 2^63 - 1. Choose another seed."))
    yield lambda: Group(0, 2, store).check_others()
    yield lambda: Group(0, 2, dist.HashStore()).check_others()


def _no_memory(folder: Path) -> Steps:
    file = save_json([1], folder / "f.json")
    with mock.patch("json.loads", side_effect=MemoryError):
        yield lambda: load_json(file)
    yield lambda: load_json(file)


def _unwritable(folder: Path) -> Steps:
    (folder / "file").touch()
    yield lambda: save_json([1], folder / "file" / "f.json")
    yield lambda: save_json([1], folder / "f.json")


def _packed(folder: Path) -> Steps:
    zeros = np.zeros(100_000)
    np.savez_compressed(folder / "packed.npz", x=zeros)
    with mock.patch.object(npy, "FREE_BYTES", 1000):
        yield lambda: npy.npz_arrays(folder / "packed.npz", ["x"])
        np.savez(folder / "unpacked.npz", x=zeros)
        yield lambda: npy.npz_arrays(folder / "unpacked.npz", ["x"])


def _sealed(folder: Path) -> Steps:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    file = save_arrays({"x": np.arange(3)}, folder / "a.safetensors")
    before = file.read_bytes()
    with safe_open(file, framework="numpy") as opened:
        about = opened.metadata()
    save_file({"x": load_file(file)["x"] + 1}, file, metadata=about)
    yield lambda: load_arrays(file)

    def mended() -> None:
        file.write_bytes(before)
        load_arrays(file)
        file.unlink()
        load_arrays(save_arrays({"x": np.arange(3)}, file))

    yield mended


def _fidelity(run: Path) -> None:
    """`robcal fidelity`, quickly."""
    scores = run.parent / "test.parquet"
    if not scores.exists():
        robcal("score", "--model", run, "--method", "first-order", "--out", scores, "--quiet")()
    few = ("--sample", 10, "--levels", 2, "--overwrite", "--quiet")
    with quick_fidelity():
        robcal("fidelity", "--model", run, "--scores", scores, "--out", run / "fidelity.json", *few)()


def _measured(rows: Any, about: Any) -> Callable[[Path], Steps]:
    """A fidelity.json that is none of this run, and what measuring it again makes of it."""

    def steps(folder: Path) -> Steps:
        run = a_run(folder)
        file, model = save_json({"rows": rows, "about": about}, run / "fidelity.json"), open_run(run).model_digest
        yield lambda: load_fidelity(file, model)
        file.unlink()
        yield lambda: (_fidelity(run), load_fidelity(file, model))

    return steps


def _foreign(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1, 2]}), folder / "foreign.parquet")
    return folder / "foreign.parquet"


def _no_scores(folder: Path) -> Steps:
    run, file = a_run(folder), _foreign(folder)
    yield lambda: load_scores(file)
    words = ("score", "--model", run, "--method", "first-order", "--out", file, "--overwrite", "--quiet")
    yield lambda: (robcal(*words)(), load_scores(file))


def _no_levels(folder: Path) -> Steps:
    file, out = _foreign(folder), folder / "run"
    yield lambda: load_levels(file)
    words = ("train", *SMALL, "--method", "ar-adals", "--levels", 2, "--scorer", "first-order", "--out", out, "--quiet")

    def trained() -> None:
        robcal(*words)()
        for levels in out.glob("levels-*.parquet"):
            load_levels(levels)
            return
        raise AssertionError(sorted(out.iterdir()))

    yield trained


def _no_predictions(folder: Path) -> Steps:
    run = a_run(folder)
    file = run / "predictions-test.safetensors"
    before = file.read_bytes()
    save_arrays({"x": np.arange(3)}, file)
    yield lambda: load_predictions(file)

    def mended() -> None:
        file.write_bytes(before)
        load_predictions(file)
        robcal(*TRAIN, "--out", run, "--overwrite")()
        load_predictions(file)

    yield mended


def _no_checkpoint(folder: Path) -> Steps:
    run, file = a_run(folder), save_arrays({"x": np.arange(3.0)}, folder / "a.safetensors")
    yield lambda: load_checkpoint(file)
    yield lambda: load_checkpoint(run / "model.safetensors")


def _scores(count: int) -> Scores:
    ones = np.ones(5, np.float32)
    return Scores(ones[:count], np.full(5, "verified"), *(np.zeros(5, np.int64),) * 2, ones, ones)


def _tasks(needs: list[tuple[int, ...]]) -> Call:
    return lambda: run_tasks(lambda task, reporter: task, [1, 2], needs)


CASES = [
    Case("a rank that is no number", "Start several processes with torchrun, or unset both",
         _started({"RANK": "first", "WORLD_SIZE": "2"}, rank_and_world)),
    Case("a rank beyond the world", "Start several processes with torchrun, or unset both",
         _started({"RANK": "2", "WORLD_SIZE": "2"}, rank_and_world, RANK="1", WORLD_SIZE="2")),
    Case("no place to meet", "or unset RANK and WORLD_SIZE", _started({"RANK": "0", "WORLD_SIZE": "2"}, _opened)),
    Case("no GPU", "Pass --device cpu", _no_gpu),
    Case("fewer GPUs than processes", "Start 1 on this machine: torchrun --nproc-per-node 1", _few_gpus),
    Case("ranks of other data", "Check that every machine sees the same files", _disagreeing),
    Case("bad input of another rank", "rank 1: seed is -1; .* Choose another seed", _another_rank),
    Case("a file larger than memory", "or free memory", _no_memory),
    Case("a file below a file", "choose another place; finished work is kept", _unwritable),
    Case("tasks that need each other", "Drop one of these needs", in_turn(_tasks([(1,), (0,)]), _tasks([(1,), ()]))),
    Case("an array that is packed tightly", "save it unpacked, such as by np.savez", _packed),
    Case("a file that was changed", "Put back a copy from before, or delete", _sealed),
    Case("a fidelity without rows", "Delete .*, and measure it again: robcal fidelity", _measured(None, {})),
    Case("a fidelity of another network", "Delete .*, or measure it again with `robcal fidelity`",
         _measured([], {"model": "another"})),
    Case("scores that lack columns", "Make it with `robcal score`", _no_scores),
    Case("levels that are none", "Make it with `robcal train`", _no_levels),
    Case("predictions that are none", "or train the run again with --overwrite", _no_predictions),
    Case("a checkpoint of others", "Make it with `robcal train`", _no_checkpoint),
    Case("columns of other lengths", "Score again", in_turn(lambda: _scores(4), lambda: _scores(5))),
]  # fmt: skip
