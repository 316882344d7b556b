"""Files of `torch.save`, looked at before torch reads them: a tensor is as large as what is stored of it.

Such a file is a zip archive of a pickle and of one member a storage. torch makes room for what the pickle and the zip
directory declare, and some versions believe them. The pickle is read here by an unpickler that imports nothing.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any


def check_torch_file(path: Path) -> None:
    """Refuse a file whose members are packed, damaged, or smaller than their tensors; call it within `reading`."""
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("its members are packed, which torch.save does not do")
        if sum(sizes.values()) > path.stat().st_size:
            raise ValueError(f"it declares {sum(sizes.values()):,} bytes, and is {path.stat().st_size:,} bytes long")
        for name in sizes:
            if name.endswith("data.pkl"):
                _Declared(archive.read(name), name.removesuffix("data.pkl") + "data/", sizes).load()
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} does not fit its checksum")


class _Nothing:
    """Stands for every name and every object of a pickle; takes whatever is done to it and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Nothing:
        return self

    def __setitem__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    extend = append = add = __setstate__


class _Storage(_Nothing):
    """Stands for the type of a storage, whose numbers take `itemsize` bytes each."""

    itemsize = 1


class _Declared(pickle._Unpickler):  # the one in Python: that in C makes room for as many objects as a pickle numbers
    """Goes through a pickle and compares what it says of each storage with the member that holds it."""

    def __init__(self, data: bytes, folder: str, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.folder, self.sizes = folder, sizes

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what stands for a name; nothing is imported for it."""
        import torch

        if module_name.partition(".")[0] != "torch" or not global_name.endswith("Storage"):
            return _Nothing
        made = _Storage()
        made.itemsize = getattr(getattr(getattr(torch, global_name, None), "dtype", None), "itemsize", 1)
        return made

    def persistent_load(self, pid: Any) -> Any:
        """Return what stands for a storage (name, type, key, device, size); raise if it is larger than its member."""
        _, kind, key, _, elements = pid
        declared = int(elements) * (kind.itemsize if isinstance(kind, _Storage) else 1)
        stored = self.sizes.get(f"{self.folder}{key}", 0)
        if not 0 <= declared <= stored:
            raise ValueError(f"it declares {declared:,} bytes of tensor {key}, and {stored:,} are stored")
        return _Nothing()
