"""Progress on a terminal that is none: few lines, never a long silence."""

import time

import pytest

from robcal.base.jobs import run_tasks
from robcal.base.progress import Lines, Together, parts_of


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


class Recorded:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.told = {}

    def task(self, description, total):
        told = self.told.setdefault(description, [])
        return lambda done: told.append((done, total))


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_many_tasks_at_once_share_a_line_every_ten_seconds(clock, capsys):
    """Eight tasks of 40 s that tell of themselves eight times a second: 8 last lines, and 1 + 3 on the way."""
    reporter = Lines()
    tasks = [reporter.task(f"task {number}", 320) for number in range(8)]
    for step in range(1, 321):
        clock.now += 0.125
        for advance in tasks:
            advance(step)
    printed = lines(capsys)
    assert len([line for line in printed if "320/320" in line]) == 8
    on_the_way = [line for line in printed if "left" in line]
    assert len(on_the_way) == 4
    assert on_the_way[0] == "task 0: 8/320, 8/s, 39 s left"


def test_a_task_that_others_keep_silent_tells_of_itself_once_a_minute(clock, capsys):
    """Others take every line that is due; the one that counts all of them must not be left out for hours."""
    reporter = Lines()
    whole = reporter.task("all tasks", 1000)
    for number in range(180):
        clock.now += 1
        reporter.task(f"small {number}", 1)(1)
        whole(number + 1)
    assert len([line for line in lines(capsys) if line.startswith("all tasks")]) == 3


def test_parts_of_a_task_print_nothing_but_where_it_is_silent_for_a_minute(clock, capsys):
    """40 runs of 3 s, then one of 150 s: a line of all after ten seconds or more, then some of the long run."""
    reporter = Lines()
    whole, parts = reporter.task("all", 41), parts_of(reporter)
    for number in range(40):
        run = parts.task(f"run {number}", 3)
        for second in range(1, 4):
            clock.now += 1
            run(second)
        whole(number + 1)
    assert len(lines(capsys)) == 10  # after 3, 15, …, 111 s, and none of a run
    run = parts.task("run 40", 150)
    for second in range(1, 151):
        clock.now += 1
        run(second)
    whole(41)
    printed = lines(capsys)
    assert [line.split(":")[0] for line in printed] == ["run 40", "run 40", "all"]
    assert printed[0] == "run 40: 60/150, 1/s, 90 s left"


def test_parts_of_bars_are_bars():
    recorded = Recorded()
    assert parts_of(recorded) is recorded


def test_a_short_task_is_one_line(clock, capsys):
    advance = Lines().task("score", 10)
    for done in range(1, 11):
        clock.now += 0.05
        advance(done)
    assert lines(capsys) == ["score: 10/10, 20/s in 0.5 s"]


def two_stages(seed, reporter):
    for stage in ("train", "score"):
        advance = reporter.task(f"{stage} plain, seed {seed}", 10)
        for done in range(1, 11):
            advance(done)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_side_by_side_are_one_task_a_stage(jobs):
    recorded = Recorded()
    with Together(recorded, 4) as shown:
        run_tasks(two_stages, [0, 1, 2, 3], jobs=jobs, reporter=shown)
    assert set(recorded.told) == {"train plain, 4 runs", "score plain, 4 runs"}
    for told in recorded.told.values():
        assert told == sorted(set(told)), "it only grows"
        assert told[-1] == (40, 40)


def test_eight_runs_print_one_line_a_stage(capsys):
    with Together(Lines(), 8) as shown:
        run_tasks(two_stages, list(range(8)), jobs=1, reporter=shown)
    assert [line.split(",")[0] for line in lines(capsys)] == ["train plain", "score plain"]


def test_runs_that_had_finished_before_count_as_done():
    recorded = Recorded()
    with Together(recorded, 3) as shown:
        two_stages(0, shown)
        assert recorded.told["train plain, 3 runs"][-1] == (10, 30)
    assert recorded.told["train plain, 3 runs"][-1] == (30, 30)


def test_a_stop_is_not_told_as_done():
    recorded = Recorded()

    def stop():
        with Together(recorded, 3) as shown:
            two_stages(0, shown)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert recorded.told["train plain, 3 runs"][-1] == (10, 30)


def test_runs_of_unequal_size_count_alike():
    recorded = Recorded()
    with Together(recorded, 2) as shown:
        small, large = shown.task("train, seed 0", 10), shown.task("train, seed 1", 1000)
        large(1000)
        assert recorded.told["train, 2 runs"][-1] == (10, 20)
        small(5)
    assert recorded.told["train, 2 runs"] == [(10, 20), (15, 20), (20, 20)]
