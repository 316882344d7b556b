"""`robcal compare`: do all tasks, compute all outcomes, write everything."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.checks import refuse
from robcal.base.encoding import plain, sealed
from robcal.base.jobs import Failure, Workers, available_cores, run_tasks
from robcal.base.metrics import CORRECTED
from robcal.base.progress import SILENT, Reporter, parts_of
from robcal.base.storage import load_json, provenance, save_json
from robcal.calibration.stability import group_means, run_variance
from robcal.comparison.blocks import mean_of
from robcal.comparison.cost import COSTS, cost_ratios, reference_label
from robcal.comparison.details import report_results
from robcal.comparison.doing import dataset_of, outside_split, run_task, shift_images
from robcal.comparison.missing import Missing, failure_line, missing_parts
from robcal.comparison.outcomes import (
    COVERAGES,
    OOD,
    Job,
    Outcome,
    inference_seconds,
    levels_of,
    outcomes_of,
    seconds,
)
from robcal.comparison.page import write_comparison_report
from robcal.comparison.plan import MEASURED, Plan
from robcal.comparison.summary import VARIANTS, Measurements, decide, marks
from robcal.comparison.table import write_tables
from robcal.comparison.tasks import Entry, Outside, Place, ShiftPlan, Work
from robcal.runs.directory import open_run
from robcal.runs.hard_labels import labels_stayed_hard


def plan_work(plan: Plan, out: Path, *, cache: Path | None = None, overwrite: bool = False) -> Work:
    """Return the tasks of a comparison, without doing any; the data is opened, so that it is checked.

    Args:
        plan: what to compare.
        out: folder of the results; runs are kept below it unless `cache` names another place.
        cache: folder that several comparisons share.
        overwrite: replace runs made on other data.

    Raises:
        InputError: if the data cannot be read, or `out` holds another comparison.
    """
    if not overwrite and (out / "results.json").exists():
        other = load_json(out / "results.json", "the results")
        if not isinstance(other, dict) or other.get("plan_digest") != plan.digest():
            refuse(
                f"{out} holds the results of another comparison",
                "one folder holds one comparison",
                "Pass --overwrite to replace the results (finished runs stay), or choose another --out",
            )
    settings, place, kinds = plan.plain(plan.seeds[0]), Place(cache or out), tuple[str, ...]()
    dataset_of(settings)
    for name, spec in plan.ood.items():
        outside_split(settings, Outside(name, spec, plan.ood_limit))
    if plan.shift_limit != 0:
        source = shift_images(settings, ShiftPlan(plan.shift_limit, plan.shift), place).source
        kinds = () if source.stored else source.kinds
    return Work(plan, place, kinds=kinds, overwrite=overwrite)


def compare(
    plan: Plan,
    out: Path,
    *,
    cache: Path | None = None,
    jobs: int = 1,
    workers: Workers | None = None,
    report: bool = True,
    overwrite: bool = False,
    fail_fast: bool = False,
    on_failure: Callable[[str], None] = lambda line: None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Train, choose, score and measure everything a plan names, and put it side by side.

    Everything finished is on disk: a comparison that was stopped goes on where it was, one that grew makes what is new.
    A task that fails takes with it what needs it and nothing else; the results say what they lack and why ("missing"),
    and the next start tries that again.

    Args:
        plan: what to compare.
        out: folder; gets results.json, table.txt, table.md, table.csv and figure.svg.
        cache: folder of the runs, default `out`; several comparisons may share it.
        jobs: tasks side by side.
        workers: what does the tasks in place of `jobs` processes of this machine: see `robcal.comparison.cluster`.
        report: write report.html too.
        overwrite: replace the results of another comparison, and runs made on other data.
        fail_fast: stop at the first task that fails.
        on_failure: called at once with a line on each task that fails.
        reporter: shows progress.

    Returns:
        What results.json holds: see `docs/evidence.md`.

    Raises:
        InputError: on a plan that does not fit the data, or if nothing at all could be measured.
        Exception: with `fail_fast`, what the first failing task raises.
        KeyboardInterrupt: on Ctrl-C; finished work is kept.
    """
    work = plan_work(plan, out, cache=cache, overwrite=overwrite)
    missing = _do(work, jobs=jobs, workers=workers, fail_fast=fail_fast, on_failure=on_failure, reporter=reporter)
    found, missing = measure(work, missing, jobs=jobs, fail_fast=fail_fast, on_failure=on_failure, reporter=reporter)
    if not any(one.by_seed for one in found.values()):
        refuse(
            f"nothing could be measured: {missing[0].task} failed: {missing[0].reason.rstrip('.')}",
            "a table needs at least one run",
            "Fix the cause and start again; finished work is kept",
        )
    record: dict[str, Any] = plain(results(work, found, missing))
    save_json(sealed(record), out / "results.json")
    write_tables(record, out)
    if report:
        details = report_results(work, missing, reporter=reporter)
        write_comparison_report(record, out / "report.html", details=details, overwrite=True)
    return record


