"""Results of a comparison → its tables and the lines below them; `study_text.py` and the page lay them out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from robcal.base.metrics import CORRECTED, OOD_METRICS, OUTCOMES, mean_of, metric_of
from robcal.base.results import FLOOR_NOTE, VARIANTS, Decision, MethodResult, Results, Study, Variant
from robcal.base.types import Estimate
from robcal.calibration.ranges import difference_within_range, within_range
from robcal.report import formatting
from robcal.report.costs import COSTS, NOTE, cost_ratios, reference_label
from robcal.report.grid import Cell, Grid
from robcal.report.lacking import HARD, MARK, lacking
from robcal.report.verdicts import difference_mark, side

TITLES: Mapping[Variant, str] = {"raw": "Without any post-hoc step", "scaled": "After temperature scaling"}
#: Outcomes whose paired differences the tables show; the CSV and the JSON hold all.
DIFFERENCES = ("accuracy", "nll", "aurc", "ece", "level_ece", "shift_ece", "shift_nll")
#: What the first table of the page answers: the methods best in each.
GLANCE = ("ece", "shift_ece", "nll", "aurc", "accuracy")
LEGEND = (
    "Mean over seeds. Best of its column: {best}; {tied}: not distinguishable from it (the 95% interval of the paired "
    "difference contains 0). Intervals cover what varies between seeds and the finite test split. Temperature: fitted "
    "on the validation split of each run. Levels: tenths (by default) of the test images by the adversarial distance "
    "to the plain model of the same seed."
)
#: What cuts the training levels of AR-AdaLS, in words.
_SOURCES = {
    "robustness": "adversarial distance to the plain model",
    "cross-fit": "adversarial distance to models that did not see the example",
    "margin": "logit margin of the plain model",
    "loss": "loss of the plain model",
    "running": "running margins of the model in training",
}
_OOD = (
    "OOD: inputs of other data, told from test examples by their low confidence; AUPR with the OOD inputs as the "
    "positives; FPR95 is the share of OOD inputs accepted where 95% of the test examples are. {sets}"
)
_STABILITY = (
    "Stability: variance over independent runs (other seeds: initialisation, order, held-out training examples) of the "
    "predicted probability of the true class, mean over examples; of an ensemble, over independent ensembles."
)
_COMPARED = (
    "ECE corr.: the ECE with most of the bias removed that noise gives it; below 0 where the gaps are smaller than "
    "chance makes them. Paired differences, marks and targets of every ECE are those of the corrected errors, not of "
    "the values as measured: noise adds more to the error of a model that is nearly calibrated. The interval of an ECE "
    "as measured is of what it measures on average."
)
TUNING = "Chosen on validation data of other seeds"
#: Verdict of a target → mark on the page, word in a text.
_VERDICTS = {
    "met": ("better", "met"),
    "not met": ("worse", "NOT MET"),
    "not distinguishable": ("unclear", "unclear"),
    "not measured": ("", "not measured"),
}
_NOTHING = Cell(formatting.NOTHING)


def study_of(results: Results) -> Study:
    """Return what only a comparison has."""
    assert results.study is not None
    return results.study


def head_line(results: Results) -> str:
    """Return what was compared, on which data, with how many seeds, on what machine."""
    sizes, seeds = results.dataset["sizes"], study_of(results).plan["seeds"]
    hardware = results.provenance["hardware"]
    return (
        f"{results.title}: {results.dataset['name']}, {sizes['train']} training, {sizes['val']} validation, "
        f"{sizes['test']} test examples; {len(seeds)} seeds; seconds on {hardware['gpu'] or hardware['cpu']}"
    )


def all_grids(results: Results) -> Iterator[Grid]:
    """Yield every table: outcomes, floors, inputs of other data, levels, stability, differences."""
    yield from main_grids(results)
    yield from floor_grids(results)
    for name in outside_sets(results):
        yield from outside_grids(results, name)
    yield from level_grids(results)
    yield from stability_grids(results)
    for reference in study_of(results).references:
        yield from difference_grids(results, reference)


def main_grids(results: Results, *, seconds: bool = True) -> list[Grid]:
    """Return every outcome of every label and its costs, raw and after temperature scaling.

    A page has the `seconds` of training elsewhere, and little room.
    """
    ratios, made = cost_columns(results), []
    for variant in VARIANTS:
        shown = measured_outcomes(results, variant)
        rows = []
        for one in results.methods:
            cells = [_outcome(one.variant(variant), name) for name in shown]
            rows.append((title_of(one, results), [*cells, *_costs(one, ratios)[0 if seconds else 1 :]]))
        costs = [("Seconds", "of training, mean over seeds")] if seconds else []
        columns = [*_columns(shown), *costs, *((heading, "") for heading in ratios)]
        made.append(Grid(TITLES[variant], columns, rows, brief=True))
    return made


def floor_grids(results: Results) -> list[Grid]:
    """Return the noise floor of every calibration error, raw and after temperature scaling."""

    def cells(one: MethodResult) -> list[Cell]:
        return [Cell(formatting.number(one.floors.get(name))) if one.floors else _NOTHING for name in CORRECTED]

    heading = "noise floor, mean over seeds"
    return _both(results, heading, _columns(CORRECTED), cells, lambda one: bool(one.floors))


def outside_sets(results: Results) -> tuple[str, ...]:
    """Return the sets of out-of-distribution inputs where there are several; main tables show the mean over them."""
    sets = tuple(study_of(results).ood)
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
            means = {variant: [*rows, *level_floor(results, variant)] for variant, rows in means.items()}
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
        assert one.stability is not None
        values = [one.stability.all, *one.stability.levels, *[None] * (widest - len(one.stability.levels))]
        return [Cell(formatting.number(value, 4)) for value in values]

    columns = [("all", ""), *_levels(widest)]
    heading = "stability, variance over runs per robustness level"
    return _both(results, heading, columns, cells, lambda one: one.stability is not None)


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
    for target in study_of(results).targets:
        statement, less, figures = target_words(target)
        verdict = Cell(target.verdict, "", _VERDICTS[target.verdict][0])
        rows.append((target.name, [verdict, Cell(statement), Cell(f"minus {less}: {figures}")]))
    columns = [("Verdict", ""), ("Statement", ""), ("Paired difference, 95% interval", "")]
    return Grid("Targets", columns, rows, "Target", "words")


def cost_grid(results: Results) -> Grid:
    """Return the seconds of training, and the ratios to the plain method as bars."""
    ratios = cost_columns(results)
    most = {name: max((v for v in found.values() if math.isfinite(v)), default=1.0) for name, found in ratios.items()}
    rows = []
    for one in results.methods:
        seconds, *cells = _costs(one, ratios)
        shares = (found[one.name] / most[name] for name, found in ratios.items())
        bars = [
            Cell(cell.text, shade=share if math.isfinite(share) else 0.0, bar=True)
            for cell, share in zip(cells, shares, strict=True)
        ]
        rows.append((title_of(one, results), [seconds, *bars]))
    relative = reference_label(results) if ratios else None
    columns = [
        ("Seconds of training", "mean over seeds"),
        *((heading, f"times that of {relative}") for heading in ratios),
    ]
    return Grid(f"Cost{f', relative to {relative}' if relative else ''}", columns, rows)


def best_of(results: Results, metric: str, variant: Variant) -> tuple[str, list[str]]:
    """Return the best label of an outcome ("" if there is none), and those not distinguishable from it."""
    marks = {one.name: one.variant(variant).marks.get(metric) for one in results.methods}
    best = next((label for label, mark in marks.items() if mark == "best"), "")
    return best, [label for label, mark in marks.items() if mark == "tied"]


def notes(results: Results) -> list[str]:
    """Say what to know of labels and data, and what the figures of shift, OOD inputs, costs and stability mean."""
    study = study_of(results)
    lines = [f"{HARD} {one.title}: {remark}." for one in results.methods for remark in one.remarks]
    lines += _level_sources(results)
    lines += [f"Data: {note}." for note in results.dataset.get("notes", ())]
    lines += [FLOOR_NOTE, _COMPARED] if study.corrected else []
    if "ece_debiased" in measured_outcomes(results, "raw"):
        lines.append(f"{metric_of('ece_debiased').short}: {metric_of('ece_debiased').text}.")
    if study.shift:
        lines.append(f"Shift: {study.shift}; every figure is a mean over these cells.")
    if study.ood:
        each = ", ".join(f"{name} ({one['inputs']} inputs)" for name, one in study.ood.items())
        lines.append(
            _OOD.format(sets=f"Sets: {each}" + ("; figures are means over them." if len(study.ood) > 1 else "."))
        )
    if (reference := reference_label(results)) is not None:
        lines.append(NOTE.format(reference=reference))
    return [*lines, _STABILITY] if any(one.stability for one in results.methods) else lines


def target_lines(results: Results) -> list[str]:
    """Return a heading, and one line a target."""
    targets = study_of(results).targets
    lines = ["Targets"] if targets else []
    for target in targets:
        statement, less, figures = target_words(target)
        lines.append(f"  {_VERDICTS[target.verdict][1]}: {target.name}: {statement}; minus {less}: {figures}")
    return lines


def target_words(target: Decision) -> tuple[str, str, str]:
    """Return what a target states, what its difference is taken to, and the difference with its interval."""
    words = {
        "below": f"below {target.against}" + (f" by {target.margin:g}" if target.margin else ""),
        "half": f"below half of {target.against}'s",
        "within": f"no worse than {target.against}'s by {target.margin:g}",
    }[target.kind]
    scaled = " after temperature scaling" if target.scaled else ""
    found = None if target.difference is None else difference_within_range(target.metric, target.difference)
    figures = formatting.with_interval(found, functools.partial(formatting.difference, target.metric))
    statement = f"{metric_of(target.metric).short} of {target.method}{scaled} {words}"
    return statement, "half of it" if target.kind == "half" else "it", figures + _on_seeds(target)


def tuning_lines(results: Results) -> list[str]:
    """Return a heading, and what was chosen for each method among what."""
    texts = tuning_texts(results)
    return [*([TUNING] if texts else []), *(f"  {label}: {text}" for label, text in texts)]


def tuning_texts(results: Results) -> list[tuple[str, str]]:
    """Return (label, what was chosen for it among what)."""
    found = []
    for one in study_of(results).tuning:
        each = ", ".join(f"{options_text(c['options'])}: {formatting.number(c['mean'])}" for c in one["candidates"])
        found.append((one["label"], f"{options_text(one['chosen'])} ({one['select']} of {each})"))
    return found


def options_text(options: Mapping[str, object]) -> str:
    """Write settings in a line."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def title_of(method: MethodResult, results: Results) -> str:
    """Return the label, its number of seeds where others have more, and marks: it lacks some, or stayed plain."""
    most = max(len(one.seeds) for one in results.methods)
    few = "" if len(method.seeds) == most else f" ({len(method.seeds)} of {most} seeds)"
    marks = [mark for mark, has in ((MARK, lacking(results, method.name)), (HARD, method.remarks)) if has]
    return " ".join([f"{method.title}{few}", *marks])


