"""Files of arrays as robcal, Keras and MedMNIST write them: which keys, shapes and labels are read, and as what."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from robcal.base.checks import InputError
from robcal.data import Split, load_dataset
from robcal.data.corruptions import corrupt
from robcal.data.npz import read_npz
from robcal.data.table_shift import Features, shift_table

RNG = np.random.default_rng(8)
Y = np.arange(30) % 3
GREY = RNG.integers(0, 256, (30, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
TABLE = RNG.normal(size=(30, 4))


def _read(tmp_path: Path, **arrays: object):  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "a.npz", **arrays)
    return read_npz(str(tmp_path / "a.npz"))


def _medmnist(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The six arrays of every file of MedMNIST: images (N, 28, 28) or (N, 28, 28, 3), labels (N, 1) uint8."""
    parts = {"train": slice(0, 18), "val": slice(18, 24), "test": slice(24, 30)}
    return {
        f"{part}_{kind}": array[rows]
        for part, rows in parts.items()
        for kind, array in (("images", images), ("labels", labels.astype(np.uint8)[:, None]))
    }


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_medmnist(images: np.ndarray, tmp_path: Path) -> None:
    parts = _read(tmp_path, **_medmnist(images, Y))
    assert {name: len(split) for name, split in parts.parts.items()} == {"train": 18, "val": 6, "test": 6}
    expected = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    assert np.array_equal(parts.parts["test"].inputs[np.arange(6)], expected[24:])
    assert parts.parts["val"].labels.tolist() == Y[18:24].tolist()
    assert (parts.kind, parts.box, parts.class_names) == ("image", (0.0, 1.0), ("0", "1", "2"))
    assert any("train_images (18, 8, 8" in note and "(N, C, H, W)" in note for note in parts.notes)


def test_keras(tmp_path: Path) -> None:
    """mnist.npz: (N, 28, 28) uint8 and (N,) uint8; the arrays of cifar10.load_data(): (N, 32, 32, 3) and (N, 1)."""
    mnist = _read(tmp_path, x_train=GREY, y_train=Y.astype(np.uint8), x_test=GREY[:6], y_test=Y[:6].astype(np.uint8))
    assert mnist.parts["train"].inputs.shape == (30, 1, 8, 8)
    cifar = _read(tmp_path, x_train=COLOUR, y_train=Y[:, None].astype(np.uint8), x_test=COLOUR[:6], y_test=Y[:6, None])
    assert np.array_equal(cifar.parts["train"].inputs[np.arange(30)], COLOUR.transpose(0, 3, 1, 2))
    assert cifar.parts["train"].labels.tolist() == Y.tolist()
    data = load_dataset(f"npz:{tmp_path / 'a.npz'}", val_fraction=0.2)
    assert data.split("train").batch(np.arange(4)).shape == (4, 3, 8, 8)


SHAPES = {
    "channels first, uint8": (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2) / 255),
    "channels last, uint8": (COLOUR, COLOUR.transpose(0, 3, 1, 2) / 255),
    "channels last, floats": (COLOUR / 255, COLOUR.transpose(0, 3, 1, 2) / 255),
    "channels first, floats": ((COLOUR / 255).transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2) / 255),
    "one channel last": (COLOUR[..., :1], COLOUR[..., :1].transpose(0, 3, 1, 2) / 255),
    "no channel, uint8": (GREY, GREY[:, None] / 255),
    "half precision": ((GREY[:, None] / 255).astype(np.float16), GREY[:, None] / 255),
}


