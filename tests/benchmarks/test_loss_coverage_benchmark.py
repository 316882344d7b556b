"""The simulation whose figures stand in docs/limits.md."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_limits_tell_what_it_prints(capsys):
    runpy.run_path(str(ROOT / "benchmarks/loss_coverage.py"))["main"]([])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    held = {cells[0]: [float(cell) for cell in cells[1:]] for cells in rows[1:]}
    told = re.search(
        r"held the\ntruth in (\d+)% of the samples of 30 examples, (\d+)% of 100, (\d+)% of 300, (\d+)% of 1,000",
        (ROOT / "docs/limits.md").read_text(encoding="utf-8"),
    )
    assert [round(100 * cells[0]) for cells in held.values()] == [int(figure) for figure in told.groups()]
    assert held["30"][0] < 0.5 < 0.9 < held["1,000"][0]  # few errors are the cause: more rows hold more of them
    assert min(min(cells[2:]) for cells in held.values()) >= 0.93
