"""Running the examples that train a network as usual and with robcal."""

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def check_example(name: str, printed, *, factor: float = 0.7) -> None:
    """Run an example in this process: robcal takes at most 15 lines of it, keeps accuracy and mends calibration.

    Args:
        name: of the file.
        printed: returns what was printed since it was last called.
        factor: the calibration error is below this much of the usual one.
    """
    file = EXAMPLES / name
    marked = [line for line in file.read_text(encoding="utf-8").splitlines() if "# robcal" in line and "`" not in line]
    assert 0 < len(marked) <= 15
    runpy.run_path(str(file), run_name="__main__")
    told = printed()
    usual, ours = (
        [float(number) for number in re.search(rf"{way}: test accuracy (\S+), .*\(ECE\) (\S+)", told).groups()]
        for way in ("as usual", "with robcal")
    )
    assert usual[0] > 0.6
    assert ours[0] > usual[0] - 0.05
    assert ours[1] < factor * usual[1]
