"""Measure robcal on published networks and against people, and write the pages: `make real`.

Usage: python benchmarks/published.py --data FOLDER [--limit 5000] --work runs/real --out docs/evidence/real

A network that claim.json, people.json or natural.json of the folder holds already is not measured again, and distances
are kept as they are found: a run that was stopped (Ctrl-C) goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from real import claim, natural, page, people
from robcal.base.files import replacing


def main() -> None:
    """Measure what is missing, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="networks and data, see benchmarks/real/networks.py")
    parser.add_argument(
        "--limit", type=int, default=5000, help="examples of a network that get an adversarial distance"
    )
    parser.add_argument("--work", type=Path, required=True, help="adversarial distances are kept here")
    parser.add_argument("--only", nargs="+", default=[], help="measure these networks only")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the JSON files and the pages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for module, stem in ((claim, "claim"), (people, "people"), (natural, "natural")):
        jobs = module.jobs(options.data, options.limit, options.work)
        records = measured(options.out / f"{stem}.json", jobs, module.record, options.only)
        text = getattr(page, stem)(records)
        write(options.out / f"{stem}.md", text)
        print(text)


def measured(
    file: Path, jobs: dict[str, Callable[[], Any]], record: Callable[[Any], dict[str, Any]], only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Measure every job, or those in `only`, that the file does not hold, keeping the file after each.

    Returns:
        What the file holds then, in the order of the jobs.
    """
    for name, job in jobs.items():
        if name not in held(file) and (not only or name in only):
            print(f"measuring {name}", flush=True)
            row = {**record(job()), "name": name}
            write(file, json.dumps({**held(file), name: row}, indent=1) + "\n")
    found = held(file)
    return [found[name] for name in dict.fromkeys((*jobs, *found)) if name in found]


def held(file: Path) -> dict[str, dict[str, Any]]:
    """Read what was measured before, also by another process since."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
