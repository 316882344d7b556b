"""Results of a comparison → its page: what to do, what was found, and the sections that only a comparison has."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from robcal.base.metrics import metric_of
from robcal.base.results import MethodResult, Results, Variant
from robcal.calibration.intervals import difference_within_range, within_range
from robcal.report import formatting
from robcal.report import study_figures as figures
from robcal.report import study_notes as notes
from robcal.report import study_tables as tables
from robcal.report.fidelity import fidelity_section
from robcal.report.findings import some_of
from robcal.report.formatting import clean_text
from robcal.report.gallery import wrong_section
from robcal.report.layout import Numbers, Section
from robcal.report.next_steps import Step
from robcal.report.overall import flat, provenance_numbers
from robcal.report.plotted import BOXES
from robcal.report.render import render_page
from robcal.report.sections import levels_section, made_of, reliability_section, training_section

_LEGEND = (
    "● best of its column; ≈ not distinguishable from it (the 95% interval of the paired difference contains 0); "
    "± half of the 95% interval over seeds and test examples, [low, high] where the range of the figure cuts it off. "
    "Hover over a heading for what it means."
)
_SHIFT = f"{BOXES} Each corruption is the mean over seeds. The first method is in every figure."
_LEVELS = "Level 0 holds the least robust test examples. Signed gap: orange is over-confident, blue under-confident."
_RISK = "Error rate when only the most confident examples are kept; its mean over all shares is the AURC above."
_TARGETS = "What the plan states, decided by the 95% interval of the paired difference."
_DIFFERENCES = (
    "Each label minus the one named, seed by seed on the same test examples, with the 95% interval. ✓ better, ✗ worse, "
    "≈ not distinguishable; accuracies in percentage points."
)


def study_page(results: Results) -> str:
    """Return the page of a comparison."""
    study = notes.study_of(results)
    return render_page(
        title=clean_text(results.title),
        subtitle=clean_text(notes.head_line(results).partition(": ")[2]),
        headline=_headline(results),
        answer=_answer(results),
        steps=_advice(results),
        missing=[clean_text(line) for line in notes.footnotes(results)],
        sections=[
            *(part for part in _sections(results) if part.panels or part.grids or part.more),
            *made_of(results, wrong_section),
        ],
        definitions=_definitions(results),
        notes=[notes.LEGEND.format(best="●", tied="≈"), *notes.notes(results), *study.warnings],
        provenance=[*_settings(results), *provenance_numbers(results)],
        details=made_of(results, reliability_section, levels_section, training_section, fidelity_section),
        wide=True,
    )  # fmt: skip


def _sections(results: Results) -> list[Section]:
    references = notes.study_of(results).references
    differences = [(name, tables.difference_grids(results, name)) for name in references]
    floors, glance = tables.floor_grids(results), tables.glance_grid(results)
    targets = [tables.target_grid(results)] if notes.study_of(results).targets else []
    further = [
        (f"Out-of-distribution inputs {name}", tables.outside_grids(results, name))
        for name in tables.outside_sets(results)
    ]
    if stability := tables.stability_grids(results):
        further.append(("Stability: variance over runs of the true class's probability", stability))
    first = references[0] if references else ""
    return [
        Section(
            "glance", "At a glance", panels=figures.glance_panels(results), grids=[glance] if glance.rows else [],
            layout="grid small", sheets="grids",
        ),
        Section("targets", "Targets", _TARGETS, grids=targets, sheets="grids"),
        Section(
            "results", "Every outcome", _LEGEND, grids=tables.main_grids(results, seconds=False), sheets="grids",
            more=[("Noise floor of the calibration errors", floors)] if floors else [],
        ),
        Section(
            "differences", f"Paired differences to {first}", _DIFFERENCES,
            grids=differences[0][1] if differences else [],
            more=[(f"Paired differences to {name}", grids) for name, grids in differences[1:]], sheets="grids",
        ),
        Section("shift", "Under distribution shift", _SHIFT, panels=figures.shift_panels(results), layout="pair"),
        Section("by-level", "Calibration by robustness level", _LEVELS, grids=tables.level_grids(results)),
        Section("selective", "Selective classification", _RISK, panels=figures.risk_panels(results), layout="pair"),
        Section("cost", "What it costs", grids=[tables.cost_grid(results)], more=further),
    ]  # fmt: skip


#: Variant and outcome → the situation in which they decide.
SITUATIONS: dict[tuple[Variant, str], str] = {
    ("raw", "ece"): "Without a recalibration",
    ("scaled", "ece"): "With a temperature, fitted on validation data",
    ("raw", "shift_ece"): "Where inputs may be corrupted, without a recalibration",
    ("scaled", "shift_ece"): "Where inputs may be corrupted, with a temperature",
}


def _advice(results: Results) -> list[Step]:
    """Say which label to use in each situation that was measured, with its figures and what could as well be used."""
    steps = []
    for (variant, metric), when in SITUATIONS.items():
        best, tied = tables.best_of(results, metric, variant)
        if best:
            found = _figures(results, results.method(best).variant(variant), metric)
            steps.append((f"{when}, use {best}.", f"{found}.{_rivals(tied)}"))
    if missing := len(notes.study_of(results).missing):
        steps.append(("Run the same command again.", f"What could not be measured stands above: {missing}."))
    return [Step(clean_text(do), clean_text(why)) for do, why in steps]


def _figures(results: Results, best: MethodResult, metric: str) -> str:
    """Return its outcome, and its difference to the first reference, where it is not that itself."""
    found, write = best.metrics.get(metric), functools.partial(formatting.metric, metric)
    known = None if found is None else within_range(metric, found)
    text = f"{metric_of(metric).title} {formatting.with_interval(known, write)}"
    reference = next(iter(notes.study_of(results).references), "")
    minus = best.minus.get(reference, {}).get(metric)
    if minus is None:
        return text
    write = functools.partial(formatting.difference, metric)
    return f"{text}; against {reference} {formatting.with_interval(difference_within_range(metric, minus), write)}"


def _rivals(tied: list[str]) -> str:
    if not tied:
        return " It can be told from all others."
    return f" {some_of(tied)} cannot be told from it; of these, take the cheapest."


def _headline(results: Results) -> str:
    """Tell which label is best calibrated, raw and after temperature scaling, as far as the numbers can tell."""
    sentences: list[str] = []
    for variant, when in tables.TITLES.items():
        best, tied = tables.best_of(results, "ece", variant)
        if best:
            others = f" ({len(tied)} not distinguishable from it)" if tied else ""
            sentences.append(f"{when.lower() if sentences else when} {clean_text(best)} has the lowest ECE{others}")
    if not sentences:
        return f"{len(results.methods)} methods, {len(notes.study_of(results).plan['seeds'])} seeds."
    return f"{'; '.join(sentences)}."


def _answer(results: Results) -> list[str]:
    lines = []
    best, tied = tables.best_of(results, "shift_ece", "raw")
    if best:
        scaled, others = tables.best_of(results, "shift_ece", "scaled")
        lines.append(
            clean_text(
                f"Under distribution shift {best} has the lowest mean ECE ({_others(tied)}), after temperature scaling "
                f"{scaled or formatting.NOTHING} ({_others(others)})."
            )
        )
    verdicts = [target.verdict for target in notes.study_of(results).targets]
    if verdicts:
        counted = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
        lines.append(f"Of {len(verdicts)} targets: {', '.join(counted)}.")
    return lines


def _others(tied: Sequence[str]) -> str:
    return f"{len(tied)} not distinguishable from it" if tied else "distinguishable from all others"


def _definitions(results: Results) -> list[tuple[str, str]]:
    shown = [(metric_of(name).short, metric_of(name).text) for name in notes.measured_outcomes(results, "raw")]
    costs = "times that of the reference, over the seeds that both have"
    return [*shown, *((heading, costs) for heading in tables.COSTS.values())]


def _settings(results: Results) -> list[Numbers]:
    """Return the settings of every method, what was chosen, and what all share, as tables of texts."""
    study = notes.study_of(results)
    planned = {one["label"]: one for one in (*study.plan["methods"], *study.plan["ensembles"])}
    settings = []
    for method in results.methods:
        one, how = planned.get(method.name, {}), method.training
        chosen: Mapping[str, Any] = next((t["chosen"] for t in study.tuning if t["label"] == method.name), {})
        what = "" if how is None else f"{how.members} x {one['of']}" if "of" in one else how.method
        options = notes.options_text({**one.get("options", {}), **chosen})
        settings.append((method.title, what, options, ", ".join(map(str, method.seeds))))
    tuned = notes.tuning_texts(results)
    made = (
        ("Settings of every method", ("Method", "What", "Options", "Seeds"), settings),
        (notes.TUNING, ("Method", "Chosen"), tuned),
        ("Settings that all share", ("Entry", "Value"), flat(study.plan["recipe"])),
    )
    return [
        Numbers(caption, heads, tuple(tuple(map(clean_text, row)) for row in rows))
        for caption, heads, rows in made
        if rows
    ]
