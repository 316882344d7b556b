"""`robcal compare`: do all tasks, compute all outcomes, write everything."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.checks import refuse
from robcal.base.encoding import plain
from robcal.base.files import reading
from robcal.base.jobs import Failure, Workers, available_cores, run_tasks
from robcal.base.metrics import CORRECTED, OUTCOMES, mean_of
from robcal.base.progress import SILENT, Reporter, parts_of
from robcal.base.storage import load_json, load_results, provenance, save_results
from robcal.base.types import (
    VARIANTS,
    Estimate,
    MethodResult,
    Missing,
    Results,
    SeedRows,
    Stability,
    Study,
    Training,
    Variant,
)
from robcal.calibration.stability import group_means, run_variance
from robcal.comparison.details import details_of
from robcal.comparison.doing import dataset_of, outside_split, run_task, shift_images
from robcal.comparison.missing import failure_line, missing_parts
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
from robcal.comparison.plan import Plan
from robcal.comparison.summary import Measurements, decide, marks
from robcal.comparison.tasks import Entry, Outside, Place, ShiftPlan, Work
from robcal.report import write_report
from robcal.report.study_text import text_tables, write_tables
from robcal.results.collect import fidelity_of, rounded, shift_cells
from robcal.runs.directory import open_run
from robcal.runs.hard_labels import labels_stayed_hard, remarks_on


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
        about = other.get("study", other) if isinstance(other, dict) else {}
        if not isinstance(about, dict) or about.get("plan_digest") != plan.digest():
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


def load_comparison(path: Path) -> Results:
    """Read results.json of a comparison.

    Raises:
        InputError: if the file is missing or is of another kind.
    """
    results = load_results(path)
    if results.study is None:
        fix = "Name the results.json of a comparison, or make one: robcal compare FILE.toml --out DIR"
        refuse(f"{path} is no comparison", "it must be results.json of `robcal compare`", fix)
    with reading(path, "the results of a comparison", fix="Start `robcal compare` again: finished work is kept"):
        text_tables(results)  # whatever lacks is found before anything is written
    return results


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
) -> Results:
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
        What results.json holds.

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
    made = results(work, found, missing)
    save_results(made, out / "results.json")
    write_tables(made, out)
    if report:
        write_report(made, out / "report.html", overwrite=True)
    return made


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


def results(work: Work, found: Mapping[str, Measurements], missing: Sequence[Missing] = ()) -> Results:
    """Return everything that results.json holds."""
    plan, first = work.plan, next(one for one in work.entries if one.seed in found[one.label].by_seed)
    data = dataset_of(plan.plain(plan.seeds[0]))
    shifted = None if work.shift is None else shift_images(plan.plain(plan.seeds[0]), work.shift, work.place)
    cells = () if shifted is None else shifted.cells
    marked = {
        variant: {metric: marks(found, metric, variant) for metric in _metrics(plan) if metric in OUTCOMES}
        for variant in VARIANTS
    }
    stable, methods = _stability(work, found), []
    for label in plan.labels:
        raw, scaled = (
            _figures(plan, found, label, variant, cells, marked[variant], stable[variant]) for variant in VARIANTS
        )
        shown = details_of(work, label, missing, first=label == first.label)
        methods.append(
            dataclasses.replace(
                raw, scaled=scaled, training=_training(work, found[label], missing), reliability=shown.reliability,
                levels=shown.levels, trends=shown.trends, history=shown.history, gallery=shown.gallery,
                remarks=_remarks(work, found[label]),
            )
        )  # fmt: skip
    return Results(
        title=plan.title,
        dataset={
            "name": data.name,
            "notes": data.notes,
            "num_classes": data.num_classes,
            "class_names": data.class_names,
            "sizes": {name: len(split) for name, split in data.splits.items()},
            "digest_test": data.digest("test"),
        },
        methods=tuple(methods),
        provenance=provenance(hardware=hardware()),
        fidelity=fidelity_of(work.place.of(first.members[0].settings())),
        study=Study(
            plan=plain(plan),
            plan_digest=plan.digest(),
            references=plan.reference,
            tuning=tuple(_tuning(work, found)),
            targets=decide(plan, found),
            coverages=COVERAGES,
            shift="" if shifted is None else shifted.source.note,
            ood={name: {"spec": spec.partition(":")[0], **_outside(work, name)} for name, spec in plan.ood.items()},
            missing=tuple(missing),
            warnings=plan.warnings(),
        ),
    )


def _figures(
    plan: Plan,
    found: Mapping[str, Measurements],
    label: str,
    variant: Variant,
    cells: Sequence[tuple[str, int]],
    marked: Mapping[str, Mapping[str, str]],
    stable: Mapping[str, Stability],
) -> MethodResult:
    """Everything measured of one label, raw or after temperature scaling."""
    one = found[label]
    made = one.of(variant)
    shifted = cells if any(outcome.cells for outcome in made.values()) else ()
    return MethodResult(
        label,
        label,
        seeds=tuple(made),
        metrics=_known({metric: one.estimate(metric, variant) for metric in _metrics(plan)}),
        floors=one.floors(variant),
        level_values=_level_values(list(made.values())),
        shift=shift_cells(shifted, [outcome.cells for outcome in made.values()]),
        risk=tuple(rounded(outcome.risk) for outcome in made.values()),
        ood={name: _known({metric: one.estimate(f"{metric}:{name}", variant) for metric in OOD}) for name in plan.ood},
        minus={other: _differences(plan, one, found[other], variant) for other in plan.reference if other != label},
        marks={metric: labels[label] for metric, labels in marked.items()},
        stability=stable.get(label),
    )


def _training(work: Work, found: Measurements, missing: Sequence[Missing]) -> Training:
    """How the runs of a label were made; without a measured seed its settings are those before any choice."""
    planned = [entry for entry in work.entries if entry.label == found.label]
    entries = [entry for entry in planned if entry.seed in found.by_seed]
    choice = planned[0].members[0]
    settings = choice.settings() if entries else choice.candidates[0]
    untimed = {one.seed for one in missing if one.label == found.label and one.part == "inference"}
    return Training(
        method=settings.method,
        members=len(planned[0].members),
        settings=settings.relevant(),
        runs=tuple(tuple(work.place.of(choice.settings()).name for choice in entry.members) for entry in entries),
        temperatures=tuple(found.by_seed[entry.seed][1].temperature for entry in entries),
        seconds=tuple(seconds(entry, work.place) for entry in entries),
        inference_seconds=tuple(
            math.nan if entry.seed in untimed else inference_seconds(entry, work.place) for entry in entries
        ),
    )


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


def _stability(work: Work, found: Mapping[str, Measurements]) -> dict[Variant, dict[str, Stability]]:
    """Variant → label → variance over its runs of the probability of the true class: over all, and per level.

    The level of an example is that for the plain model of a seed; the figures are means over the seeds' levels.
    """
    scored = {seed for one in found.values() for seed in one.seeds("level_ece")}
    levels = {entry.seed: levels_of(_job(work, entry, set())) for entry in work.entries if entry.seed in scored}
    return {
        variant: {label: _stable(one, variant, levels) for label, one in found.items() if len(one.by_seed) > 1}
        for variant in VARIANTS
    }


def _stable(found: Measurements, variant: Variant, levels: Mapping[int, Any]) -> Stability:
    runs = [one.true_class for one in found.of(variant).values()]
    variance = run_variance(np.stack(runs))
    cut = [levels.get(seed, (None, None)) for seed in found.by_seed]
    by_seed = [group_means(variance[index], level) for level, index in cut if level is not None]
    return Stability(len(runs), float(variance.mean()), tuple(mean_of(level) for level in zip_longest(*by_seed)))


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


def _remarks(work: Work, found: Measurements) -> tuple[str, ...]:
    """What a reader must know of a label's runs: at which seeds none of them smoothed, though its method does."""
    entries = [one for one in work.entries if one.label == found.label and one.seed in found.by_seed]
    runs = {entry.seed: [open_run(work.place.of(choice.settings())) for choice in entry.members] for entry in entries}
    hard = [seed for seed, made in runs.items() if all(labels_stayed_hard(run.history()) for run in made)]
    return remarks_on(hard, tuple(runs))


def _level_values(outcomes: Sequence[Outcome]) -> dict[str, SeedRows]:
    """Metric → one row a seed, one figure a level; None where a seed lacks it."""
    widths: dict[str, int] = {}
    for one in outcomes:
        widths |= {name: max(len(row), widths.get(name, 0)) for name, row in one.levels.items()}
    return {
        name: tuple((row := rounded(one.levels.get(name, ()))) + (None,) * (width - len(row)) for one in outcomes)
        for name, width in widths.items()
    }


def _differences(plan: Plan, one: Measurements, other: Measurements, variant: Variant) -> dict[str, Estimate]:
    compared = [metric for metric in _metrics(plan) if metric not in CORRECTED.values()]
    return _known({metric: one.difference(other, metric, variant) for metric in compared})


def _known(estimates: Mapping[str, Estimate | None]) -> dict[str, Estimate]:
    return {metric: estimate for metric, estimate in estimates.items() if estimate is not None}


def _metrics(plan: Plan) -> tuple[str, ...]:
    """What differences and tables hold: without out-of-distribution inputs none of their figures."""
    return (*(metric for metric in OUTCOMES if metric not in OOD or plan.ood), "gap")