def measured_outcomes(results: Results, variant: Variant) -> list[str]:
    """Return the outcomes that any label has."""
    known = (*OUTCOMES[:6], "ece_debiased", *OUTCOMES[6:])  # results of earlier versions hold this, too
    return [name for name in known if any(name in one.variant(variant).metrics for one in results.methods)]


def cost_columns(results: Results) -> dict[str, dict[str, float]]:
    """Return heading → label → ratio to the plain method, of the costs that were measured."""
    ratios = {heading: cost_ratios(results, key) for key, heading in COSTS.items()}
    return {heading: found for heading, found in ratios.items() if not all(map(math.isnan, found.values()))}


def level_means(results: Results, variant: Variant, metric: str) -> list[tuple[str, list[float]]]:
    """Return (title, mean over seeds of each level) of the labels that have levels."""
    found = ((one, one.variant(variant).level_values.get(metric, ())) for one in results.methods)
    return [
        (title_of(one, results), [mean_of(level) for level in zip(*seeds, strict=True)])
        for one, seeds in found
        if seeds
    ]


def level_floor(results: Results, variant: Variant) -> list[tuple[str, list[float]]]:
    """Return a row with the noise floor of each level, mean over labels; none where it was not computed."""
    found = [means for _, means in level_means(results, variant, "ece_floor")]
    return [("Noise floor, mean", [mean_of(level) for level in zip(*found, strict=True)])] if found else []


