"""Outcomes of all labels, and what their runs show beside → `Results`: what results.json and a page hold."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.checks import IntArray
from robcal.base.encoding import plain
from robcal.base.jobs import available_cores
from robcal.base.metrics import CORRECTED, OUTCOMES, mean_of
from robcal.base.results import VARIANTS, MethodResult, Missing, Results, SeedRows, Stability, Study, Training, Variant
from robcal.base.storage import provenance
from robcal.base.types import Estimate
from robcal.calibration.seeds import group_means, run_variance
from robcal.comparison.doing import dataset_of, outside_split, plain_scores, scored_index, shift_images
from robcal.comparison.outcomes import COVERAGES, OOD, Outcome, gather, inference_seconds, levels_of, seconds
from robcal.comparison.plan import Plan
from robcal.comparison.summary import Measurements, decide, marks
from robcal.comparison.tasks import Entry, Work
from robcal.report.flat import MOST_SHOWN, listed_of_each
from robcal.report.study_page import SITUATIONS
from robcal.runs.collect import fidelity_of, looked_into, rounded, shift_cells, wrong_examples
from robcal.runs.directory import open_run
from robcal.runs.hard_labels import labels_stayed_hard, remarks_on
from robcal.runs.measure import Measured
from robcal.training.predict import softmax

#: Fields of `MethodResult` that show the runs themselves, without temperature scaling.
_OF_RUNS = ("reliability", "levels", "trends", "history", "gallery", "worst")
#: Seed → levels of the test examples for its plain model, and which examples these are.
Cuts = Mapping[int, tuple[IntArray | None, IntArray | None]]


def results(
    work: Work, found: Mapping[str, Measurements], missing: Sequence[Missing] = (), *, examples: bool = False
) -> Results:
    """Return everything that results.json holds; `examples`: wrong predictions of a few methods, too."""
    plan, first = work.plan, next(one for one in work.entries if one.seed in found[one.label].by_seed)
    data = dataset_of(plan.plain(plan.seeds[0]))
    shifted = None if work.shift is None else shift_images(plan.plain(plan.seeds[0]), work.shift, work.place)
    cells = () if shifted is None else shifted.cells
    marked = {
        variant: {metric: marks(found, metric, variant) for metric in _metrics(plan) if metric in OUTCOMES}
        for variant in VARIANTS
    }
    cuts = _cuts(work, found)
    methods = []
    examined = _examined(plan, found, marked) if examples else ()
    for label in plan.labels:
        raw, scaled = (_figures(plan, found, label, variant, cells, marked[variant], cuts) for variant in VARIANTS)
        shown = _details(work, label, missing, cuts, first=label == first.label, examples=label in examined)
        more = {name: getattr(shown, name) for name in _OF_RUNS}
        training, remarks = _training(work, found[label], missing), _remarks(work, found[label])
        methods.append(dataclasses.replace(raw, scaled=scaled, training=training, remarks=remarks, **more))
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
            ood=_outside(work),
            missing=tuple(missing),
            warnings=plan.warnings(),
        ),
    )


def _examined(
    plan: Plan, found: Mapping[str, Measurements], marked: Mapping[Variant, Mapping[str, Mapping[str, str]]]
) -> tuple[str, ...]:
    """Return the labels whose wrong predictions are shown: the reference, those that the page advises, then others."""
    advised = [one for variant, metric in SITUATIONS for one, mark in marked[variant][metric].items() if mark == "best"]
    labels = dict.fromkeys((*plan.reference[:1], *advised, *plan.labels))
    return tuple(label for label in labels if found[label].by_seed)[:MOST_SHOWN]


def _figures(
    plan: Plan,
    found: Mapping[str, Measurements],
    label: str,
    variant: Variant,
    cells: Sequence[tuple[str, int]],
    marked: Mapping[str, Mapping[str, str]],
    cuts: Cuts,
) -> MethodResult:
    """Return everything measured of one label, raw or after temperature scaling."""
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
        stability=_stable(one, variant, cuts) if len(made) > 1 else None,
    )


def _training(work: Work, found: Measurements, missing: Sequence[Missing]) -> Training:
    """Tell how the runs of a label were made; without a measured seed its settings are those before any choice."""
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


def _cuts(work: Work, found: Mapping[str, Measurements]) -> Cuts:
    """Return the levels of every seed that has some."""
    scored = {seed for one in found.values() for seed in one.seeds("level_ece")}
    entries = {entry.seed: entry for entry in work.entries if entry.seed in scored}
    return {seed: levels_of(work.job(entry)) for seed, entry in entries.items()}


def _stable(found: Measurements, variant: Variant, cuts: Cuts) -> Stability:
    """Return the variance over its runs of the probability of the true class: over all, and per level."""
    runs = [one.true_class for one in found.of(variant).values()]
    variance = run_variance(np.stack(runs))
    cut = [cuts.get(seed, (None, None)) for seed in found.by_seed]
    by_seed = [group_means(variance[index], level) for level, index in cut if level is not None]
    return Stability(len(runs), float(variance.mean()), tuple(mean_of(level) for level in zip_longest(*by_seed)))


def _outside(work: Work) -> dict[str, dict[str, Any]]:
    """Tell of every set of out-of-distribution inputs what it is, how many there are, and their digest."""
    plain = work.plan.plain(work.plan.seeds[0])
    found = {one: outside_split(plain, one) for one in work.outside}
    return {
        one.name: {"spec": one.spec.partition(":")[0], "inputs": len(split), "digest": digest}
        for one, (split, digest) in found.items()
    }


def _tuning(work: Work, found: Mapping[str, Measurements]) -> list[dict[str, Any]]:
    """Return what was chosen for each measured method with a grid, and what the others would have given."""
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
    """Return what a reader must know of a label: at which seeds no run of it smoothed, though its method does."""
    entries = [one for one in work.entries if one.label == found.label and one.seed in found.by_seed]
    runs = {entry.seed: [open_run(work.place.of(choice.settings())) for choice in entry.members] for entry in entries}
    hard = [seed for seed, made in runs.items() if all(labels_stayed_hard(run.history()) for run in made)]
    return remarks_on(hard, tuple(runs))


def _level_values(outcomes: Sequence[Outcome]) -> dict[str, SeedRows]:
    """Return metric → one row a seed, one figure a level; None where a seed lacks it."""
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
    """Return what differences and tables hold: without out-of-distribution inputs none of their figures."""
    return (*(metric for metric in OUTCOMES if metric not in OOD or plan.ood), "gap")


def _details(
    work: Work, label: str, missing: Sequence[Missing], cuts: Cuts, *, first: bool, examples: bool
) -> MethodResult:
    """Return what the runs of a label show, without temperature scaling; seeds that lack something are left out.

    The first label shows the test examples' robustness, the same for all; wrong predictions are of the first seed.
    """
    lost = {one.seed for one in missing if one.label == label and one.part != "inference"}
    entries = [entry for entry in work.entries if entry.label == label and entry.seed not in lost]
    if not entries:
        return MethodResult(label, label)
    data = dataset_of(work.plan.plain(work.plan.seeds[0]))
    shown = data.split("test").inputs if examples and data.kind == "image" else None
    found = {entry.seed: cuts.get(entry.seed, (None, None))[0] for entry in entries}
    levels = {seed: level for seed, level in found.items() if level is not None}
    runs = [_measured(work, entry, shown, scored=first or examples) for entry in entries]
    made = looked_into(runs if first else [dataclasses.replace(run, distance=None) for run in runs], levels)
    listed = listed_of_each(len(work.plan.labels), compared=True)
    worst = wrong_examples(runs[0], levels.get(runs[0].seed), listed) if examples else ()
    return dataclasses.replace(made, worst=worst)


def _measured(work: Work, entry: Entry, images: Any, *, scored: bool) -> Measured:
    """Return an entry as a report takes it; `scored`: with the distances for the plain model."""
    plan, place = work.plan, work.place
    evidence, run = gather(entry, place, None), open_run(place.of(entry.members[0].settings()))
    plain, distance, index = work.plain.get(entry.seed), None, None
    if plain is not None:
        index = scored_index(plain.settings(), plan.score_limit)
        distance = plain_scores(plain, place, plan.score_limit).distance if scored else None
    return Measured(
        directory=run.directory,
        settings=run.settings,
        dataset=run.record["dataset"],
        probs=softmax(evidence.test).astype(np.float32),
        labels=evidence.test_labels,
        distance=distance,
        shift=None,
        history=run.history() if len(entry.members) == 1 else (),
        images=images,
        label=entry.label,
        scored=index,
        networks=tuple(open_run(place.of(choice.settings())).directory for choice in entry.members),
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
