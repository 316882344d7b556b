"""Features that do not vary in training: they are divided by 1, they are named, and they decide nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robcal.base.storage import save_checkpoint
from robcal.commands.cli import main
from robcal.data import Split, load_dataset, moments
from robcal.data.moments import ROUNDING, Moments
from robcal.models import build_model
from robcal.robustness.scoring import score
from robcal.runs.directory import load_model
from robcal.training.recipe import build_networks, describe_network
from robcal.training.settings import TrainSettings

RNG = np.random.default_rng(5)
N = 240


def _table(*more: np.ndarray) -> np.ndarray:
    """Three classes that two of three columns tell apart, and more columns."""
    own = np.column_stack([np.arange(N) % 3, (np.arange(N) % 3 == 1), RNG.normal(size=N)]) + RNG.normal(0, 0.3, (N, 3))
    return np.column_stack([own, *more])


def _spec(folder: Path, train: np.ndarray, **parts: np.ndarray) -> str:
    arrays = {"x_train": train, **{f"x_{name}": array for name, array in parts.items()}}
    labels = {name.replace("x_", "y_"): np.arange(len(array)) % 3 for name, array in arrays.items()}
    np.savez(folder / "t.npz", **arrays, **labels)
    return f"npz:{folder / 't.npz'}"


def _settings(spec: str, **more: object) -> TrainSettings:
    return TrainSettings(spec, "mlp", "vanilla", **{"epochs": 3, "batch_size": 32, "learning_rate": 0.05, **more})  # type: ignore[arg-type]


def _trained(spec: str, folder: Path) -> torch.nn.Module:
    from robcal.runs.train import train_run

    return load_model(train_run(_settings(spec), folder).directory)[0]


@pytest.mark.parametrize("block", [7, 2**23])
@pytest.mark.parametrize("kind", ["table", "float images", "uint8 images"])
def test_moments_are_those_of_numpy_in_float64(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "BLOCK_VALUES", block)
    inputs = {
        "table": RNG.normal(3, 2, (101, 4)).astype(np.float32),
        "float images": RNG.random((31, 3, 5, 4)).astype(np.float32),
        "uint8 images": RNG.integers(0, 256, (31, 3, 5, 4), dtype=np.uint8),
    }[kind]
    found = Moments.of(Split(inputs=inputs, labels=np.zeros(len(inputs), np.int64)))
    exact = (inputs.astype(np.float32) / np.float32(255) if kind == "uint8 images" else inputs).astype(np.float64)
    axes = (0, 2, 3)[: 1 if kind == "table" else 3]
    assert np.allclose(found.mean, exact.mean(axes), rtol=1e-12)
    assert np.allclose(found.std, exact.std(axes, ddof=1), rtol=1e-12)
    assert np.array_equal(found.largest, np.abs(exact).max(axes))
    assert not found.constant.any()


def test_times_since_1970_keep_their_spread(tmp_path: Path) -> None:
    """In float32 the sum of 240 such numbers is off by more than the day they spread over."""
    times = 1.6e9 + 86_400 * RNG.random(N)
    data = load_dataset(_spec(tmp_path, _table(times)))
    column = data.split("train").batch(np.arange(len(data.split("train")))).numpy()[:, 3].astype(np.float64)
    network = build_networks(_settings(data.spec), data)[0]
    assert network.std[3] == pytest.approx(column.std(ddof=1), rel=1e-6)
    assert abs(float(network.mean[3]) - column.mean()) <= 64  # half a unit in the last place
    assert not any("constant" in note for note in data.notes)


@pytest.mark.slow
def test_distances_are_those_of_the_table_without_the_constant_column(tmp_path: Path) -> None:
    """An edge of 1e-6 in the normalisation made every distance collapse to it."""
    (tmp_path / "with").mkdir()
    plain = _table()
    inputs = torch.from_numpy(plain[:60].astype(np.float32))
    network = _trained(_spec(tmp_path, plain), tmp_path / "run")
    spoiled = _trained(_spec(tmp_path / "with", np.column_stack([plain, np.zeros(N)])), tmp_path / "with" / "run")
    one = score(network, inputs, box=None)
    other = score(spoiled, torch.nn.functional.pad(inputs, (0, 1)), box=None)
    assert np.median(other.distance) == pytest.approx(np.median(one.distance), rel=0.5)
    assert np.quantile(other.distance, 0.1) > 1e-3  # single examples lie near an edge by chance


def test_a_category_that_training_never_saw_does_not_decide(tmp_path: Path) -> None:
    table = _table(np.zeros(N))
    network = _trained(_spec(tmp_path, table), tmp_path / "run")
    inputs = torch.from_numpy(table.astype(np.float32))
    with torch.no_grad():
        before = network(inputs)
        inputs[:, 3] = 1.0
        after = network(inputs)
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.9
    assert after.softmax(1).max(1).values.median() < 0.999


CONSTANT = {
    "zeros": np.zeros(N),
    "a number that float32 rounds": np.full(N, 0.1),
    "a large number": np.full(N, 1.6e9),
    "float noise": 0.3 + 1e-8 * RNG.integers(-1, 2, N),
    "noise of a large number": 1.6e9 + RNG.integers(0, 2, N) * 64,
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_columns_are_divided_by_one_and_named(name: str, tmp_path: Path) -> None:
    data = load_dataset(_spec(tmp_path, _table(CONSTANT[name])))
    assert any("column 3 is constant" in note for note in data.notes)
    network = build_networks(_settings(data.spec), data)[0]
    inputs = data.split("train").batch(np.arange(100))
    normalised = (inputs - network.mean) / network.std
    assert float(network.std[3]) == 1.0 or name == "noise of a large number"
    assert normalised[:, 3].abs().max() <= 2  # however large the numbers are
    assert normalised[:, :3].std(0).allclose(torch.ones(3), atol=0.2)


def test_a_column_that_varies_in_few_rows_is_not_constant(tmp_path: Path) -> None:
    """A normalisation on 5,000 evenly spaced rows would not see them."""
    rare = np.zeros(12_000)
    rare[[5, 3001, 7003, 9007, 11_001]] = 1
    data = load_dataset(_spec(tmp_path, np.column_stack([RNG.normal(size=12_000), rare])))
    column = data.split("train").batch(np.arange(len(data.split("train")))).numpy()[:, 1]
    network = build_networks(_settings(data.spec), data)[0]
    assert column.max() == 1
    assert float(network.std[1]) == pytest.approx(column.std(ddof=1), rel=1e-6)
    assert not any("constant" in note for note in data.notes)


def test_what_differs_elsewhere_is_said(tmp_path: Path) -> None:
    year = np.full(N, 2020.0)
    test = _table(np.full(N, 2021.0), np.zeros(N))
    data = load_dataset(_spec(tmp_path, _table(year, np.zeros(N)), val=_table(year, np.zeros(N)), test=test))
    assert any("columns 3 and 4 are constant" in note for note in data.notes)
    assert any("column 3 is constant in training and different in test:" in note for note in data.notes)


def test_float_noise_is_told_from_a_constant_and_long_lists_are_cut(tmp_path: Path) -> None:
    data = load_dataset(_spec(tmp_path, _table(CONSTANT["float noise"], *[np.ones(N)] * 40)))
    rounding = [note for note in data.notes if "within the rounding of float32" in note]
    assert len(rounding) == 1
    assert rounding[0].startswith("column 3 is not constant in every digit")
    assert any("columns 3, 4, 5" in note and "and 21 more are constant" in note for note in data.notes)


def test_a_spread_above_the_rounding_is_left_alone() -> None:
    column = (1 + 100 * ROUNDING * RNG.random(1000)).astype(np.float32)[:, None]
    found = Moments.of(Split(inputs=column, labels=np.zeros(1000, np.int64)))
    assert not found.constant.any()
    assert found.scale[0] == pytest.approx(column.astype(np.float64).std(ddof=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_constant_channel_of_images(dtype: type, tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (60, 3, 6, 6)).astype(np.uint8)
    images[:, 1] = 200
    stored = images if dtype == np.uint8 else (images / 255).astype(np.float32)
    data = load_dataset(_spec(tmp_path, stored))
    assert any("channel 1 is constant" in note for note in data.notes)
    network = build_networks(_settings(data.spec), data)[0]
    assert float(network.std[1]) == 1.0
    assert float(network.std[0]) < 1.0


def test_the_command_says_it_and_the_run_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = _spec(tmp_path, _table(np.zeros(N)))
    arguments = ["--data", spec, "--model", "mlp", "--method", "vanilla", "--epochs", "1", "--quiet"]
    with pytest.raises(SystemExit, match="0"):
        main(["train", *arguments, "--out", str(tmp_path / "run")])
    assert "note: column 3 is constant in the training split" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any("column 3 is constant" in note for note in record["dataset"]["notes"])


def test_networks_of_earlier_runs_keep_their_normalisation(tmp_path: Path) -> None:
    data = load_dataset(_spec(tmp_path, _table(np.zeros(N))))
    std = torch.tensor([1.0, 1.0, 1.0, 1e-6])
    network = build_model("mlp", input_shape=(4,), num_classes=3, mean=torch.zeros(4), std=std)
    save_checkpoint(network.state_dict(), describe_network(_settings(data.spec), data), tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path / "model.safetensors")[0].std, std)
