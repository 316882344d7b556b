"""Run independent tasks side by side in processes of one thread each, with progress in one place and a clean stop.

On a CPU two processes of one thread beat one process of two. Every task keeps its own finished work on disk, so a
stopped set of tasks resumes by being started again.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

from robcal.checks import check_positive_int, refuse
from robcal.progress import Relay, Reporter, relay_messages

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
        KeyboardInterrupt: on Ctrl-C, after the running tasks have saved their state.

    >>> from robcal.progress import SILENT
    >>> run_in_order(lambda task, reporter: 2 * task, [1, 2], [(), (0,)], jobs=1, reporter=SILENT)
    [2, 4]
    """
    check_positive_int(jobs, "--jobs")
    if any(needed >= number for number, all_needed in enumerate(needs) for needed in all_needed):
        refuse("a task needs a later one", "tasks come after what they need", "Order the tasks")
    if jobs == 1 or len(tasks) <= 1:
        outcomes: dict[int, Outcome] = {}
        for number, task in enumerate(tasks):
            outcomes[number] = function(task, reporter)
            done(len(outcomes))
        return list(outcomes.values())
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(tasks))
    with context.Manager() as manager:
        queue = manager.Queue()
        with (
            relay_messages(queue, reporter),
            ProcessPoolExecutor(workers, context, _start_worker, (max(1, available_cores() // jobs),)) as pool,
        ):
            try:
                found = _drain(
                    lambda number: pool.submit(_in_worker, function, tasks[number], queue, number), needs, workers, done
                )
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return [found[number] for number in range(len(tasks))]


def _drain(
    submit: Callable[[int], Future[Any]],
    needs: Sequence[Collection[int]],
    workers: int,
    done: Callable[[int], None],
) -> dict[int, Any]:
    """Keep every worker busy with the first task that may start, until all have ended."""
    outcomes: dict[int, Any] = {}
    running: dict[Future[Any], int] = {}
    waiting = list(range(len(needs)))
    while waiting or running:
        ready = (number for number in waiting if all(needed in outcomes for needed in needs[number]))
        for number in list(itertools.islice(ready, workers - len(running))):
            waiting.remove(number)
            running[submit(number)] = number
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            outcomes[running.pop(future)] = future.result()
            done(len(outcomes))
    return outcomes


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
