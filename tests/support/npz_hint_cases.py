"""Advice about arrays and labels in npz files, carried out as the code that it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hint_cases import Case, Steps, run_code

from robcal.data.npz import read_npz

RNG = np.random.default_rng(0)
Y = np.arange(24) % 3
TABLE = RNG.normal(size=(24, 4))
GREY = RNG.random((24, 1, 6, 6))
BYTES = (255 * GREY).astype(np.uint8)
NAMES = np.array(["a", "b", "c"])

#: What the advice's code is for: the array that it replaces, or "keep", the rows of training that stay.
Target = str


def _read(folder: Path, arrays: dict[str, Any]) -> Callable[[], object]:
    def call() -> object:
        np.savez(folder / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
        return read_npz(str(folder / "a.npz"))

    return call


def _case(
    name: str,
    message: str,
    *targets: Target,
    part: str = "train",
    piece: int = 0,
    names: dict[str, Any] | None = None,
    **arrays: Any,
) -> Case:
    """A case whose advice is code: each piece, from number `piece` on, gives a target."""

    def steps(folder: Path) -> Steps:
        found = {"x_train": TABLE, "y_train": Y, **arrays}
        hint = yield _read(folder, found)
        known = {**found, **(names or {})}
        made = {target: run_code(hint, known, piece + number) for number, target in enumerate(targets)}
        keep = made.pop("keep", None)
        found |= made
        if keep is not None:
            found |= {f"{axis}_{part}": found[f"{axis}_{part}"][keep] for axis in "xy"}
        yield _read(folder, found)

    return Case(name, message, steps)


def _without(name: str, message: str, *dropped: str, **arrays: Any) -> Case:
    """A case whose advice is to leave arrays out, or to save others; `dropped` are left out and the rest replaced."""

    def steps(folder: Path) -> Steps:
        found = {"x_train": TABLE, "y_train": Y, **arrays}
        yield _read(folder, found)
        yield _read(folder, {**found, **dict.fromkeys(dropped)})

    return Case(name, message, steps)


def _with(name: str, message: str, right: dict[str, Any], **arrays: Any) -> Case:
    """A case whose advice is in words: what it asks for is `right`."""

    def steps(folder: Path) -> Steps:
        found = {"x_train": TABLE, "y_train": Y, **arrays}
        yield _read(folder, found)
        yield _read(folder, {**found, **right})

    return Case(name, message, steps)


def _keys(folder: Path) -> Steps:
    names = {"inputs": TABLE, "labels": Y}
    hint = yield _read(folder, {"data": TABLE, "target": Y})
    yield lambda: (run_code(hint, names), read_npz(str(folder / "a.npz")))


def _one_array(folder: Path) -> Steps:
    np.save(folder / "x.npy", TABLE)
    hint = yield lambda: read_npz(str(folder / "x.npy"))
    hint = hint.replace("mine.npz", str(folder / "mine.npz"))
    yield lambda: (run_code(hint, {"labels": Y}), read_npz(str(folder / "mine.npz")))


def _text(folder: Path) -> Steps:
    (folder / "a.npz").write_text("a,b\n1,2\n")
    yield lambda: read_npz(str(folder / "a.npz"))
    yield _read(folder, {"x_train": TABLE, "y_train": Y})


def _objects(folder: Path) -> Steps:
    arrays = {"x_train": TABLE.astype(object), "y_train": Y, "class_names": NAMES.astype(object)}
    hint = yield _read(folder, arrays)
    fixed = {"x_train": run_code(hint, arrays), "class_names": run_code(hint, arrays, 1)}
    yield _read(folder, {**arrays, **fixed})


ODD = np.where(np.arange(24) % 6 == 0, np.nan, Y.astype(float))
HOLED = np.where(TABLE > 1.5, np.nan, TABLE)

CASES = [
    Case("other keys", "has no arrays by the names", _keys),
    Case("one array", "no npz file, but one array", _one_array),
    Case("a text", r"npz file .*a\.npz cannot be read", _text),
    Case("objects", "holds Python objects", _objects),
    _with("a part without labels", "has no y_val", {"y_val": Y}, x_val=TABLE),
    _without("an empty part", "x_test is empty", "x_test", "y_test", x_test=TABLE[:0], y_test=Y[:0]),
    _case("one number an example", r"x_train has shape \(24,\)", "x_train", x_train=TABLE[:, 0]),
    _case("images without channels", r"shape \(24, 6, 6\) and dtype float64", "x_train", x_train=GREY[:, 0]),
    _case("a cube as a table", "As a table", "x_train", piece=1, x_train=GREY[:, 0]),
    _with("a number", r"x_train has shape \(\)", {"x_train": TABLE}, x_train=np.array(3.0)),
    _case("both axes channels", "Either axis", "x_train", x_train=RNG.random((24, 3, 6, 3))),
    _case("both axes, as a table", "Either axis", "x_train", piece=1, x_train=RNG.random((24, 3, 6, 3))),
    _case("transparency last", "is transparency", "x_train", x_train=RNG.random((24, 6, 6, 4))),
    _case("transparency first", "is transparency", "x_train", x_train=RNG.random((24, 4, 6, 6))),
    _case("a volume", "As a table", "x_train", x_train=RNG.random((24, 6, 6, 6))),
    _case("complex numbers", "dtype complex128", "x_train", x_train=TABLE.astype(complex)),
    _case("numbers as text", "dtype <U", "x_train", x_train=TABLE.astype(str)),
    _case("integers 0 … 255", "dtype int64", "x_train", x_train=BYTES.astype(int)),
    _case("integers 0 and 1", "dtype int64", "x_train", x_train=(GREY > 0.5).astype(int)),
    _case("booleans", "dtype bool", "x_train", x_train=GREY > 0.5),
    _case("16-bit integers", "dtype uint16", "x_train", x_train=(GREY * 65535).astype(np.uint16)),
    _case("negative integers", "dtype int64", "x_train", x_train=(GREY * 65535).astype(int) - 300),
    _case("black and white as 0 and 1", "nothing above 1", "x_train", x_train=(GREY > 0.5).astype(np.uint8)),
    _case("floats to 255", "float images lie in", "x_train", x_train=GREY * 255),
    _case(
        "normalised images",
        "float images lie in",
        "x_train",
        x_train=(GREY - 0.5) / 0.25,
        names={"mean": 0.5, "std": 0.25},
    ),
    _case("gaps, left out", "holds NaN or infinity", "keep", x_train=HOLED),
    _case("gaps, filled", "holds NaN or infinity", "x_train", piece=1, x_train=HOLED),
    _case("gaps in images", "holds NaN or infinity", "keep", x_train=np.where(GREY > 0.99, np.inf, GREY)),
    _case("too large", "too large for float32", "x_train", x_train=TABLE * 1e40),
    _case("bytes beside floats", "x_test is uint8", "x_test", x_train=GREY, x_test=BYTES, y_test=Y),
    _case("floats beside bytes", "x_test is float32", "x_test", x_train=BYTES, x_test=GREY, y_test=Y),
    _with("other columns", r"x_test is float32 \(3,\)", {"x_test": TABLE}, x_test=TABLE[:, :3], y_test=Y),
    _case("names in a column", "class_names has shape", "class_names", class_names=NAMES[:, None]),
    _case("names that are numbers", "class_names is int64", "class_names", class_names=np.array([10, 20, 30])),
    # labels
    _case("one row of labels", r"y_train has shape \(1, 24\)", "y_train", y_train=Y[None]),
    _case("one-hot rows", "one-hot rows", "y_train", y_train=np.eye(3, dtype=int)[Y]),
    _case("probabilities", "probabilities", "y_train", y_train=np.eye(3)[Y] * 0.7 + 0.1),
    _case("several labels", "several labels an example", "y_train", y_train=np.stack([Y % 2, Y // 2], 1)),
    _case("a mask of labels", "several labels an example", "y_train", y_train=np.stack([Y, Y], 1)[:, None]),
    _case("times as labels", "y_train has dtype datetime64", "y_train", y_train=Y.astype("datetime64[s]")),
    _case(
        "huge labels",
        "y_train holds 18446744073709551615",
        "y_train",
        y_train=Y.astype(np.uint64) + np.uint64(2**64 - 3),
    ),
    _case("missing labels", "y_train holds nan at index 0", "keep", y_train=ODD),
    _case("targets of a regression", "y_train holds 0.5", "y_train", y_train=np.linspace(0.5, 9, 24)),
    _with(
        "bytes that are no text",
        "bytes that are no text",
        {"y_train": NAMES[Y]},
        y_train=np.array([b"\xff", b"b"])[Y % 2],
    ),
    _with(
        "a name twice", "two classes have the name 'a'", {"class_names": NAMES}, class_names=np.array(["a", "b", "a"])
    ),
    _with(
        "names and numbers", "hold integers, or all hold names", {"y_test": Y}, x_test=TABLE, y_test=NAMES[Y], y_train=Y
    ),
    _with(
        "an unknown name",
        "y_test holds 'd', which is no class",
        {"y_test": NAMES[Y]},
        x_test=TABLE,
        y_train=NAMES[Y],
        y_test=np.array(["d", "b", "c"])[Y],
    ),
    _case("from 1", "y_train holds 1 to 3 and no 0", "y_train", y_train=Y + 1),
    _case("from 1, with names", "y_train holds 1 to 3 and no 0", "y_train", y_train=Y + 1, class_names=NAMES),
    _case("-1 and 1", "y_train holds -1 at index 0", "y_train", y_train=2 * (Y % 2) - 1),
    _case("-1 for none", "y_train holds -1 at index 0", "keep", y_train=np.where(np.arange(24) % 6 == 0, -1, Y)),
    _with("a missing name", "and 2 classes have names", {"class_names": NAMES}, class_names=NAMES[:2]),
    _case(
        "a class of the test part alone",
        "y_test holds class 3",
        "keep",
        part="test",
        x_test=TABLE,
        y_test=np.arange(24) % 4,
    ),
    _with("one class", "y_train holds one class, 0", {"y_train": Y}, y_train=0 * Y),
    _case("numbers with gaps", "y_train lacks class 1 of 5", "y_train", y_train=2 * Y),
    _case(
        "names without examples",
        r"y_train lacks class 1 \(b\) of 5",
        "class_names",
        "y_train",
        y_train=2 * Y,
        class_names=np.array(list("abcde")),
    ),
]
