"""Advice about specs and splits, carried out."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hint_cases import Case, Steps, in_turn, run_code
from official_files import write_imagenet, write_shards
from picture_files import write_classes, write_picture

from robcal.data import load_dataset
from robcal.data.splits import stratified_cut, stratified_subset
from robcal.data.unpack import unpack_pictures

RNG = np.random.default_rng(1)
GENERATOR = torch.Generator().manual_seed(0)


def _npz(folder: Path, y: np.ndarray, **more: np.ndarray) -> str:
    np.savez(folder / "a.npz", x_train=RNG.normal(size=(len(y), 2)), y_train=y, **more)
    return f"npz:{folder / 'a.npz'}"


def _spec(wrong: Callable[[Path], str]) -> Callable[[Path], Steps]:
    """A `--data` text, and the one that the advice writes."""

    def steps(folder: Path) -> Steps:
        _npz(folder, np.arange(40) % 2)
        write_classes(folder / "pictures", "train", "val", "test")
        hint = yield lambda: load_dataset(wrong(folder))
        found = re.search(r"[Ww]rite (\S+)\.$", hint)
        assert found is not None, hint
        yield lambda: load_dataset(found[1].replace("FILE", str(folder / "a.npz")))

    return steps


def _csv(folder: Path) -> Steps:
    (folder / "table.csv").write_text("1,2,0\n")
    hint = yield lambda: load_dataset(str(folder / "table.csv"))
    names = {"inputs": RNG.normal(size=(40, 2)), "labels": np.arange(40) % 2}
    run_code(hint.replace("mine.npz", str(folder / "mine.npz")), names)
    yield lambda: load_dataset(f"npz:{folder / 'mine.npz'}")


def _own_validation(folder: Path) -> Steps:
    y = np.arange(40) % 2
    spec = _npz(folder, y, x_val=RNG.normal(size=(40, 2)), y_val=y)
    yield lambda: load_dataset(spec, val_fraction=0.2)
    yield lambda: load_dataset(spec)


def _few_of_a_class(folder: Path) -> Steps:
    spec = _npz(folder, np.array([0] * 20 + [1]))
    yield lambda: load_dataset(spec)
    _npz(folder, np.array([0] * 20 + [1] * 4))
    yield lambda: load_dataset(spec)


def _small_share(folder: Path) -> Steps:
    labels = np.arange(40) % 4
    hint = yield lambda: stratified_cut(labels, 0.02, 0, what="validation")
    low, high = (float(number) for number in re.findall(r"from ([\d.]+) to ([\d.]+\d)", hint)[0])
    stratified_cut(labels, high, 0)
    yield lambda: stratified_cut(labels, low, 0)


def _small_share_of_many(folder: Path) -> Steps:
    """1,234 classes: to three digits their share of the examples would be too small for them."""
    labels = np.tile(np.arange(1234), 81)
    hint = yield lambda: stratified_cut(labels, 0.001, 0, what="validation")
    low = re.search(r"from ([\d.]+) to", hint)
    assert low is not None
    yield lambda: stratified_cut(labels, float(low[1]), 0)


def _no_share(folder: Path) -> Steps:
    hint = yield lambda: stratified_cut(np.array([0, 0, 1, 1, 1]), 0.9, 0, what="validation")
    low = re.search(r"from ([\d.]+) to", hint)
    assert low is not None
    yield lambda: stratified_cut(np.array([0, 0, 1, 1, 1]), float(low[1]), 0)


def _small_test(folder: Path) -> Steps:
    """Two of each of four classes: a fifth of eight has no room for four. A test part of its own is the advice."""
    y = np.repeat(np.arange(4), 2)
    spec = _npz(folder, y)
    hint = yield lambda: load_dataset(spec, val_fraction=0.5)
    assert "test part of their own" in hint
    _npz(folder, y, x_test=RNG.normal(size=(8, 2)), y_test=y)
    yield lambda: load_dataset(spec, val_fraction=0.5)


def _small_limit(folder: Path) -> Steps:
    labels = np.arange(40) % 4
    hint = yield lambda: stratified_subset(labels, 3, num_classes=4, name="train_limit")
    size = re.search(r"Raise train_limit to (\d+)", hint)
    assert size is not None
    yield lambda: stratified_subset(labels, int(size[1]), num_classes=4)


def _split(folder: Path) -> Steps:
    digits = load_dataset("digits")
    yield lambda: digits.split("extra")
    yield lambda: digits.split("test")


def _unpacked(folder: Path) -> Steps:
    write_imagenet(folder / "data")
    hint = yield lambda: unpack_pictures(str(folder / "data"), folder / "out")
    spec = re.search(r"Name (\S+) as data", hint)
    assert spec is not None
    yield lambda: load_dataset(spec[1], val_fraction=0.4, image_size=8)


def _taken_folder(folder: Path) -> Steps:
    write_shards(folder / "shards")
    write_picture(folder / "out" / "mine.txt")
    yield lambda: unpack_pictures(str(folder / "shards"), folder / "out")
    yield lambda: unpack_pictures(str(folder / "shards"), folder / "other")


CASES = [
    Case(
        "image_size of digits",
        "only folder:PATH and imagenet:PATH resize",
        in_turn(lambda: load_dataset("digits", image_size=8), lambda: load_dataset("digits")),
    ),
    Case("a misspelt data set", "it must be one of", _spec(lambda folder: "digit")),
    Case("a misspelt data set with its file", "it must be one of", _spec(lambda folder: f"npx:{folder / 'a.npz'}")),
    Case("a file without its kind", "it must be one of", _spec(lambda folder: str(folder / "a.npz"))),
    Case("a folder without its kind", "it must be one of", _spec(lambda folder: str(folder / "pictures"))),
    Case("a kind without its file", "this kind is written npz:FILE", _spec(lambda folder: "npz")),
    Case("a path of digits", "this kind is written digits", _spec(lambda folder: "digits:x")),
    Case("a CSV file as data", "Save its inputs and labels as arrays", _csv),
    Case("a validation part and a fraction", "has a validation part of its own", _own_validation),
    Case("one example of a class", r"class 1 has 1 training example\(s\)", _few_of_a_class),
    Case("a small share", "a share of 0.02 of 40 examples", _small_share),
    Case("a small share of many classes", "a share of 0.001 of 99954 examples", _small_share_of_many),
    Case("a large share", "a share of 0.9 of 5 examples", _no_share),
    Case("a small test part", "both sides of the cut for test", _small_test),
    Case("a small limit", "train_limit is 3 for 4 classes", _small_limit),
    Case("an unknown split", "no examples in split 'extra'", _split),
    Case("unpacking folders", "holds class folders already", _unpacked),
    Case("unpacking to a taken folder", "was not unpacked from these shards", _taken_folder),
]
