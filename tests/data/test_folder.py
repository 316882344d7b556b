from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.folder import read_folder
from robcal.data.pictures import LazyPictures, fit


def test_pictures_come_back_as_they_are(picture_folder: Path) -> None:
    parts = read_folder(str(picture_folder))
    train = parts.parts["train"]
    assert (parts.class_names, parts.kind, parts.name) == (("ant", "bee"), "image", "pictures")
    assert train.inputs.shape == (20, 3, 6, 4)
    assert train.inputs.dtype == np.uint8
    assert train.labels.tolist() == [0] * 10 + [1] * 10
    expected = np.asarray(Image.open(picture_folder / "bee" / "3.png")).transpose(2, 0, 1)
    assert np.array_equal(train.inputs[np.array([13])][0], expected)


def test_splits_stay_lazy_and_hold_together(picture_folder: Path) -> None:
    data = load_dataset(f"folder:{picture_folder}", val_fraction=0.25, train_limit=6)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 4, "test": 4}
    for split in data.splits.values():
        assert isinstance(split.inputs, LazyPictures)
        folders = [file.parent.name for file in split.inputs.source]
        assert [data.class_names[label] for label in split.labels] == folders
    files = [file for split in data.splits.values() for file in split.inputs.source]
    assert len(set(files)) == len(files)
    batch = data.split("train").batch(np.array([4, 0]))
    assert batch.shape == (2, 3, 6, 4)
    assert batch.max() <= 1


def test_parts_above_the_classes(picture_folder: Path) -> None:
    root = picture_folder.parent / "parts"
    for name in ("train", "val", "test"):
        (root / name).mkdir(parents=True)
        for label in ("ant", "bee"):
            (root / name / label).mkdir()
            source = (picture_folder / label / "0.png").read_bytes()
            (root / name / label / "0.png").write_bytes(source)
    (root / ".hidden").mkdir()
    data = load_dataset(f"folder:{root}")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 2, "test": 2}


def test_grey_only_if_every_picture_is(picture_folder: Path) -> None:
    for file in picture_folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    grey = read_folder(str(picture_folder)).parts["train"].inputs
    assert grey.shape == (20, 1, 6, 4)
    expected = np.asarray(Image.open(picture_folder / "ant" / "0.png"))[None]
    assert np.array_equal(grey[np.array([0])][0], expected)
    Image.new("RGBA", (4, 6)).save(picture_folder / "bee" / "9.png")
    assert read_folder(str(picture_folder)).parts["train"].inputs.shape == (20, 3, 6, 4)


@pytest.mark.parametrize("shape", [(40, 40), (40, 60), (61, 40), (16, 16), (9, 31)])
def test_resizing_agrees_with_pillow(shape: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    ours = np.asarray(fit(image, (16, 16))).astype(int)
    peer = np.asarray(ImageOps.fit(image, (16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - peer).max() <= 1


def test_image_size_brings_all_to_one(picture_folder: Path) -> None:
    Image.new("RGB", (50, 20), (255, 0, 0)).save(picture_folder / "ant" / "0.png")
    inputs = read_folder(str(picture_folder), image_size=8).parts["train"].inputs
    assert inputs.shape == (20, 3, 8, 8)
    assert inputs[np.array([0])][0, 0].min() == 255


def _write(path: Path, mode: str = "RGB", size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: (root / "cat").mkdir(), "cat holds no files, no pictures"),
    (lambda root: _write(root / "ant" / "big.png", size=(5, 6)), "big.png is 6x5 pixels, others 6x4"),
    (lambda root: (root / "ant" / "a.png").write_bytes(b"text"), "a.png is no readable picture"),
    (lambda root: _write(root / "ant" / "deep.tif", "F"), "deep.tif has Pillow mode F"),
    (lambda root: _write(root / "train" / "ant" / "a.png"), "Move ant, bee out of pictures"),
    (lambda root: _write(root / "test" / "ant" / "a.png"), "Move ant, bee into a folder train"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_refused(damage: Callable[[Path], object], message: str, picture_folder: Path) -> None:
    damage(picture_folder)
    with pytest.raises(InputError, match=message):
        read_folder(str(picture_folder))


def test_truncated_picture_is_named_when_it_is_decoded(picture_folder: Path) -> None:
    rng = np.random.default_rng(0)
    for file in picture_folder.rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    file = picture_folder / "ant" / "4.png"
    file.write_bytes(file.read_bytes()[:2000])
    inputs = read_folder(str(picture_folder)).parts["train"].inputs
    with pytest.raises(InputError, match=r"4.png is no readable picture"):
        inputs[np.array([4])]


def test_layouts_that_are_none(tmp_path: Path, picture_folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_folder(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="is a file"):
        read_folder(str(picture_folder / "ant" / "0.png"))
    with pytest.raises(InputError, match=r"holds 0 class folder"):
        read_folder(str(picture_folder / "ant"))
    for name in ("train/ant", "train/bee", "test/cat"):
        _write(tmp_path / "odd" / name / "0.png")
    with pytest.raises(InputError, match="has a class cat"):
        read_folder(str(tmp_path / "odd"))
    (tmp_path / "odd" / "val").mkdir()
    (tmp_path / "odd" / "test" / "cat").rename(tmp_path / "odd" / "test" / "ant")
    with pytest.raises(InputError, match="val holds no class folders"):
        read_folder(str(tmp_path / "odd"))
    with pytest.raises(InputError, match="image_size is 0"):
        read_folder(str(picture_folder), image_size=0)
