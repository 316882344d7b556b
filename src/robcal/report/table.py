"""The one table of a comparison: methods in rows, then the paired differences. For terminals, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from robcal.base.checks import refuse
from robcal.base.metrics import METRIC_LIST, metric_of
from robcal.base.results import Results
from robcal.base.types import Estimate
from robcal.report import formatting
from robcal.report.formatting import wrapped
from robcal.report.grid import SIGNS, Cell, text_rows
from robcal.report.verdicts import compare, difference_mark, marks, remarks, titles

#: Metrics of the short table: 80 columns hold no more.
SHORT_METRICS = ("accuracy", "ece", "nll", "brier", "shift_ece")
#: The metric whose interval the short table prints.
SHORT_INTERVAL = "ece"


@dataclass(frozen=True)
class TableRow:
    """One row of the table."""

    kind: str  # "method", or "difference" (this method minus another, paired)
    name: str  # the method's key
    title: str  # what the row is called
    estimates: Mapping[str, Estimate]  # metric → estimate; a metric that was not measured is absent
    marks: Mapping[str, str]  # metric → "best", "tied" or ""; of a difference "better", "worse", "unclear" or ""
    minus: str = ""  # of a difference, the key of the other method

    def cell(self, metric: str) -> Cell:
        """Return a metric with its interval and its mark; accuracies of differences in percentage points."""
        estimate, mark = self.estimates.get(metric), self.marks.get(metric, "")
        if estimate is None:
            return Cell(formatting.NOTHING)
        if self.kind == "difference":
            ends = formatting.difference_interval(metric, estimate)
            return Cell(formatting.difference(metric, estimate.value), ends, mark)
        write = partial(formatting.metric, metric)
        return Cell(write(estimate.value), formatting.interval(estimate, write), mark)


def measured_metrics(results: Results) -> tuple[str, ...]:
    """Return the metrics at least one method has: those of `METRIC_LIST` in their order, then any other, sorted."""
    if not results.methods:
        refuse("the results hold no method", "a table needs at least one", "Measure one first: robcal report RUN")
    present = {name for method in results.methods for name in method.metrics}
    known = [name for name in METRIC_LIST if name in present]
    return (*known, *sorted(present - set(known)))


def metric_title(name: str) -> str:
    """Return what people call the metric."""
    return formatting.clean_text(metric_of(name).title)


def table_rows(results: Results) -> tuple[TableRow, ...]:
    """Return all methods, the first one (the baseline) first, then the paired differences."""
    names = titles(results)
    marked = {metric: marks(results, metric) for metric in measured_metrics(results)}
    rows = []
    for position, one in enumerate(results.methods):
        found = {metric: marked[metric][position] for metric in one.metrics}
        rows.append(TableRow("method", one.name, names[one.name], one.metrics, found))
    baseline = results.methods[0].name
    pairs = [(one.name, other, found) for one in results.methods for other, found in one.minus.items()]
    pairs.sort(key=lambda pair: pair[1] != baseline)  # those to the first method come first
    for name, other, estimates in pairs:
        if other in names and name != other and estimates:
            known = [metric for metric, estimate in estimates.items() if estimate.ends is not None]
            told = {metric: difference_mark(metric, compare(results, metric, name, other)) for metric in known}
            title = f"{names[name]} {formatting.MINUS} {names[other]}"
            rows.append(TableRow("difference", name, title, estimates, told, other))
    return tuple(rows)


def text_table(results: Results, *, differences: bool = True, width: int = 80) -> str:
    """Return the table as plain text, in ASCII apart from the user's own names.

    A star marks the best value of a column, a tilde one that is not distinguishable from it; a line below says so.

    Args:
        results: at least one method.
        differences: with the rows of the paired differences.
        width: columns; long names are broken, and numbers that do not fit stand below. 80 hold all.

    Raises:
        InputError: if the results hold no method.

    Example:
        >>> from robcal.base.results import MethodResult
        >>> one = MethodResult("a", "Plain", metrics={"accuracy": Estimate(0.9), "ece": Estimate(0.02, 0.01, 0.03)})
        >>> print(text_table(Results("Audit", {}, (one,))))
        Method  Accuracy                      ECE
        -----------------------------------------
        Plain     90.00%  0.0200 [0.0100, 0.0300]
    """
    rows = [row for row in table_rows(results) if differences or row.kind == "method"]
    columns = [name for name in SHORT_METRICS if name in measured_metrics(results)]
    lines = [["Method", *(metric_of(name).short for name in columns)]]
    for before, row in pairwise([None, *rows]):
        assert row is not None
        lines += [[]] if before is not None and before.kind != row.kind else []
        lines.append([row.title, *(_short_cell(row, name) for name in columns)])
    below = (wrapped(line, width) for line in (*remarks(results), *_legend(rows, columns)))
    return "\n".join([text_rows(lines, width), *below])


def _legend(rows: Sequence[TableRow], columns: Sequence[str]) -> list[str]:
    """Say what the marks and "pp" mean, as far as they occur."""
    marked = {row.marks.get(name, "") for row in rows for name in columns}
    parts = []
    if "best" in marked:
        parts.append("*: best of its column.")
    if "tied" in marked:
        parts.append(
            "~: not distinguishable from it: the interval of the paired difference holds 0 (or, without one, the two "
            "intervals overlap)."
        )
    if any(row.kind == "difference" for row in rows):
        parts.append("Rows A - B: paired differences; pp: percentage points.")
    return parts


def _short_cell(row: TableRow, name: str) -> str:
    """Return one cell of the short table: value, mark, and for the ECE its interval."""
    cell = row.cell(name)
    return f"{cell.text}{SIGNS.get(cell.mark, '')} {cell.sub if name == SHORT_INTERVAL else ''}".rstrip()
