"""Parquet files of images as data set hubs serve them: read whole where small, by the row where large."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robcal.checks import IntArray, check_labels, refuse
from robcal.data.dataset import Split
from robcal.data.lazy import in_threads
from robcal.data.pictures import JPEG_MAGIC, decode_pictures

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels")

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def read_parquet_images(
    files: Iterable[Path], *, size: int, num_classes: int, label_columns: Sequence[str] = LABEL_COLUMNS
) -> tuple[Split, bool]:
    """Read one split of small images from its parquet files.

    The image column is a struct with the field `bytes` (or its flattened form, a column `img.bytes`), or plain binary.

    Args:
        files: the shards of the split, in order.
        size: height and width of every image, in pixels.
        num_classes: Z; labels lie in 0 … Z - 1.
        label_columns: names that the column of labels may have.

    Returns:
        The split, inputs (N, 3, size, size) uint8, and whether the images were stored as JPEG.

    Raises:
        InputError: if a file is unreadable, a column missing, or an image or a label not what it must be.
    """
    paths = list(files)
    check_shards(paths)
    images, labels, jpeg = [], [], False
    for path in paths:
        for encoded, label in _batches(path, label_columns):
            jpeg = jpeg or any(data is not None and data.startswith(JPEG_MAGIC) for data in encoded)
            images.append(decode_pictures(encoded, size, source=str(path)))
            labels.append(check_labels(label, num_classes=num_classes, name=f"labels of {path.name}"))
    if not images:
        refuse(f"{paths[0]} holds no rows", "a split needs examples", "Fetch the file again")
    return Split(inputs=np.concatenate(images), labels=np.concatenate(labels)), jpeg


def _batches(path: Path, label_columns: Sequence[str]) -> Iterable[tuple[list[bytes | None], Any]]:
    """Pairs of encoded images and labels of one file, some thousands of rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            image, label = find_columns(path, file, label_columns)
            for batch in file.iter_batches(batch_size=4096, columns=[image, label]):
                pictures = _bytes_of(image_column(batch, image)).to_pylist()
                yield pictures, batch.column(label).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError) as error:
        refuse(f"{path} is no readable parquet file ({error})", "parquet with images and labels", "Fetch it again")


def find_columns(path: Path, file: Any, label_columns: Sequence[str] = LABEL_COLUMNS) -> tuple[str, str]:
    """Names of the leaf columns with the image bytes and the labels.

    Raises:
        InputError: if the file lacks one of them.
    """
    leaves = [file.schema.column(index).path for index in range(len(file.schema.names))]
    wanted = [leaf for name in IMAGE_COLUMNS for leaf in (f"{name}.bytes", name)]
    image = next((leaf for leaf in wanted if leaf in leaves), None)
    label = next((name for name in label_columns if name in leaves), None)
    if image is None or label is None:
        missing = "image bytes" if image is None else "labels"
        refuse(
            f"{path} has no column of {missing}; its columns are {', '.join(leaves)}",
            f"images are in {' or '.join(wanted)}, labels in {' or '.join(label_columns)}",
            "Rename the column",
        )
    return image, label


def image_column(table: Any, leaf: str) -> Any:
    """The column of a table or batch that a leaf names: itself, or the struct that holds it."""
    return table.column(leaf if leaf in table.schema.names else leaf.rpartition(".")[0])


def _bytes_of(column: Any) -> Any:
    """The image bytes of a column that is binary, or a struct with the field `bytes`."""
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        refuse(f"the image column has type {column.type}", "it must hold bytes", "Store encoded images")
    return column


def check_shards(paths: list[Path]) -> None:
    """Refuse a split that says by its names how many shards it has and lacks one.

    Raises:
        InputError: if it does.
    """
    shards = [match for path in paths if (match := _SHARD.search(path.stem))]
    expected = max((int(match[2]) for match in shards), default=0)
    lost = sorted(set(range(expected)) - {int(match[1]) for match in shards})
    if lost:
        start = shards[0].string[: shards[0].start()]
        refuse(
            f"{paths[0].parent} has {len(shards)} of {expected} shards of a split",
            f"all are needed; the first that is missing is {start}-{lost[0]:05d}-of-{expected:05d}.parquet",
            "Fetch the rest",
        )


