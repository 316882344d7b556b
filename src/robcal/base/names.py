"""Names that the command line completes and checks without importing what they name: methods, data, comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

#: Name on the command line → factory, which is imported when it is used.
METHODS: Mapping[str, str] = {
    "vanilla": "robcal.methods.method:vanilla",
    "label-smoothing": "robcal.methods.label_smoothing:label_smoothing",
    "adals": "robcal.methods.ar_adals:adals",
    "random-levels": "robcal.methods.ar_adals:random_levels",
    "ar-adals": "robcal.methods.ar_adals:ar_adals",
    "mixup": "robcal.methods.mixup:mixup",
    "augmix": "robcal.methods.augmix:augmix",
    "focal": "robcal.methods.focal:focal",
    "flsd-53": "robcal.methods.focal:flsd53",
    "mbls": "robcal.methods.mbls:mbls",
    "ccat": "robcal.methods.ccat:ccat",
    "crl": "robcal.methods.crl:crl",
    "adversarial-training": "robcal.methods.adversarial_training:adversarial_training",
    "swag": "robcal.methods.swag:swag",
    "mc-dropout": "robcal.methods.mc_dropout:mc_dropout",
    "batch-ensemble": "robcal.methods.batch_ensemble:batch_ensemble",
}


class DataKind(NamedTuple):
    """Say how a kind of data set is written, where its reader is, and what help says of it."""

    #: "module:function" of (path) → `robcal.data.splits.Parts`, or of (path, image_size); imported when it is used
    reader: str
    argument: str  #: what stands behind the colon, "" where nothing does
    about: str = ""  #: what the help of --data says of it
    resizes: bool = False  #: whether the reader takes an image_size

    def written(self, name: str) -> str:
        """Return how data of this kind are named: "npz:FILE"."""
        return f"{name}:{self.argument}".rstrip(":")


#: Kind of data on the command line, and before the colon in `load_dataset` → how it is read.
READERS: Mapping[str, DataKind] = {
    "digits": DataKind("robcal.data.digits:read_digits", ""),
    "cifar10": DataKind("robcal.data.cifar:read_cifar10", "PATH"),
    "cifar100": DataKind("robcal.data.cifar:read_cifar100", "PATH"),
    "svhn": DataKind("robcal.data.svhn:read_svhn", "PATH"),
    "fashion-mnist": DataKind("robcal.data.idx:read_fashion_mnist", "PATH"),
    "idx": DataKind("robcal.data.idx:read_idx", "PATH", "four files as of MNIST"),
    "imagenet": DataKind("robcal.data.imagenet:read_imagenet", "PATH", "folders or parquet", resizes=True),
    "npz": DataKind(
        "robcal.data.npz:read_npz",
        "FILE",
        "x_train, y_train and optional x_val, y_val, x_test, y_test, class_names; or MedMNIST's train_images, "
        "train_labels, …",
    ),
    "folder": DataKind("robcal.data.folder:read_folder", "PATH", "one folder a class", resizes=True),
}


def preset_names() -> tuple[str, ...]:
    """Return the names of the comparisons that come with robcal."""
    found = (item.name for item in files("robcal").joinpath("comparison", "presets").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))
