"""What is told beside the tables of a comparison: what it lacks and why, targets, choices, and what figures mean."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from robcal.base.metrics import OUTCOMES, metric_of
from robcal.base.results import FLOOR_NOTE, Decision, Missing, Results, Study, Variant
from robcal.calibration.intervals import difference_within_range
from robcal.report import formatting

#: What an entry may lack → what people call it; "all" is the run itself, and with it every figure.
PARTS: Mapping[str, str] = {
    "all": "everything",
    "levels": "robustness levels",
    "shift": "shift",
    "ood": "out-of-distribution inputs",
    "inference": "inference time",
}
#: Beginnings of the outcomes that belong to a part.
_OUTCOMES = {"levels": "level_", "shift": "shift_", "ood": "ood_"}
#: Stands behind a label that lacks seeds; plain text has an exclamation mark in its place.
MARK = "†"
#: Stands behind a label some of whose runs kept hard labels; plain text has a number sign in its place.
HARD = "‡"
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
VERDICTS = {
    "met": ("better", "met"),
    "not met": ("worse", "NOT MET"),
    "not distinguishable": ("unclear", "unclear"),
    "not measured": ("", "not measured"),
}
_COSTS = (
    "Training x, inference x: seconds relative to {reference}, over the seeds that both have. Training includes the "
    "reference model and its scores where a method needs them, and every member of an ensemble; choosing "
    "hyper-parameters is not in it. Inference is the test split once, the least of a few passes. The seconds are wall "
    "time of tasks that ran beside each other, so on a shared machine ratios within some tens of percent of 1 say "
    "nothing; those of separate comparisons are not to be compared."
)


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


def lacking(results: Results, label: str, metric: str | None = None) -> tuple[int, ...]:
    """Return the seeds that a label lacks, of one outcome or of any."""
    found = {
        one.seed
        for one in missing_of(results)
        if one.label == label
        and (metric is None or one.part == "all" or metric.startswith(_OUTCOMES.get(one.part, "-")))
    }
    return tuple(sorted(found))


def missing_of(results: Results) -> tuple[Missing, ...]:
    """Return what could not be measured."""
    return () if results.study is None else results.study.missing


def footnotes(results: Results) -> list[str]:
    """Return one line for each label, part and reason: which seeds are lacking, and why."""
    merged: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for one in missing_of(results):
        merged.setdefault((one.label, one.part, one.reason), []).append((one.seed, one.task))
    return [_footnote(*key, sorted(found)) for key, found in merged.items()]


def _footnote(label: str, part: str, reason: str, found: Sequence[tuple[int, str]]) -> str:
    seeds = ", ".join(dict.fromkeys(str(seed) for seed, _ in found))
    tasks = list(dict.fromkeys(task for _, task in found))
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    what = "" if part == "all" else f" {PARTS[part]} of"
    return (
        f"{MARK} {label} lacks{what} {'seeds' if ',' in seeds else 'seed'} {seeds}: {tasks[0]}{more} failed: {reason}"
    )


def reference_label(results: Results) -> str | None:
    """Return the first method that is plain training of one network and was measured, or None."""
    made = ((one.name, one.training) for one in results.methods if one.seeds)
    return next((name for name, how in made if how and how.method == "vanilla" and how.members == 1), None)


def measured_outcomes(results: Results, variant: Variant) -> list[str]:
    """Return the outcomes that any label has."""
    known = (*OUTCOMES[:6], "ece_debiased", *OUTCOMES[6:])  # results of earlier versions hold this, too
    return [name for name in known if any(name in one.variant(variant).metrics for one in results.methods)]


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
        means = "; figures are means over them" if len(study.ood) > 1 else ""
        lines.append(_OOD.format(sets=f"Sets: {each}{means}."))
    if (reference := reference_label(results)) is not None:
        lines.append(_COSTS.format(reference=reference))
    return [*lines, _STABILITY] if any(one.stability for one in results.methods) else lines


def target_lines(results: Results) -> list[str]:
    """Return a heading, and one line a target."""
    targets = study_of(results).targets
    lines = ["Targets"] if targets else []
    for target in targets:
        statement, less, figures = target_words(target)
        lines.append(f"  {VERDICTS[target.verdict][1]}: {target.name}: {statement}; minus {less}: {figures}")
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
