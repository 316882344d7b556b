"""Train a table classifier (UCI Adult) and a text classifier (SST-2) with scikit-learn, and move them to torch.

The inputs of the text classifier are 200 numbers a sentence: TF-IDF of words and pairs of words, reduced by a truncated
SVD and scaled to unit variance. Its robustness is a distance in that space: no sentence need lie at the point found.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from robcal.base.checks import FloatArray, IntArray

#: Sentences → their inputs (N, D).
Encode = Callable[[list[str]], NDArray[np.float32]]

NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hr_per_week")
CATEGORIES = ("type_employer", "marital", "occupation", "relationship", "race", "sex", "country")


@dataclass(frozen=True)
class Network:
    """Hold a trained network and its held-out examples.

    Attributes:
        name: what a table calls it.
        model: maps (B, D) float32 inputs to (B, Z) logits.
        val: (V, D) inputs and (V,) labels that a recalibration may use.
        test: (N, D) inputs and (N,) labels that are measured.
    """

    name: str
    model: nn.Module
    val: tuple[torch.Tensor, IntArray]
    test: tuple[torch.Tensor, IntArray]


def adult(folder: Path) -> Network:
    """Train a network with one hidden layer on UCI Adult."""
    with (folder / "tabular/adult.data").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    labels = np.array([row["income"].strip() == ">50K" for row in rows], dtype=np.int64)
    numbers = np.array([[float(row[name]) for name in NUMBERS] for row in rows])
    numbers[:, 2:4] = np.log1p(numbers[:, 2:4])
    words = OneHotEncoder(sparse_output=False, min_frequency=50).fit_transform(
        [[row[name] for name in CATEGORIES] for row in rows]
    )
    inputs = np.concatenate([numbers, words], axis=1)
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.6, random_state=0, stratify=labels)
    val, test = train_test_split(rest, test_size=0.6, random_state=0, stratify=labels[rest])
    inputs = StandardScaler().fit(inputs[train]).transform(inputs)
    return fitted("network of 100 units, UCI Adult", inputs, labels, (train, val, test))


def sentences(folder: Path) -> tuple[Network, Encode]:
    """Train a network with one hidden layer on SST-2, on sentences turned into numbers; return also what turns them."""
    files = [folder / f"text/stsa.binary.{part}" for part in ("train", "dev", "test")]
    lines = [file.read_text(encoding="utf-8", errors="replace").splitlines() for file in files]
    texts = [line.split(" ", 1) for part in lines for line in part if " " in line]
    labels = np.array([int(label) for label, _ in texts])
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.5, random_state=0, stratify=labels)
    val, test = train_test_split(rest, test_size=0.6, random_state=0, stratify=labels[rest])
    space = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        TruncatedSVD(200, random_state=0),
        StandardScaler(),
    )
    space.fit([texts[row][1] for row in train])

    def encode(lines: list[str]) -> NDArray[np.float32]:
        return space.transform(lines).astype(np.float32)

    inputs = encode([text for _, text in texts])
    return fitted("network of 100 units, SST-2", inputs, labels, (train, val, test)), encode


def reviews(folder: Path) -> tuple[list[str], IntArray]:
    """Read reviews of products (CR), in an order drawn at random, and whether they are good (1) or bad (0)."""
    lines = (folder / "text/custrev.all").read_text(encoding="latin-1").splitlines()
    pairs = [line.split(" ", 1) for line in lines if " " in line]
    order = np.random.default_rng(0).permutation(len(pairs))
    return [pairs[row][1] for row in order], np.array([int(pairs[row][0]) for row in order])


def fitted(name: str, inputs: FloatArray, labels: IntArray, parts: tuple[IntArray, IntArray, IntArray]) -> Network:
    """Train one hidden layer of 100 units for 40 epochs without early stopping: it may over-fit."""
    train, val, test = parts
    inputs = inputs.astype(np.float32)
    mlp = MLPClassifier((100,), max_iter=40, n_iter_no_change=40, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that 40 epochs have not converged: that is meant
        mlp.fit(inputs[train], labels[train])
    model = as_torch(mlp)
    made = [(torch.from_numpy(inputs[rows]), labels[rows]) for rows in (val, test)]
    return Network(name, model, *made)


def as_torch(mlp: MLPClassifier) -> nn.Module:
    """Build the torch network of a binary `MLPClassifier`: two logits, of which the first is 0."""
    layers: list[nn.Module] = []
    for weight, bias in zip(mlp.coefs_, mlp.intercepts_, strict=True):
        linear = nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.copy_(torch.from_numpy(bias))
        layers += [linear, nn.ReLU()]
    last = nn.Linear(1, 2)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[0.0], [1.0]]))
        last.bias.zero_()
    return nn.Sequential(*layers[:-1], last).eval()
