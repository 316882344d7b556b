"""The user's own pictures: one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from robcal.checks import IntArray, check_positive_int, check_readable, refuse
from robcal.data.dataset import Split
from robcal.data.pictures import ColourMode, UInt8Array, open_picture
from robcal.data.splits import Parts

PARTS = ("train", "val", "test")

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

LAYOUT = "a folder holds one folder a class, or train/ (and val/, test/) that do"


@dataclass(frozen=True)
class FolderInputs:
    """Pictures on disk, decoded when a batch of them is asked for.

    Attributes:
        files: N picture files.
        size: (height, width) in pixels that each has, or is brought to.
        mode: "L" (one channel) or "RGB".
        resize: whether pictures of another size are resized and centre-cropped.
    """

    files: tuple[Path, ...]
    size: tuple[int, int]
    mode: ColourMode
    resize: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self.files), 1 if self.mode == "L" else 3, *self.size)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __getitem__(self, index: IntArray) -> UInt8Array:
        """Decode the pictures at these positions into a uint8 array (len(index), C, H, W)."""
        positions = np.arange(len(self.files))[index]
        out = np.empty((len(positions), *self.size, self.shape[1]), np.uint8)
        for row, position in enumerate(positions):
            picture = open_picture(self.files[position], self.mode)
            if self.resize:
                picture = fit(picture, self.size)
            elif (picture.height, picture.width) != self.size:
                _refuse_size(self.files[position], (picture.height, picture.width), self.size)
            out[row] = np.asarray(picture).reshape(out.shape[1:])
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2))

    def select(self, index: IntArray) -> FolderInputs:
        """The same pictures at these positions only, still on disk."""
        return FolderInputs(tuple(self.files[position] for position in index), self.size, self.mode, self.resize)


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` scaled so that it covers (height, width) and cropped about its centre, bilinear with anti-aliasing."""
    height, width = size
    scale = max(height / picture.height, width / picture.width)
    half_h, half_w = height / scale / 2, width / scale / 2
    box = (
        picture.width / 2 - half_w,
        picture.height / 2 - half_h,
        picture.width / 2 + half_w,
        picture.height / 2 + half_h,
    )
    box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], picture.width), min(box[3], picture.height))
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


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
    class_names = tuple(folder.name for folder in _folders(roots["train"]))
    if len(class_names) < 2:
        refuse(f"{roots['train']} holds {len(class_names)} class folder(s)", f"{LAYOUT}, two or more", "Sort them so")
    listed = {name: _list_files(folder, class_names) for name, folder in roots.items()}
    every = [file for files, _ in listed.values() for file in files]
    mode, size = _mode_and_size(every, image_size)
    splits = {
        name: Split(inputs=FolderInputs(tuple(files), size, mode, image_size is not None), labels=labels)
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


def _list_files(root: Path, class_names: Sequence[str]) -> tuple[list[Path], IntArray]:
    """The pictures of one part, class by class, with their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for folder in _folders(root):
        if folder.name not in class_names:
            refuse(f"{root} has a class {folder.name}", f"classes are {', '.join(class_names)}", "Remove or rename it")
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            refuse(f"{folder} holds no pictures", f"{LAYOUT}; pictures are {', '.join(SUFFIXES)}", "Fill or remove it")
        files += found
        labels += [class_names.index(folder.name)] * len(found)
    if not files:
        refuse(f"{root} holds no class folders", LAYOUT, "Fill it or remove it")
    return files, np.array(labels, np.int64)


def _mode_and_size(files: list[Path], image_size: int | None) -> tuple[ColourMode, tuple[int, int]]:
    """Colour mode and (height, width) of the data set, from the headers of the pictures.

    With an `image_size` the headers are read only until the first coloured one.
    """
    mode: ColourMode = "L"
    size = None if image_size is None else (image_size, image_size)
    for file in files:
        with open_picture(file, None) as picture:
            shape = (picture.height, picture.width)
            mode = mode if picture.mode in ("L", "1") else "RGB"
        size = shape if size is None else size
        if image_size is None and shape != size:
            _refuse_size(file, shape, size)
        if image_size is not None and mode == "RGB":
            break
    assert size is not None
    return mode, size


def _refuse_size(file: Path, shape: tuple[int, int], size: tuple[int, int]) -> None:
    refuse(
        f"{file} is {shape[0]}x{shape[1]} pixels, others {size[0]}x{size[1]}",
        "all pictures need one size unless image_size is given",
        "Pass image_size (--image-size)",
    )
