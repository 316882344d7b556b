"""Which margins running levels are cut by, where the training pass sees augmented or mixed images: a comparison.

Usage: python benchmarks/running_margins.py cifar10:PATH --work DIR --out docs/evidence/running/margins.md

The recipe is that of the preset cifar10-overfit (`cnn-fast`, 5,000 training images, 16 epochs, bf16), in a loop of its
own around `robcal.ARAdaLS`: without augmentation, with pad-crop and flip ("standard"), or with mixup. Levels are cut by

    none       one level for all: AdaLS
    pass       the margins of the training pass, whatever image it saw; under mixup those of the example listed first
    near       under mixup: of those passes alone whose image is at least nine tenths of one example, as that example's
    clean-K    of the training images themselves, in eval mode, in a further pass after every K-th epoch; with K = 4
               after the third, just before labels are softened first

Figures are of the test split as it comes, and under 15 corruptions at severities 2 and 4 (1,000 images each); "rank" is
Spearman's correlation of the training averages with the margins of the final network on the training images.
Results are kept in DIR, one file a run, and a run that is there is not made again; beside the table its numbers are
written as JSON, the CPU seconds of each training among them.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

import robcal
from robcal.base.files import replacing
from robcal.calibration import accuracy, aurc, calibration_error, negative_log_likelihood
from robcal.data.augment import pad_crop_flip
from robcal.data.dataset import Dataset
from robcal.methods.mixup import draw_mixture, mix
from robcal.runs.directory import load_data
from robcal.runs.shift import CELLS, ShiftImages
from robcal.smoothing.running import logit_margin
from robcal.training.loop import schedule
from robcal.training.predict import predict_logits, softmax
from robcal.training.recipe import build_networks
from robcal.training.settings import TrainSettings

EPOCHS, BATCH, RATE, NUM_LEVELS = 16, 128, 0.1, 10
#: Share of one example in a mixture from which on the image counts as that example.
NEAR = 0.9
#: What is compared under each recipe.
PLANS = {
    "mixup": ("none", "pass", "near", "clean-4"),
    "standard": ("none", "pass", "clean-4"),
    "plain": ("none", "pass", "clean-4"),
}
FIGURES = ("accuracy", "ece", "ece shift", "nll", "nll shift", "aurc", "rank", "training x")
CELLS_USED = [cell for cell in CELLS if cell[1] in (2, 4)]


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for recipe in options.recipes:
        for seed in options.seeds:
            for source in PLANS[recipe]:
                file = options.work / f"{recipe}-{source}-{options.decay:g}-{seed}.json"
                if not file.exists():
                    found = measured(options.data, recipe, source, seed, options)
                    file.write_text(json.dumps(found))
                    print(file.name, {name: value and round(value, 4) for name, value in found.items()}, flush=True)
                rows.setdefault((recipe, source), []).append(json.loads(file.read_text()))
    text = table(rows, options)
    if options.out:
        raw = {f"{recipe}, {source}": found for (recipe, source), found in rows.items()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        for file, content in (
            (options.out, text),
            (options.out.with_suffix(".json"), json.dumps(raw, indent=1) + "\n"),
        ):
            with replacing(file) as temporary:
                temporary.write_text(content, encoding="utf-8")
    print(text)


def settings_of(data: str, seed: int) -> TrainSettings:
    """The settings that name data and network."""
    return TrainSettings(data, "cnn-fast", "vanilla", epochs=EPOCHS, train_limit=5000, val_fraction=0.08, seed=seed)


@functools.lru_cache(maxsize=1)
def data_of(data: str, seed: int) -> Dataset:
    """The data, cut by the seed."""
    return load_data(settings_of(data, seed))


def measured(name: str, recipe: str, source: str, seed: int, options: argparse.Namespace) -> dict[str, float | None]:
    """Train one network and return its figures, with the CPU seconds of the training."""
    data = data_of(name, seed)
    network = build_networks(settings_of(name, seed), data)[0]
    begin = time.process_time()
    smoothing = train(network, data, recipe, source, seed, options.decay)
    seconds = time.process_time() - begin
    test = data.split("test")
    probs = softmax(predict_logits(network, test))
    images = ShiftImages.of(
        test, data.digest("test"), num_classes=data.num_classes, limit=1000, folder=options.work / "corrupted"
    )
    shifted = [softmax(predict_logits(network, images.shifted(*cell))) for cell in CELLS_USED]
    true = images.split.labels
    averages = smoothing.state_dict()["train_margins"].numpy()
    clean = logit_margin(torch.from_numpy(predict_logits(network, data.split("train")))).numpy()
    seen = ~np.isnan(averages)
    return {
        "accuracy": accuracy(probs, test.labels),
        "ece": calibration_error(probs, test.labels),
        "ece shift": float(np.mean([calibration_error(cell, true) for cell in shifted])),
        "nll": negative_log_likelihood(probs, test.labels),
        "nll shift": float(np.mean([negative_log_likelihood(cell, true) for cell in shifted])),
        "aurc": aurc(probs, test.labels),
        "rank": float(spearmanr(averages[seen], clean[seen]).statistic) if source != "none" else None,
        "training x": seconds,
    }


def train(network: nn.Module, data: Dataset, recipe: str, source: str, seed: int, decay: float) -> robcal.ARAdaLS:
    """Train in place, as anybody writes it who has `robcal.ARAdaLS`."""
    split, val = data.split("train"), data.split("val")
    images, labels = torch.from_numpy(split.inputs), torch.from_numpy(split.labels)
    num_levels = 1 if source == "none" else NUM_LEVELS
    smoothing = robcal.ARAdaLS(data.num_classes, num_levels, epochs=EPOCHS, decay=decay)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    generator, steps, step = torch.Generator().manual_seed(seed), -(-len(labels) // BATCH), 0
    every = int(source.removeprefix("clean-")) if source.startswith("clean") else 0
    clean = torch.zeros(len(labels), data.num_classes)  # until the first pass, when all labels are hard
    for epoch in range(EPOCHS):
        network.train()
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(labels)))
        for index in order.tensor_split(steps):
            inputs = images[index].float() / 255
            targets, place, share = smoothing.soft_targets(labels[index], index), index, 1.0
            if recipe == "standard":
                inputs = pad_crop_flip(inputs, generator=generator)
            if recipe == "mixup":
                share, partner = draw_mixture(len(index), 0.2, generator)
                inputs, targets = mix(inputs, inputs[partner], share), mix(targets, targets[partner], share)
                place = index if share >= 0.5 or source != "near" else index[partner]
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(inputs.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), targets)
            if source in ("none", "pass") or (source == "near" and max(share, 1 - share) >= NEAR):
                smoothing.keep_margins(logits, place)
            optimizer.param_groups[0]["lr"] = RATE * schedule(step, EPOCHS * steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        if every:
            clean = torch.from_numpy(predict_logits(network, split)) if (epoch + 2) % every == 0 else clean
            smoothing.keep_margins(clean, torch.arange(len(labels)))
        smoothing.end_epoch(predict_logits(network, val), val.labels)
    network.eval()
    return smoothing


def table(rows: dict[tuple[str, str], list[dict[str, float]]], options: argparse.Namespace) -> str:
    """Markdown: means over the seeds, and beneath each the standard deviation of its paired difference to AdaLS."""
    lines = [
        f"`cnn-fast`, 5,000 training images, {EPOCHS} epochs, seeds {', '.join(map(str, options.seeds))}, decay "
        f"{options.decay:g}, {NUM_LEVELS} levels; means, ± the standard error of the paired difference to one level.",
        "",
        "| recipe | levels by | " + " | ".join(FIGURES) + " |",
        "|---|---|" + "---:|" * len(FIGURES),
    ]
    for (recipe, source), found in rows.items():
        cells = []
        for figure in FIGURES:
            if found[0][figure] is None:
                cells.append("–")
                continue
            own = np.array([row[figure] for row in found])
            if figure == "rank":
                cells.append(f"{own.mean():.3f}")
                continue
            other = np.array([row[figure] for row in rows[recipe, "none"]])
            if figure == "training x":
                cells.append(f"{np.mean(own / other):.2f}")
                continue
            error = np.std(own - other, ddof=1) / len(own) ** 0.5 if len(own) > 1 and source != "none" else np.nan
            cells.append(f"{own.mean():.3f}" + ("" if np.isnan(error) else f" ±{error:.3f}"))
        lines.append(f"| {recipe} | {source} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
