"""Trained classifiers to recalibrate: validation and test logits, in distribution and under shift.

Each function makes one network, or raises `FileNotFoundError` where its data are not at hand. Below a folder are looked
for: `resnet50-cifar10-logits/*.npz` (published logits), `cifar10/` (as `--data cifar10:` reads it),
`pretrained/resnet-cifar10/resnet20-*.th` (published weights of He et al. 2015, for CIFAR-10), `tabular/adult.data` (UCI
Adult, with a header), `text/` (one `label text` a line) and `fashion-mnist/` (which is also looked for where
`apt-get install dataset-fashion-mnist` puts it). Digits come with scikit-learn.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from real.networks import published_resnet
from robcal.data import Split, load_dataset
from robcal.data.shifts import shift_source
from robcal.runs.directory import load_data, load_networks
from robcal.runs.shift import ShiftImages
from robcal.runs.train import train_run
from robcal.training.predict import predict_logits
from robcal.training.settings import TrainSettings

Rows = tuple[np.ndarray, np.ndarray]

#: Where `apt-get install dataset-fashion-mnist` puts the files.
FASHION_PLACE = Path("/usr/share/datasets/fashion-mnist")

#: Severity of the corruptions, of 1 to 5.
SEVERITY = 3


@dataclass(frozen=True)
class Network:
    """A trained classifier on held-out rows.

    Attributes:
        title: for tables.
        val: logits (N, Z) and labels (N,) to fit on.
        test: logits (M, Z) and labels (M,) to measure on.
        shift: what the shift is, logits (C, K, Z) of C cells, labels (K,); None where there is none.
    """

    title: str
    val: Rows
    test: Rows
    shift: tuple[str, np.ndarray, np.ndarray] | None = field(default=None)


def published(folder: Path, name: str, title: str) -> Network:
    """Read published logits of a ResNet-50 on CIFAR-10, official pixels; there are none under shift."""
    with np.load(folder / "resnet50-cifar10-logits" / f"{name}.npz", allow_pickle=False) as data:
        val, test = ((data[f"{split}_logits"].astype(float), data[f"{split}_labels"]) for split in ("val", "test"))
    return Network(f"ResNet-50, CIFAR-10, {title}", val, test)


def digits(folder: Path, work: Path) -> Network:
    """Train robcal's mlp on scikit-learn's digits."""
    return _trained("mlp, digits", TrainSettings(data="digits", model="mlp", method="vanilla", epochs=30), work)


def cnn_fast(folder: Path, work: Path) -> Network:
    """Train robcal's small convolutional network on 10,000 images of CIFAR-10."""
    if not (folder / "cifar10").is_dir():
        raise FileNotFoundError(folder / "cifar10")
    settings = TrainSettings(data=f"cifar10:{folder / 'cifar10'}", model="cnn-fast", method="vanilla", epochs=6,
                             train_limit=10_000)  # fmt: skip
    return _trained("cnn-fast, CIFAR-10 (JPEG)", settings, work)


def fashion(folder: Path, work: Path) -> Network:
    """Train robcal's small convolutional network on 20,000 images of Fashion-MNIST."""
    if (data := fashion_mnist(folder)) is None:
        raise FileNotFoundError(FASHION_PLACE)
    return _trained("cnn-fast, Fashion-MNIST", fashion_settings(data), work)


def fashion_mnist(folder: Path) -> str | None:
    """Return what `--data` is for Fashion-MNIST: in a folder of data, or where a package manager puts it."""
    places = (place for place in (folder / "fashion-mnist", FASHION_PLACE) if place.is_dir())
    return next((f"fashion-mnist:{place}" for place in places), None)


def fashion_settings(data: str, seed: int = 0) -> TrainSettings:
    """Return how the network on Fashion-MNIST is trained."""
    return TrainSettings(data=data, model="cnn-fast", method="vanilla", epochs=10, train_limit=20_000, seed=seed,
                         device="cpu")  # fmt: skip


def resnet20(folder: Path, work: Path) -> Network:
    """Run published weights of a ResNet-20 on the test images of CIFAR-10: one half to fit on, one to measure on."""
    if not (folder / "pretrained/resnet-cifar10").is_dir():
        raise FileNotFoundError(folder / "pretrained/resnet-cifar10")
    network = published_resnet(folder, 20)
    data = load_dataset(f"cifar10:{folder / 'cifar10'}")
    test = data.split("test")
    order = np.random.default_rng(0).permutation(len(test))
    fit, measure = np.array_split(order, 2)
    logits = predict_logits(network, test).astype(float)
    shift = _shift([network], data, work, 250)
    title = "ResNet-20, CIFAR-10 (JPEG)"
    return Network(title, (logits[fit], test.labels[fit]), (logits[measure], test.labels[measure]), shift)


