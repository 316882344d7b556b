"""Compare a classifier's probabilities with the answers of 50 people an image (CIFAR-10H, Peterson et al. 2019).

A classifier is *wrongly sure* of an input if its confidence exceeds by more than a quarter the share of people who give
that answer. Which score finds these inputs without asking anybody?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax, xlogy
from scipy.stats import rankdata
from sklearn.neighbors import NearestNeighbors

from real.claim import distances
from real.networks import (
    PUBLISHED,
    Predictions,
    cifar10_test,
    halves,
    image_jobs,
    published_logits,
    published_resnet,
    run,
)
from robcal import Recalibrator, assign_levels
from robcal.base.checks import FloatArray, IntArray
from robcal.calibration.recalibration.maps import margins
from robcal.data import load_dataset

EXCESS = 0.25
VARIANTS = ("none", "temperature", "score-temperature", "auto")
RESAMPLES = 400


@dataclass(frozen=True)
class Judged:
    """Hold a network beside the votes of people on the examples that are measured.

    Attributes:
        name: what a table calls it.
        labels: (N,) labels of the data set.
        votes: (N, Z) how many people gave each answer.
        probs: (N, Z) probabilities by variant.
        chosen: the method that `auto` chose.
        scores: (N,) scores by name; low where trouble is expected.
    """

    name: str
    labels: IntArray
    votes: IntArray
    probs: dict[str, FloatArray]
    chosen: str
    scores: dict[str, FloatArray]


def jobs(folder: Path, limit: int, work: Path) -> dict[str, Callable[[], Judged]]:
    """Name every network whose data the folder holds, with what judges it; arguments are those of `claim.jobs`."""
    return image_jobs(folder, resnet50, resnet, limit, work) if (folder / "cifar10h").is_dir() else {}


def read_votes(folder: Path) -> IntArray:
    """Read how many people gave each answer, (10000, 10), in the official order of the test images."""
    return np.load(folder / "cifar10h/cifar10h-counts.npy", allow_pickle=False).astype(np.int64)


def judged(found: Predictions, votes: IntArray, scores: dict[str, FloatArray]) -> Judged:
    """Repair a network on its validation examples in every way that is compared."""
    fitted = {variant: Recalibrator(variant).fit(*found.val) for variant in VARIANTS}
    probs = {variant: one.predict_proba(found.test[0]) for variant, one in fitted.items()}
    every = {"margin": margins(found.test[0]), **scores}
    return Judged(found.name, found.test[1], votes, probs, str(fitted["auto"].method), every)


def resnet50(folder: Path, name: str, other: str) -> Judged:
    """Judge the published ResNet-50; the same network trained by the other loss may disagree."""
    logits = published_logits(folder)
    scores = {"agreement of other networks": agreement(logits[name].test[0], [logits[other].test[0]])}
    return judged(logits[name], read_votes(folder), scores)


def resnet(folder: Path, depth: int, limit: int, work: Path) -> Judged:
    """Judge a published ResNet on CIFAR-10 (JPEG); three other published depths may disagree."""
    images, labels = cifar10_test(folder)
    votes = read_votes(folder)[np.load(folder / "cifar10h/index-of-shared-parquet.npy", allow_pickle=False)]
    val, test = halves(len(labels), limit)
    networks = {one: published_resnet(folder, one) for one in PUBLISHED}
    others = [run(network, images[test]) for one, network in networks.items() if one != depth]
    parts = [(run(networks[depth], images[rows]), labels[rows]) for rows in (val, test)]
    name = f"ResNet-{depth}, CIFAR-10 (JPEG)"
    scores = {
        "adversarial distance": distances(networks[depth], images[test].numpy(), (0.0, 1.0), work / f"{name}.parquet")[
            0
        ],
        "agreement of other networks": agreement(parts[1][0], others),
        "density of features": -strangeness(folder, networks[depth], images[test]),
    }
    return judged(Predictions(name, *parts), votes[test], scores)


def agreement(logits: FloatArray, others: list[FloatArray]) -> FloatArray:
    """Return the mean probability that other networks give to the prediction of this one, (N,)."""
    rows, predicted = np.arange(len(logits)), logits.argmax(1)
    return np.mean([softmax(other, axis=1)[rows, predicted] for other in others], axis=0)


def strangeness(folder: Path, network: Any, images: torch.Tensor, neighbours: int = 10) -> FloatArray:
    """Return the mean distance to the nearest training features of unit length (after Sun et al. 2022), (N,)."""
    train = load_dataset(f"cifar10:{folder / 'cifar10'}", train_limit=10000).split("train")
    inputs = train.batch(np.arange(len(train))).to(memory_format=torch.channels_last)
    known, asked = (unit(run(network.features, part)) for part in (inputs, images))
    return NearestNeighbors(n_neighbors=neighbours).fit(known).kneighbors(asked)[0].mean(1)


def unit(features: FloatArray) -> FloatArray:
    """Scale every row to length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def record(one: Judged) -> dict[str, Any]:
    """Reduce a network to the numbers of the page, as JSON."""
    variants = {variant: against_people(one, probs) for variant, probs in one.probs.items()}
    detectors = {variant: detection(one, variant) for variant in ("none", "temperature", "auto")}
    return {"name": one.name, "n": len(one.labels), "chosen": one.chosen, "variants": variants, "detection": detectors,
            "score-temperature minus temperature": paired(one, "score-temperature", "temperature"),
            "auto minus temperature": paired(one, "auto", "temperature")}  # fmt: skip


