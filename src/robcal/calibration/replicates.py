"""Bootstrap replicates of a metric over one shared test split, for several runs at once.

Runs of different seeds, and different methods, predict the *same* test examples. One resampling of these examples
applied to all of them gives replicates whose variance is what the finite test split adds to the mean over seeds, and
whose differences between methods are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from robcal.calibration.binning import bin_index
from robcal.checks import FloatArray, check_fraction, check_positive_int, refuse
from robcal.types import Estimate


@dataclass(frozen=True)
class Resampling:
    """How often each of N test examples is drawn in each of B bootstrap resamples.

    Attributes:
        counts: (B, N) float32.
    """

    counts: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, n: int, *, resamples: int = 200, seed: int = 0) -> Resampling:
        """B multinomial resamples of N examples, N each.

        Args:
            n: N.
            resamples: B.
            seed: of the draw.
        """
        check_positive_int(n, "n")
        check_positive_int(resamples, "resamples", minimum=2)
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, n, (resamples, n))
        offset = np.arange(resamples)[:, None] * n
        flat = np.bincount((drawn + offset).ravel(), minlength=resamples * n)
        return cls(flat.reshape(resamples, n).astype(np.float32))

    def mean(self, values: npt.ArrayLike, mask: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        """Replicates of the mean of a per-example quantity.

        Args:
            values: (N,), or (N, C) for several quantities at once.
            mask: (N,) which examples count; default all.

        Returns:
            (B,) or (B, C) float64.
        """
        array = np.asarray(values, dtype=np.float32)
        counts = self.counts if mask is None else self.counts[:, mask]
        chosen = array if mask is None else array[mask]
        total = np.maximum(counts.sum(1), 1)
        summed = (counts @ chosen).astype(np.float64)
        return np.asarray(summed / (total if summed.ndim == 1 else total[:, None]))

    def calibration_error(
        self,
        confidence: npt.ArrayLike,
        correct: npt.ArrayLike,
        mask: npt.NDArray[np.bool_] | None = None,
        *,
        bins: int = 15,
    ) -> FloatArray:
        """Replicates of the ECE: equal-width bins (Guo et al. 2017), top label.

        Args:
            confidence: (N,) top-label confidence.
            correct: (N,) whether the prediction is right.
            mask: (N,) which examples count; default all.
            bins: number of bins.

        Returns:
            (B,) float64.
        """
        sure = np.asarray(confidence, dtype=np.float64)
        gap = (sure - np.asarray(correct, dtype=np.float64)).astype(np.float32)
        spread = np.zeros((len(sure), bins), np.float32)
        spread[np.arange(len(sure)), bin_index(sure, bins=bins)] = gap
        return np.asarray(np.abs(self.mean(spread, mask)).sum(1))


def seed_mean_interval(
    per_seed: Sequence[float], replicates: npt.ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """Mean over seeds, with an interval that covers both what varies: training, and the finite test split.

    mean ± t_{S-1} sqrt(s^2 / S + v), where s^2 is the variance over the S seeds, and v the bootstrap variance of the
    mean over seeds when the test examples (the same for all seeds) are resampled. With one seed s^2 is unknown: the
    interval is then of the test split alone (normal quantile).

    Args:
        per_seed: value of each seed.
        replicates: (B,) replicates of the mean over seeds, see `Resampling`; None leaves v out.
        confidence: coverage aimed at, in (0, 1).

    Returns:
        The estimate; without an interval where neither source of variance is known.

    Raises:
        InputError: if no value is given.

    >>> estimate = seed_mean_interval([0.1, 0.2, 0.3])
    >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
    (0.2, -0.048, 0.448)
    """
    check_fraction(confidence, "confidence")
    values = np.asarray(per_seed, dtype=np.float64)
    if values.size == 0:
        refuse("no seed has a value", "at least one is needed", "Run a seed")
    mean = float(values.mean())
    spread = 0.0 if replicates is None else float(np.var(np.asarray(replicates, np.float64), ddof=1))
    if values.size == 1:
        if replicates is None:
            return Estimate(mean, per_seed=(mean,))
        half = float(stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt(spread)
    else:
        between = float(values.var(ddof=1)) / values.size
        half = float(stats.t.ppf(0.5 + confidence / 2, values.size - 1)) * math.sqrt(between + spread)
    return Estimate(mean, mean - half, mean + half, tuple(values.tolist()))
