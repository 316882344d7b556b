"""Results of a comparison → one HTML page that needs nothing else (see `robcal.report.page`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robcal.base.metrics import metric_of
from robcal.base.types import Results
from robcal.comparison import figure, tables
from robcal.comparison.advice import advice
from robcal.comparison.cost import COSTS
from robcal.comparison.missing import footnotes
from robcal.report import formatting, sections
from robcal.report.fidelity import fidelity_section
from robcal.report.formatting import clean_text
from robcal.report.gallery import wrong_section
from robcal.report.grid import Grid
from robcal.report.layout import Numbers, Panel, Section
from robcal.report.overall import flat
from robcal.report.page import render_page, write_page

_LEGEND = (
    "● best of its column; ≈ not distinguishable from it (the 95% interval of the paired difference contains 0); "
    "± half of the 95% interval over seeds and test examples, [low, high] where the range of the figure cuts it off. "
    "Hover over a heading for what it means."
)
_TARGETS = "What the plan states, decided by the 95% interval of the paired difference."
_DIFFERENCES = (
    "Each label minus the one named, seed by seed on the same test examples, with the 95% interval. ✓ better, ✗ worse, "
    "≈ not distinguishable; accuracies in percentage points."
)


@dataclass(frozen=True)
class Part:
    """A section of the page: figures, then tables (`pairs`, `paired`: raw and scaled side by side), then fold-outs."""

    key: str
    title: str
    lead: str = ""
    panels: Sequence[Panel] = ()
    grids: Sequence[Grid] = ()
    paired: bool = True
    pairs: bool = True
    folded: Sequence[tuple[str, Sequence[Grid]]] = ()


def comparison_html(results: Results) -> str:
    """Return the page of a comparison; every string is escaped, and the same input gives the same bytes.

    Args:
        results: of a comparison.

    Returns:
        The page.
    """
    return render_page(
        "comparison.html.jinja",
        title=clean_text(results.title),
        subtitle=clean_text(tables.head_line(results).partition(": ")[2]),
        steps=advice(results),
        headline=_headline(results),
        answer=_answer(results),
        missing=[clean_text(line) for line in footnotes(results)],
        parts=[part for part in _parts(results) if part.panels or part.grids or part.folded],
        definitions=_definitions(results),
        notes=[
            tables.LEGEND.format(best="●", tied="≈"), *tables.notes(results), *tables.study_of(results).warnings,
        ],
        provenance=_provenance(results),
        sections=_sections(results),
    )  # fmt: skip


def write_comparison_report(results: Results, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the page to `path`, whole or not at all.

    Args:
        results: of a comparison.
        path: the HTML file; missing folders above it are made.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        InputError: if the file exists and `overwrite` is false, or if the path is a folder.
    """
    return write_page(lambda: comparison_html(results), path, overwrite=overwrite)


def _parts(results: Results) -> list[Part]:
    references = tables.study_of(results).references
    differences = [(name, tables.difference_grids(results, name)) for name in references]
    floors, glance = tables.floor_grids(results), tables.glance_grid(results)
    targets = [tables.target_grid(results)] if tables.study_of(results).targets else []
    further = [
        (f"Out-of-distribution inputs {name}", tables.outside_grids(results, name))
        for name in tables.outside_sets(results)
    ]
    if stability := tables.stability_grids(results):
        further.append(("Stability: variance over runs of the true class's probability", stability))
    best = [glance] if glance.rows else []
    return [
        Part("glance", "At a glance", "", figure.glance_panels(results), best, paired=False, pairs=False),
        Part("targets", "Targets", _TARGETS, (), targets, paired=False),
        Part(
            "results", "Every outcome", _LEGEND, (), tables.main_grids(results), paired=False,
            folded=[("Noise floor of the calibration errors", floors)] if floors else (),
        ),
        Part(
            "differences", f"Paired differences to {references[0] if references else ''}", _DIFFERENCES, (),
            differences[0][1] if differences else (),
            folded=[(f"Paired differences to {name}", grids) for name, grids in differences[1:]],
        ),
        Part(
            "shift", "Under distribution shift",
            "Box: middle half of the corruptions (each the mean over seeds); bar: median; ring: mean; dots: outliers. "
            "The first method is in every figure.",
            figure.shift_panels(results),
        ),
        Part(
            "levels", "Calibration by robustness level",
            "Level 0 holds the least robust test examples. Signed gap: orange is over-confident, blue under-confident.",
            (), tables.level_grids(results),
        ),
        Part(
            "selective", "Selective classification",
            "Error rate when only the most confident examples are kept; its mean over all shares is the AURC above.",
            figure.risk_panels(results),
        ),
        Part("cost", "What it costs", "", (), [tables.cost_grid(results)], folded=further),
    ]  # fmt: skip


