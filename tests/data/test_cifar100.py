from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.cifar import CIFAR100_CLASSES, read_cifar100

SIZES = {"train": 300, "test": 100}


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (size, 3072), dtype=np.uint8) for name, size in SIZES.items()}


def _labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Coarse and fine labels."""
    fine = np.arange(SIZES[name]) % 100
    return (fine * 7) % 20, fine


@pytest.fixture
def members(images: dict[str, np.ndarray]) -> dict[str, dict[str, bytes]]:
    """The official files: a record is coarse label, fine label, pixels; a pickle has bytes for keys."""
    binary, python = {}, {}
    for name, pixels in images.items():
        coarse, fine = (part.astype(np.uint8)[:, None] for part in _labels(name))
        binary[f"{name}.bin"] = np.concatenate([coarse, fine, pixels], axis=1).tobytes()
        fields = {b"fine_labels": fine[:, 0].tolist(), b"coarse_labels": coarse[:, 0].tolist(), b"data": pixels}
        python[name] = pickle.dumps(fields, 2)
    return {"binary": binary, "python": python}


def _assert_holds(path: object, images: dict[str, np.ndarray]) -> None:
    parts = read_cifar100(str(path))
    assert (parts.name, parts.class_names) == ("CIFAR-100", CIFAR100_CLASSES)
    for name, split in parts.parts.items():
        assert np.array_equal(split.inputs[np.arange(len(split))], images[name].reshape(-1, 3, 32, 32))
        assert np.array_equal(split.labels, _labels(name)[1])


@pytest.mark.parametrize("version", ["binary", "python"])
def test_official_files(version: str, members: dict, images: dict, tmp_path: Path, write_tar: Callable) -> None:
    folder = tmp_path / f"cifar-100-{version}"
    folder.mkdir()
    for name, data in members[version].items():
        (folder / name).write_bytes(data)
    _assert_holds(folder, images)
    _assert_holds(tmp_path, images)
    packed = tmp_path / "packed"
    packed.mkdir()
    inside = {f"{folder.name}/{name}": data for name, data in members[version].items()}
    _assert_holds(write_tar(packed / f"cifar-100-{version}.tar.gz", inside), images)
    _assert_holds(packed, images)


@pytest.mark.parametrize("order", [("img", "fine_label", "coarse_label"), ("coarse_label", "fine_label", "img")])
def test_parquet_in_any_order_of_columns(
    order: tuple[str, ...], images: dict, tmp_path: Path, write_parquet: Callable
) -> None:
    for name, pixels in images.items():
        coarse, fine = _labels(name)
        file = write_parquet(tmp_path / f"{name}-00000-of-00001.parquet", pixels, fine, label="fine_label")
        table = pq.read_table(file).append_column("coarse_label", pa.array(coarse))
        pq.write_table(table.select(order), file)
    _assert_holds(tmp_path, images)


def test_validation_has_every_class(members: dict, tmp_path: Path) -> None:
    for name, data in members["binary"].items():
        (tmp_path / name).write_bytes(data)
    data = load_dataset(f"cifar100:{tmp_path}", val_fraction=1 / 3, seed=2)
    assert np.bincount(data.split("val").labels).tolist() == [1] * 100
    assert len(data.split("train")) == 200


def test_class_names_are_the_hundred_in_their_order() -> None:
    assert len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
    assert [CIFAR100_CLASSES[label] for label in (0, 19, 49, 99)] == ["apple", "cattle", "mountain", "worm"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train.bin", None, r"has no train.bin.*cifar.html.*cifar-100-binary.tar.gz \(168,513,733 bytes"),
        ("test.bin", bytes(3073), r"records of 3,074 bytes.*168,513,733 bytes"),
        ("test.bin", bytes([3, 100]) + bytes(3072), "holds 100 at index 0"),
    ],
)
def test_damaged(name: str, data: bytes | None, message: str, members: dict, tmp_path: Path) -> None:
    for member, content in (members["binary"] | {name: data}).items():
        if content is not None:
            (tmp_path / member).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_cifar100(str(tmp_path))


def test_cifar10_is_not_taken_for_it(binary_members: dict, tmp_path: Path) -> None:
    for name, data in binary_members.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"nothing of CIFAR-100 and no train\*.parquet"):
        read_cifar100(str(tmp_path))
