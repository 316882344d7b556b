"""Run independent tasks side by side in processes of one thread each, with progress in one place and a clean stop.

On a CPU two processes of one thread beat one process of two. Every task keeps its own finished work on disk, so a
stopped set of tasks resumes by being started again.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from robcal.base.checks import InputError, check_positive_int, refuse
from robcal.base.progress import Relay, Reporter, relay_messages

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def available_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_side_by_side(
    function: Callable[[Task, Reporter], Outcome], tasks: Sequence[Task], *, jobs: int, reporter: Reporter
) -> list[Outcome]:
    """`[function(task, reporter) for task in tasks]`, `jobs` at a time.

    Args:
        function: importable by name; reports to the reporter it is handed.
        tasks: picklable arguments.
        jobs: number of processes; 1 runs everything in this one.
        reporter: shows the progress of all.

    Returns:
        The outcomes, in the order of the tasks.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the running tasks have saved their state.
    """
    return run_in_order(function, tasks, [()] * len(tasks), jobs=jobs, reporter=reporter)


@dataclass(frozen=True)
class Failure:
    """A task that did not end well.

    Attributes:
        reason: why, in one line.
        cause: position of the task that failed: its own, or that of one it needs.
    """

    reason: str
    cause: int


def run_in_order(
    function: Callable[[Task, Reporter], Outcome],
    tasks: Sequence[Task],
    needs: Sequence[Collection[int]],
    *,
    jobs: int,
    reporter: Reporter,
    done: Callable[[int], None] = lambda count: None,
) -> list[Outcome]:
    """`run_side_by_side` of tasks that wait for others: each starts when all that it needs have ended.

    Of those that could start, the first in the sequence does.

    Args:
        function: importable by name; reports to the reporter it is handed.
        tasks: picklable arguments.
        needs: for each task the positions of the tasks it waits for, all before its own.
        jobs: number of processes; 1 runs everything in this one, in order.
        reporter: shows the progress of all.
        done: called with the number of finished tasks.

    Returns:
        The outcomes, in the order of the tasks.

    Raises:
        InputError: if a task needs a later one.
        Exception: what the first failing task raises; it stops all.
        KeyboardInterrupt: on Ctrl-C, after the running tasks have saved their state.

    >>> from robcal.base.progress import SILENT
    >>> run_in_order(lambda task, reporter: 2 * task, [1, 2], [(), (0,)], jobs=1, reporter=SILENT)
    [2, 4]
    """
    return _run(function, tasks, needs, jobs=jobs, reporter=reporter, done=done, failed=None)


def run_what_can(
    function: Callable[[Task, Reporter], Outcome],
    tasks: Sequence[Task],
    needs: Sequence[Collection[int]],
    *,
    jobs: int,
    reporter: Reporter,
    done: Callable[[int], None] = lambda count: None,
    failed: Callable[[int, Failure], None] = lambda number, failure: None,
) -> list[Outcome | Failure]:
    """`run_in_order` that goes on when a task fails: only what needs it, directly or not, is skipped.

    A task fails by any exception, by the kill of its process (`jobs` above 1), or by asking its process to end.

    Args:
        function: see `run_in_order`, also for the others.
        tasks: picklable arguments.
        needs: for each task the positions of the tasks it waits for.
        jobs: number of processes; 1 runs everything in this one, whose kill ends everything.
        reporter: shows the progress of all.
        done: called with the number of tasks that have ended or were skipped.
        failed: called at once with the position of each task that fails; not for those skipped.

    Returns:
        For each task its outcome, or why there is none.

    Raises:
        InputError: if a task needs a later one.
        KeyboardInterrupt: on Ctrl-C, after the running tasks have saved their state.

    >>> from robcal.base.progress import SILENT
    >>> found = run_what_can(lambda n, _: 6 // n, [3, 0, 2], [(), (), (1,)], jobs=1, reporter=SILENT)
    >>> found[0], found[1].reason, found[2].cause
    (2, 'ZeroDivisionError: integer division or modulo by zero', 1)
    """
    return _run(function, tasks, needs, jobs=jobs, reporter=reporter, done=done, failed=failed)


def _run(
    function: Callable[[Any, Reporter], Any],
    tasks: Sequence[Any],
    needs: Sequence[Collection[int]],
    *,
    jobs: int,
    reporter: Reporter,
    done: Callable[[int], None],
    failed: Callable[[int, Failure], None] | None,
) -> list[Any]:
    check_positive_int(jobs, "--jobs")
    if any(needed >= number for number, all_needed in enumerate(needs) for needed in all_needed):
        refuse("a task needs a later one", "every task comes after what it needs", "Put it after the tasks it needs")
    if jobs == 1 or len(tasks) <= 1:
        here: dict[int, Any] = {}
        for number, task in enumerate(tasks):
            if (skip := _skipped(needs[number], here)) is not None:
                here[number] = skip
            elif failed is None:
                here[number] = function(task, reporter)
            else:
                here[number] = _attempt(function, number, task, reporter)
                _tell(failed, number, here[number])
            done(len(here))
        return list(here.values())
    context = multiprocessing.get_context("spawn")
    threads = max(1, available_cores() // jobs)
    with context.Manager() as manager:
        queue = manager.Queue()
        pool = _Pool(lambda: ProcessPoolExecutor(1, context, _start_worker, (threads,)))
        with relay_messages(queue, reporter), pool:
            found = _drain(
                pool,
                lambda number: (
                    _in_worker,
                    function if failed is None else functools.partial(_attempt, function, number),
                    tasks[number],
                    queue,
                    number,
                ),
                needs,
                workers=min(jobs, len(tasks)),
                done=done,
                failed=failed,
            )
    return [found[number] for number in range(len(tasks))]


def _attempt(function: Callable[[Any, Reporter], Any], number: int, task: Any, reporter: Reporter) -> Any:
    """Do a task; its failure is an outcome too, of one line: errors need not be picklable."""
    try:
        return function(task, reporter)
    except Exception as error:
        return Failure(_reason(error), number)


def _skipped(needed: Collection[int], outcomes: Mapping[int, Any]) -> Failure | None:
    """The failure that keeps a task from starting."""
    return next((found for one in needed if isinstance(found := outcomes.get(one), Failure)), None)


def _drain(
    pool: _Pool,
    call: Callable[[int], tuple[Any, ...]],
    needs: Sequence[Collection[int]],
    *,
    workers: int,
    done: Callable[[int], None],
    failed: Callable[[int, Failure], None] | None,
) -> dict[int, Any]:
    """Keep every worker busy with the first task that may start, until all have ended."""
    outcomes: dict[int, Any] = {}
    running: dict[Future[Any], int] = {}
    waiting = list(range(len(needs)))
    while waiting or running:
        for number in waiting:  # what a task needs is before it: one pass finds all that is to be skipped
            if (failure := _skipped(needs[number], outcomes)) is not None:
                outcomes[number] = failure
                done(len(outcomes))
        waiting = [number for number in waiting if number not in outcomes]
        ready = (number for number in waiting if all(needed in outcomes for needed in needs[number]))
        for number in list(itertools.islice(ready, workers - len(running))):
            waiting.remove(number)
            running[pool.start(*call(number))] = number
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            number = running.pop(future)
            outcomes[number] = pool.end(future, number, keep_going=failed is not None)
            if failed is not None:
                _tell(failed, number, outcomes[number])
            done(len(outcomes))
    return outcomes


class _Pool:
    """Pools of one process each, so that the death of a process says which task died with it."""

    def __init__(self, make: Callable[[], ProcessPoolExecutor]) -> None:
        self._make = make
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], ProcessPoolExecutor] = {}

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.shutdown(wait=True, cancel_futures=True)

    def start(self, *call: Any) -> Future[Any]:
        """Call a function in an idle process, or in a new one."""
        while True:
            worker = self._idle.pop() if self._idle else self._make()
            try:
                future = worker.submit(*call)
            except BrokenProcessPool:  # killed while it had nothing to do
                worker.shutdown()
                continue
            self._busy[future] = worker
            return future

    def end(self, future: Future[Any], number: int, *, keep_going: bool) -> Any:
        """The outcome of a call that has ended; a process that died is replaced by the next start."""
        worker, error = self._busy.pop(future), future.exception()
        if isinstance(error, BrokenProcessPool):
            worker.shutdown()
        else:
            self._idle.append(worker)
        if keep_going and isinstance(error, (Exception, SystemExit)):
            return Failure(_reason(error), number)
        return future.result()


def _tell(failed: Callable[[int, Failure], None], number: int, outcome: Any) -> None:
    if isinstance(outcome, Failure):
        failed(number, outcome)


def _reason(error: BaseException) -> str:
    """Why a task failed, in one line."""
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


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker without a task waits for its owner to end it


def _in_worker(function: Callable[[Any, Reporter], Any], task: Any, queue: Any, number: int) -> Any:
    global _stopped
    if _stopped:
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return function(task, Relay(queue, f"{os.getpid()}/{number}"))
    except KeyboardInterrupt:
        _stopped = True
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