def adult(folder: Path) -> Network:
    """Fit a boosted tree to UCI Adult below 45 years of age; the shift is that people are older."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    inputs, labels, age = read_adult(folder)
    young, old = np.flatnonzero(age < 45), np.flatnonzero(age >= 45)
    train, val, test = np.split(np.random.default_rng(0).permutation(young), [4000, 9000])
    model = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.2, random_state=0)
    model.fit(inputs[train], labels[train])
    rows = [(np.log(np.maximum(model.predict_proba(inputs[part]), 1e-12)), labels[part]) for part in (val, test, old)]
    return Network("boosted trees, Adult", rows[0], rows[1], ("45 years and older", rows[2][0][None], rows[2][1]))


def sentiment(folder: Path) -> Network:
    """Fit a logistic regression of words to film reviews (SST-2); the shift is reviews of products (CR)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    parts = {name: read_text(folder, f"{name}.all" if name == "custrev" else f"stsa.binary.{name}")
             for name in ("train", "dev", "test", "custrev")}  # fmt: skip
    words = TfidfVectorizer(min_df=2).fit(parts["train"][0])
    model = LogisticRegression(C=30, max_iter=1000).fit(words.transform(parts["train"][0]), parts["train"][1])
    rows = {name: (np.log(model.predict_proba(words.transform(text))), labels)
            for name, (text, labels) in parts.items()}  # fmt: skip
    shift = ("reviews of products", rows["custrev"][0][None], rows["custrev"][1])
    return Network("words, SST-2", rows["dev"], rows["test"], shift)


def networks(folder: Path, work: Path) -> dict[str, Callable[[], Network]]:
    """Return what makes each network, by a short name."""
    return {
        "cross-entropy": lambda: published(folder, "cross_entropy", "cross-entropy"),
        "focal": lambda: published(folder, "focal_loss", "focal loss"),
        "resnet20": lambda: resnet20(folder, work),
        "cnn-fast": lambda: cnn_fast(folder, work),
        "fashion": lambda: fashion(folder, work),
        "digits": lambda: digits(folder, work),
        "adult": lambda: adult(folder),
        "sentiment": lambda: sentiment(folder),
    }


def read_adult(folder: Path, target: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs (words by number), labels (the income, or a column that is then no input) and age."""
    with (folder / "tabular/adult.data").open(encoding="utf-8", newline="") as file:
        header, *rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    values = [column.astype(float) if column[0].isdigit() else np.unique(column, return_inverse=True)[1].astype(float)
              for column in columns]  # fmt: skip
    told = header[-1] if target is None else target
    inputs = [value for name, value in zip(header, values, strict=True) if not name.startswith(told)]
    return np.stack(inputs, axis=1), values[header.index(told)].astype(int), values[header.index("age")]


def read_text(folder: Path, name: str) -> tuple[list[str], np.ndarray]:
    """Return texts and labels."""
    lines = (folder / "text" / name).read_text(encoding="latin-1").split("\n")
    pairs = [line.split(" ", 1) for line in lines if line[:1].isdigit() and line[1:2] == " "]
    return [text for _, text in pairs], np.unique([int(label) for label, _ in pairs], return_inverse=True)[1]


def _trained(title: str, settings: TrainSettings, work: Path) -> Network:
    run = train_run(settings, work / title)
    rows = []
    for split in ("val", "test"):
        found = run.predictions(split)
        assert found.logits is not None
        rows.append((found.logits.astype(float), found.labels))
    return Network(title, *rows, shift=_shift(load_networks(run), load_data(settings), work, 500))


def _shift(models: list[Any], data: Any, work: Path, limit: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Return logits of test images under every corruption at one severity."""
    test: Split = data.split("test")
    images = ShiftImages.of(test, "", num_classes=data.num_classes, limit=limit, source=shift_source(data))
    cells = [predict_logits(models[0], images.shifted(kind, SEVERITY)) for kind in images.source.kinds]
    name = f"{len(cells)} corruptions, severity {SEVERITY}"
    return name, np.stack(cells).astype(float), images.split.labels
