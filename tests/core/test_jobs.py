import threading
import time
from pathlib import Path

import pytest

from robcal.checks import InputError
from robcal.files import locked
from robcal.jobs import run_in_order
from robcal.progress import SILENT


def record(task, reporter):
    """Write down when a task began and ended; it fails if what it needs is not there."""
    folder, number, needs = task
    assert all((Path(folder) / f"{needed}.done").exists() for needed in needs)
    time.sleep(0.02)
    (Path(folder) / f"{number}.done").write_text("")
    return number * number


@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_wait_for_what_they_need(tmp_path, jobs):
    needs = [(), (), (0,), (1, 2), (), (3, 4)]
    counted = []
    tasks = [(str(tmp_path), number, needed) for number, needed in enumerate(needs)]
    found = run_in_order(record, tasks, needs, jobs=jobs, reporter=SILENT, done=counted.append)
    assert found == [0, 1, 4, 9, 16, 25]
    assert counted == [1, 2, 3, 4, 5, 6]


def test_tasks_that_need_later_ones_are_refused(tmp_path):
    with pytest.raises(InputError, match="needs a later one"):
        run_in_order(record, [1, 2], [(1,), ()], jobs=1, reporter=SILENT)


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
