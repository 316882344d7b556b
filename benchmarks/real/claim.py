"""Measure the paper's first claim on published networks: by which score are inputs miscalibrated, repaired or not?

Every network is repaired on one part of its held-out examples and measured on another; where there is one small set, by
cross-fitting. Levels are tenths of a score of the measured examples: adversarial distance, the network's own logit
margin, the margin of another network (the referee), the loss of the label and a random order. The gap is mean
confidence minus accuracy.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import chi2, norm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from real import imagenet
from real.networks import (
    JPEG,
    Predictions,
    cifar10_test,
    halves,
    image_jobs,
    published_logits,
    published_resnet,
    resnets_at_hand,
    run,
)
from real.tables import Network, adult, sentences
from real.tuned import BOTH, TUNED, tuned_average, tuned_resnet
from recalibration_networks import fashion_mnist, fashion_settings
from robcal import Recalibrator, assign_levels
from robcal.base.checks import FloatArray, IntArray
from robcal.base.types import Scores
from robcal.calibration import calibration_error, calibration_error_interval, negative_log_likelihood
from robcal.calibration.recalibration.maps import margins
from robcal.robustness.shards import score_in_shards
from robcal.runs.directory import load_networks
from robcal.runs.train import train_run

LEVELS, FOLDS = 10, 5
#: A score that knows the label, so that its lowest level holds wrong predictions by construction.
LOSS = "loss, largest first"
VARIANTS = ("none", "temperature", "auto")


@dataclass(frozen=True)
class Measured:
    """Hold what is measured of one network.

    Attributes:
        name: what a table calls the network and the data.
        labels: (N,) labels of the measured examples.
        probs: (N, Z) probabilities as they come ("none"), after one temperature, and after what `auto` chose.
        chosen: the method that `auto` chose.
        scores: scores by name, (N,), or (M,) where only the first M examples have one.
        passes: mean forward-and-backward passes of an adversarial distance; None where there is none.
    """

    name: str
    labels: IntArray
    probs: dict[str, FloatArray]
    chosen: str
    scores: dict[str, FloatArray] = field(default_factory=dict)
    passes: float | None = None


def jobs(folder: Path, limit: int, work: Path) -> dict[str, Callable[[], Measured]]:
    """Name every network whose data the folder holds, with what measures it.

    Args:
        folder: of the data.
        limit: examples of a network that get a distance.
        work: folder that keeps distances, finished or not.
    """
    found: dict[str, Callable[[], Measured]] = image_jobs(folder, resnet50, resnet, limit, work)
    if resnets_at_hand(folder):
        found |= {name: partial(tuned, folder, name, limit, work) for name in (*TUNED.values(), BOTH)}
    if (folder / "tabular/adult.data").is_file():
        found["network of 100 units, UCI Adult"] = lambda: small(adult(folder), limit, work)
    if (folder / "text/stsa.binary.train").is_file():
        found["network of 100 units, SST-2"] = lambda: small(sentences(folder)[0], limit, work)
    if imagenet.at_hand(folder):
        found["EfficientNet-lite0, ImageNet"] = lambda: efficientnet(folder, work)
    if (data := fashion_mnist(folder)) is not None:
        found["cnn-fast, Fashion-MNIST"] = lambda: fashion(data, limit, work)
    return found


def repaired(found: Predictions, scores: dict[str, FloatArray], passes: float | None = None) -> Measured:
    """Repair a network on its validation examples, by one temperature and by `auto`."""
    fitted = repairs(*found.val)
    probs = {variant: one.predict_proba(found.test[0]) for variant, one in fitted.items()}
    return measured(found.name, *found.test, probs, str(fitted["auto"].method), scores, passes)


def repairs(logits: FloatArray, labels: IntArray) -> dict[str, Recalibrator]:
    """Fit every repair that is compared."""
    return {variant: Recalibrator(variant).fit(logits, labels) for variant in VARIANTS}


def measured(
    name: str,
    logits: FloatArray,
    labels: IntArray,
    probs: dict[str, FloatArray],
    chosen: str,
    scores: dict[str, FloatArray],
    passes: float | None,
) -> Measured:
    """Add the scores that logits and labels give, and a random order."""
    order = np.random.default_rng(0).random(len(labels))
    likely = log_softmax(logits.astype(float), axis=1)[np.arange(len(labels)), labels]
    every = {**scores, "margin": margins(logits), LOSS: likely, "random order": order}
    return Measured(name, labels, probs, chosen, every, passes)


def cross_repaired(logits: FloatArray, labels: IntArray) -> tuple[dict[str, FloatArray], str]:
    """Repair every fifth of a small set on the other four; return probabilities by variant, and what `auto` chose."""
    probs = {variant: np.empty(logits.shape) for variant in VARIANTS}
    chosen: Counter[str] = Counter()
    for fit_rows, rows in KFold(FOLDS, shuffle=True, random_state=0).split(logits):
        fitted = repairs(logits[fit_rows], labels[fit_rows])
        chosen[str(fitted["auto"].method)] += 1
        for variant, one in fitted.items():
            probs[variant][rows] = one.predict_proba(logits[rows])
    return probs, ", ".join(f"{name} ({count} of {FOLDS} folds)" for name, count in chosen.most_common())


def resnet50(folder: Path, name: str, other: str) -> Measured:
    """Measure the published ResNet-50; the same network trained by the other loss is its referee."""
    logits = published_logits(folder)
    return repaired(logits[name], {"margin of another network": margins(logits[other].test[0])})


def resnet(folder: Path, depth: int, limit: int, work: Path) -> Measured:
    """Measure a published ResNet on CIFAR-10 (JPEG); another depth is its referee."""
    name, networks = f"ResNet-{depth}, {JPEG}", (published_resnet(folder, one) for one in (depth, 32))
    return on_jpeg(folder, name, *networks, limit, work)


def tuned(folder: Path, name: str, limit: int, work: Path) -> Measured:
    """Measure one of two ResNets that were trained further on JPEG images, whose referee is the other, or their mean.

    The referee of their mean is a published one.
    """
    if name == BOTH:
        networks = (tuned_average(folder, work), published_resnet(folder, 32))
    else:
        depths = sorted(TUNED, key=lambda depth: TUNED[depth] != name)
        networks = tuple(tuned_resnet(folder, depth, work) for depth in depths)
    return on_jpeg(folder, name, *networks, limit, work)


def on_jpeg(
    folder: Path, name: str, network: torch.nn.Module, referee: torch.nn.Module, limit: int, work: Path
) -> Measured:
    """Measure a network on CIFAR-10 (JPEG): half of the test images repair, `limit` others are measured."""
    images, labels = cifar10_test(folder)
    val, test = halves(len(labels), limit)
    parts = [(run(network, images[rows]), labels[rows]) for rows in (val, test)]
    distance, passes = distances(network, images[test].numpy(), (0.0, 1.0), work / f"{name}.parquet")
    scores = {"adversarial distance": distance, "margin of another network": margins(run(referee, images[test]))}
    return repaired(Predictions(name, *parts), scores, passes)


def small(found: Network, limit: int, work: Path) -> Measured:
    """Measure a network of a table or of sentences; its inputs have no bounds."""
    inputs, labels = found.test[0][:limit], found.test[1][:limit]
    predictions = Predictions(
        found.name, (run(found.model, found.val[0]), found.val[1]), (run(found.model, inputs), labels)
    )
    distance, passes = distances(found.model, inputs.numpy(), None, work / f"{found.name}.parquet")
    return repaired(predictions, {"adversarial distance": distance}, passes)


def efficientnet(folder: Path, work: Path) -> Measured:
    """Measure the published EfficientNet-lite0 on one image of each ImageNet class; there is one set: cross-fitted."""
    name, sample = "EfficientNet-lite0, ImageNet", imagenet.read_sample(folder)
    network = imagenet.published_efficientnet(folder, sample)
    scores = scored(network, sample.images, (0.0, 1.0), work / "EfficientNet-lite0, images.parquet", batch_size=16)
    imagenet.check_alike(scores.margin, margins(sample.logits))
    probs, chosen = cross_repaired(sample.logits, sample.labels)
    found = {"adversarial distance": scores.distance}
    return measured(name, sample.logits, sample.labels, probs, chosen, found, float(scores.passes.mean()))


def fashion(data: str, limit: int, work: Path) -> Measured:
    """Train a small network on Fashion-MNIST and measure it; the same network of another seed is its referee."""
    name = "cnn-fast, Fashion-MNIST"
    runs = [
        train_run(fashion_settings(data, seed), work / place) for seed, place in enumerate((name, f"{name}, again"))
    ]
    val, test, referee = (runs[run].predictions(part) for run, part in ((0, "val"), (0, "test"), (1, "test")))
    images = runs[0].dataset().split("test").inputs[np.arange(min(limit, len(test.labels)))]
    distance, passes = distances(load_networks(runs[0])[0], images, (0.0, 1.0), work / f"{name}.parquet")
    found = Predictions(name, (val.logits, val.labels), (test.logits[:limit], test.labels[:limit]))
    scores = {"adversarial distance": distance, "margin of another network": margins(referee.logits[:limit])}
    return repaired(found, scores, passes)


def distances(network: torch.nn.Module, inputs: NDArray[Any], box: Any, kept: Path) -> tuple[FloatArray, float]:
    """Return the distance of every input to the nearest one with another label, and the mean passes that it took."""
    scores = scored(network, inputs, box, kept)
    return scores.distance, float(scores.passes.mean())


def scored(network: torch.nn.Module, inputs: NDArray[Any], box: Any, kept: Path, batch_size: int = 256) -> Scores:
    """Score every input by `auto`, on a GPU where there is one.

    Args:
        network: to score.
        inputs: (N, …) as `robcal.score` takes them.
        box: of the inputs.
        kept: file of the finished scores; a scoring that was stopped goes on from the last full batch.
        batch_size: of `robcal.score`.
    """
    digest = hashlib.sha256(np.ascontiguousarray(inputs)).hexdigest()[:16]
    about = {"network": kept.stem, "inputs": digest}
    place = "cuda" if torch.cuda.is_available() else "cpu"
    return score_in_shards(copy.deepcopy(network).to(place), inputs, out=kept, about=about, method="auto", box=box,
                           shard_size=batch_size, batch_size=batch_size)  # fmt: skip


def record(one: Measured) -> dict[str, Any]:
    """Reduce a network to the numbers of the page, as JSON."""
    rows = {}
    for variant, probs in one.probs.items():
        rows[variant] = {
            "accuracy": float((probs.argmax(1) == one.labels).mean()),
            "confidence": float(probs.max(1).mean()),
            "ece": [float(calibration_error(probs, one.labels)), *calibration_error_interval(probs, one.labels)],
            "nll": float(negative_log_likelihood(probs, one.labels)),
            "levels": {name: gaps_by(probs, one.labels, values) for name, values in one.scores.items()},
        }
    within = {}
    if "adversarial distance" in one.scores:
        within = {variant: near_and_far(probs, one.labels, one.scores) for variant, probs in one.probs.items()}
    scored = len(one.scores.get("adversarial distance", ()))
    return {"name": one.name, "n": len(one.labels), "scored": scored, "chosen": one.chosen, "passes": one.passes,
            "variants": rows, "within margin": within, "regression": regression(one)}  # fmt: skip


def gaps_by(probs: FloatArray, labels: IntArray, values: FloatArray) -> dict[str, Any]:
    """Measure the tenths of a score, of the examples that have it."""
    return level_gaps(probs[: len(values)], labels[: len(values)], assign_levels(values, LEVELS))


def level_gaps(probs: FloatArray, labels: IntArray, level: IntArray) -> dict[str, Any]:
    """Measure accuracy, confidence and gap of each level, and how far the gaps are from 0 beyond chance.

    `rms` is the root mean square of the gaps over the levels with their sampling variance subtracted (0 where the
    variance is larger); `outside` counts the levels whose 95% interval leaves out 0. A level of fewer than two examples
    has no gap.
    """
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    residual = confidence - correct
    rows = [np.flatnonzero(level == number) for number in range(LEVELS)]
    filled = [row for row in rows if len(row) > 1]
    gap = np.array([residual[row].mean() for row in filled])
    error = np.array([residual[row].std(ddof=1) / np.sqrt(len(row)) for row in filled])
    halves = iter((norm.ppf(0.975) * error).tolist())
    return {
        "accuracy": means(correct, rows),
        "confidence": means(confidence, rows),
        "gap": means(residual, rows),
        "half": [next(halves) if len(row) > 1 else None for row in rows],
        "rms": float(np.sqrt(max(0.0, (gap**2 - error**2).mean()))),
        "outside": int((abs(gap) > norm.ppf(0.975) * error).sum()),
    }


def means(values: FloatArray, rows: list[IntArray]) -> list[float | None]:
    """Return the mean of each level, None where it has fewer than two examples."""
    return [float(values[row].mean()) if len(row) > 1 else None for row in rows]


def near_and_far(probs: FloatArray, labels: IntArray, scores: dict[str, FloatArray]) -> list[float]:
    """Return gap of the nearer minus gap of the farther half within tenths of the margin: mean, low and high (95%).

    Is the adversarial distance anything that the margin does not know already?
    """
    distance = scores["adversarial distance"]
    residual = (probs.max(1) - (probs.argmax(1) == labels))[: len(distance)]
    level = assign_levels(scores["margin"][: len(distance)], LEVELS)
    differences, variances = [], []
    for number in range(LEVELS):
        row = np.flatnonzero(level == number)
        half = assign_levels(distance[row], 2)
        near, far = residual[row][half == 0], residual[row][half == 1]
        differences.append(near.mean() - far.mean())
        variances.append(near.var(ddof=1) / len(near) + far.var(ddof=1) / len(far))
    mean, half_width = float(np.mean(differences)), float(norm.ppf(0.975) * np.sqrt(np.sum(variances)) / LEVELS)
    return [mean, mean - half_width, mean + half_width]


def regression(one: Measured) -> dict[str, list[float]]:
    """Regress being right on the confidence and the margin, and then on one score more: coefficient, |z| and p of it.

    The scores enter as normal quantiles of their ranks, so that coefficients compare.
    """
    found = {}
    for name, values in one.scores.items():
        if name not in ("margin", LOSS):
            base, correct = known(one, len(values))
            design = np.column_stack([base, quantiles(values)])
            ratio = max(0.0, 2 * (log_likelihood(design, correct) - log_likelihood(base, correct)))
            found[name] = [float(fit(design, correct)[-1]), float(np.sqrt(ratio)), float(chi2.sf(ratio, 1))]
    return found


def known(one: Measured, count: int) -> tuple[FloatArray, IntArray]:
    """Return confidence (as log odds, after one temperature) and margin of the first examples, and who is right."""
    probs = one.probs["temperature"][:count]
    top = np.clip(probs.max(1), 1e-9, 1 - 1e-9)
    base = np.stack([np.log(top / (1 - top)), quantiles(one.scores["margin"][:count])], axis=1)
    return base, (probs.argmax(1) == one.labels[:count]).astype(int)


def quantiles(values: FloatArray) -> FloatArray:
    """Replace values by the normal quantiles of their ranks."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return norm.ppf((ranks + 0.5) / len(values))


def fit(design: FloatArray, correct: IntArray) -> FloatArray:
    """Fit a logistic regression without a penalty and return its coefficients."""
    return LogisticRegression(C=np.inf, max_iter=1000).fit(design, correct).coef_[0]


def log_likelihood(design: FloatArray, correct: IntArray) -> float:
    """Return the log-likelihood of a logistic regression at its maximum."""
    fitted = LogisticRegression(C=np.inf, max_iter=1000).fit(design, correct)
    return float(np.log(fitted.predict_proba(design)[np.arange(len(correct)), correct]).sum())
