"""The numbers behind the figures, against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import INF, NAN, around, full, method

from robcal.base.results import MethodResult, Results, ShiftCell
from robcal.base.types import EpochRow, Estimate, GroupRow, ReliabilityBin
from robcal.report import plotted


def results(*methods):
    return Results("t", {}, methods)


def test_the_bins_drawn_by_hand():
    bins = (
        ReliabilityBin(0.0, 0.5, 0, NAN, Estimate(NAN)),
        ReliabilityBin(0.5, 0.75, 1, 0.6, Estimate(1.0, 0.2, 1.0)),
        ReliabilityBin(0.75, 1.0, 3, 0.9, Estimate(0.8)),
    )
    assert plotted.filled_bins(MethodResult("a", "A", reliability=bins)) == bins[1:]
    assert plotted.shares(bins) == (0, 0.25, 0.75)
    assert [one.gap for one in bins[1:]] == pytest.approx([-0.4, 0.1])


def test_reliability_shares_and_gaps_give_the_ece():
    bins = plotted.filled_bins(method("a", "A", ece=0.05))
    assert sum(plotted.shares(bins)) == pytest.approx(1)
    assert sum(share * abs(one.gap) for one, share in zip(bins, plotted.shares(bins), strict=True)) == pytest.approx(
        0.05
    )


def test_level_series_keep_order_and_mark_what_is_missing():
    rows = (
        GroupRow("0", 5, 0.1, 0.2, around(0.5), around(0.7), Estimate(0.2), Estimate(NAN)),
        GroupRow("1", 5, 0.2, INF, around(0.8), around(0.7), Estimate(-0.1, -0.2, 0.0), Estimate(0.1)),
    )
    without = MethodResult("b", "B")
    both = results(without, MethodResult("a", "A", levels=rows))
    (gap,) = plotted.level_series(both, "gap")
    assert (gap.method, gap.x, gap.y) == (1, (0.0, 1.0), (0.2, -0.1))
    assert (gap.low[1], gap.high[1]) == (-0.2, 0.0)
    assert math.isnan(gap.low[0])
    (ece,) = plotted.level_series(both, "ece")
    assert math.isnan(ece.y[0])
    assert plotted.level_ticks(both) == ("0", "1")
    assert plotted.shared_score_ranges(both) == ((0.1, 0.2), (0.2, INF))


def test_score_ranges_are_shared_only_if_equal_and_known():
    assert len(plotted.shared_score_ranges(full())) == 10
    one, other = method("a", "A", num_levels=3), method("b", "B", num_levels=4)
    assert plotted.shared_score_ranges(results(one, other)) == ()
    unknown = GroupRow("0", 1, None, None, around(1), around(1), around(0), around(0))
    assert plotted.shared_score_ranges(results(MethodResult("a", "A", levels=(unknown,)))) == ()


def test_groups_are_limited_to_the_largest_gaps_in_their_own_order():
    gaps = {"x": 0.1, "y": -0.5, "z": NAN, "w": 0.3}
    rows = tuple(
        GroupRow(name, 1, None, None, around(1), around(1), Estimate(gap), around(0)) for name, gap in gaps.items()
    )
    both = results(MethodResult("a", "A", groups={"kind": rows}), MethodResult("b", "B", groups={"kind": rows[:1]}))
    assert plotted.group_names(both, "kind", limit=2) == (("y", "w"), False)
    assert plotted.group_names(both, "kind", limit=9) == (("x", "y", "z", "w"), True)
    first, second = plotted.group_series(both, "kind", ("y", "x"), "gap")
    assert first.y == (-0.5, 0.1)
    assert math.isnan(second.y[0])
    assert second.y[1] == 0.1


def test_course_pads_epochs_without_values():
    rows = [EpochRow(1, 1, 1, 1, 1), EpochRow(2, 1, 1, 1, 1, epsilon=(0.3, INF)), EpochRow(5, 1, 1, 1, 1, (0.1,))]
    course = plotted.history_course(rows, "epsilon")
    assert [(line.method, line.x) for line in course] == [(0, (1, 2, 5)), (1, (1, 2, 5))]
    np.testing.assert_array_equal([line.y for line in course], [[NAN, 0.3, 0.1], [NAN, NAN, NAN]])
    assert plotted.history_course(rows, "gap") == ()
    assert plotted.history_course([], "gap") == ()


def test_curves_are_taken_from_the_history():
    (one,) = plotted.curve_series(results(MethodResult("a", "A"), method("b", "B", epochs=3)), "val_ece")
    assert one.method == 1
    assert one.x == (1, 2, 3)
    assert one.y == pytest.approx((0.1, 0.05, 0.1 / 3))


def test_shift_boxes_go_by_severity_then_method_and_skip_what_is_not_finite():
    cells = (ShiftCell("fog", 2, 0.4, 0, 0, 0), ShiftCell("fog", 1, 0.1, 0, 0, 0), ShiftCell("ice", 1, 0.3, 0, 0, 0))
    other = (ShiftCell("fog", 1, NAN, 0, 0, 0), ShiftCell("ice", 1, 0.2, 0, 0, 0))
    both = results(MethodResult("a", "A", shift=cells), MethodResult("b", "B", shift=other))
    boxes = plotted.shift_boxes(both.methods, "ece")
    assert [(box.x, box.method, box.y) for box in boxes] == [
        ((1,), 0, (0.1, 0.3)), ((1,), 1, (0.2,)), ((2,), 0, (0.4,)),
    ]  # fmt: skip
    assert plotted.shift_by_corruption(both.methods[0], "ece") == {"fog": {2: 0.4, 1: 0.1}, "ice": {1: 0.3}}


@given(st.integers(1, 500), st.integers(2, 60))
def test_thinning_keeps_both_ends(count, limit):
    chosen = plotted.thinned(count, limit)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
    assert len(chosen) == min(count, limit)
    assert list(chosen) == sorted(set(chosen))
    assert plotted.thinned(10, 4) == (0, 3, 6, 9)


def test_parts_of_methods_by_hand():
    assert plotted.side_by_side(range(6), 3) == ((0, 1, 2), (0, 3, 4), (0, 5))
    assert plotted.side_by_side(range(3), 3) == ((0, 1, 2),)
    assert plotted.side_by_side([], 3) == ()


@given(st.integers(1, 9), st.floats(0.1, 1))
def test_dodge_is_centred_and_stays_within_its_width(count, width):
    offsets = [plotted.dodge(count, position, width) for position in range(count)]
    assert sum(offsets) == pytest.approx(0, abs=1e-9)
    assert max(map(abs, offsets)) <= width / 2
    assert [plotted.dodge(2, i, 0.5) for i in range(2)] == [-0.125, 0.125]
