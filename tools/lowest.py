"""Print the lowest version of every dependency that pyproject.toml allows, as constraints for pip.

Usage: python tools/lowest.py > constraints-lowest.txt
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def requirements() -> Iterator[str]:
    """Yield what robcal and its extras require, without the extras that name robcal itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from (entry for entry in group if not entry.startswith("robcal["))


def lowest(requirement: str) -> str:
    """Return "name==version" for "name>=version".

    Raises:
        ValueError: if the requirement has no lower bound of that form.

    >>> lowest("numpy>=2.0")
    'numpy==2.0'
    """
    if not (found := re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)):
        raise ValueError(f"{requirement!r} is not of the form name>=version")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(*sorted(map(lowest, requirements())), sep="\n")
