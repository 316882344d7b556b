"""The over-all tables of the page, and the tables on data and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robcal.base.metrics import metric_of
from robcal.base.results import Results
from robcal.report import formatting
from robcal.report.formatting import NOTHING, clean_text
from robcal.report.grid import Cell, Grid
from robcal.report.layout import Numbers, Section
from robcal.report.plotted import MOST_TOGETHER, side_by_side
from robcal.report.table import TableRow, measured_metrics, metric_title, table_rows
from robcal.report.verdicts import titles

#: A table of more columns is cut into methods and differences.
_BROADEST = 6
_MARKS = (
    "● best value of the row; ≈ not distinguishable from it (the interval of the paired difference holds zero or, "
    "without one, the two intervals overlap)."
)
_PAIRED = " Paired differences: ✓ better, ✗ worse, ≈ not distinguishable; pp = percentage points."


def overall_section(results: Results) -> Section | None:
    """Return the metrics in rows, the methods and their paired differences in columns."""
    if not measured_metrics(results):
        return None
    grids = overall_grids(results)
    marked = any(cell.mark in {"best", "tied"} for grid in grids for _, cells in grid.rows for cell in cells)
    paired = any(method.minus for method in results.methods)
    lead = _MARKS + (_PAIRED if paired else "") if marked else ""
    return Section("overall", "Over all", lead, grids=grids, sheets="grids", folded=_seed_numbers(results))


def overall_grids(results: Results) -> tuple[Grid, ...]:
    """Return the over-all tables; of more methods than stand side by side in parts, the first in each."""
    rows, names = table_rows(results), [method.name for method in results.methods]
    parts = [{names[at] for at in part} for part in side_by_side(range(len(names)))]
    made = []
    for number, part in enumerate(parts):
        title = f"{len(names)} methods, at most {MOST_TOGETHER} side by side: part {number + 1} of {len(parts)}"
        shown = [row for row in rows if {row.name, row.minus or row.name} <= part]
        made += _tables(title if parts[1:] else "", shown)
    across = [row for row in rows if not any({row.name, row.minus or row.name} <= part for part in parts)]
    for at in range(0, len(across), MOST_TOGETHER):
        made.append(("Further paired differences", across[at : at + MOST_TOGETHER]))
    return tuple(_grid(results, title or "Metrics with their intervals", shown) for title, shown in made)


def _tables(title: str, rows: Sequence[TableRow]) -> list[tuple[str, Sequence[TableRow]]]:
    """Return one table of a part, or two: its methods, then its differences."""
    if len(rows) <= _BROADEST:
        return [(title, rows)]
    methods, differences = ([row for row in rows if row.kind == kind] for kind in ("method", "difference"))
    return [(title, methods), (f"{title}, paired differences" if title else "Paired differences", differences)]


def _grid(results: Results, title: str, rows: Sequence[TableRow]) -> Grid:
    """Return these rows of the table of results as columns; with what each metric is, beside a single method."""
    seeds = {method.name: method.seeds for method in results.methods}
    columns = [(row.title, _seed_text(seeds[row.name]) if row.kind == "method" else "paired") for row in rows]
    texts: list[list[Cell]] = [[] for _ in measured_metrics(results)]
    if is_alone(results):
        columns.append(("What it is", ""))
        texts = [[Cell(metric_of(name).text)] for name in measured_metrics(results)]
    lines = [
        (metric_title(name), [*(row.cell(name) for row in rows), *text])
        for name, text in zip(measured_metrics(results), texts, strict=True)
    ]
    return Grid(title, columns, lines, "Metric", "alone" if is_alone(results) else "")


def is_alone(results: Results) -> bool:
    """Tell whether the table has room to say what the metrics are: it is of one method."""
    return len(results.methods) == 1


def provenance_numbers(results: Results) -> tuple[Numbers, ...]:
    """Return data set and provenance as two-column tables."""
    made = []
    for caption, mapping in (("Data", results.dataset), ("Provenance", results.provenance)):
        rows = tuple((clean_text(name), clean_text(value)) for name, value in flat(mapping) if value)
        if rows:
            made.append(Numbers(caption, ("Entry", "Value"), rows))
    return tuple(made)


def _seed_text(seeds: Sequence[int]) -> str:
    if not seeds:
        return ""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _seed_numbers(results: Results) -> tuple[Numbers, ...]:
    """Return the value of every seed, where there are several."""
    names = titles(results)
    rows = []
    for method in results.methods:
        for metric in measured_metrics(results):
            values = method.metrics[metric].per_seed if metric in method.metrics else ()
            if len(values) > 1 and len(values) == len(method.seeds):
                text = "   ".join(formatting.metric(metric, value) for value in values)
                rows.append((names[method.name], metric_title(metric), text))
    columns = ("Method", "Metric", "Value of each seed, in the order of the seeds")
    return (Numbers("Values of the single seeds", columns, tuple(rows)),) if rows else ()


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every leaf of a JSON-able value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, (list, tuple)):
        simple = all(isinstance(entry, (str, int, float)) for entry in value)
        yield prefix, ", ".join(map(str, value)) if simple else json.dumps(value, default=str, ensure_ascii=False)
    else:
        yield prefix, NOTHING if value is None else str(value)
