"""Results of a comparison → its tables; `study_notes.py` has the lines below them, text and page lay both out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from robcal.base.metrics import CORRECTED, OOD_METRICS, mean_of, metric_of
from robcal.base.results import VARIANTS, MethodResult, Results, Variant
from robcal.base.types import Estimate
from robcal.calibration.intervals import difference_within_range, within_range
from robcal.report import formatting
from robcal.report import study_notes as told
from robcal.report.grid import Cell, Grid
from robcal.report.verdicts import difference_mark, side

TITLES: Mapping[Variant, str] = {"raw": "Without any post-hoc step", "scaled": "After temperature scaling"}
#: Outcomes whose paired differences the tables show; the CSV and the JSON hold all.
DIFFERENCES = ("accuracy", "nll", "aurc", "ece", "level_ece", "shift_ece", "shift_nll")
#: What the first table of the page answers: the methods best in each.
GLANCE = ("ece", "shift_ece", "nll", "aurc", "accuracy")
Cost = Literal["seconds", "inference_seconds"]
#: Field of `Training` → heading.
COSTS: dict[Cost, str] = {"seconds": "Training x", "inference_seconds": "Inference x"}
_NOTHING = Cell(formatting.NOTHING)


def all_grids(results: Results) -> Iterator[Grid]:
    """Yield every table: outcomes, floors, inputs of other data, levels, stability, differences."""
    yield from main_grids(results)
    yield from floor_grids(results)
    for name in outside_sets(results):
        yield from outside_grids(results, name)
    yield from level_grids(results)
    yield from stability_grids(results)
    for reference in told.study_of(results).references:
        yield from difference_grids(results, reference)


def main_grids(results: Results, *, seconds: bool = True) -> list[Grid]:
    """Return every outcome of every label and its costs; the page, which has little room, has `seconds` elsewhere."""
    ratios, made = cost_columns(results), []
    for variant in VARIANTS:
        shown = told.measured_outcomes(results, variant)
        rows = []
        for one in results.methods:
            cells = [_outcome(one.variant(variant), name) for name in shown]
            cells += [_seconds(one)] if seconds else []
            cells += [Cell(formatting.number(found[one.name], 2)) for found in ratios.values()]
            rows.append((title_of(one, results), cells))
        costs = [("Seconds", "of training, mean over seeds")] if seconds else []
        columns = [*_columns(shown), *costs, *((heading, "") for heading in ratios)]
        made.append(Grid(TITLES[variant], columns, rows, brief=True))
    return made


def floor_grids(results: Results) -> list[Grid]:
    """Return the noise floor of every calibration error, raw and after temperature scaling."""

    def cells(one: MethodResult) -> list[Cell]:
        return [Cell(formatting.number(one.floors.get(name))) for name in CORRECTED] if one.floors else []

    return _both(results, "noise floor, mean over seeds", _columns(CORRECTED), cells)


def outside_sets(results: Results) -> tuple[str, ...]:
    """Return the sets of out-of-distribution inputs where there are several; main tables show the mean over them."""
    sets = tuple(told.study_of(results).ood)
    return sets if len(sets) > 1 else ()


def outside_grids(results: Results, name: str) -> list[Grid]:
    """Return the detection of one set of out-of-distribution inputs, raw and after temperature scaling."""

    def cells(one: MethodResult) -> list[Cell]:
        return [_outcome(one, key, one.ood.get(name, {})) for key in OOD_METRICS]

    return _both(results, f"out-of-distribution inputs {name}", _columns(OOD_METRICS), cells, brief=True)


def level_grids(results: Results) -> list[Grid]:
    """Return ECE, then signed gap of every robustness level, means over seeds, shaded by their size."""
    made = []
    for metric, name in (("ece", "ECE"), ("gap", "signed gap (confidence - accuracy)")):
        means = {variant: level_means(results, variant, metric) for variant in VARIANTS}
        if metric == "ece":
            for variant, rows in means.items():
                floors = [floor for _, floor in level_means(results, variant, "ece_floor")]
                rows += [("Noise floor, mean", [mean_of(level) for level in zip(*floors, strict=True)])] * bool(floors)
        ends = [abs(v) for rows in means.values() for _, values in rows for v in values if math.isfinite(v)]
        most = max(ends, default=0.0) or 1.0
        for variant, rows in means.items():
            if rows:
                heading = f"{TITLES[variant]}: {name} per robustness level, 0 the least robust"
                cells = [(title, [_shaded(value, most, metric) for value in values]) for title, values in rows]
                made.append(Grid(heading, _levels(len(rows[0][1])), cells, kind="heat"))
    return made


def stability_grids(results: Results) -> list[Grid]:
    """Return the variance over runs of the probability of the true class, over all and per level."""
    found = [one.variant(variant).stability for variant in VARIANTS for one in results.methods]
    widest = max((len(one.levels) for one in found if one is not None), default=0)

    def cells(one: MethodResult) -> list[Cell]:
        if one.stability is None:
            return []
        values = [one.stability.all, *one.stability.levels, *[None] * (widest - len(one.stability.levels))]
        return [Cell(formatting.number(value, 4)) for value in values]

    heading = "stability, variance over runs per robustness level"
    return _both(results, heading, [("all", ""), *_levels(widest)], cells)


def difference_grids(results: Results, reference: str) -> list[Grid]:
    """Return the paired differences of every other label to one, raw and after temperature scaling."""
    made = []
    others = [one for one in results.methods if reference in one.minus]
    for variant in VARIANTS:
        minus = {one.name: one.variant(variant).minus.get(reference, {}) for one in others}
        shown = [name for name in DIFFERENCES if any(name in found for found in minus.values())]
        rows = [(title_of(one, results), [_difference(minus[one.name], name) for name in shown]) for one in others]
        to = title_of(results.method(reference), results)
        heading = f"{TITLES[variant]}: paired difference to {to}, with its 95% interval"
        made.append(Grid(heading, _columns(shown), rows))
    return made


def glance_grid(results: Results) -> Grid:
    """Return which label is best in what, and which are not distinguishable from it."""
    shown = [metric for metric in GLANCE if any(best_of(results, metric, variant)[0] for variant in VARIANTS)]
    rows = [(metric_of(metric).short, [_best(results, metric, variant) for variant in VARIANTS]) for metric in shown]
    columns = [(TITLES[variant], "") for variant in VARIANTS]
    return Grid("Best of its kind, and what is not distinguishable from it", columns, rows, "Outcome", "words")


def target_grid(results: Results) -> Grid:
    """Return every target with its verdict."""
    rows = []
    for target in told.study_of(results).targets:
        statement, less, figures = told.target_words(target)
        verdict = Cell(target.verdict, "", told.VERDICTS[target.verdict][0])
        rows.append((target.name, [verdict, Cell(statement), Cell(f"minus {less}: {figures}")]))
    columns = [("Verdict", ""), ("Statement", ""), ("Paired difference, 95% interval", "")]
    return Grid("Targets", columns, rows, "Target", "words")


def cost_grid(results: Results) -> Grid:
    """Return the seconds of training, and the ratios to the plain method as bars."""
    ratios = cost_columns(results)
    most = {name: max((v for v in found.values() if math.isfinite(v)), default=1.0) for name, found in ratios.items()}
    rows = []
    for one in results.methods:
        bars = [_bar(found[one.name], most[heading]) for heading, found in ratios.items()]
        rows.append((title_of(one, results), [_seconds(one), *bars]))
    relative = told.reference_label(results) if ratios else None
    costs = [(heading, f"times that of {relative}") for heading in ratios]
    columns = [("Seconds of training", "mean over seeds"), *costs]
    return Grid(f"Cost{f', relative to {relative}' if relative else ''}", columns, rows)


def best_of(results: Results, metric: str, variant: Variant) -> tuple[str, list[str]]:
    """Return the best label of an outcome ("" if there is none), and those not distinguishable from it."""
    marks = {one.name: one.variant(variant).marks.get(metric) for one in results.methods}
    best = next((label for label, mark in marks.items() if mark == "best"), "")
    return best, [label for label, mark in marks.items() if mark == "tied"]


def title_of(method: MethodResult, results: Results) -> str:
    """Return the label, its number of seeds where others have more, and marks: it lacks some, or stayed plain."""
    most = max(len(one.seeds) for one in results.methods)
    few = "" if len(method.seeds) == most else f" ({len(method.seeds)} of {most} seeds)"
    marks = [
        mark for mark, has in ((told.MARK, told.lacking(results, method.name)), (told.HARD, method.remarks)) if has
    ]
    return " ".join([f"{method.title}{few}", *marks])


def cost_columns(results: Results) -> dict[str, dict[str, float]]:
    """Return heading → label → ratio to the plain method, of the costs that were measured."""
    ratios = {heading: cost_ratios(results, key) for key, heading in COSTS.items()}
    return {heading: found for heading, found in ratios.items() if not all(map(math.isnan, found.values()))}


def cost_ratios(results: Results, key: Cost) -> dict[str, float]:
    """Return label → Σ seconds of its runs / Σ seconds of the plain runs of the same seeds; NaN where not measured."""
    label = told.reference_label(results)
    if label is None:
        return {}
    by_label = {
        one.name: dict(zip(one.seeds, getattr(one.training, key, ()) or [math.nan] * len(one.seeds), strict=True))
        for one in results.methods
    }
    plain, ratios = by_label[label], {}
    for name, times in by_label.items():
        shared = [seed for seed in times if math.isfinite(times[seed] + plain.get(seed, math.nan))]
        below = math.fsum(plain[seed] for seed in shared) if shared else 0.0
        ratios[name] = math.fsum(times[seed] for seed in shared) / below if below else math.nan
    return ratios


def level_means(results: Results, variant: Variant, metric: str) -> list[tuple[str, list[float]]]:
    """Return (title, mean over seeds of each level) of the labels that have levels."""
    found = ((one, one.variant(variant).level_values.get(metric, ())) for one in results.methods)
    return [
        (title_of(one, results), [mean_of(level) for level in zip(*seeds, strict=True)])
        for one, seeds in found
        if seeds
    ]


def spread(estimate: Estimate, write: Callable[[float | None], str]) -> str:
    """Write the interval as "± half of it", or as "[low, high]" where it is cut off on one side."""
    if estimate.ends is None:
        return ""
    above, below = estimate.ends[1] - estimate.value, estimate.value - estimate.ends[0]
    return f"± {write(above)}" if math.isclose(above, below, rel_tol=1e-6) else formatting.interval(estimate, write)


def _both(
    results: Results,
    heading: str,
    columns: Sequence[tuple[str, str]],
    cells: Callable[[MethodResult], list[Cell]],
    *,
    brief: bool = False,
) -> list[Grid]:
    """Return a table a variant, of the labels that have cells; none where no label has."""
    made = []
    for variant in VARIANTS:
        found = [(title_of(one, results), cells(one.variant(variant))) for one in results.methods]
        if rows := [row for row in found if row[1]]:
            made.append(Grid(f"{TITLES[variant]}: {heading}", columns, rows, brief=brief))
    return made


def _columns(metrics: Sequence[str] | Mapping[str, str]) -> list[tuple[str, str]]:
    return [(metric_of(name).short, metric_of(name).text) for name in metrics]


def _levels(count: int) -> list[tuple[str, str]]:
    return [(f"level {level}", "") for level in range(count)]


def _seconds(method: MethodResult) -> Cell:
    """Return the seconds of training, mean over seeds."""
    return Cell(formatting.significant(mean_of(method.training.seconds) if method.training else None))


def _bar(ratio: float, most: float) -> Cell:
    return Cell(formatting.number(ratio, 2), shade=ratio / most if math.isfinite(ratio) else 0.0, bar=True)


def _outcome(method: MethodResult, name: str, metrics: Mapping[str, Estimate] | None = None) -> Cell:
    """Return an outcome with its interval, kept where it can be, and its mark; of a set of inputs without one."""
    found = (method.metrics if metrics is None else metrics).get(name)
    if found is None or math.isnan(found.value):
        return _NOTHING
    write = functools.partial(formatting.metric, name)
    mark = method.marks.get(name, "") if metrics is None else ""
    return Cell(write(found.value), spread(within_range(name, found), write), mark)


def _difference(minus: Mapping[str, Estimate], name: str) -> Cell:
    """Return a difference with its interval, and whether it is for the better; accuracies in percentage points."""
    if name not in minus or math.isnan(minus[name].value):
        return _NOTHING
    found = difference_within_range(name, minus[name])
    text = formatting.difference(name, found.value).removesuffix(" pp")
    return Cell(text, formatting.difference_interval(name, found), difference_mark(name, side(found)))


def _shaded(value: float, most: float, metric: str) -> Cell:
    write = formatting.signed if metric == "gap" else formatting.number
    role = "accent" if metric == "ece" else "over" if value > 0 else "under"
    return _NOTHING if math.isnan(value) else Cell(write(value, 3), "", "", abs(value) / most, role)


def _best(results: Results, metric: str, variant: Variant) -> Cell:
    best, tied = best_of(results, metric, variant)
    if not best:
        return _NOTHING
    found = results.method(best).variant(variant).metrics.get(metric)
    others = ", ".join(tied) if len(tied) <= 3 else f"{len(tied)} others"
    value = formatting.metric(metric, None if found is None else found.value)
    return Cell(f"{best} {value}", f"≈ {others}" if tied else "alone", "best")
