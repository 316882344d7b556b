"""Measure small networks on every labelled image that they have not seen, not on the test split alone.

Usage: python benchmarks/unused_images.py --data cifar10:PATH --cache runs/study --page docs/evidence/unused-images.md

The comparison cifar10-running-seeds trains on 5,000 images and validates on 4,000; 41,000 more have labels. On 10,000
test images the error of a nearly calibrated network is mostly noise; on 51,000 less of it is. Networks are trained as
`robcal compare cifar10-running-seeds --cache DIR` makes them, and found there if they are; under shift, 4,000 test
images are corrupted. What is measured of a network is kept below --cache: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robcal.base.checks import FloatArray, IntArray
from robcal.base.files import replacing
from robcal.base.storage import load_json, save_json
from robcal.base.types import Float32Array
from robcal.calibration import TemperatureScaling, aurc, calibration_noise_floor, negative_log_likelihood, signed_gap
from robcal.calibration.binning import bin_sums, summarise
from robcal.calibration.corrected import BinGaps
from robcal.calibration.seeds import seed_mean_interval
from robcal.comparison.plan_file import load_plan
from robcal.comparison.tasks import Place
from robcal.data import Split, load_dataset
from robcal.data.splits import stratified_subset
from robcal.report import formatting
from robcal.runs.directory import Run, load_networks
from robcal.runs.shift import ShiftImages
from robcal.runs.train import train_run
from robcal.training.predict import predict_logits, softmax

PRESET = "cifar10-running-seeds"
ROWS = ("Plain", "AdaLS", "Running levels", "Mixup", "Running levels, mixup")
OURS = ("Running levels", "Running levels, mixup")
SCALED = "Plain + T"
SEVERITY, SHIFTED = 3, 4000
#: Columns of the page after the accuracy, and what is compared, on which images.
FIGURES = ("measured", "floor", "ece", "gap", "nll", "aurc")
COMPARED = (
    ("ECE, corrected, test", "ece", "test"),
    ("ECE, corrected, all", "ece", "all"),
    ("NLL, test", "nll", "test"),
    ("NLL, all", "nll", "all"),
    ("AURC, test", "aurc", "test"),
    ("AURC, all", "aurc", "all"),
    ("ECE shift, corrected", "shift_ece", ""),
)


def main(arguments: list[str] | None = None) -> None:
    """Train and measure what is missing, then write the page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10:PATH")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--page", type=Path, required=True, help="the page; its numbers lie beside it as JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="of the recipe, for a trial")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trial = {name: int(value) for name, _, value in (text.partition("=") for text in options.set)}
    plan = load_plan(PRESET, seeds=options.seeds, recipe={"data": options.data, "device": "cpu", **trial})
    found: dict[str, dict[str, Any]] = {}
    for seed in plan.seeds:
        for label in ROWS:
            place = Place(options.cache)
            settings = plan.settings(plan.method(label), seed)
            print(f"{label}, seed {seed}", flush=True)
            run = train_run(settings, place.of(settings))
            rows = kept(run, place.corrupted)
            for variant, name in (("raw", label), ("scaled", f"{label} + T")):
                found.setdefault(name, {})[str(seed)] = rows[variant]
    save_json(found, options.page.with_suffix(".json"))
    with replacing(options.page) as temporary:
        shown = {name: rows for name, rows in found.items() if name in (*ROWS, SCALED)}
        temporary.write_text(page(shown), encoding="utf-8")


def kept(run: Run, corrupted: Path) -> dict[str, Any]:
    """Measure a run, or read what was measured of it."""
    file = run.directory / "unused-images.json"
    if not file.is_file():
        save_json(measured(run, corrupted), file)
    found: dict[str, Any] = load_json(file)
    return found


def measured(run: Run, corrupted: Path) -> dict[str, Any]:
    """Measure a run, as it comes ("raw") and after one temperature of its validation split ("scaled").

    Returns:
        Variant → "test", "all" → figures of the test split, and of it with the unused images; "shift_ece".
    """
    network = load_networks(run)[0]
    unused, test = unused_images(run), run.predictions("test")
    logits = np.concatenate([test.logits, predict_logits(network, unused)])
    labels = np.concatenate([test.labels, unused.labels])
    cells = shifted_logits(run, network, corrupted)
    val = run.predictions("val")
    found = {}
    for variant, heat in (("raw", 1.0), ("scaled", TemperatureScaling().fit(val.logits, val.labels).temperature)):
        probs = softmax(logits / heat)
        diagrams = [bin_sums(summarise(softmax(one / heat), truth)) for one, truth in cells]
        found[variant] = {
            "test": figures(probs[: len(test.labels)], test.labels),
            "all": figures(probs, labels),
            "shift_ece": BinGaps.of(*diagrams).corrected,
        }
    return found


