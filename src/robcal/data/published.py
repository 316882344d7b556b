"""Where the official files of the data sets are published, how long they are, and their checksums.

robcal fetches nothing: a reader that misses a file tells the user where it is, and how to know that it came whole.
Lengths are in bytes and checksums MD5, as their publishers give them; both are for the whole file as it is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robcal.checks import refuse


@dataclass(frozen=True)
class Publication:
    """Where a data set is published.

    Attributes:
        home: its home page.
        files: name → (length in bytes, MD5).
        licence: what stands between a user and the files, or "".
    """

    home: str
    files: Mapping[str, tuple[int, str]]
    licence: str = ""


#: By the name of the data set.
PUBLISHED: Mapping[str, Publication] = {
    "CIFAR-10": Publication(
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {
            "cifar-10-binary.tar.gz": (170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
            "cifar-10-python.tar.gz": (170_498_071, "c58f30108f718f92721af3b95e74349a"),
        },
    ),
    "CIFAR-100": Publication(
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {
            "cifar-100-binary.tar.gz": (168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
            "cifar-100-python.tar.gz": (169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
        },
    ),
    "SVHN": Publication(
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train_32x32.mat": (182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            "test_32x32.mat": (64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        },
    ),
    "ImageNet": Publication(
        "https://www.image-net.org/download.php (ILSVRC2012)",
        {
            "ILSVRC2012_img_train.tar": (147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e"),
            "ILSVRC2012_img_val.tar": (6_744_924_160, "29b22e2961454d5413ddabcf34fc5622"),
        },
        licence="after agreeing to its terms",
    ),
    "CIFAR-10-C": Publication(
        "https://zenodo.org/records/2535967",
        {"CIFAR-10-C.tar": (2_918_471_680, "56bf5dcef84df0e2308c6dcbcbbd8499")},
    ),
    "CIFAR-100-C": Publication(
        "https://zenodo.org/records/3555552",
        {"CIFAR-100-C.tar": (2_918_473_216, "11f0ed0f1191edbf9fa23466ae6021d3")},
    ),
    "ImageNet-C": Publication(
        "https://zenodo.org/records/2235448",
        {
            "noise.tar": (22_565_673_785, "e80562d7f6c3f8834afb1ecf27252745"),
            "blur.tar": (7_112_704_951, "2d8e81fdd8e07fef67b9334fa635e45c"),
            "weather.tar": (12_797_438_995, "33ffea4db4d93fe4a428c40a6ce0c25d"),
            "digital.tar": (7_757_510_705, "89157860d7b10d5797849337ca2e5c03"),
            "extra.tar": (15_789_490_144, "d492dfba5fc162d8ec2c3cd8ee672984"),
        },
    ),
}


def where_to_find(title: str, *names: str) -> str:
    """Where the files of a data set are, as a sentence without its full stop, for errors.

    Args:
        title: a key of `PUBLISHED`.
        names: only these files (all where there are none).

    Example:
        >>> where_to_find("SVHN", "test_32x32.mat")  # doctest: +NORMALIZE_WHITESPACE
        'SVHN is published at http://ufldl.stanford.edu/housenumbers/ : test_32x32.mat
        (64,275,384 bytes, MD5 eb5a983be6a315427106f1b164d9cef3)'
    """
    publication = PUBLISHED[title]
    wanted = [f"{name} ({size:,} bytes, MD5 {md5})" for name, (size, md5) in _chosen(publication, names)]
    terms = f", {publication.licence}" if publication.licence else ""
    return f"{title} is published at {publication.home}{terms} : {', '.join(wanted)}"


def check_place(path: Path, title: str) -> Path:
    """Return `path` if it exists.

    Raises:
        InputError: otherwise, with where the data set is published.
    """
    if not path.exists():
        refuse(
            f"{title} path {path} does not exist",
            "it must name an existing file or folder",
            f"Check the spelling; {where_to_find(title)}",
        )
    return path


def _chosen(publication: Publication, names: tuple[str, ...]) -> list[tuple[str, tuple[int, str]]]:
    return [item for item in publication.files.items() if not names or item[0] in names]
