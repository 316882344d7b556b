"""Arrays of .npy and .npz files: what a header declares is checked before any of it is read.

A header of a few bytes may declare any size, and a packed member may be a thousand times as large as what is stored of
it. So an array must be of plain numbers or strings, as long as its file says, and packed by no more than `MOST_PACKED`
where it is larger than `FREE_BYTES`. Nothing is ever unpickled, and members that nobody asks for are not read.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from robcal.base.errors import refuse
from robcal.base.files import reading

#: Size up to which anything may be packed in any way: 256 MiB.
FREE_BYTES = 2**28
#: By what factor more than that may be packed. Pictures come to 2, tables to 10, one-hot labels to about 100.
MOST_PACKED = 200

RULE = "it must be a whole .npy file of numbers or strings"
AGAIN = "Put a whole copy in its place, or save the array again with np.save"

Fix = str | Callable[[str], str]


@dataclass(frozen=True)
class Header:
    """What is said of an array before it is read; `dtype` and `shape` as of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def check_packing(unpacked: int, packed: int, what: str) -> None:
    """Refuse to unpack what is far larger than what is stored of it."""
    if unpacked > FREE_BYTES and unpacked > MOST_PACKED * packed:
        refuse(
            f"{what} would be {unpacked / 2**20:,.0f} MiB, of which {packed / 2**20:,.3f} MiB are stored",
            f"what is larger than {FREE_BYTES // 2**20} MiB may be packed by a factor of {MOST_PACKED} at most",
            "If it is meant, save it unpacked, such as by np.savez",
        )


def read_npy(path: Path, what: str, *, rule: str = RULE, fix: Fix = AGAIN) -> npt.NDArray[Any]:
    """Read the array of a .npy file; arguments are those of `reading`."""
    with reading(path, what, rule=rule, fix=fix), path.open("rb") as file:
        _read_header(file, path.stat().st_size)
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def map_npy(path: Path, what: str, *, rule: str = RULE, fix: Fix = AGAIN) -> npt.NDArray[Any]:
    """Map the array of a .npy file into memory, read-only; arguments and checks are those of `read_npy`."""
    with reading(path, what, rule=rule, fix=fix):
        with path.open("rb") as file:
            _read_header(file, path.stat().st_size)
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="r")
        return array


def npz_headers(path: Path) -> dict[str, Header]:
    """Return what a .npz file says of its arrays, none of which is read; call it within `reading`."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                try:
                    found[info.filename.removesuffix(".npy")] = _read_header(file, info.file_size)
                except ValueError as error:
                    raise ValueError(f"{info.filename}: {error}") from None
    return found


def npz_arrays(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of these names, which `npz_headers` has listed; call it within `reading`."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name in names:
            check_packing(infos[name].file_size, infos[name].compress_size, f"{name} of {path}")
            with archive.open(infos[name]) as file:
                found[name] = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
                file.read(1)  # the end: only there is the checksum compared
    return found


def _read_header(file: IO[bytes], size: int) -> Header:
    """Read the header of an array; raise ValueError if it has objects or structures, or declares more than there is."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise ValueError("it is no .npy file") from None
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version is {version}; 1.0 and 2.0 hold arrays of numbers and strings")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays: it holds Python objects, which need pickle")
    if dtype.kind not in "biufcSUmM":
        raise ValueError(f"it is of dtype {dtype}, no plain numbers or strings")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"it declares {dtype} of shape {shape}, and {size - file.tell():,} bytes follow")
    return Header(dtype, shape)
