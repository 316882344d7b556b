"""The examples run as they stand, and do what their text says."""

import difflib
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_pytorch_example_runs_and_is_better_calibrated():
    done = subprocess.run([sys.executable, EXAMPLES / "pytorch.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    usual, ours = (
        [float(number) for number in re.search(rf"{name}: test accuracy (\S+), .*\(ECE\) (\S+)", done.stdout).groups()]
        for name in ("as usual", "with robcal")
    )
    assert usual[0] > 0.65
    assert ours[0] > usual[0] - 0.05
    assert ours[1] < 0.6 * usual[1]


def test_pytorch_example_changes_at_most_fifteen_lines_and_marks_them():
    names = runpy.run_path(str(EXAMPLES / "pytorch.py"))
    usual, ours = (inspect.getsource(names[name]).splitlines()[2:] for name in ("train", "train_with_robcal"))
    changed = [line[2:] for line in difflib.ndiff(usual, ours) if line.startswith("+ ")]
    assert 0 < len(changed) < 15  # one more is `import robcal`
    assert all("# robcal" in line for line in changed)
