"""Print what `pip install robcal` brings: the packages that it requires, directly or not, with their size on disk.

What is installed in this environment is measured: python tools/weight.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution

MEGABYTE = 1e6


def needed(requirements: Iterable[str], extra: str = "") -> Iterator[tuple[str, str]]:
    """Yield names of requirements, each with "" and with each extra it names; not those of other extras or systems."""
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield from ((normal(requirement.name), one) for one in ("", *sorted(requirement.extras)))


def normal(name: str) -> str:
    """Return the one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(root: str, extra: str = "") -> dict[str, Distribution]:
    """Return the installed packages that one needs with an extra, by name."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [(root, ""), (root, extra)]
    while waiting:
        if (one := waiting.pop()) not in found:
            found[one] = distribution(one[0])
            waiting += needed(found[one].requires or (), one[1])
    return {name: package for (name, _), package in sorted(found.items()) if name != root}


def size(package: Distribution) -> int:
    """Return the bytes of a package's files on disk."""
    places = [file.locate() for file in package.files or ()]
    return sum(place.stat().st_size for place in places if place.is_file())


def table(root: str, extra: str = "") -> Iterator[str]:
    """Yield a line a package, the largest first, and a line for all."""
    sizes = {name: size(package) / MEGABYTE for name, package in closure(root, extra).items()}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        yield f"{sizes[name]:7.1f} MB  {name}"
    yield f"{sum(sizes.values()):7.1f} MB  in all; packages: {len(sizes)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--extra", default="", help="count what this extra brings, too")
    print(*table("robcal", parser.parse_args().extra), sep="\n")
