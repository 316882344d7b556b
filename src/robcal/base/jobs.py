"""Run independent tasks side by side in processes of one thread each, with progress in one place and a clean stop.

On a CPU two processes of one thread beat one process of two. Every task keeps its own finished work on disk, so a
stopped set of tasks resumes by being started again.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from multiprocessing.managers import SyncManager
from typing import Any, Protocol, TypeVar

from robcal.base.checks import InputError, check_positive_int, refuse
from robcal.base.progress import SILENT, Relay, Reporter, relay_messages

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Failure:
    """A task that did not end well, and why, in one line."""

    reason: str
    cause: int  # position of the task that failed: its own, or that of one it needs


class Workers(Protocol):
    """What does tasks, one or several at a time; left as a context, it stops those that run."""

    def __enter__(self) -> Workers: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def running(self) -> int:
        """How many tasks have been started and have not been told of by `ended`."""

    @property
    def free(self) -> bool:
        """Whether another one may be started."""

    def start(self, number: int, function: Callable[[Any, Reporter], Any], task: Any) -> None:
        """Start `function(task, reporter)` under that number."""

    def ended(self) -> list[tuple[int, Any, BaseException | None]]:
        """Wait until a task has ended; number, outcome and error of each that has."""


def run_tasks(
    function: Callable[[Task, Reporter], Outcome],
    tasks: Sequence[Task],
    needs: Sequence[Collection[int]] | None = None,
    *,
    jobs: int = 1,
    workers: Workers | None = None,
    reporter: Reporter = SILENT,
    done: Callable[[int], None] = lambda count: None,
    failed: Callable[[int, Failure], None] | None = None,
) -> list[Any]:
    """Return `[function(task, reporter) for task in tasks]`, each when all that it needs have ended, in their order.

    The function is importable by name, tasks are picklable; `needs` holds for each task the positions of those it waits
    for. They run in `jobs` processes (1: in this one), or by `workers`. `done` is told the number of tasks that have
    ended or were skipped. With `failed`, which is told at once of each task that fails (by any exception, by the kill
    of its process, or by asking it to end), only what needs it, directly or not, is skipped, and the outcome is a
    `Failure`; without it the first failure is raised. On Ctrl-C the running tasks save their state before
    KeyboardInterrupt.

    >>> run_tasks(lambda task, reporter: 2 * task, [1, 2], [(1,), ()])
    [2, 4]
    >>> found = run_tasks(lambda n, _: 6 // n, [3, 0, 2], [(), (), (1,)], failed=lambda number, failure: None)
    >>> found[0], found[1].reason, found[2].cause
    (2, 'ZeroDivisionError: integer division or modulo by zero', 1)
    """
    check_positive_int(jobs, "--jobs")
    order = _order(needs or [()] * len(tasks))
    outcomes: dict[int, Any] = {}
    waiting: list[int] = []

    def end(number: int, outcome: Any) -> None:
        outcomes[number] = outcome
        order.done(number)
        done(len(outcomes))

    used = min(jobs, len(tasks))
    with workers or (_Processes(used, reporter) if used > 1 else _Here(reporter)) as pool:
        while order.is_active():
            for number in order.get_ready():
                needed = [outcomes[one] for one in needs[number]] if needs else []
                skipped = next((one for one in needed if isinstance(one, Failure)), None)
                end(number, skipped) if skipped else heapq.heappush(waiting, number)
            while waiting and pool.free:
                number = heapq.heappop(waiting)
                pool.start(number, function if failed is None else partial(_attempt, function, number), tasks[number])
            for number, outcome, error in pool.ended() if pool.running else ():
                if error is not None:
                    if failed is None or not isinstance(error, (Exception, SystemExit)):
                        raise error
                    outcome = Failure(_reason(error), number)
                if failed is not None and isinstance(outcome, Failure):
                    failed(number, outcome)
                end(number, outcome)
    return [outcomes[number] for number in range(len(tasks))]


def _order(needs: Sequence[Collection[int]]) -> TopologicalSorter[int]:
    order = TopologicalSorter(dict(enumerate(needs)))
    try:
        order.prepare()
    except CycleError as error:
        given = f"tasks {', '.join(map(str, error.args[1]))} wait for each other"
        refuse(given, "a task waits for none that waits for it", "Drop one of these needs")
    return order


def _attempt(function: Callable[[Any, Reporter], Any], number: int, task: Any, reporter: Reporter) -> Any:
    """Do a task; its failure is an outcome too, of one line: errors need not be picklable."""
    try:
        return function(task, reporter)
    except Exception as error:
        return Failure(_reason(error), number)


class _Here:
    """Does one task after the other, in this process, whose kill ends everything."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._ended = reporter, list[tuple[int, Any, BaseException | None]]()

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave, when nothing runs any more."""

    @property
    def running(self) -> int:
        return len(self._ended)

    @property
    def free(self) -> bool:
        return not self._ended

    def start(self, number: int, function: Callable[[Any, Reporter], Any], task: Any) -> None:
        self._ended.append((number, function(task, self._reporter), None))

    def ended(self) -> list[tuple[int, Any, BaseException | None]]:
        ended, self._ended = self._ended, []
        return ended


class _Processes:
    """Pools of one process each, so that the death of a process says which task died with it."""

    def __init__(self, jobs: int, reporter: Reporter) -> None:
        self._jobs, self._reporter, self._open = jobs, reporter, ExitStack()
        self._threads = max(1, available_cores() // jobs)
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], tuple[int, ProcessPoolExecutor]] = {}

    def __enter__(self) -> _Processes:
        self._context = multiprocessing.get_context("spawn")
        manager = SyncManager(ctx=self._context)
        manager.start(_end_with_parent)
        self._queue = self._open.enter_context(manager).Queue()
        self._open.enter_context(relay_messages(self._queue, self._reporter))
        return self

    def __exit__(self, *_: object) -> None:
        with self._open:
            for worker in (*self._idle, *(worker for _, worker in self._busy.values())):
                worker.shutdown(wait=True, cancel_futures=True)

    @property
    def running(self) -> int:
        return len(self._busy)

    @property
    def free(self) -> bool:
        return len(self._busy) < self._jobs

    def start(self, number: int, function: Callable[[Any, Reporter], Any], task: Any) -> None:
        """Call the function in an idle process, or in a new one."""
        while True:
            worker = self._idle.pop() if self._idle else ProcessPoolExecutor(1, self._context, _start_worker)
            try:
                future = worker.submit(_in_worker, function, task, self._queue, number, self._threads)
            except BrokenProcessPool:  # killed while it had nothing to do
                worker.shutdown()
            else:
                self._busy[future] = number, worker
                return

    def ended(self) -> list[tuple[int, Any, BaseException | None]]:
        return [self._end(future) for future in wait(self._busy, return_when=FIRST_COMPLETED).done]

    def _end(self, future: Future[Any]) -> tuple[int, Any, BaseException | None]:
        """Return what came of a call; a process that died is replaced by the next start."""
        (number, worker), error = self._busy.pop(future), future.exception()
        if isinstance(error, BrokenProcessPool):
            worker.shutdown()
        else:
            self._idle.append(worker)
        return number, None if error else future.result(), error


def _reason(error: BaseException) -> str:
    """Return why a task failed, in one line."""
    if isinstance(error, BrokenProcessPool):
        return "its process died: killed from outside, or for want of memory"
    if isinstance(error, SystemExit):
        return f"its process was told to end (exit status {error.code})"
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 400 else text[:399] + '…'}" if text else name


#: In a worker: whether a task of it was stopped; tasks already handed to it must then not start.
_stopped = False


def _end_with_parent() -> None:
    """Have this process told to end when the one that started it is gone, which then can end nothing itself."""

    def wait_for_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "a process of a pool has one"
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _start_worker() -> None:
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker without a task waits for its owner to end it


def _in_worker(function: Callable[[Any, Reporter], Any], task: Any, queue: Any, number: int, threads: int) -> Any:
    global _stopped
    if _stopped:
        raise KeyboardInterrupt
    if "torch" in sys.modules:  # by the module of the function
        sys.modules["torch"].set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return function(task, Relay(queue, f"{os.getpid()}/{number}"))
    except KeyboardInterrupt:
        _stopped = True
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
