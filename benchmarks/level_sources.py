"""How far levels from different sources agree.

Usage: python benchmarks/level_sources.py RUN [RUN …] --out docs/evidence/sources.md

Run directories of ar-adals runs on the same data, several seeds and sources of levels (`robcal compare` makes them);
the levels of each source are compared with those of the first run's source, seed by seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from robcal.base.checks import IntArray
from robcal.base.files import replacing
from robcal.base.storage import load_levels
from robcal.runs.directory import Run, open_run


def main() -> None:
    """Read the levels, compare, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = [open_run(directory) for directory in options.runs]
    sources = list(dict.fromkeys(name_of(run) for run in runs))
    by_key = {(name_of(run), run.settings.seed): run for run in runs}
    lines = [
        f"Levels against those of {sources[0]!r}, mean over seeds: same level / within one / Spearman. "
        f"Chance: {1 / runs[0].settings.levels:.2f} / {chance_within_one(runs[0].settings.levels):.2f} / 0.",
        "",
        "| source | seeds | training images | validation images |",
        "|---|---:|---|---|",
    ]
    for source in sources[1:]:
        seeds = [seed for name, seed in by_key if name == source and (sources[0], seed) in by_key]
        cells = []
        for split in ("train", "val"):
            found = [
                agreement(*(levels_of(by_key[name, seed], split) for name in (sources[0], source))) for seed in seeds
            ]
            cells.append(" / ".join(f"{mean:.2f}" for mean in np.mean(found, axis=0)))
        lines.append(f"| {source} | {len(seeds)} | {cells[0]} | {cells[1]} |")
    text = "\n".join(lines) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def name_of(run: Run) -> str:
    """Where the run's levels came from."""
    return run.settings.levels_from if run.settings.takes_scores else run.settings.method


def levels_of(run: Run, split: str) -> IntArray:
    """(N,) the levels that the run trained with."""
    return load_levels(run.directory / f"levels-{split}.parquet").level


def agreement(one: IntArray, other: IntArray) -> tuple[float, float, float]:
    """Share of the examples in the same level, share within one level, and Spearman's correlation, ties averaged."""
    off = np.abs(one - other)
    return float((off == 0).mean()), float((off <= 1).mean()), float(spearmanr(one, other).statistic)


def chance_within_one(num_levels: int) -> float:
    """Share of independent levels of equal size that differ by at most one."""
    return (3 * num_levels - 2) / num_levels**2


if __name__ == "__main__":
    main()
