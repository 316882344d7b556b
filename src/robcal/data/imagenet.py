"""ImageNet (ILSVRC2012; Russakovsky et al. 2015): folders of class folders, or parquet shards as hubs serve them.

The official validation pictures are the test part, as in the literature; robcal's validation part is cut from the
training pictures. Pictures stay encoded on disk and are decoded by worker threads when a batch of them is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robcal.checks import IntArray, check_labels, check_positive_int, refuse
from robcal.data.dataset import Split
from robcal.data.lazy import TEST_SHARE, Encoded, ManyPictures
from robcal.data.listing import class_folders, list_pictures
from robcal.data.parquet import ParquetRows, list_rows
from robcal.data.published import check_place, where_to_find
from robcal.data.splits import Parts

#: Side in pixels that pictures are brought to unless the user says otherwise.
SIZE = 224

CLASSES = 1000

WANTED = (
    "it must hold train/ and val/ with one folder a class each, or parquet files train*.parquet and validation*.parquet"
)

FETCH = "Fetch what is missing and sort the pictures of the validation archive into folders of their classes"


def read_imagenet(path: str, image_size: int | None = None) -> Parts:
    """ImageNet: 1,281,167 training pictures and 50,000 test pictures (the official validation part), 1,000 classes.

    Subsets of the classes in the same layout are read too. A picture is judged by its centre: scaled so that the
    shorter side is 256/224 of `image_size`, of which the central square is cut. Training may cut windows out of the
    stored pictures instead: `Split.random_crops`. Digests go by the names and sizes of the files.

    Shards are slow to read in any order but their own, as training reads them: `robcal unpack`
    (`robcal.data.unpack.unpack_pictures`) makes class folders of them, once.

    Args:
        path: the folder.
        image_size: height and width in pixels to bring every picture to; 224 if it is None.

    Returns:
        The parts "train" and "test". Classes are the folders' names (WordNet ids), sorted, or those of the shards.

    Raises:
        InputError: if a part is missing (the error says where it is published) or damaged.
    """
    root = check_place(Path(path).expanduser(), "ImageNet")
    size = SIZE if image_size is None else check_positive_int(image_size, "image_size")
    shards = sorted(root.rglob("*.parquet")) if root.is_dir() and not (root / "train").is_dir() else []
    class_names, sources, notes = _read_shards(root, shards) if shards else _read_folders(root)
    return Parts(
        name="ImageNet" if len(class_names) == CLASSES else f"ImageNet ({len(class_names)} classes)",
        parts={
            part: Split(inputs=ManyPictures(source, (size, size), "RGB", True, TEST_SHARE), labels=labels)
            for part, (source, labels) in sources.items()
        },
        class_names=class_names,
        box=(0.0, 1.0),
        kind="image",
        notes=notes,
    )


#: Names of the classes; the pictures and labels of each part; notes.
Found = tuple[tuple[str, ...], dict[str, tuple[Encoded, IntArray]], tuple[str, ...]]


def _read_folders(root: Path) -> Found:
    """train/ and val/, one folder a class."""
    lost = [name for name in ("train", "val") if not (root / name).is_dir() or not class_folders(root / name)]
    if lost:
        files = [f"ILSVRC2012_img_{name}.tar" for name in lost]
        given = f"{root} has no {' and no '.join(f'{name}/ with class folders' for name in lost)}"
        refuse(given, WANTED, f"{FETCH}; {where_to_find('ImageNet', *files)}")
    class_names = class_folders(root / "train")
    _check_number(class_names, root)
    listed = {part: list_pictures(root / name, class_names) for part, name in (("train", "train"), ("test", "val"))}
    notes = [note for part, listing in listed.items() for note in listing.notes("val" if part == "test" else part)]
    return class_names, {part: (listing.files, listing.labels) for part, listing in listed.items()}, tuple(notes)


def _read_shards(root: Path, shards: Sequence[Path]) -> Found:
    """Shards of the parts train and validation; shards named test have no labels and are passed over."""
    sources: dict[str, tuple[ParquetRows, IntArray]] = {}
    names: tuple[str, ...] | None = None
    for part, start in (("train", "train"), ("test", "val")):
        mine = [file for file in shards if file.name.startswith(start)]
        if not mine:
            refuse(f"{root} holds no {start}*.parquet", WANTED, f"Fetch it; {where_to_find('ImageNet')}")
        rows, labels, named = list_rows(mine)
        sources[part], names = (rows, labels), names or named
    if names is None:
        names = tuple(str(label) for label in range(int(sources["train"][1].max()) + 1))
    _check_number(names, root)
    checked = {
        part: check_labels(labels, num_classes=len(names), name=f"labels of {part}")
        for part, (_, labels) in sources.items()
    }
    absent = np.setdiff1d(np.arange(len(names)), checked["train"])
    if absent.size:
        refuse(f"{root} has no training picture of class {names[absent[0]]}", WANTED, "Fetch the missing shards")
    return names, {part: (sources[part][0], labels) for part, labels in checked.items()}, ()


def _check_number(class_names: Sequence[str], root: Path) -> None:
    if len(class_names) < 2:
        refuse(f"{root} has {len(class_names)} class", WANTED, "Fetch the rest")
