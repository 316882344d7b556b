"""The table for terminals."""

from dataclasses import replace

import pytest
from report_samples import HOSTILE, NAN, full, hostile

from robcal.base.checks import InputError
from robcal.base.results import MethodResult, Results
from robcal.base.types import Estimate
from robcal.report import text_table
from robcal.report.table import measured_metrics


def printed(results, *, differences=True):
    return text_table(results, differences=differences)


def test_text_table_golden():
    assert printed(full()).splitlines() == [
        "Method            Accuracy                         ECE  NLL  Brier  ECE shift",
        "-" * 77,
        "Plain              95.00%*     0.0500 [0.0450, 0.0550]  inf      -     0.1500",
        "AR-AdaLS           95.00%~    0.0200* [0.0150, 0.0250]  inf      -    0.0600*",
        "",
        "AR-AdaLS - Plain   0.00 pp  -0.0300 [-0.0360, -0.0240]    -      -    -0.0900",
        *LEGEND,
    ]


LEGEND = [
    "*: best of its column.",
    "~: not distinguishable from it: the interval of the paired difference holds 0",
    "(or, without one, the two intervals overlap).",
    "Rows A - B: paired differences; pp: percentage points.",
]


def test_the_legend_tells_of_the_marks_that_occur_and_of_no_others():
    assert printed(full(1)).splitlines()[-1].strip().startswith("Plain")
    without = printed(Results("t", {}, (replace(full().methods[0], name="b"), full().methods[1])))
    assert "*: best" in without
    assert "Rows A - B" not in without
    bare = tuple(MethodResult(name, name, metrics={"ece": Estimate(0.1)}) for name in "ab")
    assert "~" not in printed(Results("t", {}, bare))
    hidden = tuple(MethodResult(name, name, metrics={"mce": Estimate(0.1), "ece": Estimate(NAN)}) for name in "ab")
    assert "*" not in printed(Results("t", {}, hidden))


@pytest.mark.parametrize("num_methods", [1, 2, 3])
def test_text_table_fits_eighty_columns_with_every_number(num_methods):
    text = printed(full(num_methods))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for cell in ("95.00%", "0.0500 [0.0450, 0.0550]", "inf", "0.1500"):
        assert cell in text
    if num_methods > 1:
        assert "-0.0300 [-0.0360, -0.0240]" in text
        assert "0.0200* [0.0150, 0.0250]" in text


def test_text_table_without_differences():
    text = printed(full(), differences=False)
    assert "AR-AdaLS  " in text
    assert "-0.0300" not in text


def test_text_table_is_ascii():
    assert set(printed(full())) <= set(map(chr, range(128)))


def test_text_table_does_not_interpret_names():
    one = Results("t", {}, (MethodResult("a", "[red]x[/red] \x1b[31m", metrics={"ece": Estimate(0.1)}),))
    text = printed(one)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_long_names_wrap_instead_of_pushing_numbers_out():
    one = Results("t", {}, (MethodResult("a", "long-name-" * 12, metrics=full().methods[0].metrics),))
    text = printed(one)
    assert max(map(len, text.splitlines())) <= 80
    assert "0.0500 [0.0450, 0.0550]" in text


def test_metrics_come_in_the_order_of_the_titles_then_the_unknown():
    metrics = {name: Estimate(0.1) for name in ("zebra", "nll", "accuracy", "apple")}
    assert measured_metrics(Results("t", {}, (MethodResult("a", "A", metrics=metrics),))) == (
        "accuracy",
        "nll",
        "apple",
        "zebra",
    )


def test_no_methods_are_refused():
    with pytest.raises(InputError, match="no method"):
        text_table(Results("t", {}, ()))


def test_hostile_names_do_not_break_the_terminal():
    text = printed(hostile())
    assert "\x1b" not in text
    assert "\x00" not in text
    assert HOSTILE[0][:8] in text
