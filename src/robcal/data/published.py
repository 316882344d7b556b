"""Where the official files of the data sets are published, and how long they are.

robcal fetches nothing: a reader that misses a file tells the user where it is, and how to know that it came whole.
Lengths are in bytes, of the whole file as it is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robcal.base.checks import check_readable, is_there, refuse


@dataclass(frozen=True)
class Publication:
    """Where a data set is published."""

    home: str  # its home page
    files: Mapping[str, int]  # name → length in bytes
    licence: str = ""  # what stands between a user and the files, or ""


#: By the name of the data set.
PUBLISHED: Mapping[str, Publication] = {
    "CIFAR-10": Publication(
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {"cifar-10-binary.tar.gz": 170_052_171, "cifar-10-python.tar.gz": 170_498_071},
    ),
    "CIFAR-100": Publication(
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {"cifar-100-binary.tar.gz": 168_513_733, "cifar-100-python.tar.gz": 169_001_437},
    ),
    "SVHN": Publication(
        "http://ufldl.stanford.edu/housenumbers/", {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384}
    ),
    "Fashion-MNIST": Publication(
        "https://github.com/zalandoresearch/fashion-mnist (apt-get install dataset-fashion-mnist puts it into "
        "/usr/share/datasets/fashion-mnist)",
        {
            "train-images-idx3-ubyte.gz": 26_421_880,
            "train-labels-idx1-ubyte.gz": 29_515,
            "t10k-images-idx3-ubyte.gz": 4_422_102,
            "t10k-labels-idx1-ubyte.gz": 5_148,
        },
    ),
    "ImageNet": Publication(
        "https://www.image-net.org/download.php (ILSVRC2012)",
        {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160},
        licence="after agreeing to its terms",
    ),
    "CIFAR-10-C": Publication("https://zenodo.org/records/2535967", {"CIFAR-10-C.tar": 2_918_471_680}),
    "CIFAR-100-C": Publication("https://zenodo.org/records/3555552", {"CIFAR-100-C.tar": 2_918_473_216}),
    "ImageNet-C": Publication(
        "https://zenodo.org/records/2235448",
        {
            "noise.tar": 22_565_673_785,
            "blur.tar": 7_112_704_951,
            "weather.tar": 12_797_438_995,
            "digital.tar": 7_757_510_705,
            "extra.tar": 15_789_490_144,
        },
    ),
}


def where_to_find(title: str, *names: str) -> str:
    """Return where the files of a data set, or those of these names, are: for errors, without a full stop."""
    publication = PUBLISHED[title]
    wanted = [f"{name} ({size:,} bytes)" for name, size in publication.files.items() if not names or name in names]
    terms = f", {publication.licence}" if publication.licence else ""
    return f"{title} is published at {publication.home}{terms} : {', '.join(wanted)}"


def check_place(path: str, title: str) -> Path:
    """Return the file or folder that a user named; where there is none, say where the data set is published."""
    place = Path(path).expanduser()
    if title in PUBLISHED and not is_there(place):
        given = f"{title} path {place} does not exist"
        refuse(given, "it must name an existing file or folder", f"Check the spelling; {where_to_find(title)}")
    return check_readable(place, f"{title} path")


def check_folder(path: str, title: str) -> Path:
    """Return the folder that a user named, or that of the file that they named."""
    place = check_place(path, title)
    return place if place.is_dir() else place.parent
