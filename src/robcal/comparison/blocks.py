"""results.json of a comparison → its tables as blocks of cells, and the lines below them; layouts are elsewhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from robcal.base.encoding import typed
from robcal.base.metrics import CORRECTED, metric_of
from robcal.base.types import FLOOR_NOTE, Estimate
from robcal.calibration.ranges import difference_within_range, within_range
from robcal.comparison.cost import COSTS, NOTE, cost_ratios, reference_label
from robcal.comparison.missing import HARD, MARK, hard_label_notes, hard_labels, lacking
from robcal.comparison.outcomes import OOD
from robcal.comparison.plan import OUTCOMES
from robcal.comparison.summary import VARIANTS
from robcal.report import formatting

TITLES = {"raw": "Without any post-hoc step", "scaled": "After temperature scaling"}
#: Outcomes whose paired differences the printed tables show; the CSV and the JSON hold all.
DIFFERENCES = ("accuracy", "nll", "aurc", "ece", "level_ece", "shift_ece", "shift_nll")
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
#: What the shift was in results that do not say it themselves.
_SHIFT = "15 corruptions at 5 severities"
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
_SIGNS = {"met": "met", "not met": "NOT MET", "not distinguishable": "unclear", "not measured": "not measured"}

#: A table: heading, column heads, rows of cells; the first column is text.
Block = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def head_line(record: Mapping[str, Any]) -> str:
    """Return what was compared, on which data, with how many seeds, on what machine."""
    sizes, seeds = record["dataset"]["sizes"], record["plan"]["seeds"]
    hardware = record["provenance"]["hardware"]
    return (
        f"{record['title']}: {record['dataset']['name']}, {sizes['train']} training, {sizes['val']} validation, "
        f"{sizes['test']} test examples; {len(seeds)} seeds; seconds on {hardware['gpu'] or hardware['cpu']}"
    )


def blocks(record: Mapping[str, Any], *, best: str, tied: str, bare: bool) -> Iterator[Block]:
    """Yield the main tables, the levels, and the differences to each reference."""
    ratios = cost_columns(record)
    for variant in VARIANTS:
        shown = measured_outcomes(record, variant)
        rows = []
        for method in record["methods"]:
            marks = {name: record["marks"][variant][name].get(method["label"], "") for name in shown}
            wrap = {"best": best, "tied": tied, "": "{}"}
            cells = [wrap[marks[name]].format(_cell(method[variant]["metrics"], name, bare=bare)) for name in shown]
            rows.append([title_of(method["label"], record), *cells, *_costs(method, ratios)])
        yield TITLES[variant], ["Method", *(metric_of(name).short for name in shown), "Seconds", *ratios], rows
    for variant in VARIANTS:
        heads = ["Method", *(metric_of(name).short for name in CORRECTED)]
        texts = [[title, *map(formatting.number, floors)] for title, floors in floor_rows(record, variant)]
        if texts:
            yield f"{TITLES[variant]}: noise floor, mean over seeds", heads, texts
    yield from _outside_blocks(record, bare=bare)
    yield from _level_blocks(record)
    yield from _stability_blocks(record)
    for name_of, labels in record["differences"].items():
        for variant in VARIANTS:
            shown = shown_differences(labels, variant)
            rows = [
                [title_of(label, record), *(_difference(one[variant], name) for name in shown)]
                for label, one in labels.items()
            ]
            reference = title_of(name_of, record)
            heading = f"{TITLES[variant]}: paired difference to {reference}, with its 95% interval"
            yield heading, ["Method", *(metric_of(name).short for name in shown)], rows


def _costs(method: Mapping[str, Any], ratios: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Seconds of training a seed, and the ratios to the plain method."""
    each = [formatting.number(found[method["label"]], 2) for found in ratios.values()]
    return [formatting.significant(mean_of(method["seconds"])), *each]


def _outside_blocks(record: Mapping[str, Any], *, bare: bool) -> Iterator[Block]:
    """Out-of-distribution detection of every set, where there are several; the main tables show the mean over sets."""
    for name in sets if len(sets := record.get("ood", {})) > 1 else ():
        for variant in VARIANTS:
            rows = [
                [
                    title_of(method["label"], record),
                    *(_cell(method[variant]["ood"].get(name, {}), key, bare=bare) for key in OOD),
                ]
                for method in record["methods"]
            ]
            heads = ["Method", *(metric_of(key).short for key in OOD)]
            yield f"{TITLES[variant]}: out-of-distribution inputs {name}", heads, rows