def _do(
    work: Work,
    *,
    jobs: int,
    workers: Workers | None,
    fail_fast: bool,
    on_failure: Callable[[str], None],
    reporter: Reporter,
) -> list[Missing]:
    """Do all tasks; what those that failed take from the results."""

    def failed(number: int, failure: Failure) -> None:
        on_failure(failure_line(work, number, failure))

    ended = run_tasks(
        run_task, work.tasks, work.needs, jobs=jobs, workers=workers, reporter=parts_of(reporter),
        done=reporter.task("tasks of the comparison", len(work.tasks)), failed=None if fail_fast else failed,
    )  # fmt: skip
    return missing_parts(work, [one if isinstance(one, Failure) else None for one in ended])


def measure(
    work: Work,
    missing: Sequence[Missing] = (),
    *,
    jobs: int = 1,
    fail_fast: bool = False,
    on_failure: Callable[[str], None] = lambda line: None,
    reporter: Reporter = SILENT,
) -> tuple[dict[str, Measurements], list[Missing]]:
    """Outcomes of every label, from what the finished tasks left on disk; and what is missing after that."""
    lost = {(one.label, one.seed, one.part) for one in missing}
    entries = [_job(work, one, lost) for one in work.entries if (one.label, one.seed, "all") not in lost]
    if len(entries) <= 8:
        jobs = 1
    made = run_tasks(
        _outcomes, entries, jobs=jobs, reporter=reporter, done=reporter.task("outcomes", len(entries)),
        failed=None if fail_fast else lambda number, failure: None,
    )  # fmt: skip
    by_label: dict[str, dict[int, tuple[Outcome, Outcome]]] = {label: {} for label in work.plan.labels}
    more = []
    for job, pair in zip(entries, made, strict=True):
        label, seed = job.entry.label, job.entry.seed
        if isinstance(pair, Failure):
            more.append(Missing(label, seed, "all", f"outcomes: {label} seed {seed}", pair.reason))
            on_failure(f"failed: {more[-1].task}: {pair.reason}")
        else:
            by_label[label][seed] = pair
    gone = {(one.label, one.seed) for one in more}
    kept = [one for one in missing if (one.label, one.seed) not in gone]
    return {label: Measurements(label, by_seed) for label, by_seed in by_label.items()}, [*kept, *more]


def _job(work: Work, entry: Entry, lost: set[tuple[str, int, str]]) -> Job:
    """What the outcomes of an entry are computed from, without the parts that are lost."""

    def has(part: str) -> bool:
        return (entry.label, entry.seed, part) not in lost

    return Job(
        entry,
        work.place,
        work.plain.get(entry.seed) if has("levels") else None,
        work.shift if has("shift") else None,
        work.plan.score_limit,
        work.outside if has("ood") else (),
    )


