"""Build the documentation site, which runs the examples, and see that each example shows what it says.

Usage: python tools/site.py [--out site]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: What Sphinx makes within its source folder.
MADE = (DOCS / "gallery", DOCS / "generated")

#: The calibration error of an example with robcal is below this much of the usual one.
FACTOR = 0.7
#: scikit-learn's own network over-fits less.
FACTORS = {"scikit_learn": 1.1}

#: What an example prints of a way of training: test accuracy and calibration error.
PRINTED = r"{way}: test accuracy (\S+), calibration error \(ECE\) (\S+)"


def build(out: Path) -> None:
    """Build the site from nothing; every warning is an error.

    Raises:
        CalledProcessError: if there was one.
    """
    for folder in (out, *MADE):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "html", DOCS, out]
    subprocess.run(command, check=True)


def check(name: str, printed: str) -> None:
    """Refuse what an example printed unless robcal keeps the accuracy and mends the calibration.

    Args:
        name: of the example.
        printed: what it printed.

    Raises:
        ValueError: if the accuracy is low, falls by 5 points or the calibration error is not below `FACTORS`.
    """
    found = [re.search(PRINTED.format(way=way), printed) for way in ("as usual", "with robcal")]
    if None in found:
        raise ValueError(f"{name} printed no accuracy and calibration error of both ways:\n{printed}")
    (accuracy, error), (our_accuracy, our_error) = ([float(number) for number in one.groups()] for one in found if one)
    mended = our_error < FACTORS.get(name, FACTOR) * error
    if accuracy < 0.6 or our_accuracy < accuracy - 0.05 or not mended:
        raise ValueError(f"{name} does not show what it says:\n{printed}")


def main() -> None:
    """Build and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site")
    out = parser.parse_args().out
    build(out)
    for example in sorted((ROOT / "examples").glob("*.py")):
        check(example.stem, (DOCS / "gallery" / example.with_suffix(".rst").name).read_text(encoding="utf-8"))
    print(out / "index.html")


if __name__ == "__main__":
    main()