def _stability_blocks(record: Mapping[str, Any]) -> Iterator[Block]:
    """Variance over runs of the probability of the true class, over all and per level."""
    for variant in VARIANTS:
        found = [(label, one[variant]) for label, one in record.get("stability", {}).items()]
        rows = [
            [title_of(label, record), *(formatting.number(value, 4) for value in (one["all"], *one["levels"]))]
            for label, one in found
        ]
        if rows:
            widest = max(map(len, rows))
            rows = [[*row, *[formatting.NOTHING] * (widest - len(row))] for row in rows]
            heads = ["Method", "all", *(f"level {level}" for level in range(widest - 2))]
            yield f"{TITLES[variant]}: stability, variance over runs per robustness level", heads, rows


def notes(record: Mapping[str, Any]) -> list[str]:
    """Say what to know of labels and data, and what the figures of shift, OOD inputs, costs and stability mean."""
    lines = [*hard_label_notes(record), *_level_sources(record)]
    lines += [f"Data: {note}." for note in record["dataset"].get("notes", ())]
    lines += [*([FLOOR_NOTE, _COMPARED] if record.get("corrected_differences") else [])]
    if "ece_debiased" in measured_outcomes(record, "raw"):
        lines.append(f"{metric_of('ece_debiased').short}: {metric_of('ece_debiased').text}.")
    if record["cells"]:
        lines.append(f"Shift: {record.get('shift') or _SHIFT}; every figure is a mean over these cells.")
    if sets := record.get("ood"):
        each = ", ".join(f"{name} ({one['inputs']} inputs)" for name, one in sets.items())
        lines.append(_OOD.format(sets=f"Sets: {each}" + ("; figures are means over them." if len(sets) > 1 else ".")))
    if (reference := reference_label(record)) is not None:
        lines.append(NOTE.format(reference=reference))
    return [*lines, _STABILITY] if record.get("stability") else lines


def _level_sources(record: Mapping[str, Any]) -> list[str]:
    """What cut the levels of each method that takes them from robustness or difficulty, whatever it is called."""
    labels: dict[str, list[str]] = {}
    for one in record["methods"]:
        earlier = "robustness" if one["method"] == "ar-adals" else None  # results of earlier versions leave it out
        if source := one["settings"].get("levels_from", earlier):
            labels.setdefault(source, []).append(one["label"])
    each = [f"{_SOURCES.get(source, source)}: {', '.join(found)}" for source, found in labels.items()]
    return [f"Training levels by {'; by '.join(each)}."] if each else []


def _level_blocks(record: Mapping[str, Any]) -> Iterator[Block]:
    """ECE and signed gap of every robustness level, means over seeds."""
    for metric, name in (("ece", "ECE"), ("gap", "signed gap (confidence - accuracy)")):
        for variant in VARIANTS:
            write = formatting.signed if metric == "gap" else formatting.number
            found = [*level_means(record, variant, metric), *(level_floor(record, variant) if metric == "ece" else [])]
            rows = [[title, *(write(mean, 3) for mean in means)] for title, means in found]
            if rows:
                heads = ["Method", *(f"level {level}" for level in range(len(rows[0]) - 1))]
                yield f"{TITLES[variant]}: {name} per robustness level, 0 the least robust", heads, rows


def target_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a heading, and one line a target."""
    lines = ["Targets"] if record["targets"] else []
    for target in record["targets"]:
        statement, less, figures = target_words(target)
        lines.append(f"  {_SIGNS[target['verdict']]}: {target['name']}: {statement}; minus {less}: {figures}")
    return lines


def target_words(target: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what a target states, what its difference is taken to, and the difference with its interval."""
    metric = target["metric"]
    words = {
        "below": f"below {target['against']}" + (f" by {target['margin']:g}" if target["margin"] else ""),
        "half": f"below half of {target['against']}'s",
        "within": f"no worse than {target['against']}'s by {target['margin']:g}",
    }[target["kind"]]
    scaled = " after temperature scaling" if target["scaled"] else ""
    found = difference_of({metric: target["difference"]}, metric)
    figures = formatting.with_interval(found, functools.partial(formatting.difference, metric))
    statement = f"{metric_of(metric).short} of {target['method']}{scaled} {words}"
    return statement, "half of it" if target["kind"] == "half" else "it", figures + _on_seeds(target)


def _on_seeds(target: Mapping[str, Any]) -> str:
    """Which seeds decided, where some of those planned are lacking."""
    if not target.get("lacking"):
        return ""
    lost = ", ".join(map(str, target["lacking"]))
    seeds = ", ".join(map(str, target["seeds"]))
    return f" ({MARK} on the common seeds {seeds}; without {lost})" if seeds else f" ({MARK} no common seed)"


def tuning_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a heading, and what was chosen for each method among what."""
    lines = [TUNING] if record["tuning"] else []
    return [*lines, *(f"  {label}: {text}" for label, text in tuning_texts(record))]


def tuning_texts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (label, what was chosen for it among what)."""
    found = []
    for one in record["tuning"]:
        each = ", ".join(f"{options_text(c['options'])}: {formatting.number(c['mean'])}" for c in one["candidates"])
        found.append((one["label"], f"{options_text(one['chosen'])} ({one['select']} of {each})"))
    return found