def results(work: Work, found: Mapping[str, Measurements], missing: Sequence[Missing] = ()) -> dict[str, Any]:
    """Return everything that results.json holds, as values JSON has."""
    plan = work.plan
    labelled = [_label(work, found[label], missing) for label in plan.labels]
    made = {"methods": labelled}
    return {
        "title": plan.title,
        "plan": plan,
        "plan_digest": plan.digest(),
        "dataset": _dataset(work),
        "tuning": _tuning(work, found),
        "methods": labelled,
        "cost": {
            "relative_to": reference_label(made),
            **{key: cost_ratios(made, key) for key in COSTS},
        },
        "stability": _stability(work, found),
        "differences": {
            reference: {
                label: {variant: _differences(plan, found[label], found[reference], variant) for variant in VARIANTS}
                for label in plan.labels
                if label != reference
            }
            for reference in plan.reference
        },
        "marks": {
            variant: {metric: marks(found, metric, variant) for metric in _metrics(plan) if metric in MEASURED}
            for variant in VARIANTS
        },
        "targets": decide(plan, found),
        "coverages": COVERAGES,
        "corrected_differences": sorted(CORRECTED),
        **_shift(work),
        "ood": {name: {"spec": spec.partition(":")[0], **_outside(work, name)} for name, spec in plan.ood.items()},
        "missing": missing,
        "warnings": plan.warnings(),
        "provenance": provenance(hardware=hardware()),
    }


