import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from robcal.base import jobs
from robcal.base.checks import InputError
from robcal.base.files import locked
from robcal.base.jobs import Failure, run_tasks
from robcal.base.progress import SILENT


def record(task, reporter):
    """Write down when a task began and ended; it fails if what it needs is not there."""
    folder, number, needs = task
    assert all((Path(folder) / f"{needed}.done").exists() for needed in needs)
    time.sleep(0.02)
    (Path(folder) / f"{number}.done").write_text("")
    return number * number


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_wait_for_what_they_need(tmp_path, jobs):
    needs = [(2,), (), (), (1, 2), (), (3, 4)]
    counted = []
    tasks = [(str(tmp_path), number, needed) for number, needed in enumerate(needs)]
    found = run_tasks(record, tasks, needs, jobs=jobs, reporter=SILENT, done=counted.append)
    assert found == [0, 1, 4, 9, 16, 25]
    assert counted == [1, 2, 3, 4, 5, 6]


def test_tasks_that_need_each_other_are_refused():
    with pytest.raises(InputError, match="wait for each other"):
        run_tasks(record, [1, 2, 3], [(1,), (0,), ()])


def test_of_those_that_could_start_the_first_does():
    started = []
    run_tasks(lambda task, _: started.append(task), range(5), [(4,), (), (1,), (), ()])
    assert started == [1, 2, 3, 4, 0]


class Unpicklable(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first}\n{second}")


def fails(task, reporter):
    if task == "refused":
        raise InputError("a is given; b is allowed. Do c.")
    if task == "memory":
        raise MemoryError
    if task == "odd":
        raise Unpicklable("one", "two")
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "told to end":
        raise SystemExit(143)
    if task == "stopped":
        raise KeyboardInterrupt
    return task


REASONS = {
    "refused": "a is given; b is allowed. Do c.",
    "memory": "out of memory",
    "odd": "Unpicklable: one two",
    "killed": "its process died: killed from outside, or for want of memory",
    "told to end": "its process was told to end (exit status 143)",
}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_only_what_needs_a_failed_task_is_skipped(jobs):
    kinds = ["refused", "memory", "odd", *(["killed", "told to end"] if jobs > 1 else [])]
    tasks, needs = [], []
    for kind in kinds:  # a task that fails, one that needs it, one that needs this one; and one that needs nothing
        first = len(tasks)
        tasks += [kind, "in need", "in need of that", f"beside {kind}"]
        needs += [(), (first,), (first + 1,), ()]
    tasks.append("all of the others")
    needs.append(tuple(range(3, len(needs), 4)))
    counted, told = [], []
    found = run_tasks(
        fails, tasks, needs, jobs=jobs, reporter=SILENT, done=counted.append,
        failed=lambda number, failure: told.append((number, failure)),
    )  # fmt: skip
    expected = []
    for place, kind in enumerate(kinds):
        expected += [Failure(REASONS[kind], 4 * place)] * 3 + [f"beside {kind}"]
    assert found == [*expected, "all of the others"]
    assert sorted(told, key=lambda one: one[0]) == [
        (4 * place, Failure(REASONS[kind], 4 * place)) for place, kind in enumerate(kinds)
    ]
    assert counted == list(range(1, len(tasks) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_stops_all_whatever_is_tolerated(jobs):
    with pytest.raises(KeyboardInterrupt):
        run_tasks(fails, ["fine", "stopped", "fine"], jobs=jobs, failed=lambda number, failure: None)


@pytest.mark.slow
def test_without_tolerance_the_first_failure_is_that_of_the_whole():
    with pytest.raises(InputError, match="a is given; b is allowed"):
        run_tasks(fails, ["fine", "refused", "fine"], jobs=2)


@pytest.mark.slow
def test_processes_share_the_cores(monkeypatch):
    from one_thread import threads_of_task  # here, so that the workers of the other tests do without torch

    monkeypatch.setattr(jobs, "available_cores", lambda: 6)
    assert run_tasks(threads_of_task, [0, 1], jobs=2) == [3, 3]


def tell_and_wait(folder, reporter):
    """Write down this process and the one that serves its queue, which is the first child of their owner."""
    children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text()
    partial = Path(folder) / f"{os.getpid()}.partial"
    partial.write_text(f"{os.getpid()} {children}")
    partial.rename(partial.with_suffix(".told"))
    time.sleep(60)


def runs(process):
    """Tell whether a process is there and not only waits to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


OWNER = """
import sys
from test_jobs import run_tasks, tell_and_wait
if __name__ == "__main__":
    run_tasks(tell_and_wait, [sys.argv[1]] * 2, jobs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed in /proc")
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_process_that_started_it(tmp_path, kill):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    (tmp_path / "owner.py").write_text(OWNER)
    command = [sys.executable, str(tmp_path / "owner.py"), str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}) as owner:
        until(lambda: len([*tmp_path.glob("*.told")]) == 2)
        owner.send_signal(kill)
    workers = {process for told in tmp_path.glob("*.told") for process in told.read_text().split()}
    assert len(workers) >= 3
    until(lambda: not any(map(runs, workers)))


def until(happens):
    end = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    events = []

    def hold():
        with locked(tmp_path / "lock"):
            events.append("held")
            time.sleep(0.1)
            events.append("left")

    workers = [threading.Thread(target=hold) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert events == ["held", "left"] * 3
