"""The picture of the packages in docs/development.md."""

import xml.etree.ElementTree as ElementTree

import pytest
from tool_files import ROOT, load_tool

MAP = load_tool("map")
ROWS = MAP.layers()
ROOMS = [name for row in ROWS for name in row]


def test_the_picture_is_up_to_date_and_shown():
    assert MAP.PICTURE.read_text() == MAP.picture(), "docs/figures/rooms.svg is not up to date: run python tools/map.py"
    assert "figures/rooms.svg" in (ROOT / "docs" / "development.md").read_text()


def test_it_shows_every_package_there_is():
    packages = {file.parent.name for file in (ROOT / "src/robcal").glob("*/__init__.py")}
    shown = {text.text for text in ElementTree.parse(MAP.PICTURE).iter("{http://www.w3.org/2000/svg}text")}
    assert shown == packages == {*ROOMS}


def test_the_table_names_every_package():
    table = (ROOT / "docs" / "development.md").read_text().partition("## Layout")[2].partition("\n## ")[0]
    assert [name for name in ROOMS if f"`{name}/`" not in table] == []


def test_there_are_at_most_fourteen_packages_and_modules():
    found = [entry.name for entry in (ROOT / "src/robcal").iterdir() if not entry.name.startswith(("_", "py.typed"))]
    assert len(found) <= 14


def _closure(graph):
    """Everything reached, by Warshall's algorithm."""
    reached = {a: set(graph[a]) for a in graph}
    for between in graph:
        for a in graph:
            if between in reached[a]:
                reached[a] |= reached[between]
    return reached


def test_the_arrows_left_out_follow_from_those_drawn():
    graph = MAP.imports(ROOMS)
    drawn = MAP.reduced(graph)
    assert _closure(drawn) == _closure(graph)
    for room in ROOMS:
        for other in drawn[room]:
            less = {name: below - ({other} if name == room else set()) for name, below in drawn.items()}
            assert _closure(less) != _closure(graph), f"{room} → {other} follows from other arrows"


def test_the_arrows_are_the_imports_of_import_linter():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("robcal", cache_dir=None)
    for room, below in MAP.imports(ROOMS).items():
        inside = [f"robcal.{room}", *graph.find_descendants(f"robcal.{room}")]
        targets = {target for one in inside for target in graph.find_modules_directly_imported_by(one)}
        assert below == {target.split(".")[1] for target in targets - {"robcal"}} - {room}


def test_no_arrow_runs_through_a_box():
    place = MAP.places(ROWS)
    for room, below in MAP.reduced(MAP.imports(ROOMS)).items():
        for other in below:
            (x, y), (to_x, to_y) = place[room], place[other]
            assert to_y > y
            for name, (box_x, box_y) in place.items():
                if y < box_y < to_y:
                    at = x + (to_x - x) * (box_y - y) / (to_y - y)
                    assert abs(at - box_x) > MAP.WIDTH / 2, f"{room} → {other} runs through {name}"


def test_a_package_without_a_column_is_named():
    with pytest.raises(LookupError, match=r"give attic a column in tools/map\.py"):
        MAP.places([["attic"]])