def options_text(options: Mapping[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def title_of(label: str, record: Mapping[str, Any]) -> str:
    """Return the label, its number of seeds where others have more, and marks: it lacks some, or stayed plain."""
    by_label = {method["label"]: len(method["seeds"]) for method in record["methods"]}
    most = max(by_label.values())
    few = "" if by_label[label] == most else f" ({by_label[label]} of {most} seeds)"
    marks = [mark for mark, seeds in ((MARK, lacking), (HARD, hard_labels)) if seeds(record, label)]
    return " ".join([f"{label}{few}", *marks])


def measured_outcomes(record: Mapping[str, Any], variant: str) -> list[str]:
    """Return the outcomes that any label has."""
    return [name for name in OUTCOMES if any(estimate_of(m[variant]["metrics"], name) for m in record["methods"])]


def shown_differences(labels: Mapping[str, Any], variant: str) -> list[str]:
    """Return the outcomes of `DIFFERENCES` in which any of these labels has a difference."""
    return [name for name in DIFFERENCES if any(estimate_of(one[variant], name) for one in labels.values())]


def cost_columns(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Heading → label → ratio to the plain method, of the costs that were measured."""
    ratios = {heading: cost_ratios(record, key) for key, heading in COSTS.items()}
    return {heading: found for heading, found in ratios.items() if not all(map(math.isnan, found.values()))}


def level_means(record: Mapping[str, Any], variant: str, metric: str) -> list[tuple[str, list[float]]]:
    """Return (title, mean over seeds of each level) of the labels that have levels."""
    found = ((method["label"], method[variant]["levels"].get(metric, [])) for method in record["methods"])
    return [
        (title_of(label, record), [mean_of(level) for level in zip(*seeds, strict=True)])
        for label, seeds in found
        if seeds
    ]


def level_floor(record: Mapping[str, Any], variant: str) -> list[tuple[str, list[float]]]:
    """Return a row with the noise floor of each level, mean over labels; none where it was not computed."""
    found = [means for _, means in level_means(record, variant, "ece_floor")]
    return [("Noise floor, mean", [mean_of(level) for level in zip(*found, strict=True)])] if found else []


def floor_rows(record: Mapping[str, Any], variant: str) -> list[tuple[str, list[float]]]:
    """Return (title, noise floor of each error that has one, in the order of `CORRECTED`) of the labels."""
    found = ((method["label"], method[variant].get("floors", {})) for method in record["methods"])
    return [
        (title_of(label, record), [float(floors.get(name, math.nan)) for name in CORRECTED])
        for label, floors in found
        if floors
    ]


def estimate_of(metrics: Mapping[str, Any], name: str) -> Estimate | None:
    """Read an outcome of a label, its interval kept where the outcome can be; None where it was not measured."""
    found: Estimate | None = typed(Estimate | None, metrics.get(name))
    return None if found is None else within_range(name, found)


def difference_of(metrics: Mapping[str, Any], name: str) -> Estimate | None:
    """Read a difference of an outcome between two labels, its interval kept where it can be."""
    found: Estimate | None = typed(Estimate | None, metrics.get(name))
    return None if found is None else difference_within_range(name, found)


def spread(estimate: Estimate, write: Callable[[float | None], str]) -> str:
    """Write the interval as "± half of it", or as "[low, high]" where it is cut off on one side.

    >>> spread(Estimate(0.5, 0.4, 0.6), formatting.percent), spread(Estimate(0.9, 0.7, 1.0), formatting.percent)
    ('± 10.0%', '[70.0%, 100.0%]')
    """
    if estimate.low is None or estimate.high is None:
        return ""
    above, below = estimate.high - estimate.value, estimate.value - estimate.low
    return f"± {write(above)}" if math.isclose(above, below, rel_tol=1e-6) else formatting.interval(estimate, write)


def _cell(metrics: Mapping[str, Any], name: str, *, bare: bool) -> str:
    estimate = estimate_of(metrics, name)
    if estimate is None or math.isnan(estimate.value):
        return formatting.NOTHING
    write = functools.partial(formatting.metric, name)
    return write(estimate.value) if bare else f"{write(estimate.value)} {spread(estimate, write)}".rstrip()


def _difference(metrics: Mapping[str, Any], name: str) -> str:
    estimate = difference_of(metrics, name)
    return formatting.with_interval(estimate, lambda value: formatting.difference(name, value).removesuffix(" pp"))


def mean_of(values: Sequence[Any]) -> float:
    """Return the mean of what is there (neither None nor NaN), NaN of nothing."""
    known = [float(value) for value in values if value is not None and not math.isnan(float(value))]
    return sum(known) / len(known) if known else math.nan
