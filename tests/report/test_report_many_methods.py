"""More methods than stand side by side: figures and tables come in parts, the first method in each, and lose none."""

import re
from dataclasses import replace

import pytest
from report_samples import around, full, method

from robcal.report import render_html
from robcal.report.overall import overall_grids
from robcal.report.sections import levels_section, shift_section


def many(count):
    names = [f"m{number}" for number in range(count)]
    methods = tuple(method(name, f"Method {name}", epochs=1, num_levels=2) for name in names)
    return replace(full(1), methods=methods)


@pytest.mark.parametrize(("methods", "parts"), [(2, 1), (4, 1), (5, 2), (11, 4)])
def test_every_method_has_its_boxes_beside_the_first(methods, parts):
    results = many(methods)
    panels = [panel for panel in shift_section(results).panels if panel.title.startswith("ECE")]
    assert len(panels) == parts
    names = [[item.text for item in panel.legend] for panel in panels]
    first = names[0][0]
    assert all(shown[0] == first for shown in names)
    assert sorted(name for shown in names for name in shown[1:]) == sorted(
        {name for shown in names for name in shown} - {first}
    )
    assert sum(len(shown) - 1 for shown in names) == methods - 1
    for panel, shown in zip(panels, names, strict=True):
        assert len({item.role for item in panel.legend}) == len(shown) <= 4
        assert {row[1] for row in panel.numbers.rows} == set(shown)


def test_the_table_comes_in_parts_that_hold_every_method_and_every_difference():
    results = many(6)
    against = {0: (1, 2, 3, 4, 5), 1: (5,), 4: (5,)}  # of 1 and 5 no part holds both
    pairs = {(first, second) for second, firsts in against.items() for first in firsts}
    methods = [
        replace(one, minus={results.methods[b].name: {"ece": around(0.01)} for a, b in pairs if a == at})
        for at, one in enumerate(results.methods)
    ]
    parts = overall_grids(replace(results, methods=tuple(methods)))
    heads = [[head.replace("Method m", "") for head, _ in part.columns] for part in parts]
    assert heads == [
        ["0", "1", "2", "3"],
        ["1 − 0", "2 − 0", "3 − 0"],
        ["0", "4", "5", "4 − 0", "5 − 0", "5 − 4"],
        ["5 − 1"],
    ]
    first, second = (f"6 methods, at most 4 side by side: part {n} of 2" for n in (1, 2))
    titles = [first, f"{first}, paired differences", second, "Further paired differences"]
    assert [part.caption for part in parts] == titles
    assert all(len(cells) == len(part.columns) for part in parts for _, cells in part.rows)
    assert [part.caption for part in overall_grids(many(4))] == ["Metrics with their intervals"]


def test_parts_of_a_figure_share_their_axis():
    results = many(5)
    wide = replace(results.methods[4], levels=tuple(replace(row, ece=around(0.9)) for row in results.methods[4].levels))
    section = levels_section(replace(results, methods=(*results.methods[:4], wide)))
    axes = [re.findall(r">(\d\.\d)<", panel.svg) for panel in section.panels if panel.title.startswith("ECE")]
    assert len(axes) == 2
    assert axes[0] == axes[1]
    assert "1.0" in axes[0]


@pytest.mark.slow
def test_the_page_of_nine_methods_has_them_all():
    text = render_html(many(9))
    for title in ("ECE by severity", "Accuracy by severity", "ECE by level", "Signed gap by class"):
        assert all(f"{title}, part {part} of 3" in text for part in (1, 2, 3)), title
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
