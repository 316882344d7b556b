"""results.json of a comparison → its tables as text, Markdown and CSV; nothing else is needed to make them again."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robcal.base.checks import refuse
from robcal.base.files import reading, replacing
from robcal.base.storage import load_json
from robcal.base.types import Estimate
from robcal.comparison.blocks import (
    LEGEND,
    blocks,
    difference_of,
    estimate_of,
    head_line,
    notes,
    target_lines,
    tuning_lines,
)
from robcal.comparison.figure import figure_svg
from robcal.comparison.missing import HARD, MARK, footnotes, lacking
from robcal.comparison.summary import VARIANTS
from robcal.report import formatting
from robcal.report.table import escape_markdown

_MARKS = "*: best of its column. ~: not distinguishable from it (what that rests on is told below the tables)."
#: Columns of table.txt.
WIDTH = 120


def load_comparison(path: Path) -> dict[str, Any]:
    """Read results.json of a comparison.

    Raises:
        InputError: if the file is missing or is of another kind.
    """
    record = load_json(path, "the results")
    if not isinstance(record, dict) or not {"plan", "methods", "differences", "targets"} <= set(record):
        fix = "Name the results.json of a comparison, or make one: robcal compare FILE.toml --out DIR"
        refuse(f"{path} is no comparison", "it must be results.json of `robcal compare`", fix)
    with reading(path, "the results of a comparison", fix="Start `robcal compare` again: finished work is kept"):
        text_tables(record)  # whatever lacks is found before anything is written
    return record


def is_comparison(path: Path) -> bool:
    """Return whether a file of results is one of a comparison.

    Raises:
        InputError: if it cannot be read.
    """
    record = load_json(path, "the results")
    return isinstance(record, dict) and {"plan", "targets"} <= set(record)


def write_tables(record: Mapping[str, Any], out: Path) -> None:
    """Write table.txt, table.md, table.csv and figure.svg of the results, replacing what is there."""
    made = {
        "table.txt": text_tables(record),
        "table.md": markdown_tables(record),
        "table.csv": csv_rows(record),
        "figure.svg": figure_svg(record),
    }
    for name, text in made.items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def text_tables(record: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """All tables as plain text: a star marks the best, a tilde what is not distinguishable from it.

    Args:
        record: what results.json holds.
        width: columns of the terminal; a table that is wider goes on below, its labels again in front.
    """
    parts = textwrap.wrap(_ascii(head_line(record)), width)
    parts = ["\n".join(parts)]
    for heading, columns, rows in blocks(record, best="{}*", tied="{}~", bare=True):
        table = [list(map(_ascii, row)) for row in (columns, *rows)]
        marked = any(cell.endswith(("*", "~")) for row in table for cell in row[1:])
        lines = [*textwrap.wrap(_ascii(heading), width), _laid_out(table, width)]
        parts.append("\n".join([*lines, *(textwrap.wrap(_MARKS, width) if marked else [])]))
    parts += [
        "\n".join(textwrap.wrap(_ascii(line), width))
        for line in (LEGEND.format(best="*", tied="~"), *footnotes(record), *notes(record))
    ]
    for lines in (target_lines(record), tuning_lines(record)):
        wrapped = [part for line in lines for part in textwrap.wrap(_ascii(line), width, subsequent_indent=" " * 6)]
        parts += ["\n".join(wrapped)] if wrapped else []
    return "\n\n".join(parts) + "\n"


def _laid_out(table: Sequence[Sequence[str]], width: int) -> str:
    """Columns beside each other as far as they fit, then the next ones below, the first column before them again."""
    longest = max(len(row[0]) for row in table)
    names = [textwrap.wrap(row[0], min(longest, max(width // 3, 20)), subsequent_indent="  ") or [""] for row in table]
    first = max(len(line) for name in names for line in name)
    widths = [max(map(len, column)) for column in zip(*(row[1:] for row in table), strict=True)]
    pieces, start = [], 0
    while start < len(widths):
        end, used = start + 1, first + 2 + widths[start]
        while end < len(widths) and used + 2 + widths[end] <= width:
            used, end = used + 2 + widths[end], end + 1
        lines = []
        for number, (name, row) in enumerate(zip(names, table, strict=True)):
            cells = [row[1 + place].rjust(widths[place]) for place in range(start, end)]
            lines += [line.ljust(first) for line in name[:-1]]
            lines.append("  ".join([name[-1].ljust(first), *cells]))
            lines += ["-" * used] if number == 0 else []
        pieces.append("\n".join(line.rstrip() for line in lines))
        start = end
    return "\n\n".join(pieces)


def markdown_tables(record: Mapping[str, Any]) -> str:
    """All tables as GitHub-flavoured Markdown, with intervals: the best in bold, a tilde as above."""
    parts = [escape_markdown(head_line(record))]
    for heading, columns, rows in blocks(record, best="**{}**", tied="{} ~", bare=False):
        lines = [
            f"**{escape_markdown(heading)}**",
            "",
            "| " + " | ".join(columns) + " |",
            "|---|" + "---:|" * (len(columns) - 1),
            *("| " + " | ".join([escape_markdown(row[0]), *row[1:]]) + " |" for row in rows),
        ]
        parts.append("\n".join(lines))
    parts += [LEGEND.format(best="bold", tied="\\~"), *map(escape_markdown, (*footnotes(record), *notes(record)))]
    for lines in (target_lines(record), tuning_lines(record)):
        if lines:
            parts.append("\n".join([lines[0], "", *(f"- {escape_markdown(line.strip())}" for line in lines[1:])]))
    return "\n\n".join(parts) + "\n"


def csv_rows(record: Mapping[str, Any]) -> str:
    """Write one row a number, in full: kind, variant, label, against, metric, value, low, high, seeds, per seed.

    Then the seeds that the number lacks of those planned. What is missing has rows of its own at the end: label, part
    (in the column of the metric), seed, and why.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [
        "kind",
        "variant",
        "label",
        "against",
        "metric",
        "value",
        "low",
        "high",
        "seeds",
        "per_seed",
        "lacks",
        "why",
    ]
    writer.writerow(heads)
    for kind, variant, label, against, metric, estimate in _numbers(record):
        ends = ["" if end is None else repr(float(end)) for end in (estimate.value, estimate.low, estimate.high)]
        each = " ".join(repr(float(value)) for value in estimate.per_seed)
        lost = {seed for one in (label, against) for seed in lacking(record, one, metric)}
        lacks = " ".join(map(str, sorted(lost)))
        writer.writerow([kind, variant, label, against, metric, *ends, len(estimate.per_seed), each, lacks, ""])
    for one in record.get("missing", ()):
        why = f"{one['task']} failed: {one['reason']}"
        writer.writerow(["missing", "", one["label"], "", one["part"], *[""] * 5, one["seed"], why])
    return buffer.getvalue()


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str, Estimate]]:
    for variant in VARIANTS:
        for method in record["methods"]:
            for metric in method[variant]["metrics"]:
                if (found := estimate_of(method[variant]["metrics"], metric)) is not None:
                    yield "mean", variant, method["label"], "", metric, found
        for against, labels in record["differences"].items():
            for label, variants in labels.items():
                for metric in variants[variant]:
                    if (found := difference_of(variants[variant], metric)) is not None:
                        yield "difference", variant, label, against, metric, found


def _ascii(text: str) -> str:
    for fancy, plain in (
        (MARK, "!"),
        (HARD, "#"),
        (formatting.MINUS, "-"),
        (formatting.NOTHING, "-"),
        ("∞", "inf"),
        ("±", "+-"),
    ):
        text = text.replace(fancy, plain)
    return text
