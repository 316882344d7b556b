"""Where the cuts between levels lie, and how precise distances must be for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from robcal.base.checks import check_scores

#: The ends of a band of distances in which a cut between two levels lies.
Band = tuple[float, float]
_LARGEST = float(np.finfo(np.float32).max)
#: The finest relative precision that is asked for.
_LEAST_TOLERANCE = 0.002


def level_tolerance(distance: Any, num_levels: int, *, most: float = 0.01) -> float:
    """Return how precise distances (n,) must be: a sixteenth of a level's width, from .002 to `most`.

    The width is the median of log(upper cut / lower cut) over the levels between two cuts; +inf stands for censored.
    """
    cuts = np.quantile(distance, np.arange(1, num_levels) / num_levels, method="lower")
    cuts = cuts[(cuts > 0) & np.isfinite(cuts)]
    if len(cuts) < 2:
        return most
    return min(most, max(_LEAST_TOLERANCE, float(np.median(np.diff(np.log(cuts)))) / 16))


def cut_bands(distance: Any, total: int, num_levels: int = 10, *, errors: float = 1.0) -> tuple[Band, ...]:
    """Return R - 1 bands in which the cuts of N examples lie, judged by the distances (n,) of a random sample of them.

    The share p of examples below a cut is known; in a sample of n of N (drawn without replacement) the share below the
    same distance has a standard error of √(p (1 − p) / n · (1 − n / N)). A band is `errors` of these to either side;
    among censored examples, +inf, it ends at the largest float32.
    """
    ordered = np.minimum(np.sort(check_scores(distance, name="distances")), _LARGEST)
    n = len(ordered)
    sizes = [len(part) for part in np.array_split(np.arange(total), num_levels)]
    below = np.cumsum(sizes)[:-1] / total
    error = errors * np.sqrt(below * (1 - below) / n * max(0.0, 1 - n / total))
    low = np.clip(np.floor(n * (below - error) + 1e-9).astype(int) - 1, 0, n - 1)
    high = np.clip(np.ceil(n * (below + error) - 1e-9).astype(int), 0, n - 1)
    return tuple((float(ordered[a]), float(ordered[b])) for a, b in zip(low, high, strict=True))