def _headline(results: Results) -> str:
    """Which label is best calibrated, raw and after temperature scaling, as far as the numbers can tell."""
    sentences: list[str] = []
    for variant, when in tables.TITLES.items():
        best, tied = tables.best_of(results, "ece", variant)
        if best:
            others = f" ({len(tied)} not distinguishable from it)" if tied else ""
            sentences.append(f"{when.lower() if sentences else when} {clean_text(best)} has the lowest ECE{others}")
    if not sentences:
        return f"{len(results.methods)} methods, {len(tables.study_of(results).plan['seeds'])} seeds."
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
    verdicts = [target.verdict for target in tables.study_of(results).targets]
    if verdicts:
        counted = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
        lines.append(f"Of {len(verdicts)} targets: {', '.join(counted)}.")
    return lines


def _others(tied: Sequence[str]) -> str:
    return f"{len(tied)} not distinguishable from it" if tied else "distinguishable from all others"


def _definitions(results: Results) -> list[tuple[str, str]]:
    shown = [(metric_of(name).short, metric_of(name).text) for name in tables.measured_outcomes(results, "raw")]
    costs = "times that of the reference, over the seeds that both have"
    return [*shown, *((heading, costs) for heading in COSTS.values())]


def _provenance(results: Results) -> list[Numbers]:
    """Data, settings of every method, what was chosen, and what it ran on, as tables of texts."""
    study = tables.study_of(results)
    plan = study.plan
    data = [(name, str(value)) for name, value in flat(results.dataset) if name != "class_names"]
    planned = {one["label"]: one for one in (*plan["methods"], *plan["ensembles"])}
    settings = []
    for method in results.methods:
        one, how = planned.get(method.name, {}), method.training
        chosen: Mapping[str, Any] = next((t["chosen"] for t in study.tuning if t["label"] == method.name), {})
        what = "" if how is None else f"{how.members} x {one['of']}" if "of" in one else how.method
        options = tables.options_text({**one.get("options", {}), **chosen})
        settings.append((method.title, what, options, ", ".join(map(str, method.seeds))))
    made = [
        Numbers("Data", ("Entry", "Value"), _texts([*data, ("seeds", ", ".join(map(str, plan["seeds"])))])),
        Numbers("Settings of every method", ("Method", "What", "Options", "Seeds"), _texts(settings)),
        Numbers("Settings that all share", ("Entry", "Value"), _texts(flat(plan["recipe"]))),
        Numbers("Made with", ("Entry", "Value"), _texts(flat(results.provenance))),
    ]
    if study.tuning:
        made.insert(2, Numbers(tables.TUNING, ("Method", "Chosen"), _texts(tables.tuning_texts(results))))
    return made


def _texts(rows: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(clean_text(cell) for cell in row) for row in rows)


def _sections(results: Results) -> list[Section]:
    makers = (
        sections.reliability_section,
        sections.levels_section,
        sections.training_section,
        wrong_section,
        fidelity_section,
    )
    return [section for make in makers if (section := make(results)) is not None]
