from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.cifar import CIFAR10, read_cifar10


def _expected(batches: dict, name: str) -> tuple[np.ndarray, np.ndarray]:
    images = np.concatenate([batches[stem][0] for stem in CIFAR10.batches[name]]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([batches[stem][1] for stem in CIFAR10.batches[name]])


def _assert_holds(path: object, batches: dict) -> None:
    parts = read_cifar10(str(path))
    assert parts.name == "CIFAR-10"
    for name, split in parts.parts.items():
        images, labels = _expected(batches, name)
        assert np.array_equal(split.inputs[np.arange(len(split))], images)
        assert split.inputs.dtype == np.uint8
        assert np.array_equal(split.labels, labels)


@pytest.mark.parametrize("version", ["binary", "python"])
def test_official_files_in_every_packing(
    version: str, tmp_path: Path, batches: dict, write_tar: Callable, request: pytest.FixtureRequest
) -> None:
    members = request.getfixturevalue(f"{version}_members")
    folder = tmp_path / {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}[version]
    folder.mkdir()
    for name, data in members.items():
        (folder / name).write_bytes(data)
    _assert_holds(folder, batches)
    _assert_holds(tmp_path, batches)
    other = tmp_path / "packed"
    other.mkdir()
    archive = write_tar(
        other / f"cifar-10-{version}.tar.gz", {f"cifar-10-batches/{name}": data for name, data in members.items()}
    )
    _assert_holds(archive, batches)
    _assert_holds(other, batches)
    assert sorted(path.name for path in other.iterdir()) == [archive.name]


def test_archive_members_leave_no_trace_on_disk(tmp_path: Path, binary_members: dict, write_tar: Callable) -> None:
    """A member named ../../x is only bytes to us."""
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    archive = write_tar(
        folder / "a.tar.gz", {f"../../{name}": data for name, data in binary_members.items()} | {"/x": b"1"}
    )
    before = sorted(tmp_path.rglob("*"))
    assert len(read_cifar10(str(archive)).parts["test"]) == 20
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("column", "label", "struct"), [("img", "label", True), ("image", "labels", True), ("img.bytes", "label", False)]
)
def test_parquet_columns(
    column: str, label: str, struct: bool, tmp_path: Path, batches: dict, write_parquet: Callable
) -> None:
    for name in CIFAR10.batches:
        images, labels = _expected(batches, name)
        write_parquet(tmp_path / f"{name}.parquet", images, labels, column=column, label=label, struct=struct)
    _assert_holds(tmp_path, batches)
    _assert_holds(f"{tmp_path / 'train.parquet'},{tmp_path / 'test.parquet'}", batches)


def test_parquet_shards_come_in_order_and_must_be_complete(
    tmp_path: Path, batches: dict, write_parquet: Callable
) -> None:
    images, labels = _expected(batches, "train")
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[50:], labels[50:])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", *_expected(batches, "test"))
    with pytest.raises(InputError, match="1 of 2 shards"):
        read_cifar10(str(tmp_path))
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images[:50], labels[:50])
    _assert_holds(tmp_path, batches)


def test_jpeg_is_said_in_the_name(tmp_path: Path, batches: dict, write_parquet: Callable) -> None:
    for name in CIFAR10.batches:
        write_parquet(tmp_path / f"{name}.parquet", *_expected(batches, name), form="JPEG")
    parts = read_cifar10(str(tmp_path))
    assert parts.name == "CIFAR-10 (JPEG)"
    assert "JPEG" in parts.notes[0]
    images, _ = _expected(batches, "test")
    assert 0 < np.abs(parts.parts["test"].inputs[np.arange(20)].astype(int) - images).mean() < 60


def _break_folder(members: dict, folder: Path, **changes: bytes | None) -> str:
    for name, data in (members | {key.replace("DOT", "."): value for key, value in changes.items()}).items():
        if data is not None:
            (folder / name).write_bytes(data)
    return str(folder)


BINARY_DAMAGE = [
    ({"test_batchDOTbin": None}, "has no test_batch.bin"),
    ({"data_batch_2DOTbin": bytes(3073 * 2 - 1)}, r"data_batch_2.bin has 6,145 bytes"),
    ({"data_batch_2DOTbin": b""}, r"has 0 bytes"),
    ({"data_batch_4DOTbin": bytes([10]) + bytes(3072)}, "holds 10 at index 0"),
]

