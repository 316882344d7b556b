import xml.etree.ElementTree as ET

import pytest

from robcal.base.types import Estimate
from robcal.report.dots import Dots, dots_height, draw_dots, svg_file

ROWS = ("Plain", "<script>", "日本語 $x$", "A label that is longer than there is room for")
RAW = Dots("raw", (Estimate(0.1, 0.05, 0.15), Estimate(0.2), None, Estimate(float("nan"))))
SCALED = Dots("scaled", (Estimate(0.02, 0.01, 0.03), None, None, Estimate(0.5, 0.2, 0.8)))


def markers(element):
    """Drawn markers: matplotlib refers to each by `use`; ticks are in groups of their own."""
    ticks = {use for group in element.iter("g") if "tick" in group.get("id", "") for use in group.iter("use")}
    return [use for use in element.iter("use") if use not in ticks]


def test_each_measured_estimate_is_a_dot_and_each_interval_a_line():
    root = ET.fromstring(draw_dots(ROWS, (RAW, SCALED), key="ece", title="ECE"))
    assert len(markers(root)) == 4
    texts = [element.text for element in root.iter("text")]
    assert {"Plain", "<script>", "日本語 $x$", "A label that is longer th…", "ECE"} <= set(texts)
    assert "Plain 0.1000, <script> 0.2000" in root.find("desc").text
    assert len(markers(ET.fromstring(draw_dots(ROWS, (RAW,), key="ece", title="ECE")))) == 2


def test_dots_lie_at_their_values():
    root = ET.fromstring(draw_dots(("a", "b"), (Dots("x", (Estimate(0.0), Estimate(0.4))),), key="k", title="t"))
    first, second = markers(root)
    assert float(first.get("y")) < float(second.get("y"))
    assert float(second.get("x")) - float(first.get("x")) == pytest.approx(360 - 158 - 14, rel=1e-6)


def test_a_file_needs_nothing_else():
    figures = [(draw_dots(ROWS, (RAW, SCALED), key=f"k{n}", title="ECE"), dots_height(len(ROWS))) for n in range(3)]
    text = svg_file(figures)
    assert "var(" not in text
    root = ET.fromstring(text)
    names = {"svg": "http://www.w3.org/2000/svg"}
    inner = root.findall("svg:svg", names)
    assert [(one.get("x"), one.get("y")) for one in inner] == [("12", "12"), ("384", "12"), ("12", "162")]
    assert root.get("viewBox") == f"0 0 756 {162 + dots_height(len(ROWS)) + 12:g}"
    identifiers = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(identifiers)) == len(identifiers)
    assert text == svg_file(figures)
