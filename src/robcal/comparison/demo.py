"""The main job, `robcal demo`: plain training, AR-AdaLS, and plain training with a temperature, on handwritten digits.

With all 755 training images the digits are easy: a small network is nearly calibrated, and methods hardly differ. With
200 of them, trained long enough, it over-fits as large networks do on large data. This regime was chosen once, among
nine that differ in epochs, batch size and learning rate, on seeds 100 to 105; the demo's seeds start at 0.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robcal.base.jobs import run_tasks
from robcal.base.progress import Reporter, Together
from robcal.base.results import Results
from robcal.base.storage import save_results
from robcal.report.findings import comparison, worst_place
from robcal.runs.collect import collect
from robcal.runs.directory import load_data
from robcal.runs.measure import Measured, measure_run
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

SETTINGS = TrainSettings(
    data="digits", train_limit=200, model="mlp", method="vanilla", epochs=150, batch_size=64,
    learning_rate=0.1, levels=5,
)  # fmt: skip

#: What the demo is and how it was chosen, for the terminal and the notes of the report.
REGIME = (
    "The demo trains a small network on 200 handwritten digits, far longer than it takes to learn them: it over-fits, "
    "as large networks do. These settings were chosen once, on other seeds, so that plain training is over-confident; "
    "with all 755 training images it is nearly calibrated, and methods hardly differ."
)

#: The same in a line.
BRIEFLY = "The demo over-fits a small network on 200 handwritten digits; its settings were chosen once, on other seeds."

#: What to do next.
NEXT = """next, with predictions of yours:    robcal audit --probs probs.npy --labels labels.npy --out audit.html
  with data of yours:               robcal train --data folder:PATH --out runs/ar    then    robcal audit runs/ar
  which method is best on it:       robcal compare my.toml --out compare    (README: start from a preset)"""


def run_demo(out: Path, *, seeds: int, jobs: int, overwrite: bool, reporter: Reporter) -> Results:
    """Train, score, measure: plain, AR-AdaLS, and plain with a temperature, for every seed; put them side by side.

    Finished runs in the folder are kept; `overwrite` replaces those of other settings. results.json is written, too.
    """
    tasks = [_Task(out, seed, overwrite) for seed in range(seeds)]
    with Together(reporter, seeds) as shown:
        made = run_tasks(_one_seed, tasks, jobs=jobs, reporter=shown)
    measured = [run for method in zip(*made, strict=True) for run in method]
    title = "robcal demo: handwritten digits, plain training against AR-AdaLS"
    results = collect(measured, title=title, against=[measured[-1].name], reporter=reporter)
    results = dataclasses.replace(results, notes=(REGIME, *results.notes))
    save_results(results, out / "results.json")
    return results


@dataclasses.dataclass(frozen=True)
class _Task:
    out: Path
    seed: int
    overwrite: bool


def _one_seed(task: _Task, reporter: Reporter) -> tuple[Measured, Measured, Measured]:
    """Measure the plain model of a seed, which AR-AdaLS refers to; AR-AdaLS; and the plain model with a temperature."""
    plain = dataclasses.replace(SETTINGS, seed=task.seed)
    ours = dataclasses.replace(plain, method="ar-adals", levels_from="robustness")
    data = load_data(plain)
    reference = task.out / f"plain-{task.seed}"
    first = train_run(plain, reference, overwrite=task.overwrite, dataset=data, reporter=reporter)
    second = train_run(
        ours, task.out / f"ar-adals-{task.seed}", overwrite=task.overwrite, dataset=data, reference=reference,
        reporter=reporter,
    )  # fmt: skip
    return (
        measure_run(first, dataset=data, reporter=reporter),
        measure_run(second, dataset=data, scores=False, reporter=reporter),
        measure_run(first, dataset=data, temperature=True, reporter=reporter),
    )


def found(results: Results) -> tuple[str, ...]:
    """Say how AR-AdaLS differs from the plain model, bare and with a temperature, and where the plain one is worst."""
    plain, ours, scaled = results.methods
    pairs = (comparison(results, ours.name, other.name) for other in (plain, scaled))
    return tuple(filter(None, (*pairs, worst_place(results, ours))))
