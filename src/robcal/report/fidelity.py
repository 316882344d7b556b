"""How far the robustness scores can be trusted: a section of the page, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from robcal.base.results import Results
from robcal.base.types import FIDELITY_TITLES, Estimate, FidelityRow
from robcal.report import formatting
from robcal.report.grid import text_rows
from robcal.report.layout import Numbers, Section

#: What the terminal shows: 80 columns hold no more.
SHORT = ("same_level", "within_one", "spearman", "ratio_median", "passes")
_SHORT_TITLES = {"within_one": "Within 1", "ratio_median": "Ratio"}
_KINDS = {"candidate": "", "reference": "reference: ", "ceiling": "noise ceiling: "}


def fidelity_section(results: Results) -> Section | None:
    """Return the fidelity of the scores as a table; the noise ceiling stands in it too."""
    if not results.fidelity:
        return None
    shown = [name for name in FIDELITY_TITLES if any(name in row.metrics for row in results.fidelity)]
    rows = tuple((_name(row), *(_cell(name, row.metrics.get(name)) for name in shown)) for row in results.fidelity)
    columns = ("Scores", *(FIDELITY_TITLES[name][0] for name in shown))
    note = " ".join(f"{FIDELITY_TITLES[name][0]}: {FIDELITY_TITLES[name][1]}." for name in shown)
    return Section(
        "fidelity",
        "Can the robustness scores be trusted?",
        "Every way of scoring against the reference, the smallest distance that any of several strong attacks found on "
        "the same examples. Two strong attacks do not agree fully either: that is the noise ceiling.",
        sentences=_sentences(results.fidelity),
        tables=(Numbers("Fidelity of the robustness scores", columns, rows, note),),
    )


def text_fidelity(rows: Sequence[FidelityRow], width: int = 80) -> str:
    """Return the table for a terminal; with the interval of the first figure alone, 80 columns hold it."""
    table = [["Scores", *(_SHORT_TITLES.get(name, FIDELITY_TITLES[name][0]) for name in SHORT)]]
    for row in rows:
        found = {name: row.metrics.get(name) for name in SHORT}
        bare = {name: one and Estimate(one.value) for name, one in found.items() if name != "same_level"}
        table.append([_name(row), *(_cell(name, one).replace("0.", ".") for name, one in (found | bare).items())])
    return text_rows(table, width)


def _name(row: FidelityRow) -> str:
    return _KINDS.get(row.kind, "") + formatting.clean_text(row.name)


def _cell(name: str, estimate: Estimate | None) -> str:
    digits = 1 if name == "passes" else 3
    if estimate is None:
        return formatting.NOTHING
    return formatting.with_interval(estimate, lambda value: formatting.number(value, digits))


def _sentences(rows: Sequence[FidelityRow]) -> tuple[str, ...]:
    ceilings = [
        row.metrics["same_level"].value for row in rows if row.kind == "ceiling" and "same_level" in row.metrics
    ]
    found = []
    for row in rows:
        if row.kind == "candidate" and "same_level" in row.metrics:
            same = formatting.percent(row.metrics["same_level"].value)
            ceiling = f", where two strong attacks agree on {formatting.percent(max(ceilings))}" if ceilings else ""
            found.append(
                f"{formatting.clean_text(row.name)} puts {same} of the examples in the reference's level{ceiling}."
            )
    return tuple(found)