def unused_images(run: Run) -> Split:
    """Return the images of the training file that the run neither trained nor validated on."""
    settings = run.settings
    pool = load_dataset(settings.data, val_fraction=settings.val_fraction, seed=settings.data_seed)
    train = pool.split("train")
    used = stratified_subset(train.labels, settings.train_limit, settings.data_seed, num_classes=pool.num_classes)
    assert np.array_equal(train.labels[used], run.dataset().split("train").labels)
    return train.subset(np.setdiff1d(np.arange(len(train)), used))


def shifted_logits(run: Run, network: torch.nn.Module, folder: Path) -> list[tuple[Float32Array, IntArray]]:
    """Return logits and labels of the first test images, drawn by class, under every corruption of one severity."""
    data = run.dataset()
    images = ShiftImages.of(
        data.split("test"), run.record["data"]["test"], num_classes=data.num_classes,
        limit=min(SHIFTED, len(data.split("test"))), folder=folder,
    )  # fmt: skip
    cells = [images.shifted(kind, severity) for kind, severity in images.cells if severity == SEVERITY]
    return [(predict_logits(network, cell), cell.labels) for cell in cells]


def figures(probs: FloatArray, labels: IntArray) -> dict[str, float]:
    """Measure probabilities: error as measured and with most of its bias removed, its floor, likelihood, ranking."""
    gaps = BinGaps.of(bin_sums(summarise(probs, labels)))
    return {
        "n": len(labels),
        "accuracy": float((probs.argmax(1) == labels).mean()),
        "measured": gaps.measured,
        "ece": gaps.corrected,
        "floor": float(calibration_noise_floor(probs)),
        "gap": float(signed_gap(probs, labels)),
        "nll": float(negative_log_likelihood(probs, labels)),
        "aurc": float(aurc(probs, labels)),
    }


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page: what is measured of each recipe, and differences, on the test split and on all images."""
    first = next(iter(next(iter(found.values())).values()))
    sizes = {part: f"{first[part]['n']:,}" for part in ("test", "all")}
    seeds = len(next(iter(found.values())))
    about = f"""# Small networks on every labelled image that they have not seen

`cnn-fast`, CIFAR-10 (JPEG), {seeds} seeds, 2 CPU cores: {sizes["test"]} test images, and {sizes["all"]} images with
those of the training file that a run neither trained nor validated on. *ECE, corrected*: with most of the bias of noise
removed; *floor*: what a perfectly calibrated network with these confidences measures on average. Shift: {SHIFTED:,}
test images under 15 corruptions of severity {SEVERITY}. Means over the seeds; differences are paired by seed, with the
95% t interval over seeds, each of which has its own split. *Running levels*: AR-AdaLS by running margins; + T:
after one temperature fitted on the 4,000 validation images. `python benchmarks/unused_images.py` writes this page.

| recipe | images | accuracy | ECE, measured | floor | ECE, corrected | gap | NLL | AURC | ECE shift, corrected |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""
    lines = []
    for name, rows in found.items():
        for part in ("test", "all"):
            mean = {key: np.mean([row[part][key] for row in rows.values()]) for key in first[part]}
            shift = np.mean([row["shift_ece"] for row in rows.values()])
            cells = [name if part == "test" else "", sizes[part], f"{mean['accuracy']:.3f}"]
            cells += [formatting.signed(mean[key]) if key == "gap" else f"{mean[key]:.4f}" for key in FIGURES]
            lines.append("| " + " | ".join([*cells, f"{shift:.4f}" if part == "all" else ""]) + " |")
    return "\n".join([about, *lines, "", *differences(found)]) + "\n"


def differences(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write the table of paired differences of our recipes against the others."""
    heads = [head for head, _, _ in COMPARED]
    lines = ["| minus | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for ours in OURS:
        for other in (name for name in found if name not in OURS or (ours != OURS[0] and name == OURS[0])):
            pairs = [(found[ours][seed], found[other][seed]) for seed in found[ours]]
            cells = [difference(pairs, key, part) for _, key, part in COMPARED]
            lines.append(f"| {ours} − {other} | " + " | ".join(cells) + " |")
    return lines


def difference(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], key: str, part: str) -> str:
    """Return the mean difference of a figure with its interval."""
    values = [(one[part][key] - two[part][key]) if part else one[key] - two[key] for one, two in pairs]
    return formatting.with_interval(seed_mean_interval(values), formatting.signed)


if __name__ == "__main__":
    main()
