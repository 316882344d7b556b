"""results.json of a comparison → the tables of its page."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from robcal.base.metrics import CORRECTED, metric_of
from robcal.base.types import Estimate
from robcal.comparison.blocks import (
    TITLES,
    cost_columns,
    difference_of,
    estimate_of,
    floor_rows,
    level_floor,
    level_means,
    mean_of,
    measured_outcomes,
    shown_differences,
    spread,
    target_words,
    title_of,
)
from robcal.comparison.cost import reference_label
from robcal.comparison.outcomes import OOD
from robcal.comparison.summary import VARIANTS
from robcal.report import formatting
from robcal.report.grid import Cell, Grid

#: What the first table of the page answers: the methods best in each.
GLANCE = ("ece", "shift_ece", "nll", "aurc", "accuracy")
#: Verdict of a target → mark, word.
_VERDICTS = {
    "met": ("better", "met"),
    "not met": ("worse", "not met"),
    "not distinguishable": ("unclear", "not distinguishable"),
    "not measured": ("", "not measured"),
}
_NOTHING = Cell(formatting.NOTHING)


def glance_grid(record: Mapping[str, Any]) -> Grid:
    """Return which label is best in what, and which are not distinguishable from it."""
    shown = [metric for metric in GLANCE if any(best_of(record, metric, variant)[0] for variant in VARIANTS)]
    rows = [(metric_of(metric).short, [_best(record, metric, variant) for variant in VARIANTS]) for metric in shown]
    columns = [(TITLES[variant], "") for variant in VARIANTS]
    return Grid("Best of its kind, and what is not distinguishable from it", columns, rows, "Outcome", "words")


def best_of(record: Mapping[str, Any], metric: str, variant: str) -> tuple[str, list[str]]:
    """Return the best label of an outcome ("" if there is none), and those not distinguishable from it."""
    marks = record["marks"][variant].get(metric, {})
    best = next((label for label, mark in marks.items() if mark == "best"), "")
    return best, [label for label, mark in marks.items() if mark == "tied"]


def main_grids(record: Mapping[str, Any]) -> list[Grid]:
    """Every outcome of every label, raw and after temperature scaling; costs once more behind each."""
    ratios = cost_columns(record)
    grids = []
    for variant in VARIANTS:
        shown = measured_outcomes(record, variant)
        rows = [
            (
                title_of(method["label"], record),
                [_outcome(record, method, variant, metric) for metric in shown]
                + [Cell(formatting.number(found[method["label"]], 2)) for found in ratios.values()],
            )
            for method in record["methods"]
        ]
        columns = [(metric_of(metric).short, metric_of(metric).text) for metric in shown]
        grids.append(Grid(TITLES[variant], [*columns, *((heading, "") for heading in ratios)], rows))
    return grids


def floor_grids(record: Mapping[str, Any]) -> list[Grid]:
    """Return the noise floor of every calibration error, raw and after temperature scaling."""
    columns = [(metric_of(name).short, metric_of(name).text) for name in CORRECTED]
    rows_of = {variant: floor_rows(record, variant) for variant in VARIANTS}
    return [
        Grid(
            TITLES[variant], columns, [(title, [Cell(formatting.number(v)) for v in floors]) for title, floors in rows]
        )
        for variant, rows in rows_of.items()
        if rows
    ]


def difference_grids(record: Mapping[str, Any], reference: str) -> list[Grid]:
    """Paired differences of every label to one, raw and after temperature scaling."""
    labels, grids = record["differences"][reference], []
    for variant in VARIANTS:
        shown = shown_differences(labels, variant)
        rows = [
            (title_of(label, record), [_difference(difference_of(one[variant], name), name) for name in shown])
            for label, one in labels.items()
        ]
        columns = [(metric_of(name).short, metric_of(name).text) for name in shown]
        grids.append(Grid(TITLES[variant], columns, rows))
    return grids


def target_grid(record: Mapping[str, Any]) -> Grid:
    """Every target with its verdict."""
    rows = []
    for target in record["targets"]:
        statement, less, figures = target_words(target)
        mark, word = _VERDICTS[target["verdict"]]
        rows.append((target["name"], [Cell(word, "", mark), Cell(statement), Cell(f"minus {less}: {figures}")]))
    columns = [("Verdict", ""), ("Statement", ""), ("Paired difference, 95% interval", "")]
    return Grid("Targets", columns, rows, "Target", "words")


def level_grids(record: Mapping[str, Any]) -> list[Grid]:
    """ECE, then signed gap of every robustness level, raw and after temperature scaling."""
    grids = []
    for metric, name in (("ece", "ECE"), ("gap", "Signed gap, confidence − accuracy")):
        rows_of = {variant: level_means(record, variant, metric) for variant in VARIANTS}
        if metric == "ece":
            rows_of = {variant: [*rows, *level_floor(record, variant)] for variant, rows in rows_of.items()}
        ends = [abs(v) for rows in rows_of.values() for _, values in rows for v in values if math.isfinite(v)]
        most = max(ends, default=0.0) or 1.0
        for variant, rows in rows_of.items():
            if rows:
                cells = [(label, [_shaded(value, most, metric) for value in values]) for label, values in rows]
                columns = [(str(level), f"level {level}") for level in range(len(rows[0][1]))]
                grids.append(
                    Grid(f"{name}: {TITLES[variant][0].lower()}{TITLES[variant][1:]}", columns, cells, kind="heat")
                )
    return grids


def cost_grid(record: Mapping[str, Any]) -> Grid:
    """Seconds of training, and the ratios to the plain method."""
    ratios = cost_columns(record)
    most = {name: max((v for v in found.values() if math.isfinite(v)), default=1.0) for name, found in ratios.items()}
    rows = []
    for method in record["methods"]:
        cells = [Cell(formatting.significant(mean_of(method["seconds"])))]
        for name, found in ratios.items():
            value = found[method["label"]]
            share = value / most[name] if math.isfinite(value) else 0.0
            cells.append(Cell(formatting.number(value, 2), "", "", share, bar=True))
        rows.append((title_of(method["label"], record), cells))
    relative = f" of {reference_label(record)}" if ratios else ""
    columns = [("Seconds of training", "mean over seeds"), *((heading, f"times that{relative}") for heading in ratios)]
    return Grid(f"Cost{f', relative to {reference_label(record)}' if ratios else ''}", columns, rows)


def further_grids(record: Mapping[str, Any]) -> Iterator[tuple[str, list[Grid]]]:
    """Yield what is folded away: each set of out-of-distribution inputs, and the stability over runs."""
    sets = record.get("ood", {})
    for name in sets if len(sets) > 1 else ():
        yield f"Out-of-distribution inputs {name}", [_ood(record, name, variant) for variant in VARIANTS]
    stability = record.get("stability", {})
    if stability:
        yield (
            "Stability: variance over runs of the true class's probability",
            [_stability(record, variant) for variant in VARIANTS],
        )


def _best(record: Mapping[str, Any], metric: str, variant: str) -> Cell:
    best, tied = best_of(record, metric, variant)
    if not best:
        return _NOTHING
    (method,) = (one for one in record["methods"] if one["label"] == best)
    found = estimate_of(method[variant]["metrics"], metric)
    others = ", ".join(tied) if len(tied) <= 3 else f"{len(tied)} others"
    value = formatting.metric(metric, None if found is None else found.value)
    return Cell(f"{best} {value}", f"≈ {others}" if tied else "alone", "best")


def _outcome(record: Mapping[str, Any], method: Mapping[str, Any], variant: str, metric: str) -> Cell:
    found = estimate_of(method[variant]["metrics"], metric)
    if found is None or math.isnan(found.value):
        return _NOTHING
    half = spread(found, functools.partial(formatting.metric, metric))
    return Cell(formatting.metric(metric, found.value), half, record["marks"][variant][metric].get(method["label"], ""))


def _difference(found: Estimate | None, metric: str) -> Cell:
    if found is None or math.isnan(found.value):
        return _NOTHING
    write: Callable[[float | None], str] = functools.partial(formatting.difference, metric)
    half, mark = "", ""
    if found.low is not None and found.high is not None:
        half = spread(found, lambda value: write(value).removesuffix(" pp")).replace("± +", "± ")
        good = found.high < 0 if metric_of(metric).lower else found.low > 0
        mark = "unclear" if found.low <= 0 <= found.high else "better" if good else "worse"
    return Cell(write(found.value), half, mark)


def _shaded(value: float, most: float, metric: str) -> Cell:
    write = formatting.signed if metric == "gap" else formatting.number
    if math.isnan(value):
        return _NOTHING
    role = "accent" if metric == "ece" else "over" if value > 0 else "under"
    return Cell(write(value, 3).replace("0.", ".", 1), "", "", abs(value) / most, role)


def _ood(record: Mapping[str, Any], name: str, variant: str) -> Grid:
    rows = []
    for method in record["methods"]:
        found = method[variant]["ood"].get(name, {})
        values = [estimate_of(found, key) for key in OOD]
        cells = [_NOTHING if one is None else Cell(formatting.number(one.value)) for one in values]
        rows.append((title_of(method["label"], record), cells))
    return Grid(TITLES[variant], [(metric_of(key).short, metric_of(key).text) for key in OOD], rows)


def _stability(record: Mapping[str, Any], variant: str) -> Grid:
    found = {label: one[variant] for label, one in record["stability"].items()}
    widest = max(len(one["levels"]) for one in found.values())
    rows: list[tuple[str, Sequence[Cell]]] = []
    for label, one in found.items():
        values = [one["all"], *one["levels"], *[math.nan] * (widest - len(one["levels"]))]
        rows.append((title_of(label, record), [Cell(formatting.number(value, 4)) for value in values]))
    return Grid(TITLES[variant], [("all", ""), *((str(level), f"level {level}") for level in range(widest))], rows)
