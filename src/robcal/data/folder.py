"""The user's own pictures: one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robcal.checks import IntArray, check_positive_int, check_readable, refuse
from robcal.data.dataset import Split
from robcal.data.lazy import FileList, LazyPictures, refuse_size
from robcal.data.pictures import ColourMode, open_picture
from robcal.data.splits import Parts

PARTS = ("train", "val", "test")

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

LAYOUT = "a folder holds one folder a class, or train/ (and val/, test/) that do"


def read_folder(path: str, image_size: int | None = None) -> Parts:
    """Pictures in one folder a class, with optional train/, val/ and test/ above.

    Classes are numbered by the sorted names of their folders. Pictures are decoded to uint8 when they are asked for, so
    a data set may be larger than memory. They are RGB unless every one is grey ("L"). All have one size, unless
    `image_size` is given: then they are scaled to cover a square of it and cropped about the centre. Orientation tags
    are not applied.

    Args:
        path: the folder.
        image_size: height and width in pixels to bring every picture to, or None.

    Returns:
        The parts the folder has; where it has no train/, everything is "train".

    Raises:
        InputError: on another layout, an empty class folder, an unreadable picture or one of another size.
    """
    root = check_readable(Path(path).expanduser(), "image folder")
    if image_size is not None:
        check_positive_int(image_size, "image_size")
    roots = _part_roots(root)
    class_names = class_folders(roots["train"])
    if len(class_names) < 2:
        refuse(f"{roots['train']} holds {len(class_names)} class folder(s)", f"{LAYOUT}, two or more", "Sort them so")
    listed = {name: list_pictures(folder, class_names) for name, folder in roots.items()}
    mode, size = _mode_and_size([files for files, _ in listed.values()], image_size)
    splits = {
        name: Split(inputs=LazyPictures(files, size, mode, image_size is not None), labels=labels)
        for name, (files, labels) in listed.items()
    }
    return Parts(name=root.resolve().name, parts=splits, class_names=class_names, box=(0.0, 1.0), kind="image")


def _folders(root: Path) -> list[Path]:
    """The folders in `root` by name; hidden ones are passed over."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _part_roots(root: Path) -> dict[str, Path]:
    """Where the class folders of each part are."""
    if not root.is_dir():
        refuse(f"{root} is a file", LAYOUT, "Name the folder")
    names = [folder.name for folder in _folders(root)]
    parts = [name for name in PARTS if name in names]
    if not parts:
        return {"train": root}
    others = [name for name in names if name not in PARTS]
    if "train" not in parts or others:
        refuse(
            f"{root} holds {', '.join(names)}",
            f"{LAYOUT}; train/ is needed, and nothing else lies beside them",
            f"Move {', '.join(others)} away" if others else "Rename the training folder to train",
        )
    return {name: root / name for name in parts}


def class_folders(root: Path) -> tuple[str, ...]:
    """The classes of a folder that holds one folder a class: their names, sorted."""
    return tuple(folder.name for folder in _folders(root))


def list_pictures(root: Path, class_names: Sequence[str], *, others: bool = False) -> tuple[FileList, IntArray]:
    """The pictures of one part, class by class and sorted by name within, with their labels.

    Args:
        root: a folder that holds one folder a class.
        class_names: the classes, in the order of their labels; `root` may lack some.
        others: whether folders of other classes are passed over; if not, they are refused.

    Returns:
        The N pictures, in the order of the sorted folders, and (N,) int64 labels.

    Raises:
        InputError: if there is another class, an empty one, or none at all.
    """
    names: list[str] = []
    counts: list[int] = []
    labels: list[int] = []
    number = {name: label for label, name in enumerate(class_names)}
    for folder in _folders(root):
        if folder.name not in number:
            if others:
                continue
            known = ", ".join(class_names[:20]) + (", …" if len(class_names) > 20 else "")
            refuse(f"{root} has a class {folder.name}", f"classes are {known}", "Remove or rename it")
        found = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            refuse(f"{folder} holds no pictures", f"{LAYOUT}; pictures are {', '.join(SUFFIXES)}", "Fill or remove it")
        names += [f"{folder.name}/{name}" for name in found]
        counts.append(len(found))
        labels.append(number[folder.name])
    if not names:
        refuse(f"{root} holds no class folders", LAYOUT, "Fill it or remove it")
    return FileList.of(root, names), np.repeat(np.array(labels, np.int64), counts)


def _mode_and_size(parts: Sequence[FileList], image_size: int | None) -> tuple[ColourMode, tuple[int, int]]:
    """Colour mode and (height, width) of the data set, from the headers of the pictures.

    With an `image_size` the headers are read only until the first coloured one.
    """
    mode: ColourMode = "L"
    size = None if image_size is None else (image_size, image_size)
    for file in (file for files in parts for file in files):
        with open_picture(file, None) as picture:
            shape = (picture.height, picture.width)
            mode = mode if picture.mode in ("L", "1") else "RGB"
        size = shape if size is None else size
        if image_size is None and shape != size:
            refuse_size(str(file), shape, size)
        if image_size is not None and mode == "RGB":
            break
    assert size is not None
    return mode, size
