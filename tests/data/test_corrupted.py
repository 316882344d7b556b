from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.corrupted import load_corrupted
from robcal.data.corruptions import BENCHMARK_KINDS, CORRUPTIONS, EXTRA_KINDS, SEVERITIES

TEST_SIZE = 30


def _images(kind: str) -> np.ndarray:
    seed = sorted(CORRUPTIONS).index(kind)
    return np.random.default_rng(seed).integers(0, 256, (5 * TEST_SIZE, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """CIFAR-10-C in small: (5 N, 32, 32, 3) a kind, the five severities one after the other; labels five times."""
    root = tmp_path / "CIFAR-10-C"
    root.mkdir()
    np.save(root / "labels.npy", np.tile(np.arange(TEST_SIZE, dtype=np.uint8) % 10, 5))
    for kind in CORRUPTIONS:
        np.save(root / f"{kind}.npy", _images(kind))
    return root


def test_cells_of_the_official_arrays(arrays: Path) -> None:
    cells = load_corrupted(f"cifar10c:{arrays}")
    assert list(cells) == [(kind, severity) for kind in BENCHMARK_KINDS for severity in SEVERITIES]
    assert len(cells) == 75
    for kind, severity in (("fog", 1), ("gaussian_noise", 3), ("jpeg_compression", 5)):
        split = cells[kind, severity]
        block = _images(kind)[(severity - 1) * TEST_SIZE : severity * TEST_SIZE]
        index = np.array([29, 0, 7])
        assert split.inputs.shape == (TEST_SIZE, 3, 32, 32)
        assert np.array_equal(split.inputs[index], block[index].transpose(0, 3, 1, 2))
        assert np.allclose(split.batch(index).numpy() * 255, block[index].transpose(0, 3, 1, 2), atol=1e-4)
        assert np.array_equal(split.labels, np.arange(TEST_SIZE) % 10)
    assert np.array_equal(
        load_corrupted(f"cifar10c:{arrays.parent}")["fog", 1].inputs[np.array([0])], cells["fog", 1].inputs[[0]]
    )


def test_extra_kinds_and_unknown_cells(arrays: Path) -> None:
    cells = load_corrupted(f"cifar10c:{arrays}", kinds=EXTRA_KINDS)
    assert {kind for kind, _ in cells} == set(EXTRA_KINDS)
    for cell in (("fog", 1), ("spatter", 0), ("spatter", 6)):
        assert cell not in cells
        with pytest.raises(KeyError):
            cells[cell]


def test_a_limited_cell_holds_the_images_of_the_limited_test_set(arrays: Path, tmp_path: Path) -> None:
    clean = np.random.default_rng(9).integers(0, 256, (TEST_SIZE, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(TEST_SIZE) % 10
    np.save(arrays / "fog.npy", np.concatenate([255 - clean.transpose(0, 2, 3, 1)] * 5))
    np.savez(tmp_path / "clean.npz", x_train=clean, y_train=labels, x_test=clean, y_test=labels)
    test = load_dataset(f"npz:{tmp_path / 'clean.npz'}", val_fraction=0.4, test_limit=13, seed=8).split("test")
    cell = load_corrupted(f"cifar10c:{arrays}", test_limit=13)["fog", 4]
    assert np.array_equal(cell.labels, test.labels)
    assert np.array_equal(cell.inputs[np.arange(13)], 255 - test.inputs[np.arange(13)])


def test_cifar100c_has_a_hundred_classes(arrays: Path) -> None:
    np.save(arrays / "labels.npy", np.tile(np.arange(TEST_SIZE) + 70, 5))
    assert load_corrupted(f"cifar100c:{arrays}")["fog", 2].labels.max() == 99
    with pytest.raises(InputError, match="holds 99"):
        load_corrupted(f"cifar10c:{arrays}")


def _lose(root: Path) -> None:
    (root / "snow.npy").unlink()
    (root / "frost.npy").unlink()


def _swap_labels(root: Path) -> None:
    labels = np.load(root / "labels.npy")
    labels[TEST_SIZE], labels[TEST_SIZE + 1] = 1, 0
    np.save(root / "labels.npy", labels)


def _channels_first(root: Path) -> None:
    np.save(root / "fog.npy", _images("fog").transpose(0, 3, 1, 2))


def _object(root: Path) -> None:
    np.save(root / "fog.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _truncate(root: Path) -> None:
    (root / "fog.npy").write_bytes((root / "fog.npy").read_bytes()[:5000])


def _pickle(root: Path) -> None:
    (root / "labels.npy").write_bytes(pickle.dumps([1, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _lose,
            r"has no snow.npy, frost.npy.*zenodo.org/records/2535967 : CIFAR-10-C.tar \(2,918,471,680 bytes",
        ),
        (_swap_labels, "not five times the same"),
        (_channels_first, r"fog.npy holds uint8 of shape \(150, 3, 32, 32\)"),
        (_object, r"fog\.npy cannot be read"),
        (_truncate, r"fog\.npy cannot be read"),
        (_pickle, r"labels\.npy cannot be read"),
    ],
)
def test_damaged_arrays(change: object, message: str, arrays: Path) -> None:
    assert callable(change)
    change(arrays)
    with pytest.raises(InputError, match=message):
        load_corrupted(f"cifar10c:{arrays}")["fog", 1]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("cifar10:x", {}, "Did you mean 'cifar10c'"),
        ("cifar10c", {}, "written cifar10c:PATH"),
        ("cifar10c:/no/such/place", {}, "CIFAR-10-C path /no/such/place does not exist.*2535967"),
        ("cifar100c:/no/such/place", {}, "3555552 : CIFAR-100-C.tar .2,918,473,216 bytes"),
        ("imagenetc:/no/such/place", {}, "2235448"),
        ("cifar10c:x", {"kinds": ("fogs",)}, "Did you mean 'fog'"),
        ("cifar10c:x", {"test_limit": 0}, "test_limit is 0"),
    ],
)
def test_refused(spec: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_corrupted(spec, **options)


WNIDS = ("n01440764", "n01443537", "n02119789")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """ImageNet-C in small: kind/severity/class; the kinds of noise below the folder of their archive."""
    for kind in ("fog", "shot_noise"):
        for severity in SEVERITIES:
            for label, wnid in enumerate(WNIDS):
                folder = tmp_path / ("noise" if kind == "shot_noise" else "") / kind / str(severity) / wnid
                folder.mkdir(parents=True)
                for number in range(2):
                    colour = (10 * severity, 40 * label, 100 * number + (50 if kind == "fog" else 0))
                    Image.new("RGB", (8, 8), colour).save(folder / f"ILSVRC2012_val_{number:08d}.png")
    return tmp_path


def test_cells_of_the_official_folders(folders: Path) -> None:
    cells = load_corrupted(f"imagenetc:{folders}", kinds=("fog", "shot_noise"), image_size=8)
    assert len(cells) == 10
    for (kind, severity), split in cells.items():
        assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
        colours = split.inputs[np.arange(6)][:, :, 3, 3]
        blue = 50 if kind == "fog" else 0
        expected = [(10 * severity, 40 * label, 100 * number + blue) for label in range(3) for number in range(2)]
        assert colours.tolist() == [list(colour) for colour in expected]
    assert load_corrupted(f"imagenetc:{folders}", kinds=("fog",))["fog", 1].inputs.shape == (6, 3, 224, 224)


def test_a_subset_of_the_classes_in_its_own_order(folders: Path) -> None:
    names = (WNIDS[2], WNIDS[0])
    split = load_corrupted(f"imagenetc:{folders}", kinds=("fog",), class_names=names, image_size=8)["fog", 2]
    assert split.labels.tolist() == [1, 1, 0, 0]
    assert split.inputs[np.arange(4)][:, 1, 0, 0].tolist() == [0, 0, 80, 80]
    with pytest.raises(InputError, match="has no class n09999999"):
        load_corrupted(f"imagenetc:{folders}", kinds=("fog",), class_names=(*names, "n09999999"))["fog", 2]


def test_folders_that_are_missing(folders: Path) -> None:
    with pytest.raises(InputError, match=r"has no snow/1, .*weather.tar \(12,797,438,995 bytes") as caught:
        load_corrupted(f"imagenetc:{folders}", kinds=("fog", "snow"))
    assert "noise.tar" not in str(caught.value)
    with pytest.raises(InputError, match=r"extra.tar \(15,789,490,144"):
        load_corrupted(f"imagenetc:{folders}", kinds=("spatter",))
