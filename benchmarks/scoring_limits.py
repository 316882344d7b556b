"""How far agreement can go: "auto" under several seeds, descents that nothing ends early, and noise of known size.

Part of `benchmarks/scoring.py --seeds S`; `scoring_report.py` compares what is found here to the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from robcal.base.checks import FloatArray
from robcal.robustness.averaging import Averaging
from robcal.robustness.engine import Attack
from robcal.robustness.restarts import Restarts
from robcal.robustness.scoring import score

#: Descents that no cut between levels ends early: how often they linearise, at most, and how near they come.
COMPLETE: dict[str, Attack] = {
    "one descent, 2 gradients after the first": Averaging(averaging=True, max_steps=2),
    "one descent, 4 gradients after the first": Averaging(averaging=True, max_steps=4),
    "one descent, up to 8": Averaging(averaging=True, max_steps=8),
    "one descent, up to 20, to .2%": Averaging(averaging=True, max_steps=20, tolerance=0.002, overshoot=0.01),
    "all boundaries in doubt, up to 20 each, to .2%": Restarts(
        averaging=True, max_steps=20, tolerance=0.002, overshoot=0.01
    ),
}
#: Means of exponential errors, as shares of the distance: an upper bound errs upwards.
ERRORS = (0.005, 0.01, 0.02, 0.03, 0.05)


def distances(model: nn.Module, x: torch.Tensor, batch_size: int, seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Passes an image and distances of "auto" under every seed, and of complete descents."""
    found: dict[str, list[dict[str, Any]]] = {"auto": [], "complete": []}
    tasks: list[tuple[str, str, Any, int]] = [("auto", f"seed {seed}", "auto", seed) for seed in range(seeds)]
    tasks += [("complete", name, attack, 0) for name, attack in COMPLETE.items()]
    for kind, name, method, seed in tasks:
        scores = score(model, x, method=method, batch_size=batch_size, seed=seed)
        distance = rounded(scores.distance)
        found[kind].append({"name": name, "passes": float(scores.passes.mean()), "distance": distance})
    return found


def rounded(values: Any) -> list[float]:
    """Numbers of seven digits, which is what float32 has."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def with_errors(best: FloatArray, error: float, draws: int = 50) -> list[FloatArray]:
    """The distances, made longer by exponential errors of that mean, so many times."""
    rng = np.random.default_rng(0)
    return [best * np.exp(rng.exponential(error, len(best))) for _ in range(draws)]
