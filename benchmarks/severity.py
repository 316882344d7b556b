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
from robcal.base.results import VARIANTS, MethodResult, Results, Variant
from robcal.calibration.seeds import seed_mean_interval
from robcal.comparison import load_comparison

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
        lines += rows(load_comparison(file), file.parent.name)
    text = "\n".join(lines) + "\n"
    with replacing(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def rows(results: Results, name: str) -> list[str]:
    """A line for each opponent, raw and scaled."""
    severity = np.array([cell.severity for cell in results.methods[0].shift])
    methods = {one.name: one for one in results.methods}
    found = []
    for other in (label for label in AGAINST if label in methods):
        for variant in VARIANTS:
            ours, theirs = (per_seed(methods[label], variant) for label in (METHOD, other))
            seeds = [seed for seed in ours if seed in theirs]
            difference = np.array([ours[seed] - theirs[seed] for seed in seeds])
            cells = " | ".join(told(difference[:, severity == level].mean(1)) for level in (1, 3, 5))
            found.append(f"| {name}, {len(seeds)} seeds | {other} | {variant} | {cells} |")
    return found


def per_seed(method: MethodResult, variant: Variant) -> dict[int, FloatArray]:
    """Return seed → ECE of every cell."""
    cells = np.array([cell.per_seed["ece"] for cell in method.variant(variant).shift])
    return dict(zip(method.seeds, cells.T, strict=True))


def told(values: FloatArray) -> str:
    """Mean with its interval."""
    mean = seed_mean_interval(values)
    return f"{mean.value:+.4f} [{mean.low:+.4f}, {mean.high:+.4f}]"


if __name__ == "__main__":
    main()
