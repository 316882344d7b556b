"""Advice about folders of pictures, carried out."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from hint_cases import Case, Steps
from official_files import write_shards
from picture_files import path_in, picture, write_classes, write_picture

from robcal.data import load_dataset
from robcal.data.folder import read_folder

RNG = np.random.default_rng(1)
GENERATOR = torch.Generator().manual_seed(0)


def _loose_file(folder: Path) -> Steps:
    write_classes(folder / "pictures")
    hint = yield lambda: read_folder(str(folder / "pictures" / "ant" / "0.png"))
    place = re.search(r"such as (.*)\.$", hint)
    assert place is not None
    yield lambda: read_folder(place[1])


def _wrapped(folder: Path) -> Steps:
    write_classes(folder / "outer" / "inner")
    hint = yield lambda: read_folder(str(folder / "outer"))
    yield lambda: read_folder(path_in(hint))


def _flat(folder: Path) -> Steps:
    for name in ("a", "b"):
        write_picture(folder / f"{name}.png")
    yield lambda: read_folder(str(folder))
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / f"{name}.png").rename(folder / name / "0.png")
    yield lambda: read_folder(str(folder))


def _parquet_pictures(folder: Path) -> Steps:
    write_shards(folder)
    hint = yield lambda: load_dataset(f"folder:{folder}")
    spec = re.search(r"read by (imagenet:.*)\.$", hint)
    assert spec is not None
    yield lambda: load_dataset(spec[1], val_fraction=0.25, image_size=8)


def _two_validations(folder: Path) -> Steps:
    write_classes(folder / "data", "train", "val", "valid")
    yield lambda: read_folder(str(folder / "data"))
    (folder / "data" / "valid").rename(folder / "valid")
    yield lambda: read_folder(str(folder / "data"))


def _beside_parts(folder: Path) -> Steps:
    write_classes(folder / "data", "train", "more")
    yield lambda: read_folder(str(folder / "data"))
    (folder / "data" / "more").rename(folder / "more")
    yield lambda: read_folder(str(folder / "data"))


def _train_by_another_name(folder: Path) -> Steps:
    write_classes(folder, "learn", "test")
    hint = yield lambda: read_folder(str(folder))
    assert "Rename the folder of the training pictures (learn) to train" in hint
    (folder / "learn").rename(folder / "train")
    yield lambda: read_folder(str(folder))


def _train_without_folder(folder: Path) -> Steps:
    write_classes(folder, ".", "test")
    hint = yield lambda: read_folder(str(folder))
    assert "Move ant, bee into a folder train" in hint
    for name in ("ant", "bee"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
    yield lambda: read_folder(str(folder))


def _no_train(folder: Path) -> Steps:
    write_classes(folder, "test")
    yield lambda: read_folder(str(folder))
    write_classes(folder, "train")
    yield lambda: read_folder(str(folder))


def _class_by_another_case(folder: Path) -> Steps:
    write_classes(folder, "train", "test")
    (folder / "test" / "bee").rename(folder / "test" / "Bee")
    hint = yield lambda: read_folder(str(folder))
    assert "Rename it to bee" in hint
    (folder / "test" / "Bee").rename(folder / "test" / "bee")
    yield lambda: read_folder(str(folder))


def _foreign_class(folder: Path) -> Steps:
    write_classes(folder / "data", "train", "test")
    write_picture(folder / "data" / "test" / "zebra" / "0.png")
    yield lambda: read_folder(str(folder / "data"))
    (folder / "data" / "test" / "zebra").rename(folder / "zebra")
    yield lambda: read_folder(str(folder / "data"))


def _empty_class(folder: Path) -> Steps:
    write_classes(folder)
    (folder / "cat").mkdir()
    yield lambda: read_folder(str(folder))
    write_picture(folder / "cat" / "0.png")
    yield lambda: read_folder(str(folder))


def _class_of_others(folder: Path) -> Steps:
    write_classes(folder)
    write_picture(folder / "cat" / "0.heic")
    yield lambda: read_folder(str(folder))
    (folder / "cat" / "0.heic").unlink()
    write_picture(folder / "cat" / "0.png")
    yield lambda: read_folder(str(folder))


def _empty_part(folder: Path) -> Steps:
    write_classes(folder, "train")
    (folder / "val").mkdir()
    yield lambda: read_folder(str(folder))
    (folder / "val").rmdir()
    yield lambda: read_folder(str(folder))


def _picture(
    wrong: bytes, right: bytes | None, name: str = "a.png", size: int | None = None
) -> Callable[[Path], Steps]:
    """A picture that is replaced by another, or removed (None)."""

    def steps(folder: Path) -> Steps:
        write_classes(folder)
        file = write_picture(folder / "ant" / name, wrong)
        yield lambda: read_folder(str(folder), size).parts["train"].inputs[np.arange(4)]
        file.unlink()
        if right is not None:
            write_picture(file.with_suffix(".png"), right)
        yield lambda: read_folder(str(folder), size).parts["train"].inputs[np.arange(4)]

    return steps


def _closed(folder: Path) -> Steps:
    """A folder that may not be listed; rights do not bind a test that runs as root."""
    write_classes(folder)
    scandir = os.scandir

    def refused(place: str) -> object:
        if Path(place).name == "bee":
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    with mock.patch("os.scandir", refused):
        yield lambda: read_folder(str(folder))
    yield lambda: read_folder(str(folder))


def _two_sizes(folder: Path) -> Steps:
    write_classes(folder)
    write_picture(folder / "ant" / "a.png", picture(9, 9))
    hint = yield lambda: read_folder(str(folder))
    size = re.search(r"\(--image-size\), such as (\d+)", hint)
    assert size is not None
    yield lambda: read_folder(str(folder), int(size[1])).parts["train"].inputs[np.arange(5)]


CASES = [
    Case("a file in place of a folder", "0.png is a file", _loose_file),
    Case("a folder around all", "holds 1 class folder", _wrapped),
    Case("no class folders", "holds 0 class folder", _flat),
    Case("parquet in place of folders", "read by imagenet:", _parquet_pictures),
    Case("val and valid", "both name the validation part", _two_validations),
    Case("a folder beside the parts", "Move more out of data", _beside_parts),
    Case("train by another name", "train/ is needed", _train_by_another_name),
    Case("classes beside test", "train/ is needed", _train_without_folder),
    Case("test alone", "Put the folder of the training pictures beside test", _no_train),
    Case("a class in another case", "has a class Bee", _class_by_another_case),
    Case("a foreign class", "has a class zebra", _foreign_class),
    Case("a class that is closed", "Give yourself the right to read it", _closed),
    Case("an empty class", "cat holds no files", _empty_class),
    Case("a class of other files", "cat holds only 1 file that is no picture", _class_of_others),
    Case("an empty part folder", "val holds no class folders", _empty_part),
    Case("a damaged picture, replaced", "is no readable picture", _picture(b"text", picture())),
    Case("a damaged picture, removed", "is no readable picture", _picture(b"text", None)),
    Case("a picture of floats", "has Pillow mode F", _picture(picture(mode="F", form="TIFF"), picture(), "a.tif")),
    Case("two sizes", "pixels, others 6x4", _two_sizes),
]
