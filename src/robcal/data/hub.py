"""How data set hubs lay out parquet files: which part a file is of, its labels, and the names of its classes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from robcal.base.checks import check_labels, refuse
from robcal.data.labels import ONE_LABEL, PlainLabels, plain_labels

#: Starts of the names of files, and whole names of folders, that say a part. A hub calls a part of which it converted
#: only the beginning "partial-train".
_FILE = re.compile(r"(partial-)?(train|test|val)")
_FOLDER = re.compile(r"(partial-)?(train|test|val|valid|validation)")

#: Shards that say by their names how many they are (older ones with a hash behind), and those that are only numbered.
_COUNTED = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?$")
_NUMBERED = re.compile(r"\d{4,5}")


def parquet_files(root: Path) -> list[Path]:
    """List the parquet files in a folder at any depth, sorted; hidden ones (`._x.parquet`) are passed over."""
    found = sorted(root.rglob("*.parquet"))
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts)]


def files_of_parts(files: Sequence[Path], root: Path | None) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Tell which files hold "train", "test" and "val", by their names (`train-00000.parquet`) or their folders'.

    So `data/train-…` is read as well as `plain_text/train/0000.parquet` and `default/partial-train/0000.parquet`. The
    parquet files, sorted, were found below `root`; it is None where each was named by the user.

    Raises:
        InputError: if a part lies in two places (two configurations, or two copies), or if shards of it are missing.
    """
    found: dict[str, dict[Path, list[Path]]] = {}
    partial: list[str] = []
    for file in files:
        if (known := _part_of(file, root)) is not None:
            part, place, is_partial = known
            found.setdefault(part, {}).setdefault(place, []).append(file)
            partial += [part] if is_partial and part not in partial else []
    for part, places in found.items():
        if root is not None and len(places) > 1:
            one, two = list(places)[:2]
            refuse(
                f"{root} holds files of {part} in {one} and in {two}",
                "a part is read once, from one folder",
                f"Name one of the two, {one} or {two}, or move the other away",
            )
    chosen = {part: [file for mine in places.values() for file in mine] for part, places in found.items()}
    for mine in chosen.values():
        check_shards(mine)
    notes = tuple(f"the files of {part} are marked as partial: they hold only the beginning of it" for part in partial)
    return chosen, notes


def _part_of(file: Path, root: Path | None) -> tuple[str, Path, bool] | None:
    """Return the part of a file, the folder that its parts lie in, and whether only the part's beginning is there."""
    folder = None if file.parent == root else _FOLDER.fullmatch(file.parent.name)
    match = _FILE.match(file.name) or folder
    if match is None:
        return None
    name = match[2] if match[2] in ("train", "test") else "val"
    return name, file.parent.parent if folder else file.parent, bool(match[1])


def check_shards(paths: Sequence[Path]) -> None:
    """Refuse the files of a part if their names say that one is missing or that they are of several sets."""
    counted = [match for path in paths if (match := _COUNTED.search(path.stem))]
    totals = sorted({int(match[2]) for match in counted})
    numbers = [int(match[1]) for match in counted]
    if len(totals) > 1 or len(set(numbers)) < len(numbers):
        refuse(
            f"{paths[0].parent} holds shards of several sets of a part ({len(paths)} files, such as {paths[0].name})",
            "each is read once, so they must be of one set",
            f"Keep those that end in one number, such as -of-{totals[-1]:05d}, and move the others away",
        )
    lost = sorted(set(range(totals[0] if totals else 0)) - set(numbers))
    if lost:
        start = counted[0].string[: counted[0].start()]
        _refuse_lost(paths, f"{start}-{lost[0]:05d}-of-{totals[0]:05d}.parquet", f" of {totals[0]}")
    bare = [path.stem for path in paths if _NUMBERED.fullmatch(path.stem)]
    gaps = sorted(set(range(len(bare))) - {int(stem) for stem in bare})
    if gaps:
        _refuse_lost(paths, f"{gaps[0]:0{len(bare[0])}d}.parquet", "")


def _refuse_lost(paths: Sequence[Path], first: str, of: str) -> NoReturn:
    refuse(
        f"{paths[0].parent} has {len(paths)}{of} shards of a part",
        f"all are needed; the first that is missing is {first}",
        "Download the missing files into the same folder",
    )


@dataclass(frozen=True)
class StoredLabels:
    """The labels of one file or of one part."""

    values: PlainLabels  # (N,) int64, or the names of the classes
    names: tuple[str, ...] | None  # what the file calls the classes 0, 1, … where it says so

    def under(self, names: tuple[str, ...] | None, *, where: str) -> StoredLabels:
        """Return the same labels, numbered in the order of `names`, or refuse names of other classes."""
        if names is None or self.names is None or self.names == names or self.values.dtype.kind == "U":
            return StoredLabels(self.values, names or self.names)
        if sorted(self.names) != sorted(names):
            odd = next(iter(set(self.names) ^ set(names)))
            refuse(
                f"{where} names other classes than the files before it, such as {odd!r}",
                "all files of a data set have the same classes",
                "Take files of one version of the data set",
            )
        number = {name: position for position, name in enumerate(names)}
        checked = check_labels(self.values, num_classes=len(names), name=f"labels of {where}")
        return StoredLabels(np.array([number[name] for name in self.names])[checked], names)


def read_labels(path: Path, file: Any, label: str) -> StoredLabels:
    """Read the labels in a column of an open parquet file: integers, whole floats, or names, plain or as categories.

    Raises:
        InputError: if a row has none, or it is of another type.
    """
    column = file.read(columns=[label]).column(label)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        refuse(
            f"row {row} of {path} has no label ({column.null_count} rows in all)",
            "every row needs one",
            "Leave these rows out, for example by table.filter(table[label].is_valid())",
        )
    kind = pa.types
    if kind.is_string(column.type) or kind.is_large_string(column.type):
        values = np.array(column.to_pylist(), dtype=np.str_)
    elif kind.is_integer(column.type) or kind.is_floating(column.type) or kind.is_boolean(column.type):
        values = column.to_numpy()
    else:
        refuse(f"column {label} of {path} has type {column.type}", ONE_LABEL, "Store integers or strings in it")
    return StoredLabels(plain_labels(values, name=f"labels of {path}", code="labels"), _class_names(file, label))


def join_labels(stored: Sequence[StoredLabels], paths: Sequence[Path]) -> StoredLabels:
    """Return the labels of a part out of those of its files, under the names of the first file that has any.

    Raises:
        InputError: if files have different classes, or some hold names and some integers.
    """
    if len({one.values.dtype.kind == "U" for one in stored}) > 1:
        refuse(
            f"files of {paths[0].parent} hold labels as integers and as names",
            "all files of a data set store labels alike",
            "Take files of one version of the data set",
        )
    names = next((one.names for one in stored if one.names is not None), None)
    alike = [one.under(names, where=str(path)) for one, path in zip(stored, paths, strict=True)]
    return StoredLabels(np.concatenate([one.values for one in alike]), names)


def _class_names(file: Any, label: str) -> tuple[str, ...] | None:
    """Return the names of the classes that a hub writes into the file, as JSON; None where it does not."""
    metadata: Mapping[bytes, bytes] = file.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(unicodedata.normalize("NFC", name) for name in names)
