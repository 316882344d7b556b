"""The examples are short, and the site, which runs them, would see if one did not show what it says."""

import difflib
import inspect
import runpy
from pathlib import Path

import pytest
from tool_files import ROOT, load_tool

SITE = load_tool("site")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_robcal_takes_at_most_fifteen_lines(example: Path) -> None:
    lines = example.read_text(encoding="utf-8").splitlines()
    assert 0 < sum("# robcal" in line and "`" not in line for line in lines) <= 15


def test_the_lines_that_the_pytorch_example_changes_are_those_it_marks() -> None:
    names = runpy.run_path(str(ROOT / "examples" / "pytorch.py"))
    usual, ours = (inspect.getsource(names[name]).splitlines()[2:] for name in ("train", "train_with_robcal"))
    changed = [line[2:] for line in difflib.ndiff(usual, ours) if line.startswith("+ ")]
    assert 0 < len(changed) < 15  # one more is `import robcal`
    assert all("# robcal" in line for line in changed)


def _printed(accuracy: float, error: float, our_accuracy: float, our_error: float) -> str:
    return (
        f"    as usual: test accuracy {accuracy:.3f}, calibration error (ECE) {error:.3f}\n"
        f"    with robcal: test accuracy {our_accuracy:.3f}, calibration error (ECE) {our_error:.3f}\n"
    )


def test_an_example_that_shows_what_it_says_passes() -> None:
    SITE.check("pytorch", _printed(0.726, 0.159, 0.704, 0.05))
    SITE.check("scikit_learn", _printed(0.734, 0.068, 0.712, 0.06))


@pytest.mark.parametrize(
    "printed",
    [
        "",
        _printed(0.726, 0.159, 0.704, 0.05).splitlines()[0],
        _printed(0.5, 0.159, 0.5, 0.05),
        _printed(0.726, 0.159, 0.67, 0.05),
        _printed(0.726, 0.159, 0.726, 0.12),
        _printed(0.726, 0.159, 0.726, float("nan")),
    ],
    ids=["nothing", "one way", "no accuracy", "accuracy lost", "no better calibrated", "no number"],
)
def test_an_example_that_does_not_is_refused(printed: str) -> None:
    with pytest.raises(ValueError, match="pytorch"):
        SITE.check("pytorch", printed)
