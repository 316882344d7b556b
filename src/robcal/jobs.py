"""Run independent tasks side by side in processes of one thread each, with progress in one place and a clean stop.

On a CPU two processes of one thread beat one process of two. Every task keeps its own finished work on disk, so a
stopped set of tasks resumes by being started again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from robcal.checks import check_positive_int
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
    check_positive_int(jobs, "--jobs")
    if jobs == 1 or len(tasks) <= 1:
        return [function(task, reporter) for task in tasks]
    context = multiprocessing.get_context("spawn")
    threads = max(1, available_cores() // jobs)
    with context.Manager() as manager:
        queue = manager.Queue()
        with (
            relay_messages(queue, reporter),
            ProcessPoolExecutor(min(jobs, len(tasks)), context, _start_worker, (threads,)) as pool,
        ):
            futures = {pool.submit(_in_worker, function, task, queue, n): n for n, task in enumerate(tasks)}
            outcomes: dict[int, Any] = {}
            try:
                for future in as_completed(futures):
                    outcomes[futures[future]] = future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return [outcomes[number] for number in range(len(tasks))]


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
