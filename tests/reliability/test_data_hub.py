"""Parquet files as hubs serve them: where they lie, how their labels are stored, and what the classes are called."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official_files import WNIDS, jpeg

from robcal.base.checks import InputError
from robcal.data.cifar import CIFAR10_CLASSES, read_cifar10, read_cifar100
from robcal.data.imagenet import read_imagenet
from robcal.data.parquet import files_of_parts, parquet_files
from robcal.data.unpack import unpack_pictures

LABELS = [3, 0, 9, 1, 2, 4, 5, 6, 7, 8]


def _png(seed: int) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


PICTURES = [_png(seed) for seed in range(10)]


def _write(file: Path, labels: object, names: tuple[str, ...] | None = None, *, column: str = "label") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    count = len(labels)  # type: ignore[arg-type]
    table = pa.table({"img": [{"bytes": data, "path": None} for data in PICTURES[:count]], column: labels})
    if names is not None:
        features = {column: {"names": list(names), "_type": "ClassLabel"}, "img": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    return file


def _strings(labels: list[int]) -> list[str]:
    return [CIFAR10_CLASSES[label] for label in labels]


LAYOUTS = {
    "shards in data/": ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    "shards with a hash": (
        "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
        "data/test-00000-of-00001-c3b56a09b74b3ef9.parquet",
    ),
    "the export of a hub": ("plain_text/train/0000.parquet", "plain_text/test/0000.parquet"),
    "the export of a large set": ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
    "folders of parts": ("train/0000.parquet", "test/0000.parquet"),
    "folders and names": ("train/train-0.parquet", "test/test-0.parquet"),
    "plain": ("train.parquet", "test.parquet"),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("folder", ["files", "test"])
def test_every_layout_is_read(name: str, folder: str, tmp_path: Path) -> None:
    """The name of the folder that the user names says nothing about parts."""
    root = tmp_path / folder
    train, test = LAYOUTS[name]
    _write(root / train, LABELS)
    _write(root / test, LABELS[:4])
    _write(root / ".cache" / "huggingface" / "train-9.parquet", LABELS)
    (root / Path(train).parent / f"._{Path(train).name}").write_bytes(b"what macOS leaves")
    parts = read_cifar10(str(root))
    assert parts.parts["train"].labels.tolist() == LABELS
    assert parts.parts["test"].labels.tolist() == LABELS[:4]
    assert [("partial" in note) for note in parts.notes] == [True, True][: 2 * ("partial" in train)]
    by_name = read_cifar10(f"{root / train}, {root / test}")
    assert by_name.parts["train"].labels.tolist() == LABELS


def test_imagenet_in_the_layout_of_an_export(tmp_path: Path) -> None:
    for part in ("train", "validation"):
        rows = {"image": [{"bytes": jpeg(seed)} for seed in range(4)], "label": [0, 1, 1, 0]}
        (tmp_path / "data" / "default" / part).mkdir(parents=True)
        for number in range(2):
            pq.write_table(pa.table(rows), tmp_path / "data" / "default" / part / f"{number:04d}.parquet")
    parts = read_imagenet(str(tmp_path / "data"), 8)
    assert (len(parts.parts["train"]), len(parts.parts["test"])) == (8, 8)
    assert parts.parts["train"].inputs[np.arange(8)].shape == (8, 3, 8, 8)
    unpacked = unpack_pictures(str(tmp_path / "data"), tmp_path / "unpacked")
    assert read_imagenet(str(unpacked), 8).parts["train"].labels.tolist() == [0] * 4 + [1] * 4


def test_a_part_is_not_read_twice(tmp_path: Path) -> None:
    """A copy of the same files, or a second configuration, would double the data without a word."""
    for place in ("data", "plain_text/train", "plain_text/test"):
        name = "0000.parquet" if "/" in place else "train-00000-of-00001.parquet"
        _write(tmp_path / place / name, LABELS)
    with pytest.raises(
        InputError, match=r"holds files of train in .*/data and in .*/plain_text; .*Name one of the two"
    ):
        read_cifar10(str(tmp_path))
    assert len(read_cifar10(str(tmp_path / "plain_text")).parts["train"]) == 10


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0000", "0002"), r"has 2 shards of a part.*missing is 0001\.parquet"),
        (("0001",), r"missing is 0000\.parquet"),
        (("train-00000-of-00002", "train-00000-of-00001", "train-00001-of-00002"), "several sets"),
        (("train-00000-of-00001", "train-00000-of-00001-a09b74b3ef9c3b56"), "several sets"),
        (("train-00001-of-00002-a09b74b3ef9c3b56",), r"missing is train-00000-of-00002\.parquet"),
    ],
)
def test_missing_and_mixed_shards_are_seen(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in names:
        _write(tmp_path / "train" / f"{name}.parquet", LABELS)
    with pytest.raises(InputError, match=message):
        files_of_parts(parquet_files(tmp_path), tmp_path)


STORED: dict[str, Callable[[list[int]], object]] = {
    "int64": lambda labels: pa.array(labels, pa.int64()),
    "uint8": lambda labels: pa.array(labels, pa.uint8()),
    "whole floats": lambda labels: pa.array([float(label) for label in labels]),
    "names": _strings,
    "large strings": lambda labels: pa.array(_strings(labels), pa.large_string()),
    "categories": lambda labels: pa.array(_strings(labels)).dictionary_encode(),
}


@pytest.mark.parametrize("stored", STORED)
def test_labels_of_every_type(stored: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        _write(tmp_path / f"{part}.parquet", STORED[stored](LABELS))
    parts = read_cifar10(str(tmp_path))
    assert parts.class_names == CIFAR10_CLASSES
    for part in parts.parts.values():
        assert part.labels.tolist() == LABELS
        assert part.labels.dtype == np.int64


def test_names_in_another_order_are_followed(tmp_path: Path) -> None:
    """A copy of a data set may number its classes otherwise, and its test part may differ from its training part."""
    turned = (*CIFAR10_CLASSES[1:], CIFAR10_CLASSES[0])
    _write(tmp_path / "train.parquet", [turned.index(CIFAR10_CLASSES[label]) for label in LABELS], turned)
    _write(tmp_path / "test.parquet", LABELS, CIFAR10_CLASSES)
    parts = read_cifar10(str(tmp_path))
    assert parts.class_names == CIFAR10_CLASSES
    assert [split.labels.tolist() for split in parts.parts.values()] == [LABELS, LABELS]


def test_other_names_are_those_of_the_files(tmp_path: Path) -> None:
    own = tuple(f"class {label}" for label in range(10))
    for part in ("train", "test"):
        _write(tmp_path / f"{part}.parquet", LABELS, own)
    assert read_cifar10(str(tmp_path)).class_names == own
    _write(tmp_path / "test.parquet", LABELS, CIFAR10_CLASSES)
    with pytest.raises(InputError, match="the files of test names other classes than the files before it"):
        read_cifar10(str(tmp_path))
    _write(tmp_path / "train.parquet", LABELS, (*own, "more"))
    with pytest.raises(InputError, match="name 11 classes, CIFAR-10 has 10"):
        read_cifar10(str(tmp_path))


def test_fine_labels_of_cifar100_by_name(tmp_path: Path) -> None:
    for part in ("train", "test"):
        _write(tmp_path / f"{part}.parquet", ["worm", "apple", "aquarium_fish"], column="fine_label")
    assert read_cifar100(str(tmp_path)).parts["test"].labels.tolist() == [99, 0, 1]


def _shard(file: Path, labels: list, names: tuple[str, ...] | None = None) -> None:
    table = pa.table({"image": [{"bytes": jpeg(seed)} for seed in range(len(labels))], "label": labels})
    if names is not None:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)


def test_string_labels_of_pictures_are_classes_in_sorted_order(tmp_path: Path) -> None:
    _shard(tmp_path / "train.parquet", ["wolf", "ant", "bee", "wolf"])
    _shard(tmp_path / "validation.parquet", ["bee", "ant"])
    parts = read_imagenet(str(tmp_path), 8)
    assert parts.class_names == ("ant", "bee", "wolf")
    assert parts.parts["train"].labels.tolist() == [2, 0, 1, 2]
    assert parts.parts["test"].labels.tolist() == [1, 0]
    assert "classes are numbered by their sorted names: ant, bee, wolf" in parts.notes
    _shard(tmp_path / "validation.parquet", ["cat", "ant"])
    with pytest.raises(InputError, match="test_labels holds 'cat', which is no class of training"):
        read_imagenet(str(tmp_path), 8)


def test_classes_of_pictures_are_named_by_the_metadata_of_either_part(tmp_path: Path) -> None:
    _shard(tmp_path / "train.parquet", [0, 1, 2])
    _shard(tmp_path / "validation.parquet", [2, 0], WNIDS)
    assert read_imagenet(str(tmp_path), 8).class_names == WNIDS
    _shard(tmp_path / "train.parquet", [0, 1, 2], WNIDS[::-1])
    parts = read_imagenet(str(tmp_path), 8)
    assert parts.class_names == WNIDS[::-1]
    assert parts.parts["test"].labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1], r"row 1 of .*train.parquet has no label \(1 rows in all\)"),
        ([[0], [1], [1]], "column label of .* has type list"),
        ([0.5, 1.0, 0.0], "holds 0.5 at index 0"),
        ([0, 2, 2], r"train_labels lacks class 1 of 3"),
        ([0, 0, 0], "train_labels holds one class, 0"),
        ([1, 2, 1], "train_labels holds 1 to 2 and no 0"),
    ],
)
def test_labels_that_are_none_are_refused(labels: list, message: str, tmp_path: Path) -> None:
    _shard(tmp_path / "train.parquet", labels)
    shutil.copy(tmp_path / "train.parquet", tmp_path / "validation.parquet")
    with pytest.raises(InputError, match=message):
        read_imagenet(str(tmp_path), 8)
