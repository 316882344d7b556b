"""Bootstrap replicates of a metric over one shared test split, for several runs at once.

One resampling, applied to all runs, gives replicates whose variance is what the finite test split adds to the mean
over seeds, and whose differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, check_positive_int, check_seed
from robcal.calibration.binning import TopLabel, bin_index, bin_sums
from robcal.calibration.corrected import BinGaps, corrected_mean
from robcal.calibration.seeds import Replicated

#: Resamples of the test split behind every interval over seeds.
RESAMPLES = 200

#: Confidence and correctness, (N,) each, of a set of the shared test examples, and which of these count.
Diagram = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]


@dataclass(frozen=True)
class Resampling:
    """How often each of N test examples is drawn in each of B bootstrap resamples."""

    counts: npt.NDArray[np.float32]  # (B, N)

    @classmethod
    def draw(cls, n: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Resampling:
        """Draw B multinomial resamples of N examples, N each."""
        check_positive_int(n, "n")
        check_positive_int(resamples, "resamples", minimum=2)
        rng = np.random.default_rng(check_seed(seed))
        drawn = rng.integers(0, n, (resamples, n))
        offset = np.arange(resamples)[:, None] * n
        flat = np.bincount((drawn + offset).ravel(), minlength=resamples * n)
        return cls(flat.reshape(resamples, n).astype(np.float32))

    def mean(self, values: npt.ArrayLike, mask: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        """Return (B,) or (B, C) replicates of the means of (N,) or (N, C) values, of the examples in the mask (N,)."""
        array = np.asarray(values, dtype=np.float32)
        counts = self.counts if mask is None else self.counts[:, mask]
        chosen = array if mask is None else array[mask]
        total = np.maximum(counts.sum(1), 1)
        summed = (counts @ chosen).astype(np.float64)
        return np.asarray(summed / (total if summed.ndim == 1 else total[:, None]))

    def bin_gaps(
        self,
        confidence: npt.ArrayLike,
        correct: npt.ArrayLike,
        mask: npt.NDArray[np.bool_] | None = None,
        *,
        bins: int = 15,
    ) -> FloatArray:
        """Return (B, K) replicates of the gaps of equal-width bins; the sum of their absolute values is the ECE."""
        sure = np.asarray(confidence)  # in its own precision: a bin's edge belongs to the bin below
        gap = (sure.astype(np.float64) - np.asarray(correct, dtype=np.float64)).astype(np.float32)
        spread = np.zeros((len(sure), bins), np.float32)
        spread[np.arange(len(sure)), bin_index(sure, bins=bins)] = gap
        return self.mean(spread, mask)

    def errors(self, diagrams: Iterable[Diagram]) -> tuple[Replicated, Replicated]:
        """Return the mean of the ECE over at least one reliability diagram: as measured, and with its bias removed."""
        sums, drawn = [], []
        for confidence, correct, mask in diagrams:
            chosen = slice(None) if mask is None else mask
            right = correct[chosen].astype(np.float64)
            sums.append(bin_sums(TopLabel(confidence[chosen], np.zeros(len(right), np.int64), right)))
            drawn.append(self.bin_gaps(confidence, correct, mask))
        gaps, resampled = BinGaps.of(*sums), np.stack(drawn, axis=1)
        return (
            Replicated(gaps.measured, np.abs(resampled).sum(-1).mean(-1)),
            Replicated(gaps.corrected, corrected_mean(resampled, gaps.floor, variance=2.0), gaps),
        )
