"""A seal is a digest of what a file holds, written into it and checked whenever it is read.

It finds what a damaged disk or an edit changed; it is no signature, and whoever writes a file can seal it. Files of
version 0.1.0 have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.files import refuse_changed


def seal_of(about: str, arrays: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of named arrays of numpy or torch, in any order, and of the text about them.

    >>> seal_of("", {"x": np.array(["a", "b"])}) == seal_of("", {"x": np.array(["a", "b"], object)})
    True
    """
    sha = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        kind, data = _bytes_of(arrays[name])
        sha.update(f"\0{name}\0{tuple(arrays[name].shape)}\0{kind}\0".encode())
        sha.update(data)
    return sha.hexdigest()


def check_seal(found: str | None, about: str, arrays: Mapping[str, Any], path: Path) -> None:
    """Refuse a file whose seal is not that of its content; one without a seal is an older file, and passes."""
    if found is not None and found != seal_of(about, arrays):
        refuse_changed(path)


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_of(array: Any) -> tuple[str, Any]:
    """Return the dtype and the bytes of an array or tensor."""
    if not isinstance(array, np.ndarray):
        import torch

        flat = array.detach().cpu().contiguous().view(-1)
        return str(array.dtype), flat.view(torch.uint8).numpy().data if flat.numel() else b""
    if array.dtype.kind in "UO":
        return "text", "\0".join(map(str, array.ravel().tolist())).encode("utf-8", "surrogatepass")
    return str(array.dtype), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
