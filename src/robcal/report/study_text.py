"""Results of a comparison → its tables as text, Markdown and CSV; nothing else is needed to make them again."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from robcal.base.files import replacing
from robcal.base.results import VARIANTS, Results, Variant
from robcal.base.types import Estimate
from robcal.calibration.intervals import difference_within_range, within_range
from robcal.report import study_notes as told
from robcal.report.formatting import wrapped
from robcal.report.grid import escape_markdown, markdown_grid, text_grid
from robcal.report.study_figures import figure_svg
from robcal.report.study_tables import all_grids

#: Columns of table.txt.
WIDTH = 120
#: Columns of table.csv.
_HEADS = (
    "kind", "variant", "label", "against", "metric", "value", "low", "high", "seeds", "per_seed", "lacks", "why",
)  # fmt: skip


def text_tables(results: Results, *, width: int = WIDTH) -> str:
    """Return all tables and what is told below them as plain text.

    Args:
        results: of a comparison.
        width: columns of the terminal; a table that is wider goes on below, its labels again in front.
    """
    parts = [wrapped(told.head_line(results), width), *(text_grid(grid, width) for grid in all_grids(results))]
    below = (told.LEGEND.format(best="*", tied="~"), *told.footnotes(results), *told.notes(results))
    parts += [wrapped(line, width) for line in below]
    for lines in (told.target_lines(results), told.tuning_lines(results)):
        parts += ["\n".join(wrapped(line, width, then=" " * 6) for line in lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def markdown_tables(results: Results) -> str:
    """Return all tables and what is told below them as GitHub-flavoured Markdown."""
    parts = [escape_markdown(told.head_line(results)), *map(markdown_grid, all_grids(results))]
    below = map(escape_markdown, (*told.footnotes(results), *told.notes(results)))
    parts += [told.LEGEND.format(best="bold", tied="\\~"), *below]
    for lines in (told.target_lines(results), told.tuning_lines(results)):
        if lines:
            parts.append("\n".join([lines[0], "", *(f"- {escape_markdown(line.strip())}" for line in lines[1:])]))
    return "\n\n".join(parts) + "\n"


def csv_rows(results: Results) -> str:
    """Write one row a number, in full: kind, variant, label, against, metric, value, low, high, seeds, per seed.

    Then the seeds that the number lacks of those planned. What is missing has rows of its own at the end: label, part
    (in the column of the metric), seed, and why.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_HEADS)
    for kind, variant, label, against, metric, estimate in _numbers(results):
        ends = ["" if end is None else repr(float(end)) for end in (estimate.value, estimate.low, estimate.high)]
        each = " ".join(repr(float(value)) for value in estimate.per_seed)
        lost = {seed for one in (label, against) for seed in told.lacking(results, one, metric)}
        lacks = " ".join(map(str, sorted(lost)))
        writer.writerow([kind, variant, label, against, metric, *ends, len(estimate.per_seed), each, lacks, ""])
    for one in told.missing_of(results):
        why = f"{one.task} failed: {one.reason}"
        writer.writerow(["missing", "", one.label, "", one.part, *[""] * 5, one.seed, why])
    return buffer.getvalue()


def _numbers(results: Results) -> Iterator[tuple[str, Variant, str, str, str, Estimate]]:
    for variant in VARIANTS:
        for one in results.methods:
            for metric, found in one.variant(variant).metrics.items():
                yield "mean", variant, one.name, "", metric, within_range(metric, found)
        for against in told.study_of(results).references:
            for one in results.methods:
                for metric, found in one.variant(variant).minus.get(against, {}).items():
                    yield "difference", variant, one.name, against, metric, difference_within_range(metric, found)


#: What `write_tables` writes.
TABLES: Mapping[str, Callable[[Results], str]] = {
    "table.txt": text_tables, "table.md": markdown_tables, "table.csv": csv_rows, "figure.svg": figure_svg,
}  # fmt: skip


def write_tables(results: Results, out: Path) -> None:
    """Write the files of `TABLES` of the results, replacing what is there."""
    made = {name: make(results) for name, make in TABLES.items()}
    for name, text in made.items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
