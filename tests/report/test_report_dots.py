import xml.etree.ElementTree as ET

import pytest

from robcal.base.types import Estimate
from robcal.report.figures import Frame, draw_rows, rows_height
from robcal.report.formatting import number
from robcal.report.plotted import series_of
from robcal.report.study_figures import svg_file

ROWS = ("Plain", "<script>", "日本語 $x$", "A label that is longer than there is room for")
NONE = Estimate(float("nan"))
RAW = series_of(0, (Estimate(0.1, 0.05, 0.15), Estimate(0.2), NONE, NONE))
SCALED = series_of(1, (Estimate(0.02, 0.01, 0.03), NONE, NONE, Estimate(0.5, 0.2, 0.8)))


def drawn(rows, *series, key="ece"):
    legend = ("raw", "scaled")[: len(series)]
    return draw_rows(series, Frame(key, "ECE", "ECE"), rows, number, legend=legend)


def markers(element):
    """Drawn markers: matplotlib refers to each by `use`; ticks are in groups of their own."""
    ticks = {use for group in element.iter("g") if "tick" in group.get("id", "") for use in group.iter("use")}
    return [use for use in element.iter("use") if use not in ticks]


def test_each_measured_estimate_is_a_dot_and_each_interval_a_line():
    root = ET.fromstring(drawn(ROWS, RAW, SCALED))
    assert len(markers(root)) == 4
    texts = [element.text for element in root.iter("text")]
    assert {"Plain", "<script>", "日本語 $x$", "A label that is longer th…", "ECE"} <= set(texts)
    assert "Plain 0.1000, <script> 0.2000" in root.find("desc").text
    assert len(markers(ET.fromstring(drawn(ROWS, RAW)))) == 2


def test_dots_lie_at_their_values():
    root = ET.fromstring(drawn(("a", "b"), series_of(0, (Estimate(0.0), Estimate(0.4)))))
    first, second = markers(root)
    assert float(first.get("y")) < float(second.get("y"))
    assert float(second.get("x")) - float(first.get("x")) == pytest.approx(360 - (16 + 5.6) - 14, rel=1e-6)


def test_a_file_needs_nothing_else():
    height = rows_height(len(ROWS), 2, "ECE")
    figures = [(drawn(ROWS, RAW, SCALED, key=f"k{n}"), height) for n in range(3)]
    text = svg_file(figures)
    assert "var(" not in text
    root = ET.fromstring(text)
    names = {"svg": "http://www.w3.org/2000/svg"}
    inner = root.findall("svg:svg", names)
    assert [(one.get("x"), one.get("y")) for one in inner] == [("12", "12"), ("384", "12"), ("12", f"{24 + height:g}")]
    assert root.get("viewBox") == f"0 0 756 {36 + 2 * height:g}"
    identifiers = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(identifiers)) == len(identifiers)
    assert text == svg_file(figures)
