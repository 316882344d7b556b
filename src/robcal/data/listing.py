"""Finding the pictures of class folders: what is a picture, which class it is of, and what was left out."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NoReturn

import numpy as np

from robcal.base.checks import IntArray, refuse
from robcal.data.pictures import FileList, suffixes

LAYOUT = "a folder holds one folder a class, or train/ (and val/, test/) that do"
#: Files and folders that systems leave beside pictures; like hidden ones they are passed over without a word.
SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"})


@dataclass(frozen=True)
class Listing:
    """The pictures of one part."""

    files: FileList  # the N pictures, class by class in the order of the folders' names, sorted within
    labels: IntArray  # (N,) int64
    others: tuple[str, ...]  # files that are no pictures, below the folder of the part
    nested: tuple[str, ...]  # how many pictures lie in subfolders of a class folder

    def notes(self, where: str) -> tuple[str, ...]:
        """Return what a user should know of them; `where` names the part."""
        notes = []
        if self.others:
            notes.append(f"{where}: left out {left_out(self.others)}")
        if self.nested:
            notes.append(
                f"{where}: {len(self.nested)} of {len(self.files)} pictures lie in subfolders, such as "
                f"{self.nested[0]}: they are of the class that the outer folder names"
            )
        return tuple(notes)


def left_out(names: Sequence[str]) -> str:
    """Return files that are not read, counted by suffix, with one of their names."""
    counts = Counter(PurePath(name).suffix.lower() or "without a suffix" for name in names)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(10))
    more = ", …" if len(counts) > 10 else ""
    plural = "s that are no pictures" if len(names) > 1 else " that is no picture"
    return f"{len(names)} file{plural} which Pillow reads here ({kinds}{more}), such as {names[0]}"


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder is hidden (`.DS_Store`, `._x.jpg`) or left there by a system (`Thumbs.db`)."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def folders_in(root: Path) -> list[Path]:
    """Return the folders in `root`, by the names of their classes; hidden ones are passed over."""
    found = [entry for entry in root.iterdir() if entry.is_dir() and not is_passed_over(entry.name)]
    return sorted(found, key=lambda folder: (class_name(folder), folder.name))


def files_in(root: Path) -> list[str]:
    """Return the names of the files in `root`, sorted; hidden ones are passed over."""
    return sorted(entry.name for entry in root.iterdir() if not entry.is_dir() and not is_passed_over(entry.name))


def class_name(folder: Path) -> str:
    """Return the class of a folder: its name in Unicode's form NFC, since systems differ in how they write an "é"."""
    return unicodedata.normalize("NFC", folder.name)


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the classes of a folder that holds one folder a class: their names, sorted."""
    return tuple(dict.fromkeys(class_name(folder) for folder in folders_in(root)))


def list_pictures(root: Path, class_names: Sequence[str], *, others: bool = False) -> Listing:
    """Return the pictures of one part; those in subfolders of a class folder, at any depth, are of that class.

    The folder `root` holds one folder a class; it may lack some. Folders of other classes are refused, as empty ones
    are, unless `others` are to be passed over.
    """
    pictures: list[str] = []
    rest, nested = files_in(root), []
    counts: list[int] = []
    labels: list[int] = []
    number = {name: label for label, name in enumerate(class_names)}
    for folder in folders_in(root):
        if (name := class_name(folder)) not in number:
            if others:
                continue
            _refuse_class(root, folder.name, class_names)
        mine, left = _pictures_below(folder)
        if not mine:
            _refuse_empty(folder, left)
        pictures += [f"{folder.name}/{file}" for file in mine]
        nested += [f"{folder.name}/{file}" for file in mine if "/" in file]
        rest += [f"{folder.name}/{file}" for file in left]
        counts.append(len(mine))
        labels.append(number[name])
    if not pictures:
        refuse(f"{root} holds no class folders", LAYOUT, f"Put one folder a class into {root.name}, or remove it")
    every = np.repeat(np.array(labels, np.int64), counts)
    return Listing(FileList.of(root, pictures), every, tuple(rest), tuple(nested))


def _pictures_below(folder: Path) -> tuple[list[str], list[str]]:
    """Return the pictures in a class folder and its subfolders, and the files that are none; paths below it, sorted."""
    known = suffixes()
    pictures: list[str] = []
    others: list[str] = []
    for below, names in _walk(folder):
        for name in names:
            mine = pictures if PurePath(name).suffix.lower() in known else others
            mine.append(below + name)
    return sorted(pictures), sorted(others)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below, as (its path with a slash at the end, names of its files); links are followed."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_passed_over(name))
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        yield "" if below == "." else f"{below}/", [name for name in files if not is_passed_over(name)]


def _refuse_unreadable(error: OSError) -> NoReturn:
    given = f"{error.filename} cannot be read ({error.strerror})"
    refuse(given, "every folder of a class is read", "Give yourself the right to read it, or move it away")


def _refuse_class(root: Path, name: str, class_names: Sequence[str]) -> NoReturn:
    known = ", ".join(class_names[:20]) + (", …" if len(class_names) > 20 else "")
    near = difflib.get_close_matches(name, class_names, n=1)
    fix = f"Rename it to {near[0]}, or move it away" if near else "Rename it to one of these, or move it away"
    refuse(f"{root} has a class {name}", f"classes are {known}", fix)


def _refuse_empty(folder: Path, left: Sequence[str]) -> NoReturn:
    holds = f"only {left_out(left)}" if left else "no files"
    fix = "Convert them to PNG or move the folder away" if left else "Put pictures into it or move it away"
    refuse(f"{folder} holds {holds}, no pictures", f"{LAYOUT}, with pictures (.jpg, .png, .tif, .webp, …)", fix)
