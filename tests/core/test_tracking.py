"""Experiment trackers: they are told what training measured, once an epoch, and change none of its bits."""

import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from interruption import Interrupted, StopAfter

from robcal import InputError, RunningLevels, TrainSettings, train_run
from robcal.calibration import calibration_error, negative_log_likelihood
from robcal.data import load_dataset
from robcal.training.loop import fit, schedule
from robcal.training.recipe import build_networks
from robcal.training.tracking import TRACKERS, Tracking

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("tracking"),
    pytest.mark.filterwarnings("ignore"),  # trackers warn of their own use of others
]

EPOCHS = 4
SETTINGS = TrainSettings(
    data="digits", model="mlp", method="ar-adals", levels=3, levels_from="running", epochs=EPOCHS, batch_size=50,
    train_limit=600, test_limit=100, options={"controller": "integral", "step_size": 0.5},
)  # fmt: skip


def per_epoch() -> int:
    return int(np.ceil(len(load_dataset("digits", train_limit=600).split("train")) / 50))


def events(run: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run: tag → step → value; a step that comes twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    read = {tag: [(one.step, one.value) for one in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
    texts = [make_ndarray(one.tensor_proto) for one in accumulator.Tensors("settings/text_summary")]
    assert len(texts) == 1
    assert b"levels_from: running" in texts[0][0]
    for tag, values in read.items():
        assert len({step for step, _ in values}) == len(values), f"{tag} has a step twice"
    return {tag: dict(values) for tag, values in read.items()}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory):
    return train_run(SETTINGS, tmp_path_factory.mktemp("runs") / "tracked", trackers=("tensorboard",))


def test_tensorboard_shows_the_history(tracked) -> None:
    shown, history = events(tracked.directory), tracked.history()
    for tag, name in {"train/loss": "train_loss", "val/accuracy": "val_accuracy", "val/nll": "val_nll",
                      "val/ece": "val_ece"}.items():  # fmt: skip
        assert shown[tag] == pytest.approx({row.epoch: getattr(row, name) for row in history}, rel=1e-6), tag
    for level in range(3):
        for tag, name in (("smoothing", "epsilon"), ("gap", "gap")):
            expected = {row.epoch: getattr(row, name)[level] for row in history}
            assert shown[f"{tag}/level-{level}"] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert max(shown["smoothing/level-0"].values()) > 0
    steps = EPOCHS * per_epoch()
    rates = {epoch: SETTINGS.learning_rate * schedule(epoch * per_epoch() - 1, steps) for epoch in range(1, EPOCHS + 1)}
    assert shown["learning_rate"] == pytest.approx(rates, rel=1e-6)


def test_no_bit_of_a_run_changes(tracked, tmp_path: Path) -> None:
    train_run(SETTINGS, tmp_path / "plain")
    names = ("model.safetensors", "history.json", "predictions-test.safetensors")
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tracked.directory / name).read_bytes(), name
    assert not (tmp_path / "plain" / "trackers.json").exists()


@pytest.mark.parametrize("saved", [True, False], ids=["with a state", "killed before the first state"])
def test_a_run_that_goes_on_tells_no_epoch_twice(tracked, tmp_path: Path, saved: bool) -> None:
    """Stopped in the third epoch; the state is older than what was told, or there is none: epochs are done again."""
    data, file = load_dataset("digits", train_limit=600), tmp_path / "state.pt"

    def part(reporter) -> None:
        tracking = Tracking(("tensorboard",), tmp_path, "run", {"levels_from": "running"})
        networks = build_networks(SETTINGS, data)
        try:
            fit(networks, data, SETTINGS.training_method(), SETTINGS, levels=RunningLevels(3), track=tracking,
                state_file=file if saved else None, state_seconds=0, reporter=reporter)  # fmt: skip
        finally:
            tracking.close()

    with pytest.raises(Interrupted):
        part(StopAfter(2 * per_epoch() + 1))
    assert json.loads((tmp_path / "trackers.json").read_text())["tensorboard"]["epoch"] == 2
    part(StopAfter(-1))
    shown = events(tmp_path)
    assert sorted(shown["val/nll"]) == [1, 2, 3, 4]
    assert shown["val/nll"] == events(tracked.directory)["val/nll"]


def test_names_of_an_ensemble_have_prefixes(tmp_path: Path) -> None:
    """Those of the members' average, and those of each member, from its own probabilities."""
    data = load_dataset("digits", train_limit=300)
    told: dict[int, dict[str, float]] = {}
    recipe = TrainSettings(data="digits", model="mlp", method="vanilla", epochs=1, members=2, batch_size=256)
    networks = build_networks(recipe, data)
    (row,) = fit(networks, data, recipe.training_method(), recipe, track=told.__setitem__)
    assert set(told) == {1}
    assert {name.partition("/")[0] for name in told[1]} == {"ensemble", "member-0", "member-1"}
    assert told[1]["ensemble/val/nll"] == row.val_nll
    assert np.mean([told[1][f"member-{k}/train/loss"] for k in (0, 1)]) == pytest.approx(row.train_loss)
    val = data.split("val")
    for k, network in enumerate(networks):
        logits = network(val.batch(np.arange(len(val)))).detach().double()
        probs = logits.softmax(1).numpy()
        assert told[1][f"member-{k}/val/nll"] == pytest.approx(negative_log_likelihood(probs, val.labels), rel=1e-4)
        assert told[1][f"member-{k}/val/ece"] == pytest.approx(calibration_error(probs, val.labels), abs=1e-3)


def wandb_history(file: Path) -> list[dict[str, float]]:
    """The steps in a file of W&B: records of protobuf, in blocks of 32 KiB as LevelDB writes them, after a header."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole, steps = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        at += (-at % 32768) if -at % 32768 < 7 else 0
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            items = record.history.item
            if items:
                steps.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
            whole = b""
    return steps


def test_wandb_keeps_one_run_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate").PartialState(cpu=True)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for epochs in ((1, 2), (2, 3)):
        time.sleep(1.1)  # W&B names the folder of a part by the second that it begins in
        tracking = Tracking(("wandb",), tmp_path, "run", {"levels": 3})
        for epoch in epochs:
            tracking(epoch, {"val/nll": 1 / epoch})
        tracking.close()
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert files[0].name == files[1].name  # the parts are one run when they are synchronised
    until = time.monotonic() + 20
    while (steps := [one for file in files for one in wandb_history(file)])[2:] == [] and time.monotonic() < until:
        time.sleep(0.1)  # a process of its own writes them
    assert [(one["_step"], one["val/nll"]) for one in steps] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_tracker_without_a_login_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate").PartialState(cpu=True)
    pytest.importorskip("wandb").teardown()  # it keeps the settings of a process's first run, another test's
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # no login is kept there
    with pytest.raises(InputError, match=r"wandb did not start .*wandb login.*WANDB_MODE=offline"):
        Tracking(("wandb",), tmp_path, "run", {})(1, {"val/nll": 1.0})


def test_mlflow_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("accelerate").PartialState(cpu=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for epochs in ((1, 2), (2, 3)):
        tracking = Tracking(("mlflow",), tmp_path, "run", {"levels": 3})
        for epoch in epochs:
            tracking(epoch, {"val/nll": 1 / epoch})
        tracking.close()
    told = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    assert client.get_run(told["run"]).data.params == {"levels": "3"}
    found = [(one.step, one.value) for one in client.get_metric_history(told["run"], "val/nll")]
    assert found == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_unknown_trackers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tracker"):
        train_run(SETTINGS, tmp_path / "run", trackers=("neptune",))
    assert not (tmp_path / "run").exists()


def test_an_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"--tracker {name} needs {name}.* pip install 'robcal\[{name}\]'"):
            train_run(SETTINGS, tmp_path / "run", trackers=(name,))