@pytest.mark.parametrize("name", SHAPES)
def test_images_come_in_the_order_of_networks(name: str, tmp_path: Path) -> None:
    stored, expected = SHAPES[name]
    parts = _read(tmp_path, x_train=stored, y_train=Y)
    got = parts.parts["train"].batch(np.arange(30)).numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < (1e-3 if stored.dtype == np.float16 else 1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (RNG.integers(0, 256, (30, 3, 8, 3), dtype=np.uint8), "Either axis may be the channels"),
        (RNG.random((30, 1, 6, 1)), "Either axis may be the channels"),
        (RNG.random((30, 8, 8)), "If they are grey images, save `x_train"),
        (RNG.integers(0, 256, (30, 4, 4, 4), dtype=np.uint8), r"x_train\[\.\.\., :3\]"),
        (RNG.integers(0, 256, (30, 8, 8, 8), dtype=np.uint8), "As a table save"),
        ((GREY > 99).astype(np.uint8), "uint8 and holds nothing above 1; 255 is white"),
    ],
)
def test_what_may_be_two_things_is_refused(inputs: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        _read(tmp_path, x_train=inputs, y_train=Y)


LABELS = {
    **{name: Y.astype(name) for name in ("uint8", "int8", "int32", "uint32", "uint64", "float32", "float64", "bool")},
    "column": Y[:, None],
    "column of floats": Y[:, None].astype(float),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_every_kind(name: str, tmp_path: Path) -> None:
    stored = LABELS[name]
    labels = _read(tmp_path, x_train=TABLE, y_train=stored).parts["train"].labels
    assert labels.dtype == np.int64
    assert labels.tolist() == np.ravel(stored).astype(int).tolist()


NAMES = np.array(["wolf", "ant", "bee"])


@pytest.mark.parametrize("stored", [NAMES[Y], NAMES[Y][:, None], NAMES[Y].astype("S")], ids=["str", "column", "bytes"])
def test_names_as_labels_are_numbered_in_sorted_order(stored: np.ndarray, tmp_path: Path) -> None:
    parts = _read(tmp_path, x_train=TABLE, y_train=stored)
    assert parts.class_names == ("ant", "bee", "wolf")
    assert [parts.class_names[label] for label in parts.parts["train"].labels] == NAMES[Y].tolist()
    assert "classes are numbered by their sorted names: ant, bee, wolf" in parts.notes
    own = _read(tmp_path, x_train=TABLE, y_train=stored, class_names=NAMES)
    assert own.class_names == tuple(NAMES)
    assert own.parts["train"].labels.tolist() == Y.tolist()


def test_names_in_two_forms_of_unicode_are_one_class(tmp_path: Path) -> None:
    one, two = (np.array([unicodedata.normalize(form, "café"), "bar"])[np.arange(30) % 2] for form in ("NFC", "NFD"))
    parts = _read(tmp_path, x_train=TABLE, y_train=one, x_test=TABLE, y_test=two)
    assert parts.class_names == ("bar", "café")
    assert parts.parts["test"].labels.tolist() == parts.parts["train"].labels.tolist()


def test_the_error_about_keys_lists_what_is_there_and_what_is_read(tmp_path: Path) -> None:
    message = (
        r"its arrays are data float64 \(30, 4\), target int64 \(30,\); the arrays are called x_train and y_train .* or "
        r"train_images and train_labels .*Save the inputs and labels under these names"
    )
    with pytest.raises(InputError, match=message):
        _read(tmp_path, data=TABLE, target=Y)


def test_numbers_that_lose_digits_in_float32_are_named(tmp_path: Path) -> None:
    """Seconds since 1970 over one hour: float32 holds every 128th. A constant and exact numbers lose nothing."""
    hour = 1.6e9 + 3600 * RNG.random(30)
    exact = np.arange(30) * 2.0**30
    parts = _read(tmp_path, x_train=np.column_stack([TABLE, hour, np.full(30, 0.1), exact]), y_train=Y)
    (note,) = parts.notes
    assert note.startswith("column 4 is kept in fewer digits than x_train needs")
    shifted = _read(tmp_path, x_train=np.column_stack([TABLE, hour - hour.min(), exact]), y_train=Y)
    assert shifted.notes == ()
    whole = _read(tmp_path, x_train=np.column_stack([2**40 + np.arange(30), Y]), y_train=Y)
    assert "column 0 is kept in fewer digits" in whole.notes[0]


TAKES_ARRAYS = {
    "Split, inputs": lambda masked: Split(inputs=masked, labels=Y),
    "Split, labels": lambda masked: Split(inputs=TABLE, labels=masked),
    "Features.of": Features.of,
    "shift_table": lambda masked: shift_table(masked, "noise", 1, features=Features.of(TABLE), seed=0),
    "corrupt": lambda masked: corrupt(masked, "gaussian_noise", 1, seed=0),
}


@pytest.mark.parametrize("name", TAKES_ARRAYS)
def test_a_mask_is_never_dropped(name: str) -> None:
    """Entries below a mask hold anything; without masked entries an array is one."""
    values = {"Split, labels": Y, "corrupt": GREY[:, None]}.get(name, TABLE)
    masked = np.ma.masked_array(values, mask=np.arange(values.size).reshape(values.shape) == 5)
    with pytest.raises(InputError, match=r"1 of the .* are masked"):
        TAKES_ARRAYS[name](masked)
    TAKES_ARRAYS[name](np.ma.masked_array(values, mask=False))
