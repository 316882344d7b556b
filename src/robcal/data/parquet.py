"""Parquet files of images as data set hubs serve them: which part a file is of, its labels and their names, its images.

Small images are read whole, large ones by the row.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robcal.base.checks import IntArray, check_labels, refuse
from robcal.base.files import reading
from robcal.base.npy import check_packing
from robcal.data.labels import ONE_LABEL, PlainLabels, plain_labels
from robcal.data.pictures import AGAIN, JPEG_MAGIC, UInt8Array, decode_pictures, in_threads

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

    So `data/train-…` is read as well as `plain_text/train/0000.parquet` and `default/partial-train/0000.parquet`; files
    are sorted, below `root` (None: each was named by the user). Parts in two places, or without all shards, are
    refused.
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
            fix = f"Name one of the two, {one} or {two}, or move the other away"
            refuse(f"{root} holds files of {part} in {one} and in {two}", "a part is read once, from one folder", fix)
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
    given = f"{paths[0].parent} has {len(paths)}{of} shards of a part"
    fix = "Download the missing files into the same folder"
    refuse(given, f"all are needed; the first that is missing is {first}", fix)


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
            given = f"{where} names other classes than the files before it, such as {odd!r}"
            refuse(given, "all files of a data set have the same classes", "Take files of one version of the data set")
        number = {name: position for position, name in enumerate(names)}
        checked = check_labels(self.values, num_classes=len(names), name=f"labels of {where}")
        return StoredLabels(np.array([number[name] for name in self.names])[checked], names)


def read_labels(path: Path, file: Any, label: str) -> StoredLabels:
    """Read the labels in a column of an open parquet file: integers, whole floats, or names, plain or as categories."""
    column = file.read(columns=[label]).column(label)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        fix = "Leave these rows out, for example by table.filter(table[label].is_valid())"
        refuse(f"row {row} of {path} has no label ({column.null_count} rows in all)", "every row needs one", fix)
    kind = pa.types
    if kind.is_string(column.type) or kind.is_large_string(column.type):
        values = np.array(column.to_pylist(), dtype=np.str_)
    elif kind.is_integer(column.type) or kind.is_floating(column.type) or kind.is_boolean(column.type):
        values = column.to_numpy()
    else:
        refuse(f"column {label} of {path} has type {column.type}", ONE_LABEL, "Store integers or strings in it")
    return StoredLabels(plain_labels(values, name=f"labels of {path}", code="labels"), _class_names(file, label))


def join_labels(stored: Sequence[StoredLabels], paths: Sequence[Path]) -> StoredLabels:
    """Return the labels of a part out of those of its files, under the names of the first file that has any."""
    if len({one.values.dtype.kind == "U" for one in stored}) > 1:
        given = f"files of {paths[0].parent} hold labels as integers and as names"
        refuse(given, "all files of a data set store labels alike", "Take files of one version of the data set")
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


IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class SmallImages:
    """One part of small images."""

    images: UInt8Array  # (N, 3, size, size) uint8
    labels: StoredLabels  # as they are stored
    jpeg: bool  # whether the images were stored as JPEG


def read_parquet_images(
    paths: Sequence[Path], *, size: int, label_columns: Sequence[str] = LABEL_COLUMNS
) -> SmallImages:
    """Read one part of small images from its shards, in order: structs with a field `bytes`, or plain binary."""
    images, labels, jpeg = [], [], False
    for path in paths:
        with _opened(path) as file:
            image, label = find_columns(path, file, label_columns)
            labels.append(read_labels(path, file, label))
            for batch in file.iter_batches(batch_size=4096, columns=[image]):
                encoded = _bytes_of(image_column(batch, image), path).to_pylist()
                jpeg = jpeg or any(data is not None and data.startswith(JPEG_MAGIC) for data in encoded)
                images.append(decode_pictures(encoded, size, source=str(path)))
    if not images:
        _refuse_no_rows(paths)
    return SmallImages(np.concatenate(images), join_labels(labels, paths), jpeg)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    rule, fix = "it must be parquet with images and labels", "Download the file again, or write it again"
    with reading(path, "the parquet file", rule=rule, fix=fix), pq.ParquetFile(path) as file:
        check_packing(file.metadata.num_rows * 8, path.stat().st_size, str(path))
        yield file


def _refuse_no_rows(paths: Sequence[Path]) -> NoReturn:
    refuse(f"{paths[0]} holds no rows", "a part needs examples", "Download the file again, or write it again")


def find_columns(path: Path, file: Any, label_columns: Sequence[str] = LABEL_COLUMNS) -> tuple[str, str]:
    """Return the names of the leaf columns with the image bytes and the labels; a file that lacks one is refused."""
    leaves = [file.schema.column(index).path for index in range(len(file.schema.names))]
    wanted = [leaf for name in IMAGE_COLUMNS for leaf in (f"{name}.bytes", name)]
    image = next((leaf for leaf in wanted if leaf in leaves), None)
    label = next((name for name in label_columns if name in file.schema_arrow.names), None)
    if image is None or label is None:
        missing = "image bytes" if image is None else "labels"
        given = f"{path} has no column of {missing}; its columns are {', '.join(leaves)}"
        fix = f"Rename the column of {missing}, for example by table.rename_columns"
        refuse(given, f"images are in {' or '.join(wanted)}, labels in {' or '.join(label_columns)}", fix)
    return image, label


def image_column(table: Any, leaf: str) -> Any:
    """Return the column of a table or batch that a leaf names: itself, or the struct that holds it."""
    return table.column(leaf if leaf in table.schema.names else leaf.rpartition(".")[0])


def _bytes_of(column: Any, path: Path) -> Any:
    """Return the image bytes of a column that is binary, or a struct with the field `bytes`."""
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        given = f"the image column of {path} has type {column.type}"
        refuse(given, "it must hold the bytes of picture files", "Store pictures encoded, for example as PNG")
    return column


@dataclass(frozen=True)
class ParquetRows:
    """Encoded pictures in the rows of parquet files, read when they are asked for, a row group at a time.

    Reading in order costs each group (officially 100 to 1,000 pictures) once; reading at random, as training does,
    costs a whole group a picture: for that, unpack the files once, by `robcal unpack`.
    """

    files: tuple[Path, ...]  # the shards
    column: str  # the leaf that holds the bytes
    group_file: IntArray  # (G,) which shard each row group is in
    group_in_file: IntArray  # (G,) its number there
    group_start: IntArray  # (G,) number of its first row, counted over all shards
    rows: IntArray  # (N,) numbers of the rows, counted over all shards

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: IntArray) -> Sequence[tuple[str, Path | bytes]]:
        """Read names and bytes; every row group is read once, several at a time."""
        rows = self.rows[positions]
        groups = np.searchsorted(self.group_start, rows, side="right") - 1
        needed = [int(group) for group in np.unique(groups)]

        def cells(group: int) -> dict[int, bytes | None]:
            file, start = self.files[self.group_file[group]], int(self.group_start[group])
            inside = np.unique(rows[groups == group]) - start
            column = _read_group(file, int(self.group_in_file[group]), self.column, file.stat().st_mtime_ns)
            return dict(zip((inside + start).tolist(), column.take(pa.array(inside)).to_pylist(), strict=True))

        found = {row: data for part in in_threads(cells, needed, each=1) for row, data in part.items()}
        return [self._named(int(row), int(group), found[int(row)]) for row, group in zip(rows, groups, strict=True)]

    def _named(self, row: int, group: int, data: bytes | None) -> tuple[str, bytes]:
        file = self.files[self.group_file[group]]
        name = f"row {row - int(self.group_start[self.group_file == self.group_file[group]].min())} of {file}"
        if data is None:
            refuse(f"{name} has no image bytes", "every row needs them", f"Drop the row, or {AGAIN}")
        return name, data

    def select(self, index: IntArray) -> ParquetRows:
        """Keep these rows only."""
        return replace(self, rows=self.rows[index])

    def fingerprint(self) -> Iterable[bytes]:
        """Return the shards' names and sizes, and the numbers of the rows."""
        for file in self.files:
            yield f"{file.name}:{file.stat().st_size};".encode()
        yield np.ascontiguousarray(self.rows).tobytes()


