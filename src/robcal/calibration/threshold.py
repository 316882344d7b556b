"""A threshold on the confidence whose error rate on new data stays below a bound, with stated probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import numpy as np

from robcal.base.checks import FloatArray, check_fraction
from robcal.base.special import binomial_cdf
from robcal.base.types import Estimate
from robcal.calibration.binning import top_from
from robcal.calibration.intervals import clopper_pearson

#: Thresholds that are tried, fixed before any data are seen: evenly below .9, and by equal factors of 1 - t above.
GRID: FloatArray = np.unique(np.concatenate([np.linspace(0, 0.9, 19), 1 - np.geomspace(0.1, 1e-4, 40)]).round(6))[::-1]

#: Places in the grid at which a sequence of tests starts; each has this share of the error probability.
_STARTS = 5


@dataclass(frozen=True)
class SelectiveThreshold:
    """Accept the examples whose confidence is at least `threshold`."""

    threshold: float  #: t, or +inf where no threshold could be shown to keep the bound
    coverage: Estimate  #: share of examples that are accepted, with a Clopper-Pearson interval
    risk: Estimate  #: error rate among them here, with a Clopper-Pearson interval (NaN where none is accepted)
    accepted: int  #: number of examples accepted here
    note: str  #: a sentence that says what holds, or what would be needed


def selective_threshold(
    confidence: Any, correct: Any, *, risk: float = 0.01, error_probability: float = 0.05
) -> SelectiveThreshold:
    """Return the lowest threshold whose error rate among accepted new examples is at most `risk`.

    With probability at least 1 - `error_probability` over the examples given (drawn like the new ones), the error rate
    P(wrong | confidence >= t) is at most `risk`. Learn-then-Test (Angelopoulos et al. 2021): for each t of a grid fixed
    in advance the number of errors among the n(t) accepted is binomial, and "the rate exceeds `risk`" is rejected if
    P(Bin(n(t), risk) <= errors) is small. Tests run from high thresholds to low ones, from five starting places with a
    fifth of the error probability each, and every sequence stops at its first failure; all that is rejected holds at
    once. Each t is rounded to the precision of `confidence`, so that a comparison in that precision accepts the same.

    Args:
        confidence: (N,) confidence of the prediction, or any score in [0, 1] that is high where it should be trusted.
        correct: (N,) 1 or True where the prediction is right, 0 or False where it is wrong.
        risk: the bound on the error rate, in (0, 1).
        error_probability: probability that the bound does not hold, in (0, 1).

    Returns:
        The threshold, its coverage and its error rate.

    Raises:
        InputError: on arrays of different lengths, or values that are no confidences or no outcomes.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> confidence = rng.random(4000)
        >>> found = selective_threshold(confidence, rng.random(4000) < confidence, risk=0.1)
        >>> found.threshold, round(found.coverage.value, 3), round(found.risk.value, 3)
        (0.9, 0.094, 0.043)
    """
    top = top_from(confidence, correct, name="confidence")
    values, right = top.confidence.astype(np.float64), top.correct > 0
    check_fraction(risk, "risk")
    check_fraction(error_probability, "error_probability")
    grid = GRID.astype(top.confidence.dtype).astype(np.float64)
    accepted = np.array([int((values >= t).sum()) for t in grid])
    errors = np.array([int(((values >= t) & ~right).sum()) for t in grid])

    @cache
    def rejected(place: int) -> bool:
        return binomial_cdf(int(errors[place]), int(accepted[place]), risk) <= error_probability / _STARTS

    starts = np.linspace(0, len(GRID), _STARTS, endpoint=False).astype(int).tolist()
    runs = (list(takewhile(rejected, range(start, len(GRID)))) for start in starts)
    lowest = max((run[-1] for run in runs if run), default=None)
    if lowest is None:
        needed = math.ceil(math.log(error_probability / _STARTS) / math.log1p(-risk))
        note = (
            f"No threshold could be shown to keep the error rate below {risk:g}: {needed} accepted examples without an "
            "error are the least that can show it."
        )
        return SelectiveThreshold(math.inf, clopper_pearson(0, len(values)), Estimate(math.nan), 0, note)
    number, wrong = int(accepted[lowest]), int(errors[lowest])
    note = (
        f"Accept where the confidence is at least {grid[lowest]:.6g}: with probability {1 - error_probability:g} the "
        f"error rate among accepted examples is at most {risk:g}."
    )
    return SelectiveThreshold(
        float(grid[lowest]), clopper_pearson(number, len(values)), clopper_pearson(wrong, number), number, note
    )
