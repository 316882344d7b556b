"""Advice about parquet files, carried out."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hint_cases import Case, Steps
from official_files import jpeg, write_shard, write_shards
from picture_files import path_in, picture, write_picture

from robcal.data.cifar import read_cifar10
from robcal.data.imagenet import read_imagenet

RNG = np.random.default_rng(1)
GENERATOR = torch.Generator().manual_seed(0)


def _rows(file: Path, rows: int = 10, *, column: str = "img", labels: str = "label", **other: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, object] = {column: [{"bytes": picture(32, 32)}] * rows, labels: list(range(rows))}
    pq.write_table(pa.table(columns | other), file)
    return file


def _shards(change: Callable[[Path], object], mend: Callable[[Path], object]) -> Callable[[Path], Steps]:
    """CIFAR-10 in two parquet files; one is spoilt, then put right."""

    def steps(folder: Path) -> Steps:
        for part in ("train", "test"):
            _rows(folder / f"{part}.parquet")
        change(folder)
        yield lambda: read_cifar10(str(folder))
        mend(folder)
        yield lambda: read_cifar10(str(folder))

    return steps


def _again(folder: Path) -> object:
    return _rows(folder / "train.parquet")


def _spoilt(**columns: object) -> Callable[[Path], Steps]:
    return _shards(lambda folder: _rows(folder / "train.parquet", **columns), _again)  # type: ignore[arg-type]


def _filtered(folder: Path) -> object:
    """What the advice about rows without a label gives."""
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.filter(table["label"].is_valid()), folder / "train.parquet")
    return None


def _renamed(folder: Path) -> object:
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.rename_columns(["img", "label"]), folder / "train.parquet")
    return None


def _labels(labels: list) -> Callable[[Path], object]:
    """Training rows with these labels."""
    table = pa.table({"img": [{"bytes": picture(32, 32)}] * len(labels), "label": labels})
    return lambda folder: pq.write_table(table, folder / "train.parquet")


def _copies(folder: Path) -> Steps:
    for place in ("a", "b"):
        for part in ("train", "test"):
            _rows(folder / place / f"{part}.parquet")
    hint = yield lambda: read_cifar10(str(folder))
    yield lambda: read_cifar10(path_in(hint))


def _second_set(folder: Path) -> Steps:
    names = ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    for name in names:
        _rows(folder / "data" / f"{name}.parquet")
    hint = yield lambda: read_cifar10(str(folder / "data"))
    ending = re.search(r"such as (-of-\d+)", hint)
    assert ending is not None
    for file in (folder / "data").glob("train*"):
        if ending[1] not in file.name:
            file.rename(folder / file.name)
    yield lambda: read_cifar10(str(folder / "data"))


def _lost_shard(folder: Path) -> Steps:
    for name in ("train-00001-of-00002", "test-00000-of-00001"):
        _rows(folder / f"{name}.parquet")
    hint = yield lambda: read_cifar10(str(folder))
    name = re.search(r"missing is (\S+\.parquet)", hint)
    assert name is not None
    _rows(folder / name[1])
    yield lambda: read_cifar10(str(folder))


def _versions(other: Callable[[Path], object]) -> Callable[[Path], Steps]:
    """Two files of one part that are of two versions; the advice is to take both of one."""

    def steps(folder: Path) -> Steps:
        names = ("a", "b", "c")
        write_shard(folder / "train-0.parquet", [(0, 1), (1, 2), (2, 3)], names=names)
        other(folder / "train-1.parquet")
        write_shard(folder / "validation.parquet", [(0, 4), (1, 5)], names=names)
        yield lambda: read_imagenet(str(folder), 8)
        write_shard(folder / "train-1.parquet", [(0, 1), (1, 2)], names=names)
        yield lambda: read_imagenet(str(folder), 8)

    return steps


def _names_as_labels(file: Path) -> object:
    return pq.write_table(pa.table({"image": [{"bytes": jpeg(1)}], "label": ["a"]}), file)


def _imagenet_without_bytes(folder: Path) -> Steps:
    write_shards(folder)
    file = folder / "data" / "validation-00000-of-00001.parquet"
    image = pa.array([{"bytes": None}, {"bytes": jpeg(1)}], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": image, "label": [0, 1]}), file)

    def call() -> object:
        split = read_imagenet(str(folder), 8).parts["test"]
        return split.inputs[np.arange(len(split))]

    yield call
    pq.write_table(pq.read_table(file).slice(1), file)
    yield call


NO_BYTES = pa.array([{"bytes": picture(32, 32)}] * 9 + [{"bytes": None}], pa.struct([("bytes", pa.binary())]))


CASES = [
    Case(
        "a file that is no parquet",
        "the parquet file .* cannot be read",
        _shards(lambda f: write_picture(f / "train.parquet", b"x"), _again),
    ),
    Case(
        "no rows",
        "holds no rows",
        _spoilt(rows=0, img=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
    ),
    Case(
        "another column of labels",
        "no column of labels",
        _shards(lambda f: _rows(f / "train.parquet", labels="y"), _renamed),
    ),
    Case(
        "another column of images",
        "no column of image bytes",
        _shards(lambda f: _rows(f / "train.parquet", column="x"), _renamed),
    ),
    Case("texts for images", "has type string; it must hold the bytes", _spoilt(img=["a"] * 10)),
    Case("no bytes in a row", "row 9 of .* has no image bytes", _spoilt(img=NO_BYTES)),
    Case("no bytes in a row of many", "has no image bytes", _imagenet_without_bytes),
    Case("another size", "row 0 of .* is 8x8", _spoilt(img=[{"bytes": picture(8, 8)}] * 10)),
    Case("no label in a row", "row 9 of .* has no label", _shards(_labels([*range(9), None]), _filtered)),
    Case("lists for labels", "column label of .* has type list", _shards(_labels([[1]] * 10), _again)),
    Case("two copies", "holds files of test in", _copies),
    Case("two sets of shards", "several sets", _second_set),
    Case("a missing shard", "first that is missing is train-00000", _lost_shard),
    Case(
        "other classes in a file",
        "names other classes",
        _versions(lambda f: write_shard(f, [(0, 1)], names=("a", "x", "c"))),
    ),
    Case("names and integers", "labels as integers and as names", _versions(_names_as_labels)),
]
