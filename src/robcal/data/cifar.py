"""CIFAR-10 (Krizhevsky 2009) from the files it is served in: official binary, official Python, hub parquet."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from robcal.checks import check_labels, check_readable, refuse
from robcal.data.dataset import Split
from robcal.data.parquet import read_parquet_images
from robcal.data.pickles import load_arrays
from robcal.data.splits import Parts

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SIZE = 32
PIXELS = 3 * SIZE * SIZE

#: Stems of the official files: five batches of training data and one of test data.
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")

WANTED = (
    f"it must be {' or '.join(ARCHIVES)}, the unpacked {' or '.join(FOLDERS)}, a folder that holds one of these, or "
    "parquet files train*.parquet and test*.parquet"
)


def read_cifar10(path: str) -> Parts:
    """CIFAR-10: 50,000 training and 10,000 test images, inputs (3, 32, 32) uint8, ten classes.

    Archives are read in memory: nothing is unpacked to disk, and the Python one, a pickle, is not executed.

    Args:
        path: a folder or a file; several parquet files separated by commas.

    Returns:
        The parts "train" and "test". The name is "CIFAR-10 (JPEG)" if the images were stored as JPEG, which is lossy:
        such images are not those of the official files.

    Raises:
        InputError: if nothing readable is there, or a file is damaged.
    """
    places = [check_readable(Path(part.strip()).expanduser(), "CIFAR-10 path") for part in path.split(",")]
    jpeg = False
    if len(places) > 1 or places[0].suffix == ".parquet":
        splits, jpeg = _read_parquet(places, path)
    elif (official := _official_place(places[0])) is not None:
        splits = _read_official(official)
    else:
        splits, jpeg = _read_parquet(sorted(places[0].rglob("*.parquet")), path)
    notes = ("images were stored as JPEG: they differ slightly from those of the official files",) if jpeg else ()
    return Parts(
        name="CIFAR-10 (JPEG)" if jpeg else "CIFAR-10",
        parts=splits,
        class_names=CIFAR10_CLASSES,
        box=(0.0, 1.0),
        kind="image",
        notes=notes,
    )


def _read_parquet(files: list[Path], path: str) -> tuple[dict[str, Split], bool]:
    """Both splits from parquet files that begin with "train" and "test"; were they JPEG?"""
    splits, jpeg = {}, False
    for name in BATCHES:
        shards = [file for file in files if file.name.startswith(name)]
        if not shards:
            have = ", ".join(file.name for file in files) or "nothing of CIFAR-10"
            refuse(f"{path} holds {have} and no {name}*.parquet", WANTED, "Fetch the missing file")
        splits[name], lossy = read_parquet_images(shards, size=SIZE, num_classes=len(CIFAR10_CLASSES))
        jpeg = jpeg or lossy
    return splits, jpeg


def _official_place(path: Path) -> Path | None:
    """The official archive or unpacked folder that `path` is or holds, None if there is none."""
    if not path.is_dir():
        return path
    stems = {file.stem for file in path.iterdir() if file.is_file()}
    if stems & {*BATCHES["train"], *BATCHES["test"]}:
        return path
    return next((path / name for name in (*FOLDERS, *ARCHIVES) if (path / name).exists()), None)


def _read_official(path: Path) -> dict[str, Split]:
    """Both splits from the official archive or its unpacked folder."""
    binary = {f"{stem}.bin" for stems in BATCHES.values() for stem in stems}
    python = {stem for stems in BATCHES.values() for stem in stems}
    members = _folder_members(path, binary | python) if path.is_dir() else _archive_members(path, binary | python)
    suffix = ".bin" if members.keys() & binary else ""
    lost = sorted((binary if suffix else python) - members.keys())
    if lost:
        refuse(f"{path} has no {', '.join(lost)}", WANTED, "Fetch the file again")
    parse = _parse_binary if suffix else _parse_python
    splits = {}
    for name, stems in BATCHES.items():
        batches = [parse(members[stem + suffix], f"{path}/{stem}{suffix}") for stem in stems]
        splits[name] = Split(
            inputs=np.concatenate([batch.inputs for batch in batches]),
            labels=np.concatenate([batch.labels for batch in batches]),
        )
    return splits


def _folder_members(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The bytes of the wanted files of a folder."""
    return {name: (path / name).read_bytes() for name in wanted if (path / name).is_file()}


def _archive_members(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The bytes of the wanted files of a tar archive, whatever folder they are in; nothing is written to disk."""
    names, members = set(wanted), {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if member.isfile() and name in names and (file := archive.extractfile(member)) is not None:
                    members[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        refuse(f"{path} is no readable archive ({error})", WANTED, "Fetch the file again")
    return members


def _parse_binary(data: bytes, source: str) -> Split:
    """One batch of the binary version: records of 1 label byte and 3,072 bytes of pixels, channel by channel."""
    if not data or len(data) % (1 + PIXELS):
        refuse(
            f"{source} has {len(data):,} bytes",
            f"a batch is records of {1 + PIXELS:,} bytes, officially 10,000 of them",
            "It is truncated: fetch the file again",
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    labels = check_labels(records[:, 0], num_classes=len(CIFAR10_CLASSES), name=f"labels of {source}")
    return Split(inputs=records[:, 1:].reshape(-1, 3, SIZE, SIZE), labels=labels)


def _parse_python(data: bytes, source: str) -> Split:
    """One batch of the Python version: a pickled dict with `data` (N, 3072) uint8 and `labels`, N integers."""
    batch = load_arrays(data, source=source)
    keys = batch if isinstance(batch, dict) else {}
    fields = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in keys.items()}
    if not {"data", "labels"} <= fields.keys():
        have = ", ".join(map(str, fields)) or "none"
        refuse(f"{source} has the fields {have}", "a batch has data and labels", "Fetch the file again")
    images = np.asarray(fields["data"])
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS:
        refuse(f"data of {source} is {images.dtype} of shape {images.shape}", f"uint8 (N, {PIXELS})", "Fetch it again")
    labels = check_labels(fields["labels"], n=len(images), num_classes=len(CIFAR10_CLASSES), name=f"labels of {source}")
    return Split(inputs=images.reshape(-1, 3, SIZE, SIZE), labels=labels)
