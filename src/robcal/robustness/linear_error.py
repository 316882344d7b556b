"""How far the linear picture of a network can be trusted: the spread of (where a descent ends) / (where it said).

The first linearisation at an input says how far the nearest boundary is, and the descent tells where it is. The common
part of the ratio shifts all distances alike and changes no level; its spread is what a boundary that was not descended
on may be off by. The logarithms are gathered as counts in narrow bins: parts of a data set can be scored anywhere and
in any order, and their counts are added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robcal.base.checks import FloatArray

#: Edges of the bins; what lies outside counts in the first or last.
_EDGES = np.linspace(-1, 1, 201)
#: The spread is that of the middle of the logarithms, with this share left out at either end, in standard deviations of
#: a normal distribution: a few inputs next to a boundary, where the ratio can be anything, do not make it.
_TAIL, _WIDTH = 0.1, 2.563


def log_error_counts(values: Sequence[float]) -> list[int]:
    """Counts of the logarithms that are finite, bin by bin.

    Example:
        >>> counts = log_error_counts([0.004, 0.004, float("nan"), -7.0])
        >>> counts[0], counts[100], sum(counts)
        (1, 2, 3)
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)].clip(_EDGES[0], _EDGES[-1])
    return [int(count) for count in np.histogram(kept, _EDGES)[0]]


def linear_error(parts: Sequence[Sequence[int]]) -> float | None:
    """Return the standard error of the linear picture, of the middle 80% of logarithms; None of fewer than 20 descents.

    The `parts` are of `log_error_counts`, of any number of parts of a data set.
    """
    counts: FloatArray = np.zeros(len(_EDGES) - 1)
    for part in parts:
        counts = counts + np.asarray(part)
    if counts.sum() < 20:
        return None
    low, high = _quantiles(counts, np.array([_TAIL, 1 - _TAIL]))
    return float(high - low) / _WIDTH


def linear_bias(parts: Sequence[Sequence[int]]) -> float:
    """Return the median of the logarithms: how much farther a descent ends than its linear picture said; 0 of none.

    Example:
        >>> round(linear_bias([log_error_counts([0.1, 0.2, 0.3])]), 2)
        0.2
    """
    counts = np.sum([np.asarray(part) for part in parts], axis=0)
    return float(_quantiles(counts, np.array([0.5]))[0]) if np.sum(counts) else 0.0


def _quantiles(counts: FloatArray, shares: FloatArray) -> FloatArray:
    """The quantiles at these shares, taking the values of a bin to be spread evenly over it."""
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    found: FloatArray = np.interp(shares, below, _EDGES)
    return found
