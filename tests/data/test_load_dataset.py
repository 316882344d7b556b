from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from robcal.base.checks import InputError
from robcal.data import SPEC_HELP, load_dataset


def test_digits_are_the_digits_of_scikit_learn() -> None:
    data = load_dataset("digits", seed=4)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 755, "val": 323, "test": 719}
    assert (data.box, data.kind, data.num_classes, data.input_shape) == ((0.0, 1.0), "image", 10, (1, 8, 8))
    images = np.concatenate([split.inputs[np.arange(len(split))] for split in data.splits.values()])
    labels = np.concatenate([split.labels for split in data.splits.values()])
    ours = sorted(
        (tuple((image * 16).ravel().tolist()), int(label)) for image, label in zip(images, labels, strict=True)
    )
    digits = load_digits()
    theirs = sorted(
        (tuple(image.tolist()), int(label)) for image, label in zip(digits.data, digits.target, strict=True)
    )
    assert ours == theirs


def test_digits_are_the_same_where_their_file_is_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = load_dataset("digits")
    monkeypatch.setattr("robcal.data.digits.find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "x")))
    again = load_dataset("digits")
    assert [again.digest(name) for name in again.splits] == [data.digest(name) for name in data.splits]


def test_no_seed_changes_the_digits_test_split() -> None:
    digests = {load_dataset("digits", seed=seed).digest("test") for seed in range(4)}
    limited = {load_dataset("digits", seed=seed, test_limit=50).digest("test") for seed in range(4)}
    validation = {load_dataset("digits", seed=seed).digest("val") for seed in range(4)}
    assert (len(digests), len(limited), len(validation)) == (1, 1, 4)


def test_digits_val_fraction() -> None:
    assert len(load_dataset("digits", val_fraction=0.5).split("val")) == 539


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("digit", {}, r"the data set is 'digit'; it must be one of digits, .*Write digits"),
        ("cifar:/x", {}, "Write cifar10:/x"),
        ("mnist", {}, "Choose one of these"),
        ("", {}, "the data set is ''"),
        ("imagenet", {}, "this kind is written imagenet:PATH"),
        ("svhn:/no/such/place", {}, "SVHN path .*housenumbers.*test_32x32.mat .64,275,384 bytes"),
        ("imagenet:/no/such/place", {}, "ImageNet path .*image-net.org.*after agreeing to its terms"),
        ("cifar100:/no/such/place", {}, "CIFAR-100 path .*cifar-100-binary.tar.gz .168,513,733 bytes"),
        ("digits:x", {}, "this kind is written digits"),
        ("npz", {}, "this kind is written npz:FILE"),
        ("cifar10:", {}, "this kind is written cifar10:PATH"),
        (
            "cifar10:/no/such/place",
            {},
            "CIFAR-10 path /no/such/place does not exist.*cifar.html.*-python.tar.gz .170,498,071 bytes",
        ),
        ("digits", {"image_size": 8}, "only folder:PATH and imagenet:PATH resize"),
        ("digits", {"val_fraction": 1.5}, "val_fraction is 1.5"),
        ("digits", {"val_fraction": 0.001}, "both sides"),
        ("digits", {"train_limit": 5}, "train_limit is 5 for 10 classes"),
    ],
)
def test_refused(spec: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(spec, **options)


def test_options_are_checked_before_any_file_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val_fraction"):
        load_dataset(f"npz:{tmp_path / 'absent.npz'}", val_fraction=2.0)


def test_help_names_every_kind() -> None:
    images = "cifar10:PATH, cifar100:PATH, svhn:PATH, fashion-mnist:PATH, idx:PATH, imagenet:PATH"
    assert f"digits, {images}, npz:FILE, folder:PATH" == SPEC_HELP


def test_a_kind_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cifar", "parquet"):
        monkeypatch.delitem(sys.modules, f"robcal.data.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"the data set cifar10:x needs pyarrow.*'robcal\[train\]'"):
        load_dataset("cifar10:x")