def spread(estimate: Estimate, write: Callable[[float | None], str]) -> str:
    """Write the interval as "± half of it", or as "[low, high]" where it is cut off on one side.

    >>> spread(Estimate(0.5, 0.4, 0.6), formatting.percent), spread(Estimate(0.9, 0.7, 1.0), formatting.percent)
    ('± 10.0%', '[70.0%, 100.0%]')
    """
    if estimate.ends is None:
        return ""
    above, below = estimate.ends[1] - estimate.value, estimate.value - estimate.ends[0]
    return f"± {write(above)}" if math.isclose(above, below, rel_tol=1e-6) else formatting.interval(estimate, write)


def _both(
    results: Results,
    heading: str,
    columns: Sequence[tuple[str, str]],
    cells: Callable[[MethodResult], list[Cell]],
    has: Callable[[MethodResult], bool] = lambda one: True,
    *,
    brief: bool = False,
) -> list[Grid]:
    """Return a table a variant, of the labels that have what it shows; none where no label has."""
    made = []
    for variant in VARIANTS:
        rows = [
            (title_of(one, results), cells(one.variant(variant)))
            for one in results.methods
            if has(one.variant(variant))
        ]
        if rows:
            made.append(Grid(f"{TITLES[variant]}: {heading}", columns, rows, brief=brief))
    return made


