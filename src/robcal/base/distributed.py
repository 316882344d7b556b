"""Several processes on one job, as `torchrun` starts them: who am I, one group, a work queue and a shared failure.

Outside torchrun everything here is a group of one and imports nothing. Inside, gloo (CPUs) or NCCL (GPUs) makes sure
that all ranks are there and work on the same thing; from then on they meet in the rendezvous store only (an atomic
counter hands out work, a flag says that all is done), so a rank may be as slow as it likes: no collective times out.

`torchrun --max-restarts=N` starts all processes again when one is lost, on the same store: each start has a name of its
own (`_name_of_start`), so that nothing which an earlier start left in the store is taken for its own.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from robcal.base.checks import InputError, refuse
from robcal.base.progress import StopRequested

T = TypeVar("T")
#: Seconds between two looks at what the other ranks have done.
_POLL = 0.05
#: How long ranks may be apart when they meet at the start (one may read its data from a slow disk).
_TIMEOUT = timedelta(hours=24)


def rank_and_world() -> tuple[int, int]:
    """Return (rank, number of processes) as torchrun sets them; (0, 1) elsewhere."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        fix = "Start several processes with torchrun, or unset both"
        refuse(f"RANK is {rank!r} and WORLD_SIZE {world!r}", "they are integers, 0 <= RANK < WORLD_SIZE", fix)
    return int(rank), int(world)


def is_main() -> bool:
    """Return whether this process writes and reports: rank 0, or the only one."""
    return rank_and_world()[0] == 0


def choose_device(device: str | None) -> str:
    """Return `device`, or what there is; under torchrun "cuda" means the GPU of this process (LOCAL_RANK)."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        refuse(f"device is {device}", "this machine or this build of torch has no GPU", "Pass --device cpu")
    if device == "cuda" and rank_and_world()[1] > 1:
        local, have = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= have:
            given = f"this is process {local} (counted from 0) of a machine with {have} GPUs"
            fix = f"Start {have} on this machine: torchrun --nproc-per-node {have}"
            refuse(given, "every process has a GPU of its own", fix)
        return f"cuda:{local}"
    return device


class Group:
    """The processes of one job, which meet in torch's rendezvous `store` (None for a group of one).

    `is_current` tells whether no later start has taken the place of this one. Set `stop` where signals only raise a
    flag (`robcal.base.progress.stop_at_boundary`): waiting looks at it.
    """

    def __init__(
        self, rank: int = 0, world: int = 1, store: Any = None, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        self.rank, self.world, self._store, self._is_current = rank, world, store, is_current
        self.stop: StopRequested | None = None
        self._counters: dict[str, int] = {}

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def agree(self, value: str, what: str) -> None:
        """Refuse values that differ, when all ranks are here, on all of them: the one collective, over gloo or NCCL."""
        if self.world == 1:
            return
        import hashlib

        import torch
        import torch.distributed as dist

        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
        mine = torch.tensor(list(hashlib.sha256(value.encode()).digest()), device=device)
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(everyone, mine)
        other = [rank for rank, theirs in enumerate(everyone) if not bool((theirs == everyone[0]).all())]
        if other:
            given = f"rank {other[0]} was started with another {what} than rank 0"
            fix = "Check that every machine sees the same files, and the same version of robcal and torch"
            refuse(given, "all processes work on the same thing", fix)

    def add(self, name: str, amount: int) -> int:
        """Add to a counter that all ranks share, atomically, and return its new value."""
        if self._store is None:
            self._counters[name] = self._counters.get(name, 0) + amount
            return self._counters[name]
        return int(self._store.add(name, amount))

    def queue(self, name: str, size: int) -> Iterator[int]:
        """Yield 0 … size - 1, each handed to one rank, in order, when that rank is ready; fail as `check_others`."""
        while True:
            self.check_others()
            number = self.add(name, 1) - 1
            if number >= size:
                return
            yield number

    def from_main(self, name: str, compute: Callable[[], T]) -> T:
        """Return what `compute()` gives on rank 0, on all ranks, JSON-able; the others wait for it and fail with it."""
        if self.is_main:
            value = compute()
            if self._store is not None:
                self._store.set(name, json.dumps(value))
            return value
        self.wait(lambda: bool(self._store.check([name])))
        theirs: T = json.loads(self._store.get(name))
        return theirs

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Return when `is_done()`; fail as `check_others` when another rank has failed, or when `stop` is set."""
        while not is_done():
            self.check_others()
            if self.stop is not None:
                self.stop.raise_if_set()
            time.sleep(_POLL)

    def barrier(self, name: str) -> None:
        """Wait until all ranks have come here. No time limit, and a rank that fails ends the waiting of the others."""
        self.add(name, 1)
        self.wait(lambda: self.add(name, 0) >= self.world)

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that this one cannot go on."""
        if self._store is not None and self.add("failures", 1) == 1:
            kind = "input" if isinstance(error, InputError) else type(error).__name__
            self._store.set("failure", json.dumps([self.rank, kind, str(error)]))

    def check_others(self) -> None:
        """Raise what another rank has failed with: InputError, KeyboardInterrupt, or RuntimeError for all else."""
        if self._store is None:
            return
        if not self._is_current():
            raise RuntimeError("the other processes were started again; this one cannot work with them")
        if not self._store.check(["failure"]):
            return
        rank, kind, message = json.loads(self._store.get("failure"))
        if kind == "input":
            raise InputError(f"rank {rank}: {message}")
        if kind in ("KeyboardInterrupt", "SystemExit"):
            raise KeyboardInterrupt
        raise RuntimeError(f"rank {rank} failed: {kind}: {message}")


_calls = itertools.count()


@contextmanager
def process_group(device: str = "cpu") -> Iterator[Group]:
    """Open the group of all processes that torchrun started. All of them must open the same groups in the same order.

    It closes the gloo or NCCL that it opened. An error that leaves the block is told to the other ranks, which fail
    too.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield Group()
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    opened_here = False
    base = _rendezvous_store(rank, world)
    start = _name_of_start(base, rank, world)
    store = PrefixStore(f"robcal/{start}/{next(_calls)}", base)
    if not dist.is_initialized():
        opened_here = True
        on_gpu, meet = device.startswith("cuda"), PrefixStore("group", store)
        if on_gpu:
            torch.cuda.set_device(torch.device(device))
        dist.init_process_group("nccl" if on_gpu else "gloo", store=meet, rank=rank, world_size=world, timeout=_TIMEOUT)
    group = Group(rank, world, store, lambda: base.get(_CURRENT).decode() == start)
    try:
        yield group
        group.barrier("leaving")  # the rank that hosts the store must not end before the others have read it
    except BaseException as error:
        group.fail(error)
        raise
    finally:
        if opened_here:
            gc.collect()  # what still refers to the group must go before it does, or gloo aborts at exit
            dist.destroy_process_group()


