"""What softening one level does to all levels: how the model answers the controller, measured.

Usage: python benchmarks/softening.py PLAIN:LEVELS [PLAIN:LEVELS …] --out docs/evidence/softening.md --work DIR

PLAIN is the run directory of a plain model, LEVELS that of an ar-adals run of the same seed (`robcal compare` makes
both); one pair a seed. Trained anew by the plain model's recipe are models that differ from it in nothing but that the
labels of one level's training examples are smoothed by a constant eps. Told is by how much the gap (confidence -
accuracy) of every validation level changes, and, after temperature scaling, the NLL and the mean ECE under shift (the
15 corruptions x 5 severities of 1,000 test images).

Levels that the plain model itself cut are those of its own accidents, which no second network shares: part of what
changes there is regression to the mean. `--epsilon 0.0001` softens nothing and so measures that part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from robcal.base.checks import FloatArray
from robcal.base.files import replacing
from robcal.base.progress import open_reporter
from robcal.base.storage import load_levels
from robcal.calibration.metrics import negative_log_likelihood
from robcal.calibration.temperature import TemperatureScaling
from robcal.methods import Method
from robcal.methods.method import Batch, State
from robcal.runs.directory import Run, load_data, load_model, open_run
from robcal.runs.shift import ShiftImages, ShiftLogits
from robcal.smoothing.soft_labels import level_statistics, mix_with_uniform
from robcal.training.loop import fit
from robcal.training.predict import predict_logits, softmax
from robcal.training.recipe import build_networks


def main() -> None:
    """Train, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="+", metavar="PLAIN:LEVELS")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 6], help="levels to soften, one at a time")
    parser.add_argument("--epsilon", type=float, default=0.5)
    parser.add_argument("--work", type=Path, required=True, help="folder of unfinished trainings and corrupted images")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain_rows, softened = [], {level: [] for level in options.levels}
    for pair in options.pairs:
        plain, levels = (open_run(Path(one)) for one in pair.split(":"))
        model, _ = load_model(plain.checkpoint)
        plain_rows.append(figures(plain, levels, model, options.work))
        for level in options.levels:
            softened[level].append(figures(plain, levels, soften(plain, levels, level, options), options.work))
    text = page(plain_rows, softened, options.epsilon, open_run(Path(options.pairs[0].split(":")[1])))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def soften(plain: Run, levels: Run, level: int, options: argparse.Namespace) -> torch.nn.Module:
    """A network trained by the plain model's recipe, but for the softened labels of one level."""
    data, settings = load_data(plain.settings), plain.settings
    levels_of_split = {
        name: load_levels(levels.directory / f"levels-{name}.parquet").level for name in ("train", "val")
    }

    def targets(state: State, batch: Batch, num_classes: int) -> torch.Tensor:
        return mix_with_uniform(batch.labels, options.epsilon * (batch.levels == level).float(), num_classes)

    method = Method(name=f"softened-{level}", title=f"level {level} softened", targets=targets, levels="robustness")
    networks = build_networks(settings, data)
    options.work.mkdir(parents=True, exist_ok=True)
    state = options.work / f"softened-{settings.seed}-{level}.pt"
    with open_reporter() as reporter:
        fit(networks, data, method, settings, levels=levels_of_split, state_file=state, reporter=reporter)
    state.unlink(missing_ok=True)
    return networks[0]


def figures(plain: Run, levels: Run, network: torch.nn.Module, work: Path) -> FloatArray:
    """Gap of every validation level; test accuracy; NLL and mean ECE under shift, both after temperature scaling."""
    data = load_data(plain.settings)
    val, test = data.split("val"), data.split("test")
    level = load_levels(levels.directory / "levels-val.parquet").level
    logits, test_logits = predict_logits(network, val), predict_logits(network, test)
    probs = softmax(logits)
    sure, right, _ = level_statistics(probs.max(1), probs.argmax(1) == val.labels, level, int(level.max()) + 1)
    scaling = TemperatureScaling().fit(logits, val.labels)
    accuracy = float((test_logits.argmax(1) == test.labels).mean())
    nll = negative_log_likelihood(scaling.transform(test_logits), test.labels)
    images = ShiftImages.of(
        test, data.digest("test"), num_classes=data.num_classes, limit=1000, folder=work / "corrupted"
    )
    cells = np.stack([predict_logits(network, images.shifted(*cell)) for cell in images.cells])
    shifted = ShiftLogits(cells, images.split.labels, images.index, images.cells).summary(scaling.temperature)
    return np.array([*(sure - right), accuracy, nll, shifted.per_cell("ece").mean()])


def page(plain: list[FloatArray], softened: dict[int, list[FloatArray]], epsilon: float, levels: Run) -> str:
    """The table: mean and standard deviation over the seeds."""
    reference, settings = np.array(plain), levels.settings
    num_levels = reference.shape[1] - 3
    lines = [
        f"Change of each validation level's gap when the labels of one training level are smoothed by eps = "
        f"{epsilon:g}: softened minus plain, mean over {len(plain)} seed(s) (± standard deviation where there are "
        "several).",
        f"Levels: {settings.levels_from}; {settings.model}, {settings.train_limit} training images, "
        f"{settings.epochs} epochs.",
        CONTROL,
        "",
        "| softened | "
        + " | ".join(f"level {n}" for n in range(num_levels))
        + " | accuracy | NLL, scaled | ECE shift, scaled |",
        "|---|" + "---:|" * (num_levels + 3),
        "| none (gap itself) | " + " | ".join(told(reference[:, n], ".3f") for n in range(reference.shape[1])) + " |",
    ]
    for level, rows in softened.items():
        change = np.array(rows) - reference
        lines.append(f"| level {level} | " + " | ".join(told(column, "+.3f") for column in change.T) + " |")
    return "\n".join(lines) + "\n"


CONTROL = (
    "In-sample levels are cut by the plain model itself: part of the change is regression to the mean, which the same "
    "command with --epsilon 0.0001 measures."
)


def told(values: FloatArray, form: str) -> str:
    """Mean, and standard deviation where there are several."""
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread}"


if __name__ == "__main__":
    main()
