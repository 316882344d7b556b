"""Measured runs → results: a method's runs averaged over seeds, methods side by side, each number with its interval."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, IntArray, check_same_length, refuse
from robcal.base.levels import assign_levels
from robcal.base.metrics import CORRECTED, mean_of
from robcal.base.progress import SILENT, Reporter
from robcal.base.results import FLOOR_NOTE, MethodResult, Results, ShiftCell, WrongExample
from robcal.base.storage import provenance
from robcal.base.types import Estimate, FidelityRow, GroupRow, ReliabilityBin
from robcal.calibration.binning import bin_index, total
from robcal.calibration.conditional import joint_confidence, level_table, reliability_bins, trend_tests
from robcal.calibration.corrected import calibration_noise_floor
from robcal.calibration.intervals import difference_within_range, jeffreys_interval, within_range
from robcal.calibration.replicates import RESAMPLES, Resampling
from robcal.calibration.seeds import (
    Replicated,
    average_over_seeds,
    over_seeds,
    paired_difference,
    seed_mean,
    shared_part,
)
from robcal.calibration.weighted import METRICS
from robcal.report.flat import listed_of_each
from robcal.runs.audit import Examples
from robcal.runs.directory import open_run
from robcal.runs.gallery import gallery
from robcal.runs.hard_labels import hard_label_remarks
from robcal.runs.measure import Measured, measure_run, told_apart
from robcal.runs.shift import CELL_METRICS

#: Images of wrong predictions of each method.
MOST_IMAGES = 12


def report_runs(
    directories: Sequence[Path], *, shift: bool = True, temperature: bool = False, reporter: Reporter = SILENT
) -> Results:
    """Measure finished runs and put them side by side; the first one's method is the baseline.

    Runs of one method are its seeds; by other settings they are methods of their own. With `temperature` there is every
    run after temperature scaling too, and all are then compared with the scaled baseline as well.
    """
    ways = (False, True) if temperature else (False,)
    runs = [(open_run(directory), scaled) for scaled in ways for directory in directories]
    measured = told_apart(
        [measure_run(run, shift=shift, temperature=scaled, reporter=reporter) for run, scaled in runs]
    )
    against = [measured[len(directories)].name] if temperature else []
    return collect(measured, against=against, reporter=reporter)


def collect(
    measured: Sequence[Measured],
    *,
    title: str | None = None,
    against: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> Results:
    """Put measured runs side by side, the baseline's first; runs of one method are its seeds, one of which all share.

    All are compared with the baseline, and with the methods of the names `against`. Progress is a unit a method or
    difference.
    """
    first = measured[0]
    for other in measured[1:]:
        check_same_length(len(first), len(other), "the test examples", str(other.directory))
        if not np.array_equal(first.labels, other.labels) or first.probs.shape != other.probs.shape:
            given = f"{other.directory} was measured on other test examples than {first.directory}"
            refuse(given, "runs side by side need one test split", "Compare runs of the same --data and --test-limit")
    methods: dict[str, list[Measured]] = {}
    for run in measured:
        methods.setdefault(run.name, []).append(run)
    shifts = len(first) if first.shift is None else first.shift.correct.shape[1]
    resampling = Resampling.draw(shifts)
    scored = [run for run in methods[first.name] if run.distance is not None]
    levels = {run.seed: assign_levels(run.distance, first.num_levels, ties="share") for run in scored}
    shifted = {id(run): {} if run.shift is None else run.shift.metrics(resampling) for run in measured}
    compared = [(name, first.name) for name in methods if name != first.name]
    compared += [(name, rival) for rival in against for name in methods if name not in (first.name, rival)]
    advance = reporter.task("intervals", len(methods) + len(compared))
    results: list[MethodResult] = []
    listed = listed_of_each(len(methods), compared=False)
    for runs in methods.values():
        results.append(_method_result(runs, [shifted[id(run)] for run in runs], levels, listed))
        advance(len(results))
    minus: dict[str, dict[str, dict[str, Estimate]]] = {}
    for done, (name, rival) in enumerate(compared, start=1):
        minus.setdefault(name, {})[rival] = _differences(methods[name], methods[rival], shifted)
        advance(len(results) + done)
    directories, titles = {run.directory for run in measured}, [result.title for result in results]
    told = " against ".join(titles) if len(titles) <= 3 else f"{titles[0]} against {len(titles) - 1} others"
    return Results(
        title=title or f"{first.dataset['name']}: {told}",
        dataset=first.dataset,
        methods=tuple(dataclasses.replace(one, minus=minus.get(one.name, {})) for one in results),
        notes=_notes(first, methods),
        fidelity=fidelity_of(first.directory),
        provenance=provenance(settings=dataclasses.asdict(first.settings), runs=len(directories)),
    )


_COMPARED = (
    "Paired differences of calibration errors (ECE, also with equal mass, classwise and under shift; calibration part "
    "of the Brier score) are those of the errors with their bias removed, not of the values as measured: noise adds "
    "more to the error of a model that is nearly calibrated. Those of the MCE have no interval. The interval of a "
    "single error as measured is of what it measures on average, which is more than the true error; that of "
    '"ECE, bias removed" is of the true error.'
)
#: Metric under shift → what its interval needs; of one run.
_Shifted = Mapping[str, Replicated]


def _method_result(
    runs: list[Measured], shifted: Sequence[_Shifted], levels: Mapping[int, IntArray], listed: int
) -> MethodResult:
    """Return everything measured of one method; at most so many wrong predictions are listed."""
    probs, labels = [run.probs for run in runs], runs[0].labels
    metrics = {name: seed_mean(name, probs, labels, resamples=RESAMPLES) for name in METRICS}
    metrics |= {name: over_seeds([one[name] for one in shifted]) for name in shifted[0]}
    shifts = [run.shift for run in runs if run.shift is not None]
    level = levels.get(runs[0].seed, next(iter(levels.values()))) if levels else None
    floors = {"ece": float(np.mean([calibration_noise_floor(one) for one in probs]))}
    if gaps := [found for one in shifted if one and (found := one["shift_ece_corrected"].gaps) is not None]:
        floors["shift_ece"] = float(np.mean([one.noise_floor for one in gaps]))
    return dataclasses.replace(
        looked_into(runs, levels),
        metrics={name: within_range(name, estimate) for name, estimate in metrics.items()},
        shift=shift_cells(shifts[0].cells, [one.by_cell() for one in shifts]) if shifts else (),
        worst=wrong_examples(runs[0], level, listed),
        floors=floors,
    )


def looked_into(runs: Sequence[Measured], levels: Mapping[int, IntArray]) -> MethodResult:
    """Return what tables and figures of single methods show; levels, by seed, are those of the scored test examples."""
    level_of = [levels.get(run.seed, next(iter(levels.values()))) for run in runs] if levels else []
    scored = runs[0].on_scored()
    return MethodResult(
        name=runs[0].name,
        title=runs[0].title,
        seeds=tuple(run.seed for run in runs),
        reliability=_reliability(runs),
        levels=_level_rows(runs, level_of) if levels else (),
        trends=trend_tests(scored.confidence, scored.correct, level_of[0]) if levels and np.ptp(level_of[0]) else (),
        history=tuple(runs[0].history),
        gallery=gallery(runs[0], level_of[0], count=MOST_IMAGES) if levels else (),
        remarks=hard_label_remarks({run.seed: run.history for run in runs}),
    )


def wrong_examples(run: Measured, levels: IntArray | None, most: int) -> tuple[WrongExample, ...]:
    """Return the wrong predictions of a run; score and level are those of the test examples that were scored."""
    score, level = np.full(len(run), np.nan), np.full(len(run), -1)
    scored = slice(None) if run.scored is None else run.scored
    if run.distance is not None:
        score[scored] = run.distance
    if levels is not None:
        level[scored] = levels
    examples = Examples(run.confidence, run.probs.argmax(1), run.labels, score, level)
    return examples.worst(most)


def fidelity_of(directory: Path) -> tuple[FidelityRow, ...]:
    """Return what was measured of the run's scores, if anything was."""
    return open_run(directory).fidelity() if (directory / "fidelity.json").exists() else ()


