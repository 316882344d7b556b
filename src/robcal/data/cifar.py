"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as they are served: official binary, official Python, hub parquet."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from robcal.base.checks import IntArray, check_labels, refuse
from robcal.data.dataset import Split
from robcal.data.labels import numbers_of
from robcal.data.parquet import LABEL_COLUMNS, StoredLabels, files_of_parts, parquet_files, read_parquet_images
from robcal.data.pickles import MOST_BYTES, load_arrays
from robcal.data.published import check_place, where_to_find
from robcal.data.splits import Parts

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: The fine classes of CIFAR-100, in the order of their labels (which is that of the alphabet).
CIFAR100_CLASSES = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle"),
    *("bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle"),
    *("chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur"),
    *("dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard"),
    *("lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
    *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree"),
    *("plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket"),
    *("rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider"),
    *("squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger"),
    *("tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"),
)

SIZE = 32
PIXELS = 3 * SIZE * SIZE


@dataclass(frozen=True)
class Variant:
    """How one of the two data sets is stored."""

    title: str  # its name
    classes: tuple[str, ...]  # in the order of the labels
    batches: Mapping[str, tuple[str, ...]]  # stems of the official files of each part
    folders: tuple[str, ...]  # names of the official folders, as the archives unpack
    label_bytes: int  # bytes before the pixels of a record of the binary version; the last of them is the label
    label_key: str  # name of the labels in the Python version
    label_columns: tuple[str, ...]  # names of the labels in parquet files

    @property
    def archives(self) -> tuple[str, ...]:
        """Names of the official archives."""
        stem = self.title.lower()
        return (f"{stem}-binary.tar.gz", f"{stem}-python.tar.gz")

    def refuse_missing(self, given: str) -> NoReturn:
        """Say what is missing and where it is published."""
        wanted = (
            f"it must be {' or '.join(self.archives)}, the unpacked {' or '.join(self.folders)}, a folder that holds "
            "one of these, or parquet files train*.parquet and test*.parquet (or in folders train and test)"
        )
        refuse(given, wanted, f"Fetch the missing file; {where_to_find(self.title)}")