@dataclass(frozen=True)
class ParquetRows:
    """Encoded pictures in the rows of parquet files, read when they are asked for.

    A parquet file is read a row group at a time (officially 100 to 1,000 pictures). Reading in order costs each group
    once; reading at random costs a whole group a picture, which is what a training run over all of ImageNet does: for
    that, unpack the files once: `robcal unpack`.

    Attributes:
        files: the shards.
        column: the leaf that holds the bytes.
        group_file: (G,) which shard each row group is in.
        group_in_file: (G,) its number there.
        group_start: (G,) number of its first row, counted over all shards.
        rows: (N,) numbers of the rows, counted over all shards.
    """

    files: tuple[Path, ...]
    column: str
    group_file: IntArray
    group_in_file: IntArray
    group_start: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: IntArray) -> Sequence[tuple[str, Path | bytes]]:
        """Names and bytes; every row group is read once, several at a time."""
        rows = self.rows[positions]
        groups = np.searchsorted(self.group_start, rows, side="right") - 1
        needed = [int(group) for group in np.unique(groups)]

        def cells(group: int) -> dict[int, bytes | None]:
            file, start = self.files[self.group_file[group]], int(self.group_start[group])
            inside = np.unique(rows[groups == group]) - start
            column = _read_group(file, int(self.group_in_file[group]), self.column)
            return dict(zip((inside + start).tolist(), column.take(pa.array(inside)).to_pylist(), strict=True))

        found = {row: data for part in in_threads(cells, needed, each=1) for row, data in part.items()}
        return [self._named(int(row), int(group), found[int(row)]) for row, group in zip(rows, groups, strict=True)]

    def _named(self, row: int, group: int, data: bytes | None) -> tuple[str, bytes]:
        file = self.files[self.group_file[group]]
        name = f"row {row - int(self.group_start[self.group_file == self.group_file[group]].min())} of {file}"
        if data is None:
            refuse(f"{name} has no image bytes", "every row needs them", "Mend the file")
        return name, data

    def select(self, index: IntArray) -> ParquetRows:
        """These rows only."""
        return replace(self, rows=self.rows[index])

    def fingerprint(self) -> Iterable[bytes]:
        """The shards' names and sizes, and the numbers of the rows."""
        for file in self.files:
            yield f"{file.name}:{file.stat().st_size};".encode()
        yield np.ascontiguousarray(self.rows).tobytes()


@functools.lru_cache(maxsize=2)
def _read_group(path: Path, group: int, column: str) -> Any:
    """The encoded pictures of one row group; the last two are kept, for readers that go in order."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=[column])
    except (pa.ArrowException, OSError) as error:
        refuse(f"{path} is no readable parquet file ({error})", "parquet with images and labels", "Fetch it again")
    return _bytes_of(image_column(table, column).combine_chunks())


def list_rows(files: Iterable[Path]) -> tuple[ParquetRows, IntArray, tuple[str, ...] | None]:
    """What the parquet files of one part hold, without reading a picture.

    Args:
        files: the shards, in order.

    Returns:
        The pictures; (N,) int64 labels, of which -1 is "unknown"; and the names of the classes where the files have
        them.

    Raises:
        InputError: if a shard is missing or unreadable, or lacks a column.
    """
    paths = tuple(files)
    check_shards(list(paths))
    sizes: list[tuple[int, int, int]] = []
    labels, names, image = [], None, ""
    for number, path in enumerate(paths):
        try:
            with pq.ParquetFile(path) as file:
                image, label = find_columns(path, file)
                groups = range(file.metadata.num_row_groups)
                sizes += [(number, group, file.metadata.row_group(group).num_rows) for group in groups]
                labels.append(file.read(columns=[label]).column(label).to_numpy())
                names = names or _class_names(file.schema_arrow.metadata or {}, label)
        except (pa.ArrowException, OSError) as error:
            refuse(f"{path} is no readable parquet file ({error})", "parquet with images and labels", "Fetch it again")
    array = np.array(sizes, np.int64).reshape(-1, 3)
    total = int(array[:, 2].sum())
    if not total:
        refuse(f"{paths[0]} holds no rows", "a split needs examples", "Fetch the file again")
    found = np.concatenate(labels)
    if found.dtype.kind not in "iu":
        refuse(f"labels of {paths[0].parent} have dtype {found.dtype}", "labels are integers", "Fetch them again")
    starts = np.cumsum(array[:, 2]) - array[:, 2]
    rows = ParquetRows(paths, image, array[:, 0], array[:, 1], starts, np.arange(total))
    return rows, found.astype(np.int64), names


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """The names of the classes that a hub writes into the file, as JSON; None where it does not."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if named else None
