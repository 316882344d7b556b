"""What docs/evidence/claim.md says of a table is computed from the table, in every direction."""

import importlib
import sys
from pathlib import Path

import pytest

from robcal.base.results import MethodResult
from robcal.base.types import Estimate, GroupRow, TrendTest

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not in the wheel")

NONE = Estimate(0.0)


def verdict(method):
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("evidence").verdict(method)
    finally:
        sys.path.remove(str(FOLDER))


def table(eces, *, gap=(-3.0, 0.001), ece=(-1.0, 0.2)):
    rows = tuple(
        GroupRow(str(n), 100, None, None, NONE, NONE, NONE, Estimate(value, low, value + 0.05))
        for n, (value, low) in enumerate(eces)
    )
    return MethodResult("a", "A", levels=rows, trends=(TrendTest("gap", *gap, 1000), TrendTest("ECE", *ece, 1000)))


@pytest.mark.slow
def test_the_least_robust_level_need_not_be_the_worst():
    """A falling gap is no answer to which level is worst calibrated: the page once took it for one."""
    text = verdict(table([(0.03, 0.0), (0.07, 0.03), (0.08, 0.04), (0.01, 0.0)]))
    assert text.startswith("No: the largest ECE are those of levels 2 (0.080), 1 (0.070), 0 (0.030); the least robust")
    assert "above zero beyond chance: 1, 2." in text
    assert "The signed gap falls as robustness grows (p ≤ 0.001)." in text
    assert "The ECE shows no trend over the levels that can be told from chance (p = 0.20)." in text


@pytest.mark.parametrize(("statistic", "course"), [(-2.0, "falls"), (2.0, "grows")])
def test_it_may_be_and_trends_have_both_directions(statistic, course):
    text = verdict(table([(0.09, 0.05), (0.02, 0.0)], gap=(statistic, 0.03), ece=(statistic, 0.0005)))
    assert text.startswith("Yes: ")
    assert f"The signed gap {course} as robustness grows (p = 0.030). The ECE {course} as robustness" in text


def test_levels_that_may_be_calibrated_are_not_accused():
    assert "No level's ECE is above zero beyond chance." in verdict(table([(0.02, 0.0), (0.03, 0.0)]))
