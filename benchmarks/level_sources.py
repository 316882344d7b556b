"""How far levels from different sources agree, and how much the online ones drift.

Usage: python benchmarks/level_sources.py RUN [RUN …] --out docs/evidence/sources.md

Run directories of ar-adals runs on the same data, several seeds and sources of levels (`robcal compare` makes them);
the levels of each source are compared with those of the first run's source, seed by seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from robcal.artifacts import load_json, load_levels
from robcal.files import replacing
from robcal.robustness.agreement import level_agreement
from robcal.run_directory import Run, open_run


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
                level_agreement(*(levels_of(by_key[name, seed], split) for name in (sources[0], source)))
                for seed in seeds
            ]
            means = [np.mean([getattr(one, key) for one in found]) for key in ("same_level", "within_one", "spearman")]
            cells.append(" / ".join(f"{mean:.2f}" for mean in means))
        lines.append(f"| {source} | {len(seeds)} | {cells[0]} | {cells[1]} |")
    lines += drift(runs)
    text = "\n".join(lines) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def name_of(run: Run) -> str:
    """Where the run's levels came from."""
    return run.settings.levels_from if run.settings.method == "ar-adals" else run.settings.method


def levels_of(run: Run, split: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """(N,) the levels that the run trained with."""
    return load_levels(run.directory / f"levels-{split}.parquet").level


def chance_within_one(num_levels: int) -> float:
    """Share of independent levels of equal size that differ by at most one."""
    return (3 * num_levels - 2) / num_levels**2


def drift(runs: list[Run]) -> list[str]:
    """How far online levels moved since the epoch before, mean over the online runs of the same length."""
    files = [run.directory / "levels-history.json" for run in runs]
    courses = [load_json(file, "the history of levels") for file in files if file.exists()]
    if not courses:
        return []
    lines = [
        "",
        f"Online levels against those of the epoch before, mean over {len(courses)} seeds: share in another "
        "level, share that moved by more than one level, Spearman.",
        "",
        "| epoch | training images: changed | beyond one | Spearman | validation images: changed |",
        "|---:|---:|---:|---:|---:|",
    ]
    for rows in zip(*courses, strict=True):
        keys = ("changed", "beyond_one", "spearman", "val_changed")
        cells = " | ".join(f"{np.mean([row[key] for row in rows]):.2f}" for key in keys)
        lines.append(f"| {rows[0]['epoch']} | {cells} |")
    return lines


if __name__ == "__main__":
    main()