def against_people(one: Judged, probs: FloatArray) -> dict[str, Any]:
    """Compare probabilities with labels and with people: means with half-widths, and by tenths of the margin."""
    excess = excess_of(one.votes, probs)
    found = {**losses(one.labels, one.votes, probs), "gap": excess, "wrongly sure": (excess > EXCESS).astype(float)}
    level = assign_levels(one.scores["margin"], 10)
    tenths = {name: [float(values[level == number].mean()) for number in range(10)] for name, values in found.items()}
    return {"mean": {name: mean_and_half(values) for name, values in found.items()}, "by margin": tenths}


def losses(labels: IntArray, votes: IntArray, probs: FloatArray) -> dict[str, FloatArray]:
    """Return what every example costs: NLL of the label, KL(people || classifier), that of shared votes, and Brier."""
    people = shares(votes)
    return {
        "nll": -np.log(np.maximum(probs[np.arange(len(probs)), labels], 1e-300)),
        "kl": divergence(people, probs),
        "kl of shared votes": divergence(shares(np.where(votes > 1, votes, 0)), probs),
        "brier": ((probs - people) ** 2).sum(axis=1),
    }


def paired(one: Judged, first: str, second: str) -> dict[str, list[float]]:
    """Return the mean difference of two variants with its 95% half-width, for each loss."""
    ours, theirs = (losses(one.labels, one.votes, one.probs[variant]) for variant in (first, second))
    return {name: mean_and_half(ours[name] - theirs[name]) for name in ours}


def mean_and_half(values: FloatArray) -> list[float]:
    """Return the mean and the half-width of its 95% interval."""
    return [float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))]


def shares(votes: IntArray) -> FloatArray:
    """Return the share of people who gave each answer, (N, Z)."""
    return votes / votes.sum(axis=1, keepdims=True)


def excess_of(votes: IntArray, probs: FloatArray) -> FloatArray:
    """Return the confidence less the share of people who give the predicted answer, (N,)."""
    return probs.max(1) - shares(votes)[np.arange(len(probs)), probs.argmax(1)]


def divergence(people: FloatArray, probs: FloatArray) -> FloatArray:
    """Return KL(people || probs) of every row, in nats, (N,)."""
    return (xlogy(people, people) - people * np.log(np.maximum(probs, 1e-300))).sum(axis=1)


def detection(one: Judged, variant: str) -> dict[str, list[float]]:
    """Return AUROC of each score for the inputs that a variant is wrongly sure of, with a 95% bootstrap interval.

    A last number is the mean excess over people on the 80% of inputs that the score would keep.
    """
    probs = one.probs[variant]
    excess = excess_of(one.votes, probs)
    sure = excess > EXCESS
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(sure), size=len(sure)) for _ in range(RESAMPLES)]
    found = {}
    for name, values in {"confidence": probs.max(1), **one.scores}.items():
        low, high = np.quantile([auroc(sure[draw], -values[draw]) for draw in draws], [0.025, 0.975])
        kept = np.argsort(-values, kind="stable")[: int(0.8 * len(values))]
        found[name] = [auroc(sure, -values), float(low), float(high), float(excess[kept].mean())]
    return found


def auroc(positive: IntArray, values: FloatArray) -> float:
    """Return the chance that a positive example has the larger value, ties counting half (Mann and Whitney 1947)."""
    n = int(positive.sum())
    return float((rankdata(values)[positive].mean() - (n + 1) / 2) / (len(values) - n))
