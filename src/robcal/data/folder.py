"""The user's own pictures: one folder a class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from PIL import Image

from robcal.base.checks import check_positive_int, check_readable, refuse
from robcal.data.dataset import Split
from robcal.data.listing import LAYOUT, class_folders, files_in, folders_in, left_out, list_pictures
from robcal.data.pictures import DEEP_GREY, GREY_MODES, ColourMode, LazyPictures, open_picture, refuse_size
from robcal.data.splits import Parts

#: Names that the folder of a part may have.
PARTS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_folder(path: str, image_size: int | None = None) -> Parts:
    """Read pictures in one folder a class, with optional train/, val/ (or valid/, validation/) and test/ above.

    Classes are numbered by the sorted names of their folders. Suffixes say what is a picture
    (`robcal.data.pictures.suffixes`); pictures in subfolders are of the class above, and a note counts and names what
    is left out. Pictures are decoded to uint8 when they are asked for, RGB unless every one is grey ("L"). All have one
    size, unless `image_size` is given: then they are scaled to cover a square of it and cropped about the centre.
    Orientation tags are not applied; transparency is dropped, and 16 bits become 8 (`robcal.data.pictures.convert`).
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
