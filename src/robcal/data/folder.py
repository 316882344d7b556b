"""Pictures in class folders: what is a picture, which class it is of, what is left out; and the user's own."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NoReturn

import numpy as np
from PIL import Image

from robcal.base.checks import IntArray, check_positive_int, check_readable, refuse
from robcal.data.dataset import Split
from robcal.data.pictures import (
    DEEP_GREY,
    GREY_MODES,
    ColourMode,
    FileList,
    LazyPictures,
    open_picture,
    refuse_size,
    suffixes,
)
from robcal.data.splits import Parts

#: Names that the folder of a part may have.
PARTS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_folder(path: str, image_size: int | None = None) -> Parts:
    """Read pictures in one folder a class, with optional train/, val/ (or valid/, validation/) and test/ above.

    Classes are numbered by their sorted names; pictures in subfolders are of the class above. Pictures are decoded when
    they are asked for, RGB unless every one is grey ("L"). All have one size, unless `image_size` is given: then they
    are scaled to cover a square of it and cropped about the centre. Orientation tags are not applied.
    """
    root = check_readable(Path(path).expanduser(), "image folder")
    if image_size is not None:
        check_positive_int(image_size, "image_size")
    roots = _part_roots(root)
    class_names = class_folders(roots["train"])
    if len(class_names) < 2:
        _refuse_classes(roots["train"], class_names)
    listed = {part: list_pictures(folder, class_names) for part, folder in roots.items()}
    headers = _read_headers((file for listing in listed.values() for file in listing.files), image_size)
    assert headers.size is not None
    resize = image_size is not None
    splits = {
        part: Split(LazyPictures(listing.files, headers.size, headers.mode, resize), listing.labels)
        for part, listing in listed.items()
    }
    beside = files_in(root) if roots["train"] != root else []
    notes = [f"{root.name}: left out {left_out(beside)}"] if beside else []
    notes += [note for part, listing in listed.items() for note in listing.notes(roots[part].name)]
    return Parts(root.resolve().name, splits, class_names, notes=(*notes, *headers.notes()))


def _part_roots(root: Path) -> dict[str, Path]:
    """Return where the class folders of each part are; a folder "train" of pictures alone is a class of that name."""
    if not root.is_dir():
        refuse(
            f"{root} is a file", LAYOUT, f"Name the folder that holds the class folders, such as {root.parent.parent}"
        )
    folders = folders_in(root)
    held = {
        part: [folder for folder in folders if folder.name in names and (folders_in(folder) or not files_in(folder))]
        for part, names in PARTS.items()
    }
    found = {part: named for part, named in held.items() if named}
    if not found:
        return {"train": root}
    twice = next((folders for folders in found.values() if len(folders) > 1), None)
    if twice:
        given = f"{root} holds {' and '.join(folder.name for folder in twice)}"
        refuse(given, "both name the validation part", f"Move {twice[1].name} away, or its pictures into the other")
    named = {part: folders[0] for part, folders in found.items()}
    others = [folder for folder in folders if folder not in named.values()]
    if "train" not in named or others:
        _refuse_parts(root, named, others)
    return named


def _refuse_parts(root: Path, parts: Mapping[str, Path], others: Sequence[Path]) -> NoReturn:
    """Say that there is no training part, or that folders lie beside the parts."""
    have = ", ".join(folder.name for folder in parts.values())
    rest = ", ".join(folder.name for folder in others[:10]) + (", …" if len(others) > 10 else "")
    if "train" in parts:
        fix = f"Move {rest} out of {root.name}"
    elif not others:
        fix = f"Put the folder of the training pictures beside {have}, by the name of train"
    elif any(folders_in(folder) for folder in others):
        fix = f"Rename the folder of the training pictures ({rest}) to train"
    else:
        fix = f"Move {rest} into a folder train"
    refuse(f"{root} holds {have}{', ' * bool(others)}{rest}", f"{LAYOUT}; train/ is needed and no others", fix)


def _refuse_classes(root: Path, class_names: tuple[str, ...]) -> NoReturn:
    """Say that there are too few classes, and what it looks like."""
    inner = folders_in(root / class_names[0]) if class_names and (root / class_names[0]).is_dir() else []
    if len(inner) > 1:
        fix = f"Name {root / class_names[0]}, which holds {len(inner)} folders"
    elif any(file.suffix == ".parquet" for file in root.rglob("*.parquet")):
        fix = f"Parquet files of pictures are read by imagenet:{root}"
    else:
        fix = "Move the pictures of each class into a folder of their own"
    refuse(f"{root} holds {len(class_names)} class folder(s)", f"{LAYOUT}, two or more", fix)


@dataclass
class _Headers:
    """What the headers of pictures say."""

    mode: ColourMode = "L"  # "L" while every picture is grey
    size: tuple[int, int] | None = None  # (height, width) in pixels of all of them
    deep: list[Path] = field(default_factory=list)  # pictures of 16 bits, in order
    transparent: list[Path] = field(default_factory=list)  # pictures with transparency

    def see(self, file: Path, picture: Image.Image) -> None:
        """Take in one header."""
        if picture.mode not in GREY_MODES:
            self.mode = "RGB"
        if picture.mode in DEEP_GREY:
            self.deep.append(file)
        if picture.has_transparency_data:
            self.transparent.append(file)

    def notes(self) -> tuple[str, ...]:
        """Return what is changed when the pictures are decoded."""
        notes = []
        if self.deep:
            notes.append(
                f"16 bits are brought to 8 (divided by 257) in {len(self.deep)} of the pictures, such as "
                f"{self.deep[0]}: where fewer of the 16 are used it comes out dark, so stretch them before"
            )
        if self.transparent:
            notes.append(
                f"transparency is dropped in {len(self.transparent)} of the pictures, such as {self.transparent[0]}: "
                "the stored colours are shown as they are"
            )
        return tuple(notes)


def _read_headers(files: Iterable[Path], image_size: int | None) -> _Headers:
    """Read the headers of the pictures; with an `image_size` only until the first coloured one."""
    headers = _Headers(size=None if image_size is None else (image_size, image_size))
    for file in files:
        with open_picture(file, None) as picture:
            shape = (picture.height, picture.width)
            headers.see(file, picture)
        headers.size = headers.size or shape
        if image_size is None and shape != headers.size:
            refuse_size(str(file), shape, headers.size)
        if image_size is not None and headers.mode == "RGB":
            break
    return headers


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
    """Return the pictures below the class folders of `root`, which may lack some; empty ones are refused.

    Folders of other classes are refused too, unless `others` are to be passed over.
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
