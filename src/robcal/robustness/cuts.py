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
    """Say how precise distances must be for their levels: a sixteenth of a level's width, where these are narrow.

    Args:
        distance: (n,) distances, +inf where censored.
        num_levels: R.
        most: what is precise enough in any case.

    Returns:
        A sixteenth of the median of log(upper cut / lower cut) over all levels between two cuts, but no less than .002
        and no more than `most`, which it is with fewer than two cuts.

    Example:
        >>> round(level_tolerance(np.exp(np.linspace(0, 0.8, 1000)), 10), 4)
        0.005
    """
    cuts = np.quantile(distance, np.arange(1, num_levels) / num_levels, method="lower")
    cuts = cuts[(cuts > 0) & np.isfinite(cuts)]
    if len(cuts) < 2:
        return most
    return min(most, max(_LEAST_TOLERANCE, float(np.median(np.diff(np.log(cuts)))) / 16))


def cut_bands(distance: Any, total: int, num_levels: int = 10, *, errors: float = 1.0) -> tuple[Band, ...]:
    """Return where the cuts between the levels of a whole data set lie, judged by a random sample of it.

    The share p of examples below a cut is known; in a sample of n of N (drawn without replacement) the share below the
    same distance has a standard error of √(p (1 − p) / n · (1 − n / N)).

    Args:
        distance: (n,) distances of the sample, +inf where censored.
        total: N >= n.
        num_levels: R.
        errors: half the width of a band, in standard errors.

    Returns:
        R - 1 bands (low, high), ascending; those that lie among censored examples end at the largest float32.

    Raises:
        InputError: NaN distances.

    Example:
        >>> cut_bands([0.1, 0.2, 0.3, 0.4], total=4, num_levels=2)
        ((0.2, 0.3),)
    """
    ordered = np.minimum(np.sort(check_scores(distance, name="distances")), _LARGEST)
    n = len(ordered)
    sizes = [len(part) for part in np.array_split(np.arange(total), num_levels)]
    below = np.cumsum(sizes)[:-1] / total
    error = errors * np.sqrt(below * (1 - below) / n * max(0.0, 1 - n / total))
    low = np.clip(np.floor(n * (below - error) + 1e-9).astype(int) - 1, 0, n - 1)
    high = np.clip(np.ceil(n * (below + error) - 1e-9).astype(int), 0, n - 1)
    return tuple((float(ordered[a]), float(ordered[b])) for a, b in zip(low, high, strict=True))
