from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.svhn import read_svhn


@pytest.fixture
def images() -> np.ndarray:
    """(40, 3, 32, 32) uint8."""
    return np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    """Both files as they are published: X (32, 32, 3, N), y (N, 1) from 1 to 10, compressed."""
    stored = np.tile(np.arange(1, 11, dtype=np.uint8), 4)[:, None]
    for name, count in (("train", 40), ("test", 20)):
        arrays = {"X": images[:count].transpose(2, 3, 1, 0), "y": stored[:count]}
        savemat(tmp_path / f"{name}_32x32.mat", arrays, do_compression=True)
    return tmp_path


def test_the_official_layout(folder: Path, images: np.ndarray) -> None:
    parts = read_svhn(str(folder))
    train = parts.parts["train"]
    assert np.array_equal(train.inputs[np.arange(40)], images)
    assert train.inputs.dtype == np.uint8
    assert train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 4
    assert (parts.name, parts.class_names, parts.box) == ("SVHN", tuple("0123456789"), (0.0, 1.0))
    assert len(read_svhn(str(folder / "test_32x32.mat")).parts["test"]) == 20


def test_validation_is_cut(folder: Path) -> None:
    data = load_dataset(f"svhn:{folder}", val_fraction=0.25, seed=1)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 30, "val": 10, "test": 20}
    assert np.bincount(data.split("val").labels).tolist() == [1] * 10


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(InputError, match=r"no test_32x32.mat.*housenumbers.*64,275,384 bytes") as caught:
        read_svhn(str(folder))
    assert "182,040,794" not in str(caught.value)


GOOD = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [10]], np.uint8)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": GOOD["y"]}, "holds y; it must hold the arrays X and y"),
        ({**GOOD, "X": GOOD["X"].astype(float)}, "float64 of shape"),
        ({**GOOD, "X": GOOD["X"][:, :, :, 0]}, "must be uint8"),
        ({**GOOD, "X": np.zeros((16, 32, 3, 2), np.uint8)}, "must be uint8"),
        ({**GOOD, "y": np.array([[0], [1]], np.uint8)}, "10 is the digit 0"),
        ({**GOOD, "y": np.array([[11], [1]], np.uint8)}, "holds 11"),
        ({**GOOD, "y": np.array([[1.5], [1]])}, "dtype float64"),
        ({**GOOD, "y": np.array([[1]], np.uint8)}, "examples number 2"),
    ],
)
def test_damaged(arrays: dict, message: str, folder: Path) -> None:
    savemat(folder / "train_32x32.mat", arrays)
    with pytest.raises(InputError, match=message):
        read_svhn(str(folder))


@pytest.mark.parametrize("keep", [0, 60, 0.5, 0.99])
def test_truncated(keep: float, folder: Path) -> None:
    file = folder / "train_32x32.mat"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(InputError, match=r"train_32x32.mat .*182,040,794 bytes"):
        read_svhn(str(folder))
