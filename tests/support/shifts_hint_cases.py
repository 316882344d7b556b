"""Advice about corrupted and shifted test sets, carried out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hint_cases import Call, Case, Steps, in_turn, run_code
from official_files import jpeg
from picture_files import path_in, picture, write_picture

from robcal.data import Dataset, load_dataset
from robcal.data.augment import pad_crop_flip, random_resized_crop
from robcal.data.corrupted import load_corrupted
from robcal.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from robcal.data.shifts import check_outside, shift_source
from robcal.data.table_shift import Features, shift_table

RNG = np.random.default_rng(1)
GENERATOR = torch.Generator().manual_seed(0)


def _corrupted_arrays(folder: Path, kinds: tuple[str, ...] = ("fog",)) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "labels.npy", np.tile(np.arange(10), 5))
    for kind in kinds:
        np.save(folder / f"{kind}.npy", np.zeros((50, 32, 32, 3), np.uint8))
    return folder


def _corrupted_spec(folder: Path) -> Steps:
    _corrupted_arrays(folder)
    hint = yield lambda: load_corrupted("cifar10c", kinds=("fog",))
    yield lambda: load_corrupted(path_in(hint).replace("PATH", str(folder)), kinds=("fog",))


def _corrupted_lost(folder: Path) -> Steps:
    _corrupted_arrays(folder, ())
    yield lambda: load_corrupted(f"cifar10c:{folder}", kinds=("fog",))
    _corrupted_arrays(folder)
    yield lambda: load_corrupted(f"cifar10c:{folder}", kinds=("fog",))


def _corrupted_damaged(folder: Path) -> Steps:
    _corrupted_arrays(folder)
    np.save(folder / "fog.npy", np.zeros((50, 32, 32), np.uint8))
    yield lambda: load_corrupted(f"cifar10c:{folder}", kinds=("fog",))["fog", 1]
    _corrupted_arrays(folder)
    yield lambda: load_corrupted(f"cifar10c:{folder}", kinds=("fog",))["fog", 1]


def _corrupted_pictures(folder: Path, names: tuple[str, ...]) -> None:
    for severity in SEVERITIES:
        for name in names:
            write_picture(folder / "weather" / "fog" / str(severity) / name / "0.JPEG", jpeg(severity))


def _corrupted_folders(folder: Path) -> Steps:
    assert CORRUPTIONS["fog"].group == "weather"
    yield lambda: load_corrupted(f"imagenetc:{folder}", kinds=("fog",))
    _corrupted_pictures(folder, ("ant", "bee"))
    yield lambda: load_corrupted(f"imagenetc:{folder}", kinds=("fog",))


def _corrupted_class(folder: Path) -> Steps:
    def call() -> object:
        return load_corrupted(f"imagenetc:{folder}", kinds=("fog",), class_names=("ant", "bee"))["fog", 1]

    _corrupted_pictures(folder, ("ant",))
    yield call
    _corrupted_pictures(folder, ("ant", "bee"))
    yield call


def _small_cifar(folder: Path, *, test: int = 10) -> Dataset:
    for part, rows in (("train", 10), ("test", test)):
        labels = np.repeat(np.arange(10), 2) if part == "train" else np.arange(rows) % 10
        table = {"img": [{"bytes": picture(32, 32)}] * len(labels), "label": labels}
        pq.write_table(pa.table(table), folder / f"{part}.parquet")
    return load_dataset(f"cifar10:{folder}", val_fraction=0.5)


def _shift_of_others(folder: Path) -> Steps:
    data = _small_cifar(folder, test=20)
    spec = f"cifar10c:{_corrupted_arrays(folder / 'c', tuple(CORRUPTIONS))}"

    def shifted(data: Dataset) -> Call:
        split = data.split("test")
        return lambda: shift_source(data, spec).shifted(split, np.arange(len(split)), "fog", 1)

    yield shifted(data)
    yield shifted(_small_cifar(folder))


def _shift_of_another_kind(folder: Path) -> Steps:
    spec = f"cifar10c:{_corrupted_arrays(folder / 'c', tuple(CORRUPTIONS))}"
    digits = load_dataset("digits")
    yield lambda: shift_source(digits, spec)
    yield lambda: shift_source(digits)


def _outside(folder: Path) -> Steps:
    digits, cifar = load_dataset("digits"), _small_cifar(folder)
    yield lambda: check_outside(cifar.split("test"), digits, "cifar")
    yield lambda: check_outside(digits.split("test"), digits, "digits")


TABLE = RNG.normal(size=(6, 3))
IMAGES = RNG.random((2, 3, 8, 8))


def _converted(
    call: Callable[[np.ndarray], object], array: np.ndarray, piece: int = 0, **names: float
) -> Callable[[Path], Steps]:
    """A call on an array, and on what the advice's code makes of it."""

    def steps(folder: Path) -> Steps:
        hint = yield lambda: call(array)
        name = "x" if isinstance(array, torch.Tensor) else "images"
        yield lambda: call(run_code(hint, {name: array, **names}, piece))

    return steps


