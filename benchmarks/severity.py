"""How the difference between two methods grows with the severity of the shift.

Usage: python benchmarks/severity.py docs/evidence/overfit/results.json [MORE …] --out docs/evidence/severity.md

Of every comparison's results.json: mean ECE over the corruptions of one severity, as a paired difference over the seeds
with its 95% t interval (seeds only), raw and after temperature scaling.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from robcal.base.checks import FloatArray
from robcal.base.files import replacing
from robcal.base.storage import load_json
from robcal.calibration.seeds import seed_mean_interval

METHOD = "AR-AdaLS"
AGAINST = ("Plain", "AdaLS", "Random levels", "Levels by margin")


def main() -> None:
    """Read, subtract, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = [
        f"ECE under shift by severity: {METHOD} minus another, mean over the corruptions of that severity; paired over "
        "the seeds, with the 95% t interval over them.",
        "",
        "| comparison | minus | | severity 1 | severity 3 | severity 5 |",
        "|---|---|---|---|---|---|",
    ]
    for file in options.results:
        lines += rows(load_json(file, "the results"), file.parent.name)
    text = "\n".join(lines) + "\n"
    with replacing(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def rows(record: dict, name: str) -> list[str]:
    """A line for each opponent, raw and scaled."""
    severity = np.array([int(cell.rsplit("-", 1)[1]) for cell in record["cells"]])
    methods = {one["label"]: one for one in record["methods"]}
    found = []
    for other in (label for label in AGAINST if label in methods):
        for variant in ("raw", "scaled"):
            ours, theirs = (per_seed(methods[label], variant) for label in (METHOD, other))
            seeds = [seed for seed in ours if seed in theirs]
            difference = np.array([ours[seed] - theirs[seed] for seed in seeds])
            cells = " | ".join(told(difference[:, severity == level].mean(1)) for level in (1, 3, 5))
            found.append(f"| {name}, {len(seeds)} seeds | {other} | {variant} | {cells} |")
    return found


def per_seed(method: dict, variant: str) -> dict[int, FloatArray]:
    """Seed → ECE of every cell."""
    return dict(zip(method["seeds"], np.array(method[variant]["cells"]["ece"]), strict=True))


def told(values: FloatArray) -> str:
    """Mean with its interval."""
    mean = seed_mean_interval(values)
    return f"{mean.value:+.4f} [{mean.low:+.4f}, {mean.high:+.4f}]"


if __name__ == "__main__":
    main()