def _differences(
    runs: list[Measured], baseline: list[Measured], shifted: Mapping[int, _Shifted]
) -> dict[str, Estimate]:
    """Return the paired differences to the baseline, seed by seed, on the same test examples: one must be shared."""
    by_seed = {run.seed: run for run in baseline}
    ours = [run for run in runs if run.seed in by_seed]
    theirs = [by_seed[run.seed] for run in ours]
    if not ours:
        given = f"{runs[0].title} and {baseline[0].title} share no seed"
        refuse(given, "differences are paired by seed", "Train both with the same seeds")
    probs, other = [run.probs for run in ours], [run.probs for run in theirs]
    made = {name: paired_difference(name, probs, other, ours[0].labels, resamples=RESAMPLES) for name in METRICS}
    for name in shifted[id(ours[0])]:
        key = CORRECTED.get(name, name)
        made[name] = over_seeds([shifted[id(run)][key] for run in ours], [shifted[id(run)][key] for run in theirs])
    return {name: difference_within_range(name, estimate) for name, estimate in made.items()}


def _level_rows(runs: Sequence[Measured], level_of: Sequence[IntArray]) -> tuple[GroupRow, ...]:
    """Return one row a level, its figures averaged over the seeds in which it has examples (equal scores share one)."""
    by_level: dict[int, list[GroupRow]] = {}
    deviations: dict[int, list[Mapping[str, FloatArray]]] = {}
    for run, levels in zip([run.on_scored() for run in runs], level_of, strict=True):
        for row in level_table(run.probs, run.labels, levels, scores=run.distance, resamples=RESAMPLES):
            by_level.setdefault(int(row.group), []).append(row)
            deviations.setdefault(int(row.group), []).append(_deviations(run, levels == int(row.group)))
    return tuple(_mean_row(rows, deviations[level], len(by_level)) for level, rows in sorted(by_level.items()))


