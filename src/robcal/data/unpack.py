"""ImageNet's pictures out of parquet shards, into class folders: fast to read in any order, as training reads them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from robcal.base.checks import IntArray, refuse
from robcal.base.files import locked, writing
from robcal.base.progress import SILENT, Reporter, stop_at_boundary
from robcal.data.imagenet import read_imagenet
from robcal.data.parquet import ParquetRows
from robcal.data.pictures import ManyPictures

#: File that says what a folder was unpacked from.
MARK = "unpacked.json"

LOCK = ".lock"
#: Name that a file has while it is written; one process writes at a time.
SCRATCH = ".scratch"
#: Pictures written between two looks at Ctrl-C.
STRIDE = 100


def unpack_pictures(path: str, out: Path, *, reporter: Reporter = SILENT) -> Path:
    """Write the pictures of ImageNet's parquet shards as files in class folders, which are fast to read in any order.

    All is written to a folder beside `out`, ".NAME.unpacking", which gets its name when it is whole; the same call
    again goes on where a stopped one was. "imagenet:OUT" reads the folder: its classes are named and sorted by number,
    "00000 name" and so on, so that labels stay the same; pictures are named by their row, and their bytes are those in
    the shards.
    """
    targets = _targets(path)
    origin = _origin(targets)
    if _origin_of(out) == origin:
        return out
    _check_free(out)
    work = out.parent / f".{out.name}.unpacking"
    if _origin_of(work) != origin:
        _check_free(work)
    with locked(work / LOCK):
        if _origin_of(out) == origin:  # another process was faster
            return out
        _write(json.dumps(origin, indent=1).encode(), work / MARK, work)
        _write_all(targets, work, reporter)
        with writing(out):
            for name in (LOCK, SCRATCH):
                (work / name).unlink(missing_ok=True)
            if out.exists():
                out.rmdir()
            work.replace(out)
    return out


#: Folder of a part → its pictures, their labels, and the name of the folder of each class.
Targets = dict[str, tuple[ParquetRows, IntArray, tuple[str, ...]]]


def _targets(path: str) -> Targets:
    found = read_imagenet(path)
    folders = tuple(_folder_name(label, name) for label, name in enumerate(found.class_names))
    targets: Targets = {}
    for folder, part in (("train", "train"), ("val", "test")):
        split = found.parts[part]
        assert isinstance(split.inputs, ManyPictures)
        if not isinstance(split.inputs.source, ParquetRows):
            given = f"{path} holds class folders already"
            refuse(given, "only parquet shards are unpacked", f"Name imagenet:{path} as data")
        targets[folder] = (split.inputs.source, split.labels, folders)
    return targets


def _folder_name(label: int, class_name: str) -> str:
    return f"{label:05d} {re.sub(r'[^A-Za-z0-9,._ -]', '_', class_name)[:80]}".rstrip(" .")


def _origin(targets: Targets) -> dict[str, object]:
    """Return what tells these shards from others: a digest of their names, sizes and labels."""
    sha = hashlib.sha256()
    for source, labels, folders in targets.values():
        for piece in (*source.fingerprint(), labels.tobytes(), repr(folders).encode()):
            sha.update(piece)
    return {"pictures": sum(len(source) for source, _, _ in targets.values()), "shards": sha.hexdigest()[:16]}


def _origin_of(folder: Path) -> object:
    """Return what a folder says that it was unpacked from, None if it does not."""
    try:
        return json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return None


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or {file.name for file in folder.iterdir()} - {LOCK, SCRATCH}):
        given = f"{folder} exists and was not unpacked from these shards"
        refuse(given, "pictures are unpacked to a new or an empty folder", "Choose another folder")


def _write_all(targets: Targets, work: Path, reporter: Reporter) -> None:
    """Write every picture that is not there; suffixes say JPEG, which a few are not: readers go by the bytes."""
    advance, done = reporter.task("unpack", sum(len(source) for source, _, _ in targets.values())), 0
    with stop_at_boundary() as stop:
        for part, (source, labels, folders) in targets.items():
            for folder in folders:
                with writing(work / part / folder):
                    (work / part / folder).mkdir(parents=True, exist_ok=True)
            for start in range(0, len(source), STRIDE):
                stop.raise_if_set()
                rows = np.arange(start, min(start + STRIDE, len(source)))
                files = {int(row): work / part / folders[labels[row]] / f"{row:08d}.jpeg" for row in rows}
                lost = [row for row, file in files.items() if not file.exists()]
                for row, (_, data) in zip(lost, source.read(np.array(lost, np.int64)) if lost else (), strict=True):
                    assert isinstance(data, bytes)
                    _write(data, files[row], work)
                done += len(rows)
                advance(done)


def _write(data: bytes, file: Path, work: Path) -> None:
    """Write a file under a temporary name and rename it: under the lock that name is free, and no folder is listed."""
    with writing(file):
        (work / SCRATCH).write_bytes(data)
        (work / SCRATCH).replace(file)