PYTHON_DAMAGE = [
    ({"data_batch_3": None}, "has no data_batch_3"),
    ({"data_batch_1": pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}, 2)}, "has the fields data"),
    ({"data_batch_1": pickle.dumps([1, 2], 2)}, "has the fields none"),
    ({"data_batch_1": pickle.dumps({"data": np.zeros((1, 3072)), "labels": [1]}, 2)}, "float64"),
    ({"data_batch_1": pickle.dumps({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, 2)}, "3071"),
    ({"data_batch_1": pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, 2)}, "examples number 2"),
    ({"data_batch_1": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, 2)}, "holds -1"),
    ({"data_batch_1": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, 2)}, "dtype <U1"),
    ({"data_batch_1": pickle.dumps({"data": os.system}, 2)}, "it asks for (posix|nt).system"),
]


@pytest.mark.parametrize(("changes", "message"), BINARY_DAMAGE)
def test_damaged_binary_files(changes: dict, message: str, tmp_path: Path, binary_members: dict) -> None:
    with pytest.raises(InputError, match=message):
        read_cifar10(_break_folder(binary_members, tmp_path, **changes))


@pytest.mark.parametrize(("changes", "message"), PYTHON_DAMAGE)
def test_damaged_python_files(changes: dict, message: str, tmp_path: Path, python_members: dict) -> None:
    with pytest.raises(InputError, match=message):
        read_cifar10(_break_folder(python_members, tmp_path, **changes))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_archive(keep: float, tmp_path: Path, binary_members: dict, write_tar: Callable) -> None:
    archive = write_tar(tmp_path / "cifar-10-binary.tar.gz", binary_members)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(InputError, match=r"no readable archive|has no"):
        read_cifar10(str(archive))


def _png(size: int = 32) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (size, size)).save(stream, "PNG")
    return stream.getvalue()


GOOD = _png()

PARQUET_DAMAGE = [
    ({"img": [{"bytes": GOOD}], "labels_": [1]}, "no column of labels; its columns are img.bytes, labels_"),
    ({"pixels": [1], "label": [1]}, "no column of image bytes; its columns are pixels, label"),
    ({"img": [{"bytes": GOOD}], "label": [10]}, "holds 10 at index 0"),
    ({"img": [{"bytes": GOOD}], "label": ["lion"]}, "labels of train holds 'lion', which is no class"),
    ({"img": [{"bytes": GOOD}, {"bytes": GOOD}], "label": [1, None]}, r"row 1 of .*train.parquet has no label"),
    ({"img": [{"bytes": None}], "label": pa.array([1])}, "the image column of .* has type|has no image bytes"),
    ({"img": [{"bytes": GOOD[:60]}], "label": [1]}, "row 0 .* is no readable picture"),
    ({"img": [{"bytes": b"text"}], "label": [1]}, "row 0 .* is no readable picture"),
    ({"img": [{"bytes": GOOD}, {"bytes": _png(16)}], "label": [1, 2]}, "row 1 .* is 16x16"),
    ({"img": ["text"], "label": [1]}, "the image column of .* has type string"),
    ({"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "holds no rows"),
]


@pytest.mark.parametrize(("columns", "message"), PARQUET_DAMAGE)
def test_damaged_parquet(columns: dict, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    pq.write_table(pa.table({"img": [{"bytes": GOOD}], "label": [1]}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=message):
        read_cifar10(str(tmp_path))


def test_unreadable_and_missing_parquet(tmp_path: Path, batches: dict, write_parquet: Callable) -> None:
    with pytest.raises(InputError, match="holds nothing of CIFAR-10 and no train"):
        read_cifar10(str(tmp_path))
    train = write_parquet(tmp_path / "train.parquet", *_expected(batches, "train"))
    with pytest.raises(InputError, match=r"holds train.parquet and no test\*.parquet"):
        read_cifar10(str(train))
    train.write_bytes(train.read_bytes()[:1000])
    write_parquet(tmp_path / "test.parquet", *_expected(batches, "test"))
    with pytest.raises(InputError, match=r"the parquet file .* cannot be read"):
        read_cifar10(str(tmp_path))


def _real_cifar10() -> Path:
    default = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
    return Path(os.environ.get("ROBCAL_CIFAR10", default))


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.skipif(not _real_cifar10().exists(), reason="CIFAR-10 is not here")
def test_the_real_thing() -> None:
    data = load_dataset(f"cifar10:{_real_cifar10()}", seed=3)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 45000, "val": 5000, "test": 10000}
    assert np.bincount(data.split("val").labels).tolist() == [500] * 10
    assert np.bincount(data.split("test").labels).tolist() == [1000] * 10
    mean = data.split("train").batch(np.arange(0, 45000, 10)).mean((0, 2, 3)).numpy()
    assert np.abs(mean - [0.4914, 0.4822, 0.4465]).max() < 0.01  # published channel means of the training data
