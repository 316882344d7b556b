"""Trained networks beside the answers of people: CIFAR-10H for test images, CIFAR-10N for training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from real.people import excess_of, losses
from robcal.base.checks import FloatArray, IntArray
from robcal.calibration.temperature import TemperatureScaling
from robcal.report import formatting
from robcal.training.predict import softmax
from wide.store import Arrays

#: Loss of a network against people → heading of its column.
TITLES = {"nll": "NLL of the label", "kl": "KL", "kl of shared votes": "KL of shared votes", "brier": "Brier"}


def read_votes(folder: Path) -> IntArray:
    """Read how many people gave each answer to the test images, (10000, 10), in the order of the test file."""
    counts = np.load(folder / "cifar10h-counts.npy", allow_pickle=False).astype(np.int64)
    return counts[np.load(folder / "index-of-shared-parquet.npy", allow_pickle=False)]


def against_people(arrays: Arrays, votes: IntArray) -> list[dict[str, float]]:
    """Return the mean losses of a run against people, as it comes and after one temperature, and its excess over them.

    The excess is the confidence less the share of people who give the predicted answer.
    """
    labels = {name: arrays[f"{name}_labels"].astype(np.int64) for name in ("val", "test")}
    logits = {name: arrays[name].astype(np.float64) for name in ("val", "test")}
    temperature = TemperatureScaling().fit(logits["val"], labels["val"]).temperature
    return [_told(softmax(logits["test"] / one), labels["test"], votes) for one in (1.0, temperature)]


def _told(probs: FloatArray, labels: IntArray, votes: IntArray) -> dict[str, float]:
    found = {**losses(labels, votes, probs), "excess": excess_of(votes, probs)}
    return {name: float(values.mean()) for name, values in found.items()}


def people_rows(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], titles: Mapping[str, str]
) -> list[list[str]]:
    """Write the rows of a table: means over the seeds of every recipe, as it comes and after a temperature."""
    rows = []
    for recipe, seeds in runs.items():
        for variant, suffix in enumerate(("", " + T")):
            means = {key: float(np.mean([one[variant][key] for one in seeds])) for key in seeds[0][variant]}
            rows.append([titles[recipe] + suffix, *(formatting.short(means[key], 3) for key in (*TITLES, "excess"))])
    return rows


def noise_rows(facts: Mapping[str, Sequence[Mapping[str, Any]]], titles: Mapping[str, str]) -> list[list[str]]:
    """Write share of wrong labels and final smoothing of every level, means over the seeds, of recipes with levels."""
    rows = []
    for recipe, runs in facts.items():
        if "noise" in runs[0]:
            noise = np.mean([one["noise"] for one in runs], axis=0)
            epsilon = np.mean([one["history"][-1]["epsilon"] for one in runs], axis=0)
            rows += [[f"{titles[recipe]}: {name}", *(formatting.short(value, 2) for value in values)]
                     for name, values in (("share of wrong labels", noise), ("ε at the end", epsilon))]  # fmt: skip
    return rows


def noise_ranks(facts: Mapping[str, Sequence[Mapping[str, Any]]], titles: Mapping[str, str]) -> str:
    """Write Spearman's rank correlation of wrong labels and final smoothing over the levels, seed by seed."""
    found = {recipe: ", ".join(map(rank_correlation, runs)) for recipe, runs in facts.items() if "noise" in runs[0]}
    return "; ".join(f"{titles[recipe]} {each}" for recipe, each in found.items())


def rank_correlation(fact: Mapping[str, Any]) -> str:
    """Write that of one run; a dash where all levels have the same smoothing or the same share of wrong labels."""
    pair = fact["noise"], fact["history"][-1]["epsilon"]
    if min(map(np.ptp, pair)) == 0:
        return formatting.NOTHING
    return formatting.short(float(spearmanr(*pair).statistic), 2, formatting.signed)
