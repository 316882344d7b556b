"""No interval and no axis leaves the range of its quantity: with two seeds Student's t reaches accuracies of 110%."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robcal.base.results import MethodResult, Results
from robcal.base.types import EpochRow, Estimate, GroupRow
from robcal.calibration.conditional import group_table, overall_metrics
from robcal.calibration.intervals import difference_within_range, metric_range, within_range
from robcal.comparison import csv_rows, load_comparison, markdown_tables, text_tables
from robcal.report import plotted, render_html
from robcal.report.figures import Frame, draw_curves
from robcal.report.study_figures import figure_svg

EVIDENCE = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"
METRICS = ("accuracy", "ece", "gap", "nll", "brier", "aurc", "shift_nll", "shift_accuracy")
FINITE = st.floats(-20, 20)


@given(st.sampled_from(METRICS), FINITE, FINITE, FINITE)
def test_ends_are_kept_in_the_range_and_in_order_and_the_value_stays(metric, value, one, other):
    low, high = sorted((one, other))
    least, most = metric_range(metric)
    found = within_range(metric, Estimate(value, low, high, (1.0,)))
    assert least <= found.low <= found.high <= most
    assert (found.value, found.per_seed) == (value, (1.0,))
    if least <= low <= high <= most:
        assert (found.low, found.high) == (low, high)
    difference = difference_within_range(metric, Estimate(value, low, high))
    assert least - most <= difference.low <= difference.high <= most - least
    bare = Estimate(value)
    assert within_range(metric, bare) == difference_within_range(metric, bare) == bare


def percentages(text):
    return [float(found) for found in re.findall(r"(-?[\d.]+)%", text.replace("\N{MINUS SIGN}", "-"))]


@pytest.fixture(scope="module")
def two_seeds():
    """A comparison whose intervals reach beyond: results that were written before the ends were kept."""
    results, wide = load_comparison(EVIDENCE), {"accuracy": Estimate(0.1, -1.2, 1.4)}
    beyond = {"accuracy": Estimate(0.95, 0.8, 1.1), "ece": Estimate(0.02, -0.03, 0.07)}
    methods = (
        replace(
            one,
            metrics={**one.metrics, **beyond},
            scaled=replace(one.scaled, metrics={**one.scaled.metrics, **beyond}),
            minus={other: {**found, **wide} for other, found in one.minus.items()},
        )
        for one in results.methods
    )
    return replace(results, methods=tuple(methods))


def test_a_comparison_prints_no_impossible_number(two_seeds):
    for text in (text_tables(two_seeds), markdown_tables(two_seeds), render_html(two_seeds)):
        assert max(percentages(text)) <= 100
    markdown = markdown_tables(two_seeds)
    assert "95.00% [80.00%, 100.00%]" in markdown
    assert "0.0200 [0.0000, 0.0700]" in markdown
    assert "+10.00 [−100.00, +100.00]" in markdown.replace("\\", "")
    page = re.sub(r"<[^>]*>", " ", render_html(two_seeds))
    assert "[80.00%, 100.00%]" in page
    assert "± 15.00%" not in page
    for row in csv.DictReader(io.StringIO(csv_rows(two_seeds))):
        if row["kind"] == "mean" and row["low"]:
            least, most = metric_range(row["metric"])
            assert least <= float(row["low"]) <= float(row["high"]) <= most, row


def test_a_comparison_draws_no_impossible_number(two_seeds):
    ticks = percentages(figure_svg(two_seeds))
    assert len(ticks) >= 4
    assert min(ticks) >= 0
    assert max(ticks) == 100


def test_tables_of_marks_have_their_legend_below_them(two_seeds):
    blocks = text_tables(two_seeds).split("\n\n")
    marked = [block for block in blocks if re.search(r"\d%?[*~]( |$)", block, re.MULTILINE)]
    assert len(marked) >= 2
    text = text_tables(two_seeds)
    assert text.count("*: best of its column. ~: not distinguishable from it") == len(
        [heading for heading in ("Without any post-hoc step", "After temperature scaling") if f"\n{heading}\n" in text]
    )


def test_metrics_of_a_few_examples_stay_in_their_ranges():
    """Student's t of two or three examples reaches far: below a log-likelihood of 0, and beyond confidence 1."""
    probs = np.array([[0.45, 0.55], [0.01, 0.99], [0.3, 0.7]])
    found = overall_metrics(probs, [0, 1, 1], resamples=20)
    for name, estimate in found.items():
        least, most = metric_range(name)
        least = min(least, estimate.value) if name == "ece_corrected" else least  # its noise goes both ways
        assert least <= estimate.low <= estimate.value <= estimate.high <= most, name
    (row,) = group_table(probs[:2], [0, 1], ["a", "a"], resamples=20)
    assert 0 <= row.confidence.low < row.confidence.high == 1


def test_figures_of_levels_and_groups_stay_in_the_ranges():
    wide = Estimate(0.02, -0.3, 1.4)
    row = GroupRow("0", 9, 0.1, 0.2, wide, wide, Estimate(0.02, -1.5, 1.5), wide)
    results = Results("t", {}, (MethodResult("a", "A", levels=(row,), groups={"g": (row,)}),))
    for quantity in ("ece", "accuracy", "confidence"):
        for (one,) in (plotted.level_series(results, quantity), plotted.group_series(results, "g", ["0"], quantity)):
            assert (one.low, one.high) == ((0.0,), (1.0,))
    (gap,) = plotted.level_series(results, "gap")
    assert (gap.low, gap.high) == ((-1.0,), (1.0,))
    assert render_html(results)


def test_an_accuracy_of_one_throughout_has_an_axis():
    history = tuple(EpochRow(epoch, 0.1, 1.0, 0.1, 0.0) for epoch in range(1, 4))
    series = plotted.curve_series(Results("t", {}, (MethodResult("a", "A", history=history),)), "val_accuracy")
    drawn = draw_curves(series, Frame("k", "t", "Accuracy", percent=True))
    ticks = percentages(re.sub(r"<desc.*?</desc>", "", drawn))
    assert max(ticks) == 100
    assert min(ticks) >= 98
