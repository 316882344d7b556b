from __future__ import annotations

import builtins
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from robcal.base.checks import InputError
from robcal.data.pickles import load_arrays

ARRAYS = [
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([1, -2, 3], dtype=">i4"),
    np.array([True, False]),
]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_plain_arrays_come_back(array: np.ndarray, protocol: int) -> None:
    value = {b"data": array, "labels": [1, 2], "nested": (array, np.float64(2.5), np.uint8(7))}
    back = load_arrays(pickle.dumps(value, protocol=protocol), source="test")
    assert np.array_equal(back[b"data"], array)
    assert back[b"data"].dtype == array.dtype
    assert np.array_equal(back["nested"][0], array)
    assert back["nested"][1:] == (2.5, 7)
    assert back["labels"] == [1, 2]


def test_python_2_pickle_of_the_official_files() -> None:
    """The byte codes Python 2 and numpy 1 wrote: protocol 2, byte strings, dtype 'u1', names of numpy.core."""
    raw = bytes(range(6))
    text = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x08U\x02u1q\tK\x00K\x01\x87q\nRq\x0b(K\x03"
        b"U\x01|q\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbU\x06labels"
        b"]q\r(K\x06K\x09eu."
    )
    back = load_arrays(text, source="data_batch_1")
    assert np.array_equal(back[b"data"], np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert back[b"labels"] == [6, 9]


class Evil:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def _mark(path: str) -> None:
    Path(path).touch()


def _global(module: str, name: str, *arguments: object) -> bytes:
    """A pickle that calls module.name(*arguments), whether or not such a thing exists."""
    body = b"".join(pickle.dumps(argument, protocol=2)[2:-1] for argument in arguments)
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n(" + body + b"tR."


ATTACKS = {
    "os.system": lambda path: pickle.dumps(Evil(os.system, f"touch {path}")),
    "builtins.eval": lambda path: pickle.dumps(Evil(eval, f"open({path!r}, 'w')")),
    "builtins.exec": lambda path: pickle.dumps({"data": [Evil(exec, f"open({path!r}, 'w').close()")]}),
    "builtins.getattr": lambda path: pickle.dumps(Evil(getattr, "text", "upper")),
    "own function": lambda path: pickle.dumps(Evil(_mark, path)),
    "numpy.testing runstring": lambda path: _global("numpy.testing._private.utils", "runstring", f"open({path!r})", {}),
    "numpy.load": lambda path: _global("numpy", "load", path),
    "numpy.fromfile": lambda path: _global("numpy", "fromfile", path),
    "numpy.memmap": lambda path: _global("numpy", "memmap", path, "u1", "w+", 0, (1,)),
    "numpy.core open_memmap": lambda path: _global("numpy.lib.format", "open_memmap", path, "w+", "u1", (1,)),
    "extension code": lambda path: b"\x80\x02\x82\x01.",
    "persistent id": lambda path: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "codecs.encode of another codec": lambda path: _global("_codecs", "encode", "a", "zlib"),
    "dotted name": lambda path: b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
    "rebuild of no array": lambda path: _global("numpy.core.multiarray", "_reconstruct", "x", (0,), b"b"),
    "bare class": lambda path: b"\x80\x02cnumpy\nndarray\n.",
    "state of a class": lambda path: b"\x80\x02c_codecs\nencode\nN}U\x01aK\x01s\x86b.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_pickles_are_refused_and_not_executed(attack: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    with pytest.raises(InputError, match="is no pickle of plain arrays"):
        load_arrays(ATTACKS[attack](str(mark)), source="evil")
    assert not mark.exists()


def test_the_attacks_work_on_the_plain_unpickler(tmp_path: Path) -> None:
    """Otherwise the test above proves nothing."""
    for attack in ("os.system", "builtins.exec", "own function", "numpy.memmap"):
        mark = tmp_path / attack
        pickle.loads(ATTACKS[attack](str(mark).replace(" ", "_")))
        assert Path(str(mark).replace(" ", "_")).exists()


STRUCTURED = np.zeros(2, np.dtype([("a", "u1"), ("b", "f4")]))


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, 1], dtype=object),
        np.array([builtins.print], dtype=object),
        STRUCTURED,
        STRUCTURED[0],
        np.array(["a"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([b"ab"]),
        np.array([1j]),
        np.dtype("u1"),
        {1, 2},
    ],
    ids=str,
)
def test_arrays_of_anything_but_numbers_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="is no pickle of plain arrays"):
        load_arrays(pickle.dumps({"data": value}, protocol=2), source="test")


@pytest.mark.parametrize("shape", [(2, 4), (-2, -3), (7,), (2**40, 2**40)])
def test_shape_must_match_the_bytes(shape: tuple[int, ...]) -> None:
    dumped = pickle.dumps(np.arange(6, dtype=np.uint8).reshape(2, 3), protocol=2)
    old = pickle.dumps((2, 3), protocol=2)[2:-1]
    old = old[: old.index(b"\x86") + 1]
    body = b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in shape)
    new = b"(" + body + b"t"
    assert dumped.count(old) == 1
    with pytest.raises(InputError, match="of shape"):
        load_arrays(dumped.replace(old, new), source="test")


def test_every_truncation_is_refused() -> None:
    dumped = pickle.dumps({"data": ARRAYS[0], "labels": [1]}, protocol=2)
    for length in range(len(dumped)):
        with pytest.raises(InputError):
            load_arrays(dumped[:length], source="test")