@functools.lru_cache(maxsize=2)
def _read_group(path: Path, group: int, column: str, written: int) -> Any:
    """Read the encoded pictures of one row group; `written` tells the file from an older one, and two are kept."""
    with _opened(path) as file:
        table = file.read_row_group(group, columns=[column])
    return _bytes_of(image_column(table, column).combine_chunks(), path)


def list_rows(paths: Sequence[Path]) -> tuple[ParquetRows, StoredLabels]:
    """Return what the shards of one part hold, in order, without reading a picture: the pictures, and their labels."""
    sizes: list[tuple[int, int, int]] = []
    labels, image = [], ""
    for number, path in enumerate(paths):
        with _opened(path) as file:
            image, label = find_columns(path, file)
            groups = range(file.metadata.num_row_groups)
            sizes += [(number, group, file.metadata.row_group(group).num_rows) for group in groups]
            labels.append(read_labels(path, file, label))
    array = np.array(sizes, np.int64).reshape(-1, 3)
    total = int(array[:, 2].sum())
    if not total:
        _refuse_no_rows(paths)
    starts = np.cumsum(array[:, 2]) - array[:, 2]
    rows = ParquetRows(tuple(paths), image, array[:, 0], array[:, 1], starts, np.arange(total))
    return rows, join_labels(labels, paths)
