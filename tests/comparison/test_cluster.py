"""Comparisons whose tasks are jobs of submitit: on this machine, and as SLURM would get them."""

import json
import os
import re
import sys

import pytest
import torch

from robcal.base.checks import InputError
from robcal.base.jobs import Failure, run_tasks
from robcal.base.storage import load_json
from robcal.commands.cli import main
from robcal.comparison import cluster
from robcal.comparison.cluster import Job, Submitted, open_cluster

PLAN = """
seeds = [0]
reference = ["Plain"]
shift_limit = 0
score_limit = 0
recipe = { data = "digits", model = "mlp", epochs = 1, batch_size = 32, train_limit = 200, test_limit = 100 }
[[methods]]
label = "Plain"
method = "vanilla"
[[methods]]
label = "Hopeless"
method = "label-smoothing"
options = { learning_rate = 1e30, weight_decay = 0.0 }
"""


def without_times(value):
    """The results but for what clocks say."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if "seconds" not in key and key != "cost"}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_the_table_is_that_of_the_processes_of_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "POLL", 0.1)
    (tmp_path / "plan.toml").write_text(PLAN)
    told = {}
    for name, more in (("here", ["--jobs", "1"]), ("jobs", ["--executor", "submitit:local", "--jobs", "2"])):
        with pytest.raises(SystemExit, match="3"):  # Hopeless fails
            main(
                ["compare", str(tmp_path / "plan.toml"), "--out", str(tmp_path / name), "--no-report", "--quiet", *more]
            )
        told[name] = capsys.readouterr()
    here, jobs = (tmp_path / "here", tmp_path / "jobs")
    assert without_times(load_json(here / "results.json", "")) == without_times(load_json(jobs / "results.json", ""))
    assert "the training loss became" in json.dumps(load_json(jobs / "results.json", "")["study"]["missing"])
    assert told["here"].err == told["jobs"].err  # failures are told alike
    for name in ("runs", "table.csv"):
        assert (here / name).exists() == (jobs / name).exists()
    assert sorted(run.name for run in (here / "runs").iterdir()) == sorted(
        run.name for run in (jobs / "runs").iterdir()
    )
    plain = next((jobs / "runs").glob("vanilla-*"))
    before = (plain / "run.json").stat().st_mtime_ns
    with pytest.raises(SystemExit, match="3"):  # what the jobs left is the cache that any start goes on from
        main(["compare", str(tmp_path / "plan.toml"), "--out", str(jobs), "--no-report", "--quiet", "--jobs", "1"])
    assert (plain / "run.json").stat().st_mtime_ns == before


class FakeJob:
    """A job that has ended as it was told to, or runs on."""

    job_id, state = "17", "OUT_OF_MEMORY"
    paths = type("Paths", (), {"stderr": "jobs/17_log.err"})

    def __init__(self, work, cancelled):
        self.work, self.cancelled = work, cancelled

    def done(self):
        return self.work.task != "runs on" or self.cancelled == [self]

    def result(self):
        if self.work.task == "killed":
            raise RuntimeError("first line\nJob 17 has no result")
        return self.work()

    def cancel(self, check):
        self.cancelled.append(self)


class FakeExecutor:
    def __init__(self):
        self.cancelled, self.submitted = [], []

    def submit(self, work):
        self.submitted.append(work.task)
        return FakeJob(work, self.cancelled)


def do(task, reporter):
    if task == "fails":
        raise InputError("a is given; b is allowed. Do c.")
    return task


def test_a_job_that_ends_without_a_result_takes_only_what_needs_it():
    executor, told = FakeExecutor(), []
    found = run_tasks(
        do, ["killed", "needs it", "fails", "fine"], [(), (0,), (), ()], workers=Submitted(executor, 2, None),
        failed=lambda number, failure: told.append(number),
    )  # fmt: skip
    reason = "JobEnded: job 17 ended in state OUT_OF_MEMORY, see jobs/17_log.err (Job 17 has no result)"
    assert found == [Failure(reason, 0), Failure(reason, 0), Failure("a is given; b is allowed. Do c.", 2), "fine"]
    assert sorted(told) == [0, 2]
    assert executor.submitted == ["killed", "fails", "fine"]
    assert not executor.cancelled


def test_an_interrupt_ends_the_jobs():
    executor = FakeExecutor()

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(do, ["fine", "runs on"], workers=Submitted(executor, 2, 1), done=stop)
    assert [job.work.task for job in executor.cancelled] == ["runs on"]


def test_a_job_may_be_queued_again():
    """What submitit asks of a job that SLURM ends at its time limit."""
    job = Job(do, "fine", None)
    assert job.checkpoint().function is job
    assert job() == "fine"


def test_slurm_gets_what_the_user_says(tmp_path, monkeypatch):
    """With stand-ins for SLURM's commands, which keep what they are given."""
    for name, text in (("srun", "true"), ("sbatch", f"cp $1 {tmp_path}/batch.sh; echo Submitted batch job 12")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    options = ["slurm_partition=gpu", "timeout_min=600", "gpus_per_node=1"]
    workers = open_cluster("slurm", tmp_path / "jobs", options=options)
    workers.start(0, do, "fine")
    batch = (tmp_path / "batch.sh").read_text()
    for line in ("--partition=gpu", "--time=600", "--gpus-per-node=1", "--job-name=robcal", "--ntasks-per-node=1"):
        assert f"#SBATCH {line}\n" in batch
    assert sys.executable in batch
    assert not torch.cuda.is_initialized()


def test_one_plan_is_tried_by_the_processes_of_this_machine(tmp_path):
    assert open_cluster("local", tmp_path, jobs=3)._most == 3
    with pytest.raises(InputError, match=re.escape("Correct --executor-option")):
        open_cluster("local", tmp_path, options=["nonsense=1"])
