"""ImageNet (ILSVRC2012; Russakovsky et al. 2015): folders of class folders, or parquet shards as hubs serve them.

The official validation pictures are the test part, as in the literature; robcal's validation part is cut from the
training pictures. Pictures stay encoded on disk and are decoded by worker threads when a batch of them is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robcal.base.checks import IntArray, check_positive_int, refuse
from robcal.data.dataset import Split
from robcal.data.folder import class_folders, list_pictures
from robcal.data.labels import number_classes
from robcal.data.parquet import ParquetRows, StoredLabels, files_of_parts, list_rows, parquet_files
from robcal.data.pictures import TEST_SHARE, Encoded, ManyPictures
from robcal.data.published import check_place, where_to_find
from robcal.data.splits import Parts

#: Side in pixels that pictures are brought to unless the user says otherwise.
SIZE = 224

CLASSES = 1000

WANTED = (
    "it must hold train/ and val/ with one folder a class each, or parquet files train*.parquet and "
    "validation*.parquet (or in folders train and validation)"
)

FETCH = "Fetch what is missing and sort the pictures of the validation archive into folders of their classes"


def read_imagenet(path: str, image_size: int | None = None) -> Parts:
    """Read ImageNet: 1,281,167 training and 50,000 test pictures (the official validation part), up to 1,000 classes.

    Classes are the folders' names (WordNet ids), sorted, or those of the shards. A picture is judged by its centre:
    scaled so that the shorter side is 256/224 of `image_size` (224), of which the central square is cut. Shards are
    slow to read in any order but their own: `robcal unpack` makes class folders of them.
    """
    root = check_place(path, "ImageNet")
    size = SIZE if image_size is None else check_positive_int(image_size, "image_size")
    has_folders = (root / "train").is_dir() and bool(class_folders(root / "train"))
    shards = parquet_files(root) if root.is_dir() and not has_folders else []
    class_names, sources, notes = _read_shards(root, shards) if shards else _read_folders(root)
    name = "ImageNet" if len(class_names) == CLASSES else f"ImageNet ({len(class_names)} classes)"
    parts = {
        part: Split(ManyPictures(source, (size, size), "RGB", True, TEST_SHARE), labels)
        for part, (source, labels) in sources.items()
    }
    return Parts(name, parts, class_names, notes=notes)


#: Names of the classes; the pictures and labels of each part; notes.
Found = tuple[tuple[str, ...], dict[str, tuple[Encoded, IntArray]], tuple[str, ...]]


def _read_folders(root: Path) -> Found:
    """Read train/ and val/, one folder a class."""
    lost = [name for name in ("train", "val") if not (root / name).is_dir() or not class_folders(root / name)]
    if lost:
        files = [f"ILSVRC2012_img_{name}.tar" for name in lost]
        given = f"{root} has no {' and no '.join(f'{name}/ with class folders' for name in lost)}"
        refuse(given, WANTED, f"{FETCH}; {where_to_find('ImageNet', *files)}")
    class_names = class_folders(root / "train")
    if len(class_names) < 2:
        refuse(f"{root} has {len(class_names)} class", f"{WANTED}, two or more", "Add the folders of other classes")
    listed = {part: list_pictures(root / name, class_names) for part, name in (("train", "train"), ("test", "val"))}
    notes = [note for part, listing in listed.items() for note in listing.notes("val" if part == "test" else part)]
    return class_names, {part: (listing.files, listing.labels) for part, listing in listed.items()}, tuple(notes)


def _read_shards(root: Path, files: Sequence[Path]) -> Found:
    """Read the shards of the parts train and validation; those of test have no labels and are passed over."""
    shards, notes = files_of_parts(files, root)
    found: dict[str, tuple[ParquetRows, StoredLabels]] = {}
    for part, name in (("train", "train"), ("test", "val")):
        if name not in shards:
            given = f"{root} holds no {name}*.parquet and no folder {name} of parquet files"
            refuse(given, WANTED, f"Fetch it; {where_to_find('ImageNet')}")
        found[part] = list_rows(shards[name])
    names = found["train"][1].names
    stored = {part: labels.under(names, where=f"the files of {part}").values for part, (_, labels) in found.items()}
    called = {part: f"{part}_labels" for part in found}
    labels, classes, sorted_names = number_classes(stored, names or found["test"][1].names, called=called)
    return classes, {part: (found[part][0], numbers) for part, numbers in labels.items()}, (*notes, *sorted_names)
