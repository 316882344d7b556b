"""An audit as a small piece of HTML for a notebook: what was found, and the tables; every string is escaped."""

from __future__ import annotations

from functools import partial

from robcal.base.results import Results
from robcal.report import formatting
from robcal.report.findings import answer, headline
from robcal.report.formatting import clean_text
from robcal.report.layout import Numbers
from robcal.report.next_steps import next_steps
from robcal.report.render import environment
from robcal.report.row_tables import group_numbers, level_numbers, repair_numbers, worst_numbers
from robcal.report.table import measured_metrics, metric_title


def notebook_html(results: Results) -> str:
    """Return headline, findings, next steps and tables of the first method as an HTML element without scripts."""
    return (
        environment()
        .get_template("notebook.html.jinja")
        .render(
            title=clean_text(results.title),
            headline=headline(results),
            answer=answer(results),
            steps=next_steps(results),
            tables=_tables(results),
        )
    )


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
