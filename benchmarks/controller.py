"""Draw the smoothing and the gap of every level over the epochs, one row a run: what each controller does.

Usage: python benchmarks/controller.py "TITLE=RUN" ["TITLE=RUN" …] --out docs/figures/controller.svg

A RUN is a run directory of a method that smooths per level (`robcal train`, or one of `robcal compare`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robcal.base.files import replacing
from robcal.report import figures, plotted
from robcal.report.study_figures import svg_file
from robcal.runs.directory import open_run

HEIGHT = 254.0


def main() -> None:
    """Read the histories, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="TITLE=RUN")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    courses = {}
    for text in options.runs:
        title, _, directory = text.rpartition("=")
        history = open_run(Path(directory)).history()
        courses[title] = {name: plotted.history_course(history, name) for name in ("epsilon", "gap")}
    drawn = []
    for row, (title, pair) in enumerate(courses.items()):
        for name, label in (("epsilon", "ε of each level"), ("gap", "gap, validation")):
            course = pair[name]
            if not course:
                parser.error(f"{title} has no levels")
            scale = [line for one in courses.values() for line in one[name]]
            told = f"{title}: {label}"
            drawn.append(figures.draw_course(course, figures.Frame(f"{name}-{row}", told, told, scale=scale)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.out) as temporary:
        temporary.write_text(svg_file([(one, HEIGHT) for one in drawn]), encoding="utf-8")


if __name__ == "__main__":
    main()
