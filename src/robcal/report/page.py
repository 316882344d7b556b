"""Results → one HTML file that needs nothing else, and an audit as a small piece of HTML for a notebook."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from robcal.base.checks import refuse
from robcal.base.metrics import METRIC_LIST
from robcal.base.results import Results
from robcal.report import formatting
from robcal.report.findings import answer, headline
from robcal.report.formatting import clean_text
from robcal.report.layout import Numbers
from robcal.report.next_steps import next_steps
from robcal.report.overall import is_alone, provenance_numbers
from robcal.report.render import environment, render_page, write_page
from robcal.report.row_tables import group_numbers, level_numbers, repair_numbers, worst_numbers
from robcal.report.sections import all_sections
from robcal.report.study_page import study_page
from robcal.report.table import measured_metrics, metric_title
from robcal.report.verdicts import remarks


def render_html(results: Results) -> str:
    """Return the report as one self-contained HTML page.

    Every string of the results is escaped; sections without data are left out; the same results give the same bytes.

    Args:
        results: at least one method.

    Returns:
        The page.

    Raises:
        InputError: if the results hold no method, or two methods of the same name.

    Example:
        >>> from robcal.base.results import MethodResult
        >>> from robcal.base.types import Estimate
        >>> page = render_html(Results("Audit", {}, (MethodResult("a", "<Plain>", metrics={"ece": Estimate(0.02)}),)))
        >>> "&lt;Plain&gt;" in page, "<Plain>" in page
        (True, False)
    """
    _check(results)
    if results.study is not None:
        return study_page(results)
    return render_page(
        title=clean_text(results.title) or "Calibration report",
        subtitle=_subtitle(results),
        headline=headline(results),
        answer=(*answer(results), *(f"{remark}." for remark in remarks(results))),
        steps=next_steps(results),
        sections=all_sections(results),
        notes=tuple(clean_text(note) for note in results.notes),
        definitions=[] if is_alone(results) else _definitions(results),
        provenance=provenance_numbers(results),
    )


def write_report(results: Results, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the report to `path`, whole or not at all.

    Args:
        results: at least one method.
        path: the HTML file; missing folders above it are made.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        InputError: if the file exists and `overwrite` is false, if the path is a folder, or if the results cannot be
            shown; nothing is written then.
    """
    return write_page(lambda: render_html(results), path, overwrite=overwrite)


def _definitions(results: Results) -> list[tuple[str, str]]:
    """Return (metric, what it is) of the usual metrics that were measured."""
    return [(metric_title(name), METRIC_LIST[name].text) for name in measured_metrics(results) if name in METRIC_LIST]


def _check(results: Results) -> None:
    measured_metrics(results)  # refuses results without a method
    names = [method.name for method in results.methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        refuse(f"two methods are named {twice[0]!r}", "every method needs a name of its own", "Rename one")


def _subtitle(results: Results) -> str:
    """Return the data set in a line: name, classes, and how many examples were measured."""
    name = results.dataset.get("name")
    parts = [clean_text(name)] if name and name != results.title else []
    if results.dataset.get("num_classes"):
        parts.append(f"{clean_text(results.dataset['num_classes'])} classes")
    first = results.methods[0]
    counted = sum(bin_.count for bin_ in first.reliability) // max(len(first.seeds), 1)
    if counted:
        parts.append(f"{counted:,} examples measured")
    if len(first.seeds) > 1:
        parts.append(f"{len(first.seeds)} seeds")
    return " · ".join(parts)


def notebook_html(results: Results) -> str:
    """Return headline, findings, next steps and tables of the first method as an HTML element without scripts."""
    values = {"title": clean_text(results.title), "headline": headline(results), "answer": answer(results)}
    template = environment().get_template("notebook.html.jinja")
    return template.render(**values, steps=next_steps(results), tables=_tables(results))


def _tables(results: Results) -> list[Numbers]:
    method = results.methods[0]
    overall = tuple(
        (metric_title(name), formatting.with_interval(method.metrics[name], partial(formatting.metric, name)))
        for name in measured_metrics(results)
        if name in method.metrics
    )
    tables = [Numbers("Over all", ("Metric", "Value"), overall)]
    if method.levels:
        tables.append(level_numbers(results, method))
    tables += [group_numbers(results, method, grouping) for grouping in method.groups]
    if method.repair is not None and method.repair.method != "none":
        tables.append(repair_numbers(method.repair))
    if method.worst:
        tables.append(worst_numbers(results))
    return tables