def hardware() -> dict[str, Any]:
    """Return what the seconds were measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "gpu": gpu,
        "system": platform.system(),
        "threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _outcomes(job: Job, reporter: Reporter) -> tuple[Outcome, Outcome]:
    return outcomes_of(job)


def _dataset(work: Work) -> dict[str, Any]:
    data = dataset_of(work.plan.plain(work.plan.seeds[0]))
    return {
        "name": data.name,
        "notes": data.notes,
        "num_classes": data.num_classes,
        "class_names": data.class_names,
        "sizes": {name: len(split) for name, split in data.splits.items()},
        "digest_test": data.digest("test"),
    }


def _stability(work: Work, found: Mapping[str, Measurements]) -> dict[str, Any]:
    """Label → variant → variance over its runs of the probability of the true class: over all, and per level.

    The level of an example is that for the plain model of a seed; the figures are means over the seeds' levels.
    """
    scored = {seed for one in found.values() for seed in one.seeds("level_ece")}
    levels = {entry.seed: levels_of(_job(work, entry, set())) for entry in work.entries if entry.seed in scored}
    return {
        label: {variant: _stable(one, variant, levels) for variant in VARIANTS}
        for label, one in found.items()
        if len(one.by_seed) > 1
    }


def _stable(found: Measurements, variant: str, levels: Mapping[int, Any]) -> dict[str, Any]:
    runs = [pair[VARIANTS.index(variant)].true_class for pair in found.by_seed.values()]
    variance = run_variance(np.stack(runs))
    cut = [levels.get(seed, (None, None)) for seed in found.by_seed]
    by_seed = [group_means(variance[index], level) for level, index in cut if level is not None]
    return {
        "runs": len(runs),
        "all": float(variance.mean()),
        "levels": [mean_of(level) for level in zip_longest(*by_seed)],
    }


def _shift(work: Work) -> dict[str, Any]:
    """The cells of the shift, and a sentence that says what it is."""
    if work.shift is None:
        return {"cells": [], "shift": None}
    images = shift_images(work.plan.plain(work.plan.seeds[0]), work.shift, work.place)
    cells = [f"{kind}-{severity}" for kind, severity in images.cells]
    return {"cells": cells, "shift": images.source.note}


def _outside(work: Work, name: str) -> dict[str, Any]:
    """How many inputs a set of out-of-distribution inputs has, and their digest."""
    (one,) = (one for one in work.outside if one.name == name)
    split, digest = outside_split(work.plan.plain(work.plan.seeds[0]), one)
    return {"inputs": len(split), "digest": digest}


def _tuning(work: Work, found: Mapping[str, Measurements]) -> list[dict[str, Any]]:
    """What was chosen for each measured method with a grid, and what the others would have given."""
    records, entries = [], {entry.label: entry for entry in reversed(work.entries)}
    for method in work.plan.methods:
        choice = entries[method.label].members[0]
        if len(choice.candidates) == 1 or not found[method.label].by_seed:
            continue
        best, (tuned, points) = choice.best(), work.plan.grid_of(method)
        records.append(
            {
                "label": method.label,
                "runs_of": tuned.label,
                "select": choice.select,
                "seeds": work.plan.tuning_seeds,
                "candidates": [
                    {"options": point, "scores": scores, "mean": sum(scores) / len(scores)}
                    for point, scores in zip(points, choice.scores(), strict=True)
                ],
                "chosen": points[best],
            }
        )
    return records


def _stayed_hard(entry: Entry, place: Place) -> bool:
    """Whether every run of an entry was trained on hard labels, though its method smooths."""
    return all(labels_stayed_hard(open_run(place.of(choice.settings())).history()) for choice in entry.members)


def _label(work: Work, found: Measurements, missing: Sequence[Missing]) -> dict[str, Any]:
    """Everything measured of one label; without a measured seed its settings are those before any choice."""
    planned = [entry for entry in work.entries if entry.label == found.label]
    entries = [entry for entry in planned if entry.seed in found.by_seed]
    choice = planned[0].members[0]
    settings = choice.settings() if entries else choice.candidates[0]
    timed = {one.seed for one in missing if one.label == found.label and one.part == "inference"}
    return {
        "label": found.label,
        "method": settings.method,
        "members": len(planned[0].members),
        "settings": settings.relevant(),
        "seeds": [entry.seed for entry in entries],
        "runs": [[work.place.of(choice.settings()).name for choice in entry.members] for entry in entries],
        "hard_seeds": [entry.seed for entry in entries if _stayed_hard(entry, work.place)],
        "seconds": [seconds(entry, work.place) for entry in entries],
        "inference_seconds": [
            math.nan if entry.seed in timed else inference_seconds(entry, work.place) for entry in entries
        ],
        "temperature": [found.by_seed[entry.seed][1].temperature for entry in entries],
        **{
            variant: {
                "metrics": {metric: found.estimate(metric, variant) for metric in _metrics(work.plan)},
                "floors": found.floors(variant),
                "levels": _per_seed(found, variant, "levels"),
                "cells": _per_seed(found, variant, "cells"),
                "risk": _risks(found, variant),
                "ood": {
                    name: {metric: found.estimate(f"{metric}:{name}", variant) for metric in OOD}
                    for name in work.plan.ood
                },
            }
            for variant in VARIANTS
        },
    }


def _per_seed(found: Measurements, variant: str, part: str) -> dict[str, list[list[float | None]]]:
    """Metric → one row a seed, one figure a level or cell; nulls where a seed lacks them."""
    chosen: list[Mapping[str, Any]] = [getattr(pair[VARIANTS.index(variant)], part) for pair in found.by_seed.values()]
    widths: dict[str, int] = {}
    for one in chosen:
        widths |= {name: max(len(row), widths.get(name, 0)) for name, row in one.items()}
    return {name: [_row(one.get(name, ()), width) for one in chosen] for name, width in widths.items()}


def _row(values: Sequence[float], width: int) -> list[float | None]:
    """Values to six digits, null where there is none: a level without examples, or a seed without levels."""
    known = [None if math.isnan(value) else float(f"{value:.6g}") for value in values]
    return known + [None] * (width - len(known))


def _risks(found: Measurements, variant: str) -> list[list[float]]:
    """The risk-coverage curve of each seed at `COVERAGES`."""
    curves = [pair[VARIANTS.index(variant)].risk for pair in found.by_seed.values()]
    return [[float(f"{value:.6g}") for value in curve] for curve in curves]


def _differences(plan: Plan, one: Measurements, other: Measurements, variant: str) -> dict[str, Any]:
    compared = [metric for metric in _metrics(plan) if metric not in CORRECTED.values()]
    return {metric: one.difference(other, metric, variant) for metric in compared}


def _metrics(plan: Plan) -> tuple[str, ...]:
    """What differences and tables hold: without out-of-distribution inputs none of their figures."""
    return (*(metric for metric in MEASURED if metric not in OOD or plan.ood), "gap")