CIFAR10 = Variant(
    title="CIFAR-10",
    classes=CIFAR10_CLASSES,
    batches={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    label_bytes=1,
    label_key="labels",
    label_columns=LABEL_COLUMNS,
)

CIFAR100 = Variant(
    title="CIFAR-100",
    classes=CIFAR100_CLASSES,
    batches={"train": ("train",), "test": ("test",)},
    folders=("cifar-100-binary", "cifar-100-python"),
    label_bytes=2,  # the coarse label, then the fine one
    label_key="fine_labels",
    label_columns=("fine_label", "fine_labels"),
)


def read_cifar10(path: str) -> Parts:
    """Read CIFAR-10: 50,000 training and 10,000 test images, inputs (3, 32, 32) uint8, ten classes.

    The path is a folder, a file, or several parquet files separated by commas. Archives are read in memory, and the
    Python one, a pickle, is not executed. Images that were stored as JPEG, which is lossy, are named "CIFAR-10 (JPEG)".
    """
    return _read(path, CIFAR10)


def read_cifar100(path: str) -> Parts:
    """Read CIFAR-100 with its 100 fine classes, of the same numbers and shapes; see `read_cifar10`."""
    return _read(path, CIFAR100)


def _read(path: str, variant: Variant) -> Parts:
    places = [check_place(part.strip(), variant.title) for part in path.split(",")]
    if len(places) > 1 or places[0].suffix == ".parquet":
        return _read_parquet(places, None, path, variant)
    official = _official_place(places[0], variant)
    if official is None:
        return _read_parquet(parquet_files(places[0]), places[0], path, variant)
    return Parts(variant.title, _read_official(official, variant), variant.classes)


def _read_parquet(files: Sequence[Path], root: Path | None, path: str, variant: Variant) -> Parts:
    """Read both parts from parquet files that are called train and test, or lie in folders called so."""
    shards, partial = files_of_parts(files, root)
    for name in variant.batches:
        if name not in shards:
            have = ", ".join(file.name for file in files[:10]) or f"nothing of {variant.title}"
            variant.refuse_missing(f"{path} holds {have} and no {name}*.parquet")
    columns = variant.label_columns
    found = {name: read_parquet_images(shards[name], size=SIZE, label_columns=columns) for name in variant.batches}
    classes = _classes(found["train"].labels.names, variant)
    parts = {name: Split(part.images, _numbered(part.labels, classes, name)) for name, part in found.items()}
    if not any(part.jpeg for part in found.values()):
        return Parts(variant.title, parts, classes, notes=partial)
    note = "images were stored as JPEG: they differ slightly from those of the official files"
    return Parts(f"{variant.title} (JPEG)", parts, classes, notes=(note, *partial))


def _classes(names: tuple[str, ...] | None, variant: Variant) -> tuple[str, ...]:
    """Return the names of the classes: the official ones, in their order, unless the files call them otherwise."""
    if names is None or sorted(names) == sorted(variant.classes):
        return variant.classes
    if len(names) != len(variant.classes):
        told = f"the parquet files name {len(names)} classes"
        variant.refuse_missing(f"{told}, {variant.title} has {len(variant.classes)}")
    return names


def _numbered(labels: StoredLabels, classes: tuple[str, ...], part: str) -> IntArray:
    """Return (N,) int64 in the order of `classes`."""
    values = labels.under(classes, where=f"the files of {part}").values
    if values.dtype.kind == "U":
        return numbers_of(values, classes, name=f"labels of {part}")
    return check_labels(values, num_classes=len(classes), name=f"labels of {part}")


def _official_place(path: Path, variant: Variant) -> Path | None:
    """Return the official archive or unpacked folder that `path` is or holds, None if there is none."""
    if not path.is_dir():
        return path
    official = {name for stems in variant.batches.values() for stem in stems for name in (stem, f"{stem}.bin")}
    if official & {file.name for file in path.iterdir() if file.is_file()}:
        return path
    return next((path / name for name in (*variant.folders, *variant.archives) if (path / name).exists()), None)


def _read_official(path: Path, variant: Variant) -> dict[str, Split]:
    python = {stem for stems in variant.batches.values() for stem in stems}
    binary = {f"{stem}.bin" for stem in python}
    if path.is_dir():
        members = {name: (path / name).read_bytes() for name in binary | python if (path / name).is_file()}
    else:
        members = _archive_members(path, binary | python, variant)
    suffix = ".bin" if members.keys() & binary else ""
    lost = sorted((binary if suffix else python) - members.keys())
    if lost:
        variant.refuse_missing(f"{path} has no {', '.join(lost)}")
    parse = _parse_binary if suffix else _parse_python
    splits = {}
    for name, stems in variant.batches.items():
        batches = [parse(members[stem + suffix], f"{path}/{stem}{suffix}", variant) for stem in stems]
        splits[name] = Split(
            inputs=np.concatenate([batch.inputs for batch in batches]),
            labels=np.concatenate([batch.labels for batch in batches]),
        )
    return splits


def _archive_members(path: Path, names: Set[str], variant: Variant) -> dict[str, bytes]:
    """Return the bytes of files of a tar archive, in any folder; nothing is written to disk."""
    members = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if member.size > MOST_BYTES:
                    raise tarfile.TarError(f"{name} would be {member.size:,} bytes")
                if member.isfile() and name in names and (file := archive.extractfile(member)) is not None:
                    members[name] = file.read()
            for _ in range(MOST_BYTES >> 20):  # to the end: only there is the checksum compared
                if archive.fileobj is None or not archive.fileobj.read(1 << 20):
                    break
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        variant.refuse_missing(f"{path} ({path.stat().st_size:,} bytes) is no readable archive ({error})")
    return members


def _parse_binary(data: bytes, source: str, variant: Variant) -> Split:
    """Parse one batch of the binary version: records of one or two label bytes and 3,072 bytes of pixels."""
    record = variant.label_bytes + PIXELS
    if not data or len(data) % record:
        given = f"{source} has {len(data):,} bytes"
        fix = f"It is truncated: fetch the file again; {where_to_find(variant.title, variant.archives[0])}"
        refuse(given, f"a batch is records of {record:,} bytes, officially 10,000 of them or more", fix)
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = records[:, variant.label_bytes - 1]
    return Split(
        inputs=records[:, variant.label_bytes :].reshape(-1, 3, SIZE, SIZE),
        labels=check_labels(labels, num_classes=len(variant.classes), name=f"labels of {source}"),
    )


def _parse_python(data: bytes, source: str, variant: Variant) -> Split:
    """Parse one batch of the Python version: a pickled dict with `data` (N, 3072) uint8 and N labels."""
    batch, key = load_arrays(data, source=source), variant.label_key
    items = batch.items() if isinstance(batch, dict) else ()
    fields = {name.decode("latin-1") if isinstance(name, bytes) else name: value for name, value in items}
    if not {"data", key} <= fields.keys():
        have = ", ".join(map(str, fields)) or "none"
        given = f"{source} has the fields {have}"
        refuse(given, f"a batch has data and {key}", f"Fetch it again; {where_to_find(variant.title)}")
    images = np.asarray(fields["data"])
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS:
        given = f"data of {source} is {images.dtype} of shape {images.shape}"
        refuse(given, f"uint8 (N, {PIXELS})", f"Fetch it again; {where_to_find(variant.title)}")
    labels = check_labels(fields[key], n=len(images), num_classes=len(variant.classes), name=f"labels of {source}")
    return Split(inputs=images.reshape(-1, 3, SIZE, SIZE), labels=labels)
