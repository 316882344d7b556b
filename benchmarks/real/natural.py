"""Measure networks under a natural shift: photographs of another collection, reviews of other things.

The ResNets for CIFAR-10 see the classes of Tiny ImageNet (32x32) that are classes of CIFAR-10; the classifier of film
reviews (SST-2) sees reviews of products (CR). Every repair is fitted without shift, on the part of CIFAR-10 (JPEG) or
SST-2 that is not measured. Levels are tenths of the shifted inputs, or those of inputs without shift by their
thresholds: what a level means where the inputs have changed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from real import claim
from real.claim import Measured, distances, level_gaps, measured, repairs
from real.networks import PUBLISHED, cifar10_test, halves, published_resnet, run
from real.tables import reviews, sentences
from robcal import Recalibrator, assign_levels
from robcal.base.checks import IntArray
from robcal.base.levels import levels_by_thresholds

#: Images without and with shift that are measured, and the first of these that get a distance.
HERE, THERE = (2000, 500), (3000, 1000)
SCORES = ("margin", "adversarial distance")


@dataclass(frozen=True)
class Shifted:
    """Hold one network on inputs without a shift and with it, repaired alike.

    Attributes:
        name: what a table calls it.
        here: inputs like those that it was repaired on.
        there: inputs of the shift.
    """

    name: str
    here: Measured
    there: Measured


def jobs(folder: Path, limit: int, work: Path) -> dict[str, Callable[[], Shifted]]:
    """Name every network whose data the folder holds, with what measures it; arguments are those of `claim.jobs`."""
    found: dict[str, Callable[[], Shifted]] = {}
    parts = ("cifar10-natural-shift/map.tsv", "tinyimagenet32", "pretrained/resnet-cifar10", "cifar10")
    if all((folder / part).exists() for part in parts):
        for depth in PUBLISHED:
            found[f"ResNet-{depth}"] = partial(resnet, folder, depth, limit, work)
    if (folder / "text/custrev.all").is_file():
        found["network of 100 units"] = partial(text, folder, limit, work)
    return found


def resnet(folder: Path, depth: int, limit: int, work: Path) -> Shifted:
    """Measure a published ResNet on CIFAR-10 (JPEG) and on Tiny ImageNet."""
    images, labels = cifar10_test(folder)
    val, test = halves(len(labels), min(limit, HERE[0]))
    network = published_resnet(folder, depth)
    fitted = repairs(run(network, images[val]), labels[val])
    known = (images[test].numpy(), labels[test], HERE[1])
    shifted = (*read_shifted(folder, min(limit, THERE[0])), THERE[1])
    names = (f"ResNet-{depth}, CIFAR-10 (JPEG)", f"ResNet-{depth}, Tiny ImageNet")
    parts = zip(names, (known, shifted), strict=True)
    return Shifted(f"ResNet-{depth}", *(applied(network, fitted, name, *part, (0.0, 1.0), work)
                                        for name, part in parts))  # fmt: skip


def text(folder: Path, limit: int, work: Path) -> Shifted:
    """Measure the classifier of film reviews on film reviews and on reviews of products."""
    found, encode = sentences(folder)
    fitted = repairs(run(found.model, found.val[0]), found.val[1])
    texts, labels = reviews(folder)
    parts = (
        (found.name, found.test[0][:limit].numpy(), found.test[1][:limit], limit),
        ("network of 100 units, CR", encode(texts[:limit]), labels[:limit], limit),
    )
    return Shifted("network of 100 units", *(applied(found.model, fitted, *part, None, work) for part in parts))


def applied(
    network: nn.Module,
    fitted: dict[str, Recalibrator],
    name: str,
    inputs: NDArray[np.float32],
    labels: IntArray,
    count: int,
    box: Any,
    work: Path,
) -> Measured:
    """Measure a network with its repairs on some inputs, of which the first `count` get a distance."""
    logits = run(network, torch.from_numpy(inputs))
    probs = {variant: one.predict_proba(logits) for variant, one in fitted.items()}
    distance, passes = distances(network, inputs[:count], box, work / f"natural/{name}.parquet")
    chosen, scores = str(fitted["auto"].method), {"adversarial distance": distance}
    return measured(name, logits, labels, probs, chosen, scores, passes)


def read_shifted(folder: Path, limit: int) -> tuple[NDArray[np.float32], IntArray]:
    """Draw images of Tiny ImageNet whose class is one of CIFAR-10, (N, 3, 32, 32) in [0, 1], with its CIFAR-10 label.

    Both published parts are drawn from: no network here was trained on either.
    """
    with (folder / "cifar10-natural-shift/map.tsv").open(encoding="utf-8", newline="") as lines:
        label_of = {int(row["tiny_label"]): int(row["cifar10_label"]) for row in csv.DictReader(lines, delimiter="\t")}
    pictures, labels = [], []
    for part in ("train", "val"):
        rows = pq.read_table(folder / f"tinyimagenet32/{part}.parquet", filters=[("label", "in", list(label_of))])
        pictures += rows["image"].to_pylist()
        labels += [label_of[label] for label in rows["label"].to_pylist()]
    drawn = np.random.default_rng(0).permutation(len(labels))[:limit]
    images = [np.asarray(Image.open(io.BytesIO(pictures[row])).convert("RGB")) for row in drawn]
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255, np.array(labels)[drawn]


def record(one: Shifted) -> dict[str, Any]:
    """Reduce a network to the numbers of the page, as JSON."""
    moved = {score: levels_of_here(one, score) for score in SCORES}
    levels = {
        variant: {
            score: level_gaps(probs[: len(level)], one.there.labels[: len(level)], level)
            for score, level in moved.items()
        }
        for variant, probs in one.there.probs.items()
    }
    shares = {score: np.bincount(level, minlength=claim.LEVELS) / len(level) for score, level in moved.items()}
    return {"name": one.name, "here": claim.record(one.here), "there": claim.record(one.there),
            "levels of here": levels, "shares": {score: share.tolist() for score, share in shares.items()}}  # fmt: skip


def levels_of_here(one: Shifted, score: str) -> IntArray:
    """Give shifted inputs that have a score levels by the thresholds of those without shift."""
    known = one.here.scores[score]
    return levels_by_thresholds(known, assign_levels(known, claim.LEVELS), one.there.scores[score])
