"""Box plots of more methods than can stand side by side."""

from dataclasses import replace

import pytest
from report_samples import full, method

from robcal.report import render_html
from robcal.report.sections import shift_section


def many(count):
    names = [f"m{number}" for number in range(count)]
    methods = tuple(method(name, f"Method {name}", epochs=1, num_levels=2) for name in names)
    return replace(full(1), methods=methods)


@pytest.mark.parametrize(("methods", "parts"), [(2, 1), (8, 1), (9, 2), (18, 3)])
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
        assert len({item.role for item in panel.legend}) == len(shown) <= 8
        assert {row[1] for row in panel.numbers.rows} == set(shown)


@pytest.mark.slow
def test_the_page_of_eighteen_methods_has_them_all():
    text = render_html(many(18))
    for title in ("ECE by severity, part 3 of 3", "Accuracy by severity, part 3 of 3"):
        assert title in text
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
