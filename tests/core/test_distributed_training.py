"""Training in several processes: two of them make the same model as one."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from two_processes import in_two_processes

from robcal.base.storage import load_checkpoint, load_levels
from robcal.commands.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("distributed training"),  # one pair of processes makes the runs of all tests
]

OPTIONS = ["--data", "digits", "--model", "mlp", "--epochs", "3", "--batch-size", "50", "--device", "cpu", "--quiet"]
#: Name → options that one process and two train with.
RUNS = {
    "margin": ("--method", "ar-adals", "--levels-from", "margin"),
    "running": ("--method", "ar-adals", "--levels-from", "running"),
    "cross-fit": (
        *("--method", "ar-adals", "--scorer", "first-order"),
        *("--levels-from", "cross-fit", "--folds", "2", "--members", "2"),
    ),
}
#: What two processes are told besides.
IN_TWO = {name: ("--accumulate", "3", "--tracker", "tensorboard") for name in ("margin", "running")}
#: What the pair imports once; see `two_processes`.
LIBRARIES = ("accelerate.tracking", "torch.utils.tensorboard")


def train(out, *options):
    """Train by the command, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        main(["train", *OPTIONS, *options, "--out", str(out)])
    assert not stop.value.code, options
    return printed.getvalue()


def worker() -> None:
    """One process of two."""
    for name, options in RUNS.items():
        out = Path(os.environ["OUT"]) / name
        printed = train(out, *options, *IN_TWO.get(name, ()))
        out.with_suffix(f".{os.environ['RANK']}").write_text(printed)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of the runs that two processes have made."""
    out = tmp_path_factory.mktemp("pair")
    in_two_processes([Path(__file__).stem], Path(__file__).parent, out)
    return out


def both(name, pair, tmp_path):
    """Run directories of one process and of two."""
    train(tmp_path / name, *RUNS[name])
    return tmp_path / name, pair / name


@pytest.mark.parametrize("name", ["margin", "running"])
def test_two_processes_train_as_one(pair, tmp_path, name):
    """Same batches, exact weights of the shares and micro-batches; only the order of float32 sums differs."""
    printed = "".join((pair / f"{name}.{rank}").read_text() for rank in (0, 1))
    assert printed.count("model.safetensors") == 1  # one process speaks, and tells the tracker
    assert len(list((pair / name).glob("tensorboard/events.out.*"))) == 1
    assert json.loads((pair / name / "trackers.json").read_text())["tensorboard"]["epoch"] == 3
    places = both(name, pair, tmp_path)
    one, two = (load_checkpoint(place / "model.safetensors")[0] for place in places)
    for key, values in one.items():
        np.testing.assert_allclose(two[key], values, rtol=1e-2, atol=1e-4)
    rows = [json.loads((place / "history.json").read_text())[-1] for place in places]
    assert rows[0]["val_nll"] == pytest.approx(rows[1]["val_nll"], rel=1e-3)
    levels = [load_levels(place / "levels-train.parquet").level for place in places]
    assert (levels[0] == levels[1]).mean() > 0.98


def test_an_ensemble_with_cross_fitted_levels_in_two_processes(pair, tmp_path):
    one, two = both("cross-fit", pair, tmp_path)
    files = {file.relative_to(one) for file in one.rglob("*")}
    assert {file.relative_to(two) for file in two.rglob("*")} == files
    for split in ("train", "val"):
        levels = [load_levels(place / f"levels-{split}.parquet").level for place in (one, two)]
        assert (levels[0] == levels[1]).mean() > 0.97
    rows = [json.loads((place / "history.json").read_text())[-1] for place in (one, two)]
    assert rows[0]["val_nll"] == pytest.approx(rows[1]["val_nll"], rel=1e-3)
    np.testing.assert_allclose(rows[0]["gap"], rows[1]["gap"], atol=0.02)


def test_bad_input_ends_both_processes_of_torchrun_with_its_message(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, "-m", "robcal", "train", *OPTIONS, "--method", "ar-adals", "--levels", "999",
               "--out", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "999 levels" in done.stderr
    assert not (tmp_path / "run").exists()
