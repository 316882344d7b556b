"""Bootstrap replicates of a metric over one shared test split, for several runs at once.

Runs of different seeds, and different methods, predict the *same* test examples. One resampling of these examples
applied to all of them gives replicates whose variance is what the finite test split adds to the mean over seeds, and
whose differences between methods are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, check_positive_int
from robcal.calibration.binning import bin_index


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
        sure = np.asarray(confidence)  # in its own precision: a bin's edge belongs to the bin below
        gap = (sure.astype(np.float64) - np.asarray(correct, dtype=np.float64)).astype(np.float32)
        spread = np.zeros((len(sure), bins), np.float32)
        spread[np.arange(len(sure)), bin_index(sure, bins=bins)] = gap
        return np.asarray(np.abs(self.mean(spread, mask)).sum(1))
