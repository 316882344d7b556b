"""Parquet files of images as data set hubs serve them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robcal.checks import check_labels, refuse
from robcal.data.dataset import Split
from robcal.data.pictures import JPEG_MAGIC, decode_pictures

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels")

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def read_parquet_images(files: Iterable[Path], *, size: int, num_classes: int) -> tuple[Split, bool]:
    """Read one split of images from its parquet files.

    The image column is a struct with the field `bytes` (or its flattened form, a column `img.bytes`), or plain binary.

    Args:
        files: the shards of the split, in order.
        size: height and width of every image, in pixels.
        num_classes: Z; labels lie in 0 … Z - 1.

    Returns:
        The split, inputs (N, 3, size, size) uint8, and whether the images were stored as JPEG.

    Raises:
        InputError: if a file is unreadable, a column missing, or an image or a label not what it must be.
    """
    paths = list(files)
    _check_shards(paths)
    images, labels, jpeg = [], [], False
    for path in paths:
        for batch in _batches(path):
            encoded, label = batch
            jpeg = jpeg or any(data is not None and data.startswith(JPEG_MAGIC) for data in encoded)
            images.append(decode_pictures(encoded, size, source=str(path)))
            labels.append(check_labels(label, num_classes=num_classes, name=f"labels of {path.name}"))
    if not images:
        refuse(f"{paths[0]} holds no rows", "a split needs examples", "Fetch the file again")
    return Split(inputs=np.concatenate(images), labels=np.concatenate(labels)), jpeg


def _batches(path: Path) -> Iterable[tuple[list[bytes | None], Any]]:
    """Pairs of encoded images and labels of one file, some thousands of rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            image, label = _columns(path, file)
            for batch in file.iter_batches(batch_size=4096, columns=[image, label]):
                yield _encoded(batch.column(0)), batch.column(1).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError) as error:
        refuse(f"{path} is no readable parquet file ({error})", "parquet with images and labels", "Fetch it again")


def _columns(path: Path, file: Any) -> tuple[str, str]:
    """Names of the leaf columns with the image bytes and the labels."""
    leaves = [file.schema.column(index).path for index in range(len(file.schema.names))]
    wanted = [leaf for name in IMAGE_COLUMNS for leaf in (f"{name}.bytes", name)]
    image = next((leaf for leaf in wanted if leaf in leaves), None)
    label = next((name for name in LABEL_COLUMNS if name in leaves), None)
    if image is None or label is None:
        missing = "image bytes" if image is None else "labels"
        refuse(
            f"{path} has no column of {missing}; its columns are {', '.join(leaves)}",
            f"images are in {' or '.join(wanted)}, labels in {' or '.join(LABEL_COLUMNS)}",
            "Rename the column",
        )
    return image, label


def _encoded(column: Any) -> list[bytes | None]:
    """The image bytes of a column that is binary, or a struct with the field `bytes`."""
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        refuse(f"the image column has type {column.type}", "it must hold bytes", "Store encoded images")
    values: list[bytes | None] = column.to_pylist()
    return values


def _check_shards(paths: list[Path]) -> None:
    """Refuse a split that says by its names how many shards it has and lacks one."""
    shards = [match for path in paths if (match := _SHARD.search(path.stem))]
    expected = max((int(match[2]) for match in shards), default=0)
    if shards and len({int(match[1]) for match in shards}) != expected:
        refuse(
            f"{paths[0].parent} has {len(shards)} of {expected} shards of a split", "all are needed", "Fetch the rest"
        )
