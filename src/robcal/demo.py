"""The main job, `robcal demo`: plain training against AR-AdaLS on handwritten digits, over several seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robcal.artifacts import save_results
from robcal.config import TrainSettings
from robcal.evaluate import collect
from robcal.jobs import run_side_by_side
from robcal.measure import Measured, measure_run
from robcal.progress import Reporter, Together
from robcal.runs import load_data, train_run
from robcal.types import Results

SETTINGS = TrainSettings(
    data="digits",
    model="mlp",
    method="vanilla",
    epochs=40,
    batch_size=64,
    learning_rate=0.05,
    levels=10,
)


def run_demo(out: Path, *, seeds: int, jobs: int, overwrite: bool, reporter: Reporter) -> Results:
    """Train, score, measure: plain and AR-AdaLS for every seed, then put them side by side.

    Args:
        out: folder; finished runs in it are used as they are.
        seeds: number of seeds.
        jobs: seeds side by side.
        overwrite: replace runs made with other settings.
        reporter: shows progress.

    Returns:
        The results, also written to `out`/results.json.
    """
    tasks = [_Task(out, seed, overwrite) for seed in range(seeds)]
    with Together(reporter, seeds) as shown:
        pairs = run_side_by_side(_one_seed, tasks, jobs=jobs, reporter=shown)
    measured = [run for method in zip(*pairs, strict=True) for run in method]
    results = collect(
        measured, title="robcal demo: handwritten digits, plain training against AR-AdaLS", reporter=reporter
    )
    save_results(results, out / "results.json")
    return results


@dataclasses.dataclass(frozen=True)
class _Task:
    out: Path
    seed: int
    overwrite: bool


def _one_seed(task: _Task, reporter: Reporter) -> tuple[Measured, Measured]:
    """The plain model of a seed, which is AR-AdaLS's reference model too, and AR-AdaLS."""
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
    )
