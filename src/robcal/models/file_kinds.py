"""What kind of model a file holds, told by its content and never by its name; nothing is unpickled for it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from robcal.base.files import reading

FileKind = Literal["safetensors", "state_dict", "torchscript", "pt2", "onnx", "other"]

#: What a file of each kind is called in messages.
KIND_NAMES: dict[FileKind, str] = {
    "safetensors": "a safetensors file",
    "state_dict": "a file of torch.save",
    "torchscript": "a TorchScript program",
    "pt2": "a torch.export program",
    "onnx": "an ONNX model",
    "other": "a file of an unknown kind",
}

#: How a file of `torch.save` began before torch 1.6: a pickled magic number.
_OLD_TORCH_SAVE = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")

#: An ONNX model begins with its version, field 1 as a number, and goes on with one of its other fields.
_ONNX_FIELDS = bytes([0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42])


def kind_of_file(path: Path) -> FileKind:
    """Tell what kind of model a file holds, by its first bytes and, of a zip archive, the names of its members."""
    with reading(path, "the model", rule="it must be a whole file", fix="Copy or write it again"):
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                return _kind_of_archive(archive.namelist())
        return _kind_of_head(head, path.stat().st_size)


def _kind_of_head(head: bytes, size: int) -> FileKind:
    """Tell the kind of a file that is no zip archive by its first 16 bytes and its size."""
    if head.startswith(_OLD_TORCH_SAVE):
        return "state_dict"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 0x40 and head[2] in _ONNX_FIELDS:
        return "onnx"
    return "other"


def _kind_of_archive(names: Sequence[str]) -> FileKind:
    """Tell the kind of a zip archive by its members, which lie in one folder.

    >>> _kind_of_archive(["net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"])
    'torchscript'
    """
    if "serialized_exported_program.json" in names:  # as torch before 2.8 writes it
        return "pt2"
    members = {name.partition("/")[2] for name in names}
    if any(name.startswith("models/") for name in members) and "archive_format" in members:
        return "pt2"
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        return "torchscript"
    return "state_dict" if "data.pkl" in members else "other"
