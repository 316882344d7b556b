"""results.json of a comparison → one HTML page that needs nothing else: no network, no fonts, no script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robcal.base.metrics import metric_of
from robcal.base.types import Results
from robcal.comparison import page_figures, page_grids
from robcal.comparison.advice import advice
from robcal.comparison.blocks import LEGEND, TUNING, head_line, notes, options_text, tuning_texts
from robcal.comparison.cost import COSTS
from robcal.comparison.missing import footnotes
from robcal.comparison.plan import OUTCOMES
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
    "Each label minus the one named, seed by seed on the same test examples. ✓ better, ✗ worse, ≈ not distinguishable; "
    "± half of the 95% interval; accuracies in percentage points (pp)."
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


def comparison_html(record: Mapping[str, Any], details: Results | None = None) -> str:
    """Return the page of a comparison; every string is escaped, and the same input gives the same bytes.

    Args:
        record: what results.json holds, of any age.
        details: what the runs on disk add (reliability diagrams, courses of training, images); None: left out.

    Returns:
        The page.
    """
    return render_page(
        "comparison.html.jinja",
        title=clean_text(record["title"]),
        subtitle=clean_text(head_line(record).partition(": ")[2]),
        steps=advice(record),
        headline=_headline(record),
        answer=_answer(record),
        missing=[clean_text(line) for line in footnotes(record)],
        parts=[part for part in _parts(record) if part.panels or part.grids or part.folded],
        definitions=_definitions(record),
        notes=[LEGEND.format(best="●", tied="≈"), *notes(record), *record["warnings"]],
        provenance=_provenance(record),
        sections=_sections(details),
    )  # fmt: skip


def write_comparison_report(
    record: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    details: Results | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page to `path`, whole or not at all.

    Args:
        record: what results.json holds.
        path: the HTML file; missing folders above it are made.
        details: see `comparison_html`.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        InputError: if the file exists and `overwrite` is false, or if the path is a folder.
    """
    return write_page(lambda: comparison_html(record, details), path, overwrite=overwrite)


def _parts(record: Mapping[str, Any]) -> list[Part]:
    references = list(record["differences"])
    differences = [(name, page_grids.difference_grids(record, name)) for name in references]
    levels = page_grids.level_grids(record)
    floors = page_grids.floor_grids(record)
    targets = [page_grids.target_grid(record)] if record["targets"] else []
    glance, further = page_grids.glance_grid(record), list(page_grids.further_grids(record))
    best = [glance] if glance.rows else []
    return [
        Part("glance", "At a glance", "", page_figures.glance_panels(record), best, paired=False, pairs=False),
        Part("targets", "Targets", _TARGETS, (), targets, paired=False),
        Part(
            "results", "Every outcome", _LEGEND, (), page_grids.main_grids(record), paired=False,
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
            page_figures.shift_panels(record),
        ),
        Part(
            "levels", "Calibration by robustness level",
            "Level 0 holds the least robust test examples. Signed gap: orange is over-confident, blue under-confident.",
            (), levels,
        ),
        Part(
            "selective", "Selective classification",
            "Error rate when only the most confident examples are kept; its mean over all shares is the AURC above.",
            page_figures.risk_panels(record),
        ),
        Part("cost", "What it costs", "", (), [page_grids.cost_grid(record)], folded=further),
    ]  # fmt: skip


def _headline(record: Mapping[str, Any]) -> str:
    """Which label is best calibrated, raw and after temperature scaling, as far as the numbers can tell."""
    sentences = []
    for variant, when in (("raw", "Without any post-hoc step"), ("scaled", "after temperature scaling")):
        best, tied = page_grids.best_of(record, "ece", variant)
        if best:
            others = f" ({len(tied)} not distinguishable from it)" if tied else ""
            sentences.append(f"{when} {best} has the lowest ECE{others}")
    if not sentences:
        return f"{len(record['methods'])} methods, {len(record['plan']['seeds'])} seeds."
    text = "; ".join(map(clean_text, sentences))
    return f"{text[0].upper()}{text[1:]}."


def _answer(record: Mapping[str, Any]) -> list[str]:
    lines = []
    best, tied = page_grids.best_of(record, "shift_ece", "raw")
    if best:
        scaled, others = page_grids.best_of(record, "shift_ece", "scaled")
        lines.append(
            clean_text(
                f"Under distribution shift {best} has the lowest mean ECE ({_others(tied)}), after temperature scaling "
                f"{scaled or formatting.NOTHING} ({_others(others)})."
            )
        )
    verdicts = [target["verdict"] for target in record["targets"]]
    if verdicts:
        counted = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
        lines.append(f"Of {len(verdicts)} targets: {', '.join(counted)}.")
    return lines


def _others(tied: Sequence[str]) -> str:
    return f"{len(tied)} not distinguishable from it" if tied else "distinguishable from all others"


def _definitions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    measured = {name for method in record["methods"] for name, found in method["raw"]["metrics"].items() if found}
    shown = [(metric_of(name).short, metric_of(name).text) for name in OUTCOMES if name in measured]
    costs = "times that of the reference, over the seeds that both have"
    return [*shown, *((heading, costs) for heading in COSTS.values())]


def _provenance(record: Mapping[str, Any]) -> list[Numbers]:
    """Data, settings of every method, what was chosen, and what it ran on, as tables of texts."""
    plan = record["plan"]
    seeds = ", ".join(map(str, plan["seeds"]))
    data = [(name, str(value)) for name, value in flat(record["dataset"]) if name != "class_names"]
    planned = {one["label"]: one for one in (*plan["methods"], *plan["ensembles"])}
    settings = []
    for method in record["methods"]:
        one = planned.get(method["label"], {})
        chosen: Mapping[str, Any] = next((t["chosen"] for t in record["tuning"] if t["label"] == method["label"]), {})
        what = f"{method['members']} x {one['of']}" if "of" in one else method["method"]
        options = options_text({**one.get("options", {}), **chosen})
        settings.append((method["label"], what, options, ", ".join(map(str, method["seeds"]))))
    made = [
        Numbers("Data", ("Entry", "Value"), (*_texts(data), ("seeds", seeds))),
        Numbers("Settings of every method", ("Method", "What", "Options", "Seeds"), _texts(settings)),
        Numbers("Settings that all share", ("Entry", "Value"), _texts(flat(plan["recipe"]))),
        Numbers("Made with", ("Entry", "Value"), _texts(flat(record["provenance"]))),
    ]
    if record["tuning"]:
        made.insert(2, Numbers(TUNING, ("Method", "Chosen"), _texts(tuning_texts(record))))
    return made


def _texts(rows: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(clean_text(cell) for cell in row) for row in rows)


def _sections(details: Results | None) -> list[Section]:
    if details is None or not details.methods:
        return []
    makers = (
        sections.reliability_section,
        sections.levels_section,
        sections.training_section,
        wrong_section,
        fidelity_section,
    )
    return [section for make in makers if (section := make(details)) is not None]
