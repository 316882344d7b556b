"""idx files are read as numpy packs them, and damage is refused before anything large is made."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import idx_bytes, write_fashion_mnist

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.augment import standard_augmentation
from robcal.data.idx import FASHION_CLASSES, read_fashion_mnist, read_idx

#: Where `apt-get install dataset-fashion-mnist` puts the files.
INSTALLED = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fashion_mnist(tmp_path)
    return tmp_path


def test_the_official_layout_packed_or_not(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28))
    for place in (folder, folder / "t10k-labels-idx1-ubyte"):
        parts = read_fashion_mnist(str(place))
        assert np.array_equal(parts.parts["train"].inputs[np.arange(40)][:, 0], images)
        assert parts.parts["train"].inputs.dtype == np.uint8
        assert parts.parts["test"].labels.tolist() == [*range(10), *range(10)]
        assert (parts.name, parts.class_names, parts.box) == ("Fashion-MNIST", FASHION_CLASSES, (0.0, 1.0))
    data = load_dataset(f"fashion-mnist:{folder}", val_fraction=0.25)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 30, "val": 10, "test": 20}
    assert data.input_shape == (1, 28, 28)


def test_other_sets_in_the_same_files_have_numbers_as_classes_and_are_not_mirrored(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(40) % 12)))
    data = load_dataset(f"idx:{folder}", val_fraction=0.3)
    assert data.class_names == tuple(map(str, range(12)))
    batch = data.split("train").batch(np.arange(4))
    left = batch.clone()
    left[..., 14:] = 0  # after a shift of 4 pixels at most the right ten columns are black; mirrored, the left ones
    moved = standard_augmentation(data.name, data.input_shape)(left, torch.Generator().manual_seed(0))
    assert not moved[..., 18:].any()
    assert moved[..., 4:10].any()
    with pytest.raises(InputError, match="they are 0 to 9"):
        read_fashion_mnist(str(folder))


HEADER = idx_bytes(np.zeros((20, 28, 28)))[:16]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"begins with \[\] and not with \[0, 0, 8, 3\]"),
        (idx_bytes(np.zeros(20)), r"begins with \[0, 0, 8, 1\]"),
        (HEADER[:9], "ends within its header"),
        (HEADER[:4] + bytes(12), r"is empty, of shape \(0, 0, 0\)"),
        (HEADER + bytes(10), "its header tells of 15,6"),
        (HEADER + bytes(15_681), "its header tells of 15,6"),
        (HEADER[:4] + b"\xff" * 12 + bytes(100), "its header tells of|MiB are stored"),
        (idx_bytes(np.zeros((19, 28, 28))), r"test \(19, 28, 28\) and 20; there is a label an image"),
        (idx_bytes(np.zeros((20, 27, 28))), r"test \(20, 27, 28\) and 20; .* images are alike"),
    ],
)
def test_damaged(data: bytes, message: str, packed: bool, folder: Path) -> None:
    file = folder / "t10k-images-idx3-ubyte"
    if packed:
        file.unlink()
        file, data = file.with_suffix(".gz"), gzip.compress(data)
    file.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_fashion_mnist(str(folder))


def test_what_is_missing_is_named_and_where_to_get_it(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte; .*apt-get install dataset-fashion-mnist"):
        read_fashion_mnist(str(folder))
    with pytest.raises(InputError, match=r"Fashion-MNIST path .* does not exist"):
        read_fashion_mnist(str(folder / "absent"))
    with pytest.raises(InputError, match=r"idx path .* does not exist"):
        read_idx(str(folder / "absent"))


@pytest.mark.skipif(not INSTALLED.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_published_files() -> None:
    parts = read_fashion_mnist(str(INSTALLED)).parts
    for part, count in (("train", 60_000), ("test", 10_000)):
        assert parts[part].inputs.shape == (count, 1, 28, 28)
        assert np.bincount(parts[part].labels).tolist() == [count // 10] * 10
    assert parts["test"].labels[:4].tolist() == [9, 2, 1, 1]  # ankle boot, pullover, trouser, trouser
