"""CIFAR-10 (Krizhevsky 2009) from the files it is served in: official binary, official Python, hub parquet."""

from __future__ import annotations

from pathlib import Path

from robcal.checks import check_readable, refuse
from robcal.data.parquet import read_parquet_images
from robcal.data.splits import Parts

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SIZE = 32

WANTED = (
    "it must be cifar-10-binary.tar.gz or cifar-10-python.tar.gz, their unpacked folder, a folder that holds one of "
    "these, or parquet files train*.parquet and test*.parquet"
)


def read_cifar10(path: str) -> Parts:
    """CIFAR-10: 50,000 training and 10,000 test images, inputs (3, 32, 32) uint8, ten classes.

    Args:
        path: a folder or a file; several parquet files separated by commas.

    Returns:
        The parts "train" and "test". The name is "CIFAR-10 (JPEG)" if the images were stored as JPEG, which is lossy:
        such images are not those of the official files.

    Raises:
        InputError: if nothing readable is there, or a file is damaged.
    """
    files = _parquet_files(path)
    splits, jpeg = {}, False
    for name in ("train", "test"):
        shards = [file for file in files if file.name.startswith(name)]
        if not shards:
            have = ", ".join(file.name for file in files) or "nothing of CIFAR-10"
            refuse(f"{path} holds {have} and no {name}*.parquet", WANTED, "Fetch the missing file")
        splits[name], lossy = read_parquet_images(shards, size=SIZE, num_classes=len(CIFAR10_CLASSES))
        jpeg = jpeg or lossy
    notes = ("images were stored as JPEG: they differ slightly from those of the official files",) if jpeg else ()
    return Parts(
        name="CIFAR-10 (JPEG)" if jpeg else "CIFAR-10",
        parts=splits,
        class_names=CIFAR10_CLASSES,
        box=(0.0, 1.0),
        kind="image",
        notes=notes,
    )


def _parquet_files(path: str) -> list[Path]:
    """The parquet files that `path` names: a folder's, or the files themselves."""
    places = [check_readable(Path(part.strip()).expanduser(), "CIFAR-10 path") for part in path.split(",")]
    if len(places) == 1 and places[0].is_dir():
        return sorted(places[0].rglob("*.parquet"))
    return places
