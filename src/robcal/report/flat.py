"""Results as flat rows: dictionaries for a data frame, and the wrong predictions as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields
from typing import Any

from robcal.base.results import MethodResult, Results, WrongExample
from robcal.base.types import ROBUSTNESS, Estimate, GroupRow
from robcal.report.verdicts import direction_of, examples_of, row_gap, titles

_VERDICTS = {"over": "over-confident", "under": "under-confident"}


def flat_rows(results: Results) -> list[dict[str, Any]]:
    """Return one flat dictionary a row of the tables of the first method, all with the same keys; None is not known.

    First comes a row over all, then the levels, then the groups of every grouping.
    """
    method = results.methods[0]
    tables = [("level", results.score_name, method.levels), *(("group", *one) for one in method.groups.items())]
    rows = [_row(table, grouping, row) for table, grouping, found in tables for row in found]
    return [_overall(method), *rows]


#: Results list at most so many wrong predictions, of all methods together: those of highest confidence of each.
MOST_LISTED = 10_000
#: A comparison shows those of at most so many methods.
MOST_SHOWN = 4


def listed_of_each(methods: int, *, compared: bool) -> int:
    """Return how many wrong predictions of each of so many methods are listed at most; a comparison shows a few.

    >>> listed_of_each(5, compared=False), listed_of_each(5, compared=True)
    (2000, 2500)
    """
    return MOST_LISTED // (min(methods, MOST_SHOWN) if compared else methods)


def wrong_csv(wrong: Mapping[str, Iterable[WrongExample]], score_name: str) -> str:
    """Write the wrong predictions of each method as CSV, in full precision; cells without a value are empty.

    >>> print(wrong_csv({"A": [WrongExample(7, 1, 0, 0.75)]}, ROBUSTNESS), end="")
    index,label,prediction,confidence,distance,level
    7,1,0,0.75,,
    """
    score, several = "distance" if score_name == ROBUSTNESS else "score", len(wrong) > 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [score if field.name == "score" else field.name for field in fields(WrongExample)]
    writer.writerow(["method", *names] if several else names)
    for title, rows in wrong.items():
        for row in rows:
            cells = ["" if value is None else value for value in astuple(row)]
            writer.writerow([title, *cells] if several else cells)
    return buffer.getvalue()


def wrong_of_results(results: Results) -> str:
    """Write the wrong predictions that results list, of every method, as CSV (see `wrong_csv`)."""
    names = titles(results)
    return wrong_csv({names[method.name]: method.worst for method in results.methods}, results.score_name)


def _overall(method: MethodResult) -> dict[str, Any]:
    metrics = method.metrics
    accuracy, gap, ece = (metrics.get(name) for name in ("accuracy", "gap", "ece"))
    stated = None if accuracy is None or gap is None else Estimate(accuracy.value + gap.value)
    numbers = {"accuracy": accuracy, "confidence": stated, "gap": gap, "ece": ece, "joint_gap": gap}
    return _flat("overall", "", "", examples_of(method), (None, None), numbers)


def _row(table: str, grouping: str, row: GroupRow) -> dict[str, Any]:
    numbers = {name: getattr(row, name) for name in ("accuracy", "confidence", "gap", "ece")}
    scores = row.score_low, row.score_high
    return _flat(table, grouping, row.group, row.n, scores, {**numbers, "joint_gap": row_gap(row)})


def _flat(
    table: str,
    grouping: str,
    group: str,
    n: int,
    scores: tuple[float | None, float | None],
    numbers: dict[str, Estimate | None],
) -> dict[str, Any]:
    flat: dict[str, Any] = {"table": table, "grouping": grouping, "group": group, "n": n}
    flat |= {"score_low": scores[0], "score_high": scores[1]}
    for name, estimate in numbers.items():
        found = estimate or Estimate(float("nan"))
        flat |= {name: None if estimate is None else found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {**flat, "verdict": _VERDICTS.get(direction_of(numbers["joint_gap"]), "")}
