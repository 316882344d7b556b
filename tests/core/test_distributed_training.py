"""Training under torchrun: two processes make the same model as one."""

import json
import subprocess
import sys

import numpy as np
import pytest

from robcal.base.storage import load_checkpoint, load_levels

pytestmark = pytest.mark.slow

OPTIONS = ["--data", "digits", "--model", "mlp", "--epochs", "3", "--batch-size", "50", "--device", "cpu", "--quiet"]


def train(out, *more, processes):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "robcal", "train", *OPTIONS, *more, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("source", ["margin", "running"])
def test_two_processes_train_as_one(tmp_path, source):
    """Same batches, exact weights of the shares and micro-batches; only the order of float32 sums differs."""
    train(tmp_path / "one", "--method", "ar-adals", "--levels-from", source, processes=1)
    printed = train(tmp_path / "two", "--method", "ar-adals", "--levels-from", source, "--accumulate", "3",
                    "--tracker", "tensorboard", processes=2)  # fmt: skip
    assert printed.count("model.safetensors") == 1  # one process speaks, and tells the tracker
    assert len(list((tmp_path / "two").glob("tensorboard/events.out.*"))) == 1
    assert json.loads((tmp_path / "two" / "trackers.json").read_text())["tensorboard"]["epoch"] == 3
    one, two = (load_checkpoint(tmp_path / name / "model.safetensors")[0] for name in ("one", "two"))
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-2, atol=1e-4)
    rows = [json.loads((tmp_path / name / "history.json").read_text())[-1] for name in ("one", "two")]
    assert rows[0]["val_nll"] == pytest.approx(rows[1]["val_nll"], rel=1e-3)
    levels = [load_levels(tmp_path / name / "levels-train.parquet").level for name in ("one", "two")]
    assert (levels[0] == levels[1]).mean() > 0.98


def test_an_ensemble_with_cross_fitted_levels_in_two_processes(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        more = ["--method", "ar-adals", "--scorer", "first-order"]
        more += ["--levels-from", "cross-fit", "--folds", "2", "--members", "2"]
        train(tmp_path / name, *more, processes=processes)
    files = {file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*")}
    assert {file.relative_to(tmp_path / "two") for file in (tmp_path / "two").rglob("*")} == files
    for split in ("train", "val"):
        levels = [load_levels(tmp_path / name / f"levels-{split}.parquet").level for name in ("one", "two")]
        assert (levels[0] == levels[1]).mean() > 0.97
    rows = [json.loads((tmp_path / name / "history.json").read_text())[-1] for name in ("one", "two")]
    assert rows[0]["val_nll"] == pytest.approx(rows[1]["val_nll"], rel=1e-3)
    np.testing.assert_allclose(rows[0]["gap"], rows[1]["gap"], atol=0.02)


def test_bad_input_ends_both_processes_with_its_message(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, "-m", "robcal", "train", *OPTIONS, "--method", "ar-adals", "--levels", "999",
               "--out", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "999 levels" in done.stderr
    assert not (tmp_path / "run").exists()
