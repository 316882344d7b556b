"""torchrun starts all processes again when one is lost (--max-restarts): training and scoring end in the same bytes.

A process is killed at a random point of training, then one at a random point of scoring. Here one such case is tried,
by torchrun's engine; ROBCAL_RANK_LOSSES=10 (`make rank-loss`) tries ten, under torchrun itself.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from robcal.base.checks import InputError
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

WORKER = Path(__file__).parents[1] / "support/rank_loss.py"
CASES = int(os.environ.get("ROBCAL_RANK_LOSSES", "0"))
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2",
            "--monitor-interval=0.1"]  # fmt: skip


def run(*jobs):
    """Do jobs of `rank_loss.py` in two processes each; their standard error."""
    path = os.pathsep.join([*sys.path, str(WORKER.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    command = [sys.executable, *(LAUNCHER if CASES else ()), str(WORKER), *map(json.dumps, jobs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


def files(folder):
    """What a run and its scoring left; without what is of the test."""
    found = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    return {str(name): file.read_bytes() for name, file in found.items() if "events" not in name.name}


@pytest.mark.slow
@pytest.mark.parametrize("case", range(CASES or 1))
def test_a_lost_rank_changes_nothing(tmp_path, case):
    method, rng = ("ar-adals", "crl")[case % 2], random.Random(case)
    kills = [(command, rng.randrange(2), rng.random()) for command in ("train", "score")]
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    jobs = [(str(whole), method, (), ""), (str(again), method, kills, str(whole))]
    said = "".join(run(job) for job in jobs) if CASES else run(*jobs)
    assert said.count("exitcode: -9") == 2, said
    found = files(again)
    for name, content in files(whole).items():
        assert found.pop(name) == content, (name, kills)
    assert not found, kills


SETTINGS = TrainSettings(data="digits", model="mlp", method="vanilla", epochs=1, train_limit=100)


@pytest.mark.slow
def test_a_kill_while_the_record_is_written_keeps_no_run_from_its_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.run.json.abcdefgh.tmp").write_bytes(b"{")
    assert train_run(SETTINGS, tmp_path / "run").is_complete
    assert not list((tmp_path / "run").glob(".*"))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / ".run.json.abcdefgh.tmp").write_bytes(b"{")
    (tmp_path / "mine.txt").write_bytes(b"mine")
    with pytest.raises(InputError, match="no run directory"):
        train_run(SETTINGS, tmp_path)
