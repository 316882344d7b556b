"""Draw the picture of the README: confidence minus accuracy by level of adversarial robustness, of three networks.

Usage: python benchmarks/levels_figure.py docs/evidence/gpu.json --out docs/figures/levels.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from robcal.base.files import replacing

#: Recipe, variant, label, colour and marker of each line.
LINES = (
    ("plain", "raw", "plain training", "#b5480f", "o"),
    ("plain", "scaled", "plain, after one temperature", "#c98f1d", "s"),
    ("running", "raw", "AR-AdaLS, no step afterwards", "#0b6b5d", "D"),
)


def main() -> None:
    """Draw the regime with all training images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    regimes = json.loads(options.results.read_text(encoding="utf-8"))["regimes"]
    regime = next(one for one in regimes if one["regime"]["name"] == "full")
    mpl.rcParams.update({"svg.hashsalt": "robcal", "svg.fonttype": "none"})
    with replacing(options.out) as temporary:
        draw(regime["recipes"]).savefig(
            temporary, format="svg", metadata={"Date": None}, facecolor="white", bbox_inches="tight"
        )


def draw(recipes: dict[str, Any]) -> plt.Figure:
    """Draw a line a network: mean over the seeds, with every seed as a faint point."""
    figure, axes = plt.subplots(figsize=(7.2, 2.9))
    axes.axhline(0, color="#566070", linewidth=0.8)
    for recipe, variant, label, colour, marker in LINES:
        gaps = np.array([one["levels"]["gap"] for one in recipes[recipe][variant]]) * 100
        levels = np.arange(gaps.shape[1])
        axes.plot(levels, gaps.T, marker, color=colour, alpha=0.25, markersize=3)
        axes.plot(levels, gaps.mean(0), marker=marker, color=colour, label=label, markersize=5)
    axes.set_xticks(levels, ["0\nleast robust", *map(str, levels[1:-1]), f"{levels[-1]}\nmost robust"])
    axes.set_ylabel("confidence − accuracy\n(percentage points)")
    axes.set_xlabel("tenth of the test images, by adversarial distance to a network that none of these has seen")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
