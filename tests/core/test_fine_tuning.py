"""Training that starts from the user's weights: of their own networks and of robcal's, in every run of the pipeline."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hint_cases import robcal as command
from model_files import CODE, network, save_data
from network_hint_cases import code_of

from robcal.base.checks import InputError
from robcal.models import admit_model
from robcal.runs.directory import load_model, open_run
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

pytestmark = pytest.mark.slow

#: Training that changes nothing: what comes out is what went in.
STILL = {"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The working directory: code, data and weights of a user's own."""
    save_data(tmp_path)
    torch.save({f"module.{name}": tensor for name, tensor in network(3).state_dict().items()}, tmp_path / "weights.pt")
    with code_of(tmp_path, CODE):
        admit_model("own_nets:net")
        yield tmp_path


@pytest.mark.parametrize(
    ("method", "more", "runs"),
    [
        ("vanilla", {}, ["."]),
        ("ar-adals", {"levels": 2, "levels_from": "margin"}, [".", "reference"]),
        ("ar-adals", {"levels": 2, "levels_from": "cross-fit", "folds": 2, "scorer": "first-order"}, ["."]),
    ],
)
def test_every_run_starts_from_the_weights(method: str, more: dict, runs: list[str], folder: Path) -> None:
    notes: list[str] = []
    settings = TrainSettings("npz:data.npz", "own_nets:net", method, weights="weights.pt", **STILL, **more)
    train_run(settings, folder / "run", notes=notes)
    x = torch.randn(5, 4)
    for run in runs:
        assert torch.allclose(load_model(folder / "run" / run)[0](x), network(3)(x), atol=1e-6)
    for fold in (folder / "run").glob("folds/**/model.safetensors"):
        assert torch.allclose(load_model(fold)[0](x), network(3)(x), atol=1e-6)
    (note,) = notes
    assert note.startswith("The prefix 'module.' of all names in weights.pt was left out. Inputs reach")


def test_weights_of_robcal_bring_their_normalisation(folder: Path) -> None:
    train_run(TrainSettings("npz:data.npz", "mlp", "vanilla", epochs=1, device="cpu"), folder / "first")
    with np.load("data.npz") as data:
        moved = {name: array * 3 + 5 if name.startswith("x") else array for name, array in data.items()}
    np.savez("moved.npz", **moved)
    start = str(folder / "first" / "model.safetensors")
    train_run(TrainSettings("npz:moved.npz", "mlp", "vanilla", weights=start, **STILL), folder / "second")
    first, second = (load_model(folder / name)[0] for name in ("first", "second"))
    assert torch.equal(first.mean, second.mean)
    x = torch.randn(5, 4)
    torch.testing.assert_close(first(x), second(x))


def test_a_run_is_named_by_what_its_weights_are_and_not_by_where_they_lie(folder: Path) -> None:
    train = ("train", "--data", "npz:data.npz", "--model", "own_nets:net", "--method", "vanilla", "--epochs", "1")
    words = (*train, "--out", "run", "--device", "cpu", "--quiet", "--weights")
    command(*words, "weights.pt")()
    shutil.move("weights.pt", "elsewhere.pt")
    before = Path("run/model.safetensors").stat().st_mtime_ns
    command(*words, "elsewhere.pt")()
    assert Path("run/model.safetensors").stat().st_mtime_ns == before  # the run is there already
    Path("elsewhere.pt").unlink()
    assert open_run(Path("run")).settings.weights == "weights.pt"
    torch.save(network(4).state_dict(), "weights.pt")
    with pytest.raises(InputError, match="holds a run with other settings"):
        command(*words, "weights.pt")()


def test_runs_without_weights_are_named_as_before(folder: Path) -> None:
    plain = TrainSettings("npz:data.npz", "mlp", "vanilla", epochs=1)
    assert not {"weights", "weights_digest"} & plain.relevant().keys()
    assert "weights_digest" in dataclasses.replace(plain, weights="weights.pt").relevant()
