from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.data.npz import read_npz

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
FLOATS = RNG.random((40, 1, 8, 8))
TABLE = RNG.normal(0, 100, (40, 5))
Y = np.arange(40) % 4


def _save(tmp_path: Path, **arrays: object) -> str:
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    return str(tmp_path / "mine.npz")


def test_images_and_tables_by_their_dimensions(tmp_path: Path) -> None:
    images = read_npz(_save(tmp_path, x_train=IMAGES, y_train=Y, x_test=IMAGES[:9], y_test=Y[:9], extra=Y))
    assert (images.kind, images.box, images.name) == ("image", (0.0, 1.0), "mine")
    assert np.array_equal(images.parts["train"].inputs[np.arange(40)], IMAGES)
    assert "extra" in images.notes[0]
    floats = read_npz(_save(tmp_path, x_train=FLOATS, y_train=Y.astype(np.uint8)))
    assert floats.parts["train"].inputs.dtype == np.float32
    assert np.allclose(floats.parts["train"].inputs[np.arange(40)], FLOATS, atol=1e-7)
    table = read_npz(_save(tmp_path, x_train=TABLE, y_train=Y, class_names=["a", "b", "c", "d"]))
    assert (table.kind, table.box, table.class_names) == ("table", None, ("a", "b", "c", "d"))
    whole = read_npz(_save(tmp_path, x_train=np.arange(80, dtype=np.uint8).reshape(40, 2), y_train=Y))
    assert whole.parts["train"].inputs.dtype == np.float32  # a table of integers is no image


def test_parts_that_are_absent_are_cut(tmp_path: Path) -> None:
    spec = "npz:" + _save(tmp_path, x_train=TABLE, y_train=Y)
    one, two = load_dataset(spec, val_fraction=0.25, seed=1), load_dataset(spec, val_fraction=0.25, seed=2)
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 24, "val": 8, "test": 8}
    assert one.digest("test") == two.digest("test")
    assert one.digest("val") != two.digest("val")
    assert "no test part" in one.notes[0]


REFUSED = [
    ({"x_train": TABLE}, "has no y_train; its arrays are x_train"),
    ({"y_train": Y}, "has no x_train"),
    ({"images": TABLE}, "has no arrays by the names that robcal knows; its arrays are images float64"),
    ({"x_train": TABLE, "y_train": Y, "x_val": TABLE}, "has no y_val"),
    ({"x_train": TABLE, "y_train": Y, "y_test": Y}, "has no x_test"),
    ({"x_train": IMAGES[:, :2], "y_train": Y}, r"shape \(40, 2, 8, 8\)"),
    ({"x_train": FLOATS[:, 0], "y_train": Y}, r"shape \(40, 8, 8\) and dtype float64"),
    ({"x_train": IMAGES.astype(np.int16), "y_train": Y}, "dtype int16"),
    ({"x_train": TABLE.astype(complex), "y_train": Y}, "dtype complex128"),
    ({"x_train": np.full((40, 2), "a"), "y_train": Y}, "dtype <U1"),
    ({"x_train": FLOATS * 1.01 + 0.01, "y_train": Y}, "holds 0.0.* to 1.0"),
    ({"x_train": FLOATS * 255, "y_train": Y}, "float images lie in"),
    ({"x_train": np.where(TABLE > 200, np.nan, TABLE), "y_train": Y}, "NaN"),
    ({"x_train": np.where(FLOATS > 0.9, np.inf, FLOATS), "y_train": Y}, "NaN or infinity in"),
    ({"x_train": TABLE * 1e40, "y_train": Y}, "too large"),
    ({"x_train": TABLE[:0], "y_train": Y[:0]}, "x_train is empty"),
    ({"x_train": TABLE, "y_train": Y[:-1]}, "examples number 40, y_train has 39"),
    ({"x_train": TABLE, "y_train": Y + 0.5}, "y_train holds 0.5 at index 0"),
    ({"x_train": TABLE, "y_train": np.eye(4, dtype=int)[Y]}, "argmax"),
    ({"x_train": TABLE, "y_train": Y - 1}, "y_train holds -1"),
    ({"x_train": TABLE, "y_train": Y * 2}, "y_train lacks class 1 of 7"),
    ({"x_train": TABLE, "y_train": Y * 0}, "y_train holds one class, 0"),
    ({"x_train": TABLE, "y_train": Y, "x_test": TABLE, "y_test": Y + 1}, "y_test holds class 4, which y_train lacks"),
    ({"x_train": TABLE, "y_train": Y, "x_test": TABLE[:, :4], "y_test": Y}, r"x_test is float32 \(4,\)"),
    ({"x_train": IMAGES, "y_train": Y, "x_test": IMAGES / 255, "y_test": Y}, "x_test is float32"),
    (
        {"x_train": TABLE, "y_train": Y, "class_names": ["a", "b"]},
        "y_train holds 3 at index 3, and 2 classes have names",
    ),
    ({"x_train": TABLE, "y_train": Y, "class_names": list("abcde")}, r"y_train lacks class 4 \(e\) of 5"),
    ({"x_train": TABLE, "y_train": Y, "class_names": [1, 2, 3, 4]}, "class_names is int64"),
    ({"x_train": np.array([None] * 40), "y_train": Y}, "holds Python objects"),
]


@pytest.mark.parametrize(("arrays", "message"), REFUSED)
def test_refused(arrays: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_npz(_save(tmp_path, **arrays))


def test_unreadable_files(tmp_path: Path) -> None:
    good = Path(_save(tmp_path, x_train=TABLE, y_train=Y))
    data = good.read_bytes()
    broken = tmp_path / "broken.npz"
    directory = data.index(b"PK\x01\x02")
    encrypted = data[: directory + 8] + b"\x01" + data[directory + 9 :]
    for content in (b"", b"text", data[: len(data) // 2], data[:-100], encrypted):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"npz file .* cannot be read"):
            read_npz(str(broken))
    np.save(tmp_path / "one.npy", TABLE)
    with pytest.raises(InputError, match=r"no npz file, but one array.*np.load\('.*one.npy'\)"):
        read_npz(str(tmp_path / "one.npy"))
    with pytest.raises(InputError, match=r"absent.npz does not exist"):
        read_npz(str(tmp_path / "absent.npz"))
    with pytest.raises(InputError, match=r"npz file .* is a folder"):
        read_npz(str(tmp_path))


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "evil.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"npz file .* cannot be read"):
        read_npz(str(tmp_path / "evil.npz"))
    np.savez(tmp_path / "evil2.npz", x_train=np.array([Evil()], dtype=object), y_train=Y)
    with pytest.raises(InputError, match="holds Python objects"):
        read_npz(str(tmp_path / "evil2.npz"))
    assert not (tmp_path / "executed").exists()
