"""The images of a spec, all in memory: what `robcal.data` reads, and Tiny ImageNet at the size that it is stored in."""

from __future__ import annotations

from pathlib import Path

from robcal.data import read_parts
from robcal.data.dataset import Split
from robcal.data.labels import number_classes
from robcal.data.parquet import files_of_parts, parquet_files, read_parquet_images
from robcal.data.splits import Parts

#: Side in pixels of the images that `imagenet:PATH` names here.
SIDE = 32


def read_images(spec: str) -> Parts:
    """Read the parts of a spec of `robcal.data.load_dataset`, before any split is cut.

    Of `imagenet:PATH` the parquet files must hold images of 32x32 pixels, which stay as they are: robcal's reader would
    cut out their centre and enlarge it, as is done with larger pictures.

    Raises:
        InputError: if a file is missing or damaged, or an image has another size.
    """
    kind, _, place = spec.partition(":")
    if kind != "imagenet":
        return read_parts(spec)
    files, notes = files_of_parts(parquet_files(Path(place)), Path(place))
    found = {part: read_parquet_images(files[name], size=SIDE) for part, name in (("train", "train"), ("test", "val"))}
    stored = {part: images.labels.values for part, images in found.items()}
    labels, names, _ = number_classes(stored, found["train"].labels.names, called=dict.fromkeys(stored, "labels"))
    parts = {part: Split(inputs=images.images, labels=labels[part]) for part, images in found.items()}
    return Parts(f"Tiny ImageNet ({SIDE}x{SIDE})", parts, names, (0.0, 1.0), "image", notes)
