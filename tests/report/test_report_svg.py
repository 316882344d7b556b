"""Figures as SVG: themed, described, reproducible, and leaving matplotlib as it was."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib as mpl
import pytest
from report_samples import HOSTILE, INF, NAN, full, hostile, method

from robcal.base.results import Results
from robcal.report import figures, plotted
from robcal.report.axes import bar_ticks, nice_step, nice_ticks, step_decimals, thinned_evenly
from robcal.report.formatting import percent, signed
from robcal.report.svg import LEVEL_STEPS, ROLES, colour, draw_svg, level_role, theme_colours, theme_css


def reliability(key="r", title="A"):
    return figures.draw_reliability(plotted.filled_bins(method("a", "A")), key=key, title=title)


def luminance(colour_):
    parts = [int(colour_[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_of_the_palette(theme):
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for graphics (1.4.11); the palest level stays above 1.8."""
    colours = theme_colours(theme)
    for role in ("ink", "muted", "over", "under", "accent"):
        assert contrast(colours[role], colours["surface"]) >= 4.5, role
        assert contrast(colours[role], colours["page"]) >= 4.5, role
    for role in (name for name in colours if name.startswith("method-")):
        assert contrast(colours[role], colours["surface"]) >= 3, role
    levels = [colours[f"level-{step}"] for step in range(LEVEL_STEPS)]
    assert min(contrast(one, colours["surface"]) for one in levels) >= 1.8
    steps = [luminance(one) for one in levels]
    assert steps == sorted(steps, reverse=bool(theme))


def test_every_role_has_a_colour_in_both_themes():
    for theme in (0, 1):
        assert set(ROLES) <= set(theme_colours(theme))
    assert theme_css().count("--level-20:") == 2


def test_only_themed_colours_remain():
    text = reliability()
    assert "var(--over)" in text
    assert not re.search(r"#[0-9a-fA-F]{6}\b", re.sub(r'"#r-[^"]*"|url\(#[^)]*\)', "", text))
    assert "<style" not in text
    assert "DejaVu" not in text


def test_ids_are_prefixed_unique_and_resolved():
    root = ET.fromstring(reliability("left"))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(one.startswith("left-") for one in ids)
    text = reliability("left")
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert used
    assert {a or b for a, b in used} <= set(ids)


def test_title_and_description():
    root = ET.fromstring(reliability(title="<b>\"&'"))
    assert root.get("role") == "img"
    title, description = root.find("title"), root.find("desc")
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "Reliability diagram of <b>\"&'"
    assert "weighted by the bins' shares, is 0.0500." in description.text


def test_same_bytes_whatever_the_users_settings():
    plain = reliability()
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path", "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        assert reliability() == plain
        assert dict(mpl.rcParams) == before


def test_a_failing_drawing_leaves_the_settings_as_they_were():
    before = dict(mpl.rcParams)

    def fail(figure):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        draw_svg(fail, key="x", height=10, title="", description="")
    assert dict(mpl.rcParams) == before


def test_points_are_drawn_at_the_mean_confidence():
    """Every marker of the diagram lies at (mean confidence, accuracy): read back from the SVG's coordinates."""
    points = plotted.filled_bins(method("a", "A", ece=0.1))
    root = ET.fromstring(reliability_of(points))
    uses = [(float(u.get("x")), float(u.get("y"))) for u in root.iter("use") if "--ink" in (u.get("style") or "")]
    assert len(uses) == len(points)
    # axes: left 40, right 12, bottom 96, top 26 of a 360 x 336 figure; accuracy runs over [-0.02, 1.02]
    for (x, y), point in zip(uses, points, strict=True):
        assert x == pytest.approx(40 + 308 * point.confidence, abs=0.01)
        assert y == pytest.approx(336 - 96 - 214 * (point.accuracy.value + 0.02) / 1.04, abs=0.01)


def reliability_of(points):
    return figures.draw_reliability(points, key="r", title="A")


def test_group_names_are_text():
    results = hostile()
    (grouping,) = results.methods[0].groups
    rows = tuple(replace(row, group=name) for row, name in zip(results.methods[0].levels, HOSTILE, strict=False))
    for names in (HOSTILE[:3], HOSTILE[3:6], HOSTILE[6:9]):
        rows = tuple(replace(row, group=name) for row, name in zip(results.methods[0].levels, names, strict=True))
        one = Results("t", {}, (replace(results.methods[0], groups={grouping: rows}),))
        series = plotted.group_series(one, grouping, names, "gap")
        root = ET.fromstring(figures.draw_rows(series, figures.Frame("g", "t", ""), names, signed, zero=True))
        assert not {element.tag for element in root.iter()} & {"script", "img", "a", "image"}
        texts = [element.text for element in root.iter("text")]
        assert len([text for text in texts if text]) >= 3


@pytest.mark.parametrize(("num_levels", "epochs"), [(1, 1), (2, 2), (10, 30), (20, 200), (64, 3)])
def test_courses_of_any_size(num_levels, epochs):
    course = plotted.history_course(method("a", "A", num_levels=num_levels, epochs=epochs).history, "epsilon")
    text = figures.draw_course(course, figures.Frame("c", "t", "ε"))
    root = ET.fromstring(text)
    used = set(re.findall(r"var\(--(level-\d+)\)", text))
    assert len(used) == min(num_levels, LEVEL_STEPS)
    labels = [element.text for element in root.iter("text")]
    assert "epoch" in labels
    assert ("level" in labels) == (num_levels > 1)


def test_nan_and_constant_values_can_be_drawn():
    for values in ((NAN, 0.5, NAN), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (-3e-9, 4e-9, 0), (1e6, 2e6, INF)):
        series = plotted.Series(0, (0, 1, 2), values, (NAN,) * 3, (NAN,) * 3)
        for share in (False, True):
            text = figures.draw_series((series,), figures.Frame("s", "t", "y", "x", share), "abc")
            assert "NaN" not in text
            assert "nan" not in text


def test_axis_helpers():
    assert nice_step(0, 1, 5) == pytest.approx(0.2)
    assert nice_step(0, 0.24, 5) == pytest.approx(0.05)
    assert [step_decimals(step) for step in (1, 0.5, 0.25, 0.02)] == [0, 1, 2, 2]
    assert bar_ticks(10) == (0, 3, 6, 9)
    assert bar_ticks(20) == (0, 4, 8, 12, 16)
    assert bar_ticks(2) == (0, 1)
    assert thinned_evenly(7, 3) == (0, 3, 6)
    assert (thinned_evenly(10, 5), thinned_evenly(10, 10)[-1]) == ((0, 2, 4, 6, 8), 9)
    assert nice_ticks(0, 0.24, 5, percent)[1] == ["0%", "5%", "10%", "15%", "20%", "25%"]
    assert level_role(0, 1) == "level-0"
    assert level_role(9, 10) == f"level-{LEVEL_STEPS - 1}"
    assert len({colour(role) for role in ROLES}) == len(ROLES)


def test_methods_beyond_the_palette_are_drawn():
    results = full(3)
    many = tuple(replace(results.methods[i % 3], name=f"m{i}") for i in range(20))
    series = plotted.level_series(replace(results, methods=many), "ece")
    assert len(series) == 20
    text = figures.draw_series(series, figures.Frame("s", "t", "y", "x"), "0123456789")
    assert "var(--method-7)" in text
