"""Parquet files of images as data set hubs serve them: read whole where small, by the row where large."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robcal.base.checks import IntArray, refuse
from robcal.base.files import reading
from robcal.base.npy import check_packing
from robcal.data.hub import StoredLabels, join_labels, read_labels
from robcal.data.lazy import in_threads
from robcal.data.pictures import AGAIN, JPEG_MAGIC, UInt8Array, decode_pictures

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
    """Read one part of small images, each of `size` x `size` pixels, from its shards, in order.

    The image column is a struct with the field `bytes` (or its flattened form, a column `img.bytes`), or plain binary.
    """
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
    """Return the names of the leaf columns with the image bytes and the labels.

    Raises:
        InputError: if the file lacks one of them.
    """
    leaves = [file.schema.column(index).path for index in range(len(file.schema.names))]
    wanted = [leaf for name in IMAGE_COLUMNS for leaf in (f"{name}.bytes", name)]
    image = next((leaf for leaf in wanted if leaf in leaves), None)
    label = next((name for name in label_columns if name in file.schema_arrow.names), None)
    if image is None or label is None:
        missing = "image bytes" if image is None else "labels"
        refuse(
            f"{path} has no column of {missing}; its columns are {', '.join(leaves)}",
            f"images are in {' or '.join(wanted)}, labels in {' or '.join(label_columns)}",
            f"Rename the column of {missing}, for example by table.rename_columns",
        )
    return image, label


def image_column(table: Any, leaf: str) -> Any:
    """Return the column of a table or batch that a leaf names: itself, or the struct that holds it."""
    return table.column(leaf if leaf in table.schema.names else leaf.rpartition(".")[0])


def _bytes_of(column: Any, path: Path) -> Any:
    """Return the image bytes of a column that is binary, or a struct with the field `bytes`."""
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        refuse(
            f"the image column of {path} has type {column.type}",
            "it must hold the bytes of picture files",
            "Store pictures encoded, for example as PNG",
        )
    return column


@dataclass(frozen=True)
class ParquetRows:
    """Encoded pictures in the rows of parquet files, read when they are asked for.

    A parquet file is read a row group at a time (officially 100 to 1,000 pictures). Reading in order costs each group
    once; reading at random costs a whole group a picture, which is what a training run over all of ImageNet does: for
    that, unpack the files once: `robcal unpack`.
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
    """Read the encoded pictures of one row group; the last two are kept, for readers that go in order.

    When the file was `written`, in nanoseconds, tells it from an older one of its name.
    """
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
