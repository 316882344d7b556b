"""Draw docs/figures/rooms.svg: the packages of robcal, and which imports which.

The rows are the layers of pyproject.toml, the arrows the imports that stand in the files: python tools/map.py
"""

from __future__ import annotations

import argparse
import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "figures" / "rooms.svg"

#: Where a package stands in its row; chosen so that no arrow runs through a box.
COLUMNS = {
    "commands": 2,
    "comparison": 2,
    "runs": 2,
    "report": 4,
    "training": 0,
    "integrations": 2,
    "methods": 0,
    "robustness": 3,
    "models": 0,
    "smoothing": 1,
    "data": 2,
    "calibration": 4,
    "base": 2,
}

COLUMN, ROW, WIDTH, HEIGHT = 160, 74, 122, 34

Graph = Mapping[str, set[str]]


def layers() -> list[list[str]]:
    """Return the packages of each layer, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(entry for entry in settings["contracts"] if entry["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def imported(file: Path) -> Iterator[str]:
    """Yield the packages of robcal that a file imports from, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            root, _, rest = (module or "").partition(".")
            if root == "robcal" and rest:
                yield rest.partition(".")[0]


def imports(rooms: list[str]) -> Graph:
    """Return which other packages each package imports."""
    files = {room: (ROOT / "src" / "robcal" / room).rglob("*.py") for room in rooms}
    return {room: {other for file in files[room] for other in imported(file)} & {*rooms} - {room} for room in rooms}


def reached(graph: Graph, room: str) -> set[str]:
    """Return everything that a package imports, and what that imports, and so on."""
    return graph[room].union(*(reached(graph, other) for other in graph[room]))


def reduced(graph: Graph) -> Graph:
    """Leave out the arrows that follow from others (a → c where a → b → c); the graph has no circle."""
    return {
        room: {other for other in below if not any(other in reached(graph, between) for between in below)}
        for room, below in graph.items()
    }


def places(rows: list[list[str]]) -> dict[str, tuple[int, int]]:
    """Return the middle of every box in pixels.

    Raises:
        LookupError: if a package has no column.
    """
    if missing := {name for row in rows for name in row} - {*COLUMNS}:
        raise LookupError(f"give {', '.join(sorted(missing))} a column in tools/map.py, COLUMNS")
    return {
        name: (COLUMN * COLUMNS[name] + COLUMN // 2, ROW * height + ROW // 2)
        for height, row in enumerate(rows)
        for name in row
    }


def drawing(rows: list[list[str]], graph: Graph) -> Iterator[str]:
    """Yield the lines of the picture."""
    place, wide, high = places(rows), COLUMN * (max(COLUMNS.values()) + 1), ROW * len(rows)
    told = "; ".join(f"{room} imports {', '.join(sorted(below))}" for room, below in graph.items() if below)
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img" font-family="sans-serif">'
    yield f"<title>The packages of robcal: {told}.</title>"
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    yield '<path d="M0 0L8 4L0 8z" fill="#4a5568"/></marker></defs>'
    yield f'<rect width="{wide}" height="{high}" fill="#ffffff"/>'
    for room, below in graph.items():
        for other in sorted(below):
            (x, y), (to_x, to_y) = place[room], place[other]
            ends = f'x1="{x}" y1="{y + HEIGHT // 2}" x2="{to_x}" y2="{to_y - HEIGHT // 2}"'
            yield f'<line {ends} stroke="#4a5568" stroke-width="1.4" marker-end="url(#tip)"/>'
    for name, (x, y) in place.items():
        box = f'x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}" rx="5"'
        yield f'<rect {box} fill="#edf2f7" stroke="#2d3748"/>'
        yield f'<text x="{x}" y="{y + 5}" text-anchor="middle" font-size="15" fill="#1a202c">{name}</text>'
    yield "</svg>"


def picture() -> str:
    """Return the picture as SVG; the same files give the same bytes."""
    rows = layers()
    return "\n".join(drawing(rows, reduced(imports([name for row in rows for name in row])))) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    PICTURE.write_text(picture())
