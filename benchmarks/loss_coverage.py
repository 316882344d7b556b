"""How often do the 95% intervals of means over few examples hold the truth, where hardly any example is wrong?

Usage: python benchmarks/loss_coverage.py    (a second or two on one core)

A calibrated classifier of two classes whose confidence is 1 - B / 2 with B ~ Beta(1/2, 20): it is right in 98.8%. The
true means are those over a population cut into 200,000 quantiles. docs/limits.md has what this prints.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import betaincinv, entr

from robcal.calibration import metric_interval

SIZES = (30, 100, 300, 1000)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400, help="data sets a row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    confidence = 1 - betaincinv(0.5, 20, (np.arange(200_000) + 0.5) / 200_000) / 2
    truth = {
        "nll": float((entr(confidence) + entr(1 - confidence)).mean()),
        "brier": float((2 * confidence * (1 - confidence)).mean()),
        "accuracy": float(confidence.mean()),
        "gap": 0.0,
    }
    print(f"accuracy {truth['accuracy']:.4f}, {options.repetitions} data sets a row, seed {options.seed}\n")
    print(f"| examples | {' | '.join(truth)} |\n|--:|{'--:|' * len(truth)}")
    for size in SIZES:
        held = coverage(confidence, truth, size, options.repetitions, np.random.default_rng([options.seed, size]))
        print(f"| {size:,} | {' | '.join(f'{held[name]:.2f}' for name in truth)} |", flush=True)


def coverage(
    population: np.ndarray, truth: dict[str, float], size: int, repetitions: int, rng: np.random.Generator
) -> dict[str, float]:
    """Return how often the interval of each metric holds its true value."""
    held = dict.fromkeys(truth, 0)
    for _ in range(repetitions):
        confidence = rng.choice(population, size)
        labels = (rng.random(size) >= confidence).astype(int)
        probs = np.column_stack([confidence, 1 - confidence])
        for name, value in truth.items():
            found = metric_interval(name, probs, labels)
            held[name] += found.low <= value <= found.high
    return {name: count / repetitions for name, count in held.items()}


if __name__ == "__main__":
    main()