#: Key of the name of the latest start.
_CURRENT = "robcal/start"


@functools.cache
def _name_of_start(store: Any, rank: int, world: int) -> str:
    """Return the name of this start of all processes, agreed on once a process."""
    return _invite(store, world) if rank == 0 else _accept(store, rank)


def _invite(store: Any, world: int) -> str:
    """Rank 0 draws the name, and gives it to whoever asks until every rank of this start has taken it.

    A rank asks under a number that it drew: one of an earlier start, which is dead, takes no answer, and one of this
    start takes no answer that was given to another. torchrun's own count of restarts would not do: machines differ in
    it.
    """
    name, answered = secrets.token_hex(8), set[bytes]()
    store.set(_CURRENT, name)
    while store.add(f"robcal/{name}/taken", 0) < world - 1:
        for rank in range(1, world):
            if store.check([f"robcal/ask/{rank}"]) and (asked := store.get(f"robcal/ask/{rank}")) not in answered:
                store.set(f"robcal/answer/{asked.decode()}", name)
                answered.add(asked)
        time.sleep(_POLL)
    return name


def _accept(store: Any, rank: int) -> str:
    """Return the name that rank 0 gives this rank; see `_invite`."""
    own = secrets.token_hex(8)
    store.set(f"robcal/ask/{rank}", own)
    answer = f"robcal/answer/{own}"
    while not store.check([answer]):
        time.sleep(_POLL)
    name = str(store.get(answer).decode())
    store.add(f"robcal/{name}/taken", 1)
    return name


@functools.cache
def _rendezvous_store(rank: int, world: int) -> Any:
    """Return the store that the environment names (MASTER_ADDR, MASTER_PORT), opened once a process."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        given = f"WORLD_SIZE is {world}, and {' and '.join(missing)} not set"
        fix = "Start them with torchrun, or unset RANK and WORLD_SIZE"
        refuse(given, "several processes need a place to meet", fix)
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _get_default_store
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():
        return _get_default_store()
    return next(rendezvous("env://", rank, world, timeout=_TIMEOUT))[0]
