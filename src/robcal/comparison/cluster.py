"""The tasks of a comparison as jobs of a cluster, by submitit: each runs where the scheduler puts it.

A job finds and leaves everything on disk, in the folder of the comparison, which all machines must see; only whether
it failed, and why, comes back by submitit's own files. One that SLURM ends at its time limit, or for a job of more
importance, is queued again by submitit and goes on from the state that its training kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from robcal.base.checks import check_choice, refuse
from robcal.base.extras import import_extra
from robcal.base.jobs import available_cores
from robcal.base.progress import SILENT, Reporter

ClusterName = Literal["slurm", "local"]
#: Seconds between two looks at the jobs.
POLL = 0.5
#: What a job is given unless the user says otherwise, by submitit's names: a day, and one process on one machine.
DEFAULTS: Mapping[str, Any] = {"name": "robcal", "timeout_min": 24 * 60, "nodes": 1, "tasks_per_node": 1}
#: Most jobs that wait or run at once on a cluster.
MOST_JOBS = 1000
#: Seconds in which the processes of this machine may save their state when they are stopped.
PATIENCE = 30.0


def open_cluster(name: str, folder: Path, *, options: Sequence[str] = (), jobs: int | None = None) -> Submitted:
    """Return what submits tasks as jobs, the `workers` of `robcal.comparison.compare`: "slurm", or "local" to try it.

    All machines see the folder of submitit's files and logs. Options are NAME=VALUE, by submitit's names; at most
    `jobs` wait or run at once (default: `MOST_JOBS`, on this machine the number of cores).
    """
    check_choice(name, get_args(ClusterName), "the cluster")
    submitit = import_extra("submitit", "cluster", "a comparison on a cluster")
    given = dict(_option(text) for text in options)
    try:
        executor = submitit.AutoExecutor(folder, cluster=name)
        executor.update_parameters(**{**DEFAULTS, **given})
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        refuse(
            f"the cluster {name} cannot be used ({' '.join(str(error).split())[:400]})",
            "the parameters are those of submitit, and SLURM's commands must be at hand for slurm",
            "Correct --executor-option, or try the plan on this machine: --executor submitit:local",
        )
    most = jobs or (available_cores() if name == "local" else MOST_JOBS)
    return Submitted(executor, most, max(1, available_cores() // most) if name == "local" else None)


def _option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; what looks like a whole number is one."""
    name, _, value = text.partition("=")
    if not name or not value:
        refuse(
            f"--executor-option is {text!r}",
            "it is written NAME=VALUE",
            "For example --executor-option slurm_partition=gpu",
        )
    return name, int(value) if value.isdecimal() else value


@dataclass(frozen=True)
class Job:
    """What a job does: one task, in a process of so many threads (None leaves them as they are)."""

    function: Callable[[Any, Reporter], Any]
    task: Any
    threads: int | None

    def __call__(self) -> Any:
        """Do the task."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return self.function(self.task, SILENT)

    def checkpoint(self) -> Any:
        """Return what submitit queues again when a job was ended before its time: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class JobEnded(Exception):
    """A job that left no result."""


class Submitted:
    """Tasks as jobs of a submitit executor; see `robcal.base.jobs.Workers`."""

    def __init__(self, executor: Any, most: int, threads: int | None) -> None:
        self._executor, self._most, self._threads = executor, most, threads
        self._jobs: dict[int, Any] = {}

    def __enter__(self) -> Submitted:
        return self

    def __exit__(self, *_: object) -> None:
        """End the jobs that still run: a training keeps its state."""
        for job in self._jobs.values():
            job.cancel(check=False)
        end = time.monotonic() + PATIENCE
        while self._threads is not None and time.monotonic() < end and not all(map(_is_done, self._jobs.values())):
            time.sleep(POLL)

    @property
    def running(self) -> int:
        """Jobs that wait or run."""
        return len(self._jobs)

    @property
    def free(self) -> bool:
        """Whether another one may be submitted."""
        return len(self._jobs) < self._most

    def start(self, number: int, function: Callable[[Any, Reporter], Any], task: Any) -> None:
        """Submit a task."""
        self._jobs[number] = self._executor.submit(Job(function, task, self._threads))

    def ended(self) -> list[tuple[int, Any, BaseException | None]]:
        """Wait until a job has ended."""
        while not (ended := [number for number, job in self._jobs.items() if _is_done(job)]):
            time.sleep(POLL)
        return [(number, *_outcome(self._jobs.pop(number))) for number in ended]


def _is_done(job: Any) -> bool:
    return bool(job.done())


def _outcome(job: Any) -> tuple[Any, BaseException | None]:
    """Return the result of a job, or why there is none."""
    try:
        return job.result(), None
    except Exception as error:  # of submitit: the job's own failures are results, unless the first one ends all
        last = str(error).strip().splitlines()[-1:]
        return None, JobEnded(f"job {job.job_id} ended in state {job.state}, see {job.paths.stderr} ({' '.join(last)})")
