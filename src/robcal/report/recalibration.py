"""What a recalibration repairs and what it leaves: a table of the methods compared, and sentences to act on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from robcal.base.types import Estimate
from robcal.calibration.recalibration import CandidateResult
from robcal.calibration.recalibration.selection import SCORE_TEMPERATURE
from robcal.report import formatting
from robcal.report.grid import text_rows
from robcal.report.verdicts import side

HEADINGS = ("method", "NLL", "above best", "ECE", "worst gap")


def method_cells(row: CandidateResult) -> tuple[str, ...]:
    """Return a row of the table, one cell for each of `HEADINGS`; 80 columns hold it."""
    above, low = row.nll_above_best.value, row.nll_above_best.low
    return (
        row.method,
        _short(row.nll.value, 4),
        "0" if low is None or above == 0 else f"{_short(above, 4)}±{_short(above - low, 4)}",
        _interval(row.ece, 3),
        f"{'+' if row.worst_gap.value > 0 else ''}{_short(row.worst_gap.value, 3)} ({row.worst_level})",
    )


def text_comparison(rows: Sequence[CandidateResult], width: int = 80) -> str:
    """Return the table for a terminal; the method in use is marked by an arrow."""
    table = [("", *HEADINGS), *((">" if row.chosen else "", *method_cells(row)) for row in rows)]
    return text_rows([(f"{mark or ' '} {name}", *cells) for mark, name, *cells in table], width)


def fallen_back(rows: Sequence[CandidateResult]) -> tuple[str, ...]:
    """Return a sentence if the score temperature came out as one temperature, for their rows of the table are alike."""
    nll = {row.method: row.nll.value for row in rows}
    if SCORE_TEMPERATURE in nll and nll[SCORE_TEMPERATURE] == nll.get("temperature"):
        return ("score-temperature came out as one temperature: the data ask for no more.",)
    return ()


def advice(rows: Sequence[CandidateResult]) -> tuple[str, ...]:
    """Return what to use, what it repairs, and what it leaves: three sentences from cross-fitted figures."""
    (used,) = [row for row in rows if row.chosen]
    others = {row.method: row for row in rows}
    if used.method == "none":
        first = "Leave the probabilities as they are: the data can tell no method that is better."
    else:
        named = [(others[name], words) for name, words in _BESIDE if name in others and name != used.method]
        beside = " and ".join(f"{row.nll.value:.4f} {words}" for row, words in named)
        labels = "changes no label" if used.keeps_prediction else "may change labels"
        first = f"Use {used.method}, which {labels}: NLL {used.nll.value:.4f}"
        first += f", against {beside}." if beside else "."
    raw = others.get("none", used)
    if raw is used:
        second = f"ECE {_interval(used.ece, 3)}."
    else:
        before, after = (f"{row.worst_gap.value:+.3f} (level {row.worst_level})" for row in (raw, used))
        second = (
            f"It changes the ECE from {raw.ece.value:.3f} to {used.ece.value:.3f}, and the largest gap of ten levels "
            f"from {before} to {after}."
        )
    return first, second, _left(used)


_BESIDE = (("none", "as it is"), ("temperature", "after one temperature"))


def _left(row: CandidateResult) -> str:
    gap = row.worst_gap
    told = formatting.ascii_numbers(formatting.with_interval(gap, "{:+.3f}".format))
    if side(gap) == "unclear":
        return (
            f"What is left: no level has a gap that can be told from 0. The largest, at level {row.worst_level}, is "
            f"{told} (the interval holds for ten levels at once)."
        )
    which = "over" if gap.value > 0 else "under"
    return (
        f"What is left: level {row.worst_level} of 0 to 9 by the score is {which}-confident by {told}. More validation "
        "data, another score, or retraining can change that."
    )


def _interval(estimate: Estimate, digits: int) -> str:
    return formatting.ascii_numbers(formatting.with_interval(estimate, partial(formatting.short, digits=digits)))


def _short(value: float, digits: int) -> str:
    return formatting.ascii_numbers(formatting.short(value, digits))
