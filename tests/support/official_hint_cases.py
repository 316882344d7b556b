"""Advice about official files, carried out: what is to be fetched again is written again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hint_cases import Case, Steps
from official_files import idx_bytes, write_fashion_mnist, write_imagenet, write_shards, write_svhn
from picture_files import write_picture
from scipy.io import savemat

from robcal.data.cifar import CIFAR10, PIXELS, read_cifar10
from robcal.data.idx import read_fashion_mnist, read_idx
from robcal.data.imagenet import read_imagenet
from robcal.data.npz import read_npz
from robcal.data.pickles import load_arrays
from robcal.data.svhn import read_svhn

RNG = np.random.default_rng(1)
GENERATOR = torch.Generator().manual_seed(0)


def _imagenet(change: Callable[[Path], object], mend: Callable[[Path], object]) -> Callable[[Path], Steps]:
    def steps(folder: Path) -> Steps:
        write_imagenet(folder / "data")
        change(folder)
        yield lambda: read_imagenet(str(folder / "data"), 8)
        mend(folder)
        yield lambda: read_imagenet(str(folder / "data"), 8)

    return steps


def _hide(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "data" / name).rename(folder / "away")


def _bring_back(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "away").rename(folder / "data" / name)


def _lost_part_of_shards(folder: Path) -> Steps:
    write_shards(folder)
    file = folder / "data" / "validation-00000-of-00001.parquet"
    kept = file.read_bytes()
    file.unlink()
    yield lambda: read_imagenet(str(folder), 8)
    file.write_bytes(kept)
    yield lambda: read_imagenet(str(folder), 8)


def _absent_path(folder: Path) -> Steps:
    write_svhn(folder)
    yield lambda: read_svhn(str(folder / "absent"))
    yield lambda: read_svhn(str(folder))


def _svhn(**wrong: object) -> Callable[[Path], Steps]:
    """One of the two files with other arrays in it; the advice is to fetch it again."""

    def steps(folder: Path) -> Steps:
        write_svhn(folder)
        file = folder / "train_32x32.mat"
        right = file.read_bytes()
        file.unlink()
        if wrong.get("data") is not None:
            file.write_bytes(wrong["data"])  # type: ignore[arg-type]
        elif wrong:
            savemat(file, wrong)
        yield lambda: read_svhn(str(folder))
        file.write_bytes(right)
        yield lambda: read_svhn(str(folder))

    return steps


X = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)


def _batch(labels: object, data: object) -> bytes:
    import pickle

    return pickle.dumps({b"labels": labels, b"data": data}, protocol=2)


PLAIN = _batch(list(range(10)), RNG.integers(0, 256, (10, PIXELS), dtype=np.uint8))
RECORDS = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], np.zeros((10, PIXELS), np.uint8)], 1).tobytes()


def _cifar(wrong: bytes | None, right: bytes, suffix: str = "") -> Callable[[Path], Steps]:
    """The official folder with one wrong batch (None: none); the advice is to fetch it again."""

    def steps(folder: Path) -> Steps:
        stems = [stem for part in CIFAR10.batches.values() for stem in part]
        for stem in stems:
            write_picture(folder / f"{stem}{suffix}", right)
        file = folder / f"{stems[1]}{suffix}"
        file.unlink()
        if wrong is not None:
            file.write_bytes(wrong)
        yield lambda: read_cifar10(str(folder))
        file.write_bytes(right)
        yield lambda: read_cifar10(str(folder))

    return steps


def _pickle(folder: Path) -> Steps:
    yield lambda: load_arrays(PLAIN[:-10], source="a batch")
    yield lambda: load_arrays(PLAIN, source="a batch")


def _idx(name: str, wrong: bytes | None, read: Callable[[str], object] = read_fashion_mnist) -> Callable[[Path], Steps]:
    """Fashion-MNIST, or files of its form, with one wrong file (None: none); the advice is to fetch it again."""

    def steps(folder: Path) -> Steps:
        write_fashion_mnist(folder)
        right = (folder / name).read_bytes()
        (folder / name).unlink()
        if wrong is not None:
            (folder / name).write_bytes(wrong)
        yield lambda: read(str(folder))
        (folder / name).write_bytes(right)
        yield lambda: read(str(folder))

    return steps


def _idx_of_letters(folder: Path) -> Steps:
    """Labels from 1, as EMNIST's letters have them: the advice is to save arrays."""
    write_fashion_mnist(folder)
    letters = np.arange(1, 41) % 4 + 1
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(letters))
    yield lambda: read_idx(str(folder))
    np.savez(folder / "mine.npz", x_train=RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8), y_train=letters - 1)
    yield lambda: read_npz(str(folder / "mine.npz"))


CASES = [
    Case("Fashion-MNIST without a file", "has no t10k-labels-idx1-ubyte;", _idx("t10k-labels-idx1-ubyte", None)),
    Case(
        "Fashion-MNIST, cut off",
        "it is 108 bytes long, and its header tells of 15,696",
        _idx("t10k-images-idx3-ubyte", idx_bytes(np.zeros((20, 28, 28)))[:108]),
    ),
    Case(
        "Fashion-MNIST with a label too few",
        r"test \(20, 28, 28\) and 19",
        _idx("t10k-labels-idx1-ubyte", idx_bytes(np.arange(19) % 10)),
    ),
    Case("three idx files", "Put the four whole files", _idx("t10k-labels-idx1-ubyte", None, read_idx)),
    Case("idx files with labels from 1", "they are 0 to Z - 1", _idx_of_letters),
    Case("ImageNet without val", r"no val/ with class folders", _imagenet(_hide("val"), _bring_back("val"))),
    Case("ImageNet with one class", "has 1 class", _imagenet(_hide("train/n01443537"), _bring_back("train/n01443537"))),
    Case("shards without validation", "no folder val of parquet files", _lost_part_of_shards),
    Case("a path that is absent", "does not exist", _absent_path),
    Case("SVHN without a file", "has no train_32x32.mat", _svhn()),
    Case("SVHN, damaged", "no readable MATLAB file", _svhn(data=b"text")),
    Case("SVHN without y", "it must hold the arrays X and y", _svhn(X=X)),
    Case("SVHN of another shape", "X of .* is float64", _svhn(X=X.astype(float), y=np.ones((4, 1)))),
    Case("SVHN with a label 0", "holds 0; labels are 1 to 10", _svhn(X=X, y=np.zeros((4, 1), np.uint8))),
    Case("CIFAR without a batch", "has no data_batch_2", _cifar(None, PLAIN)),
    Case("CIFAR, cut off", "It is truncated", _cifar(RECORDS[:-9], RECORDS, ".bin")),
    Case("CIFAR without fields", "has the fields none", _cifar(b"\x80\x02}.", PLAIN)),
    Case(
        "CIFAR of another shape", "data of .* is uint8 of shape", _cifar(_batch([1], np.zeros((1, 9), np.uint8)), PLAIN)
    ),
    Case("a pickle, cut off", "no pickle of plain arrays", _pickle),
]