def _fog(images: np.ndarray) -> object:
    return corrupt(images, "fog", 1, seed=0)


def _shift(table: np.ndarray, features: Features) -> object:
    return shift_table(table, "noise", 1, features=features, seed=0)


def _features(folder: Path) -> Steps:
    hint = yield lambda: _shift(TABLE, Features.of(TABLE[:, :2]))
    yield lambda: _shift(TABLE, run_code(hint, {"Features": Features, "table": TABLE}))


def _crop(x: torch.Tensor) -> object:
    return random_resized_crop(x, generator=GENERATOR)


CASES = [
    Case("a corrupted set without path", "is written cifar10c:PATH", _corrupted_spec),
    Case("a corrupted set without a kind", "has no fog.npy", _corrupted_lost),
    Case("a corrupted set, damaged", "fog.npy holds uint8 of shape", _corrupted_damaged),
    Case("ImageNet-C without a kind", "has no fog/1", _corrupted_folders),
    Case("ImageNet-C without a class", "has no class bee", _corrupted_class),
    Case("official shift of other examples", "has other labels than the test split", _shift_of_others),
    Case("official shift of other inputs", "Drop --shift", _shift_of_another_kind),
    Case("out-of-distribution inputs of another shape", "ood 'cifar' has inputs of shape", _outside),
    Case(
        "severity of a table",
        "severity is 6",
        in_turn(
            lambda: shift_table(TABLE, "noise", 6, features=Features.of(TABLE), seed=0),
            lambda: _shift(TABLE, Features.of(TABLE)),
        ),
    ),
    Case("features of another table", "its features", _features),
    Case(
        "severity of images", "severity is 6", in_turn(lambda: corrupt(IMAGES, "fog", 6, seed=0), lambda: _fog(IMAGES))
    ),
    Case("corrupting channels last", "images have shape", _converted(_fog, IMAGES.transpose(0, 2, 3, 1))),
    Case(
        "corrupting a table",
        "Tables have robcal.data.table_shift",
        in_turn(lambda: _fog(TABLE), lambda: _shift(TABLE, Features.of(TABLE))),
    ),
    Case("corrupting one image", "images have shape", _converted(_fog, IMAGES[0])),
    Case("corrupting grey images", "images have shape", _converted(_fog, IMAGES[:, 0], 1)),
    Case("corrupting integers", "images have dtype int64", _converted(_fog, (255 * IMAGES).astype(int))),
    Case("corrupting floats to 255", "images hold", _converted(_fog, 255 * IMAGES)),
    Case("corrupting normalised images", "images hold", _converted(_fog, (IMAGES - 0.5) / 0.2, mean=0.5, std=0.2)),
    Case(
        "shifting one image",
        r"x has shape \(3, 8, 8\)",
        _converted(lambda x: pad_crop_flip(x, generator=GENERATOR), torch.ones(3, 8, 8)),
    ),
    Case("cropping bytes", "x is torch.uint8", _converted(_crop, torch.ones(2, 3, 8, 8, dtype=torch.uint8))),
    Case("cropping grey images", "x is torch.float32 of shape", _converted(_crop, torch.ones(2, 8, 8), 1)),
]