def _mean_row(rows: Sequence[GroupRow], deviations: Sequence[Mapping[str, FloatArray]], num_levels: int) -> GroupRow:
    """Return a level's mean over seeds; what the test examples do to one seed is in the seeds' spread already."""

    def mean(name: str, of: str, confidence: float = 0.95) -> Estimate:
        found = [value for row in rows if (value := getattr(row, of)) is not None]
        shared = shared_part([one[name] for one in deviations])
        return within_range(name, average_over_seeds(found, shared=shared, confidence=confidence))

    return GroupRow(
        group=rows[0].group,
        n=round(float(np.mean([row.n for row in rows]))),
        score_low=_mean_or_none([row.score_low for row in rows]),
        score_high=_mean_or_none([row.score_high for row in rows]),
        accuracy=mean("accuracy", "accuracy"),
        confidence=mean("confidence", "confidence"),
        gap=mean("gap", "gap"),
        ece=mean("ece", "ece"),
        joint_gap=mean("gap", "joint_gap", joint_confidence(0.95, num_levels)),
        ece_floor=_mean_or_none([row.ece_floor for row in rows]),
    )


def _deviations(run: Measured, inside: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Tell by how much each test example moves the figures of a level, to first order and up to a factor, (N,)."""
    sure = run.confidence[inside]
    index, residual = bin_index(sure), sure.astype(np.float64) - run.correct[inside]
    signs = np.sign(total(index, residual, 15))[index]
    values = {"accuracy": run.correct[inside], "confidence": sure, "gap": residual, "ece": signs * residual}
    made = {name: np.zeros(len(inside)) for name in values}
    for name, value in values.items():
        made[name][inside] = (value - value.mean(dtype=np.float64)) / len(sure)
    return made


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _reliability(runs: Sequence[Measured]) -> tuple[ReliabilityBin, ...]:
    """Return the bins over all seeds; the interval counts every test example once, however many seeds predicted it."""
    labels = np.concatenate([run.labels for run in runs])
    bins = reliability_bins(np.concatenate([run.probs for run in runs]), labels)
    jointly = joint_confidence(0.95, sum(row.count > 0 for row in bins))
    rows = []
    for row in bins:
        accuracy, effective = row.accuracy.value, row.count / len(runs)
        if row.count:
            share, joint = (
                Estimate(accuracy, *jeffreys_interval(accuracy * effective, effective, confidence=confidence))
                for confidence in (0.95, jointly)
            )
            row = dataclasses.replace(row, accuracy=share, joint=joint)
        rows.append(row)
    return tuple(rows)


def shift_cells(cells: Sequence[tuple[str, int]], by_seed: Sequence[Mapping[str, FloatArray]]) -> tuple[ShiftCell, ...]:
    """Return the metrics of each of C cells, the mean over seeds and each seed's, which is empty where it has none."""
    made = []
    for n, (kind, severity) in enumerate(cells):
        values = {name: [float(one[name][n]) if one else None for one in by_seed] for name in CELL_METRICS}
        means = {name: mean_of(found) for name, found in values.items()}
        made.append(ShiftCell(kind, severity, **means, per_seed={k: rounded(found) for k, found in values.items()}))
    return tuple(made)


def rounded(values: Iterable[float | None]) -> tuple[float | None, ...]:
    """Return values to six digits; None where there is none."""
    return tuple(None if value is None or math.isnan(value) else float(f"{value:.6g}") for value in values)


def _notes(first: Measured, methods: Mapping[str, list[Any]]) -> tuple[str, ...]:
    seeds = max(len(runs) for runs in methods.values())
    title = next(iter(methods.values()))[0].title
    test = f"the finite test split of {len(first)} examples ({RESAMPLES} bootstrap resamples"
    over = (
        f"Every figure is the mean over {seeds} seeds. Its 95% interval covers both what varies between seeds "
        f"(Student's t) and {test}, the same for all methods and seeds); differences are paired by seed and by "
        "resample; trend tests are of the first seed."
        if seeds > 1
        else f"One seed: the 95% intervals cover {test}), not what another training run would change."
    )
    lines = [
        over,
        "Robustness of an example: l2 norm, in input units, of the smallest change found that alters the model's own "
        "prediction within the input box (an upper bound, verified in float32). "
        f"Levels: {first.num_levels} groups of equal size, except that equal norms share a level; level 0 is the least "
        f"robust. Every method is grouped by the levels of the {title} model of the same seed, so {title} alone is "
        "judged by its own distances, which go with its own confidence.",
        "The validation split steers the smoothing; the test split is only measured on.",
        *(_temperatures(runs) for runs in methods.values() if runs[0].temperature is not None),
    ]
    others = {run.title for runs in methods.values() for run in runs if run.test_digest != first.test_digest}
    if others:
        lines.append(
            f"The test inputs of {', '.join(sorted(others))} are not those of {title}: their number and labels are the "
            "same. Each row is taken for the same example, as of pictures in two sizes."
        )
    lines += [FLOOR_NOTE, *([_COMPARED] if len(methods) > 1 else [])]
    if first.shift is not None:
        lines.append(
            f"Shift: {first.shift.note}. Metrics are computed per cell and then averaged over the cells, never pooled."
        )
    return tuple(lines)


def _temperatures(runs: Sequence[Measured]) -> str:
    """Return what was fitted for a temperature-scaled method."""
    found = [run.temperature for run in runs if run.temperature is not None]
    size = runs[0].dataset.get("sizes", {}).get("val")
    split = "the validation split" + (f" of {size} labelled examples" if size else "")
    values = f"{found[0]:.2f}" if len(found) == 1 else f"{min(found):.2f} to {max(found):.2f} over the seeds"
    return f"{runs[0].title}: logits divided by the temperature of lowest NLL on {split}, {values}."