def _columns(metrics: Sequence[str] | Mapping[str, str]) -> list[tuple[str, str]]:
    return [(metric_of(name).short, metric_of(name).text) for name in metrics]


def _levels(count: int) -> list[tuple[str, str]]:
    return [(f"level {level}", "") for level in range(count)]


def _costs(method: MethodResult, ratios: Mapping[str, Mapping[str, float]]) -> list[Cell]:
    """Return the seconds of training a seed, and the ratios to the plain method."""
    seconds = mean_of(method.training.seconds) if method.training else math.nan
    each = [formatting.number(found[method.name], 2) for found in ratios.values()]
    return [Cell(text) for text in (formatting.significant(seconds), *each)]


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


def _level_sources(results: Results) -> list[str]:
    """Return what cut the levels of each method that takes them from robustness or difficulty, whatever its name."""
    labels: dict[str, list[str]] = {}
    for one in results.methods:
        if source := one.training and one.training.settings.get("levels_from"):
            labels.setdefault(source, []).append(one.title)
    each = [f"{_SOURCES.get(source, source)}: {', '.join(found)}" for source, found in labels.items()]
    return [f"Training levels by {'; by '.join(each)}."] if each else []


def _on_seeds(target: Decision) -> str:
    """Tell which seeds decided, where some of those planned are lacking."""
    if not target.lacking:
        return ""
    lost, seeds = (", ".join(map(str, found)) for found in (target.lacking, target.seeds))
    return f" ({MARK} on the common seeds {seeds}; without {lost})" if seeds else f" ({MARK} no common seed)"
