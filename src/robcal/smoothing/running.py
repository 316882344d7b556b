"""Levels from the network that is being trained: no reference model, no attack, no further pass (method, section 9).

The margin of an example is the largest logit of its row minus the second largest, which needs no label. After every
epoch the margins that the passes of this epoch showed are averaged into those of the epochs before,

    average_i <- decay average_i + (1 - decay) shown_i

and the averages are cut into levels anew. One margin depends on the step, the augmentation and the dropout of its
pass; the average forgets these, and lets an example change its level as the network learns. `own_loop.ARAdaLS` does
this in a loop of the user's, `methods/ar_adals.py` in robcal's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robcal.base.checks import FloatArray, IntArray, as_array
from robcal.base.levels import assign_levels

#: Default of `decay` [choice]: the last three epochs make up seven eighths of the average.
DEFAULT_DECAY = 0.5

#: Stands for the level of an example that no pass has shown.
NOT_SEEN = -1


def logit_margin(logits: Any) -> Any:
    """Return the largest logit minus the second largest of each row: log p_1 - log p_2, at least 0.

    Args:
        logits: (B, Z), Z >= 2, of any floating-point type, a tensor or an array; log-probabilities have the same
            margins.

    Returns:
        (B,) without gradient, float64 for float64, else float32, a tensor if `logits` are one; NaN where a logit is.

    >>> logit_margin(torch.tensor([[1.0, 4.0, 2.5]])), logit_margin([[1.0, 4.0, 2.5]])
    (tensor([1.5000]), array([1.5]))
    """
    if not isinstance(logits, torch.Tensor):
        return logit_margin(torch.as_tensor(as_array(logits, "logits"))).numpy()
    values = logits.detach()
    values = values if values.dtype == torch.float64 else values.float()
    first, place = values.max(1, keepdim=True)  # twice the largest: a quarter of the time of `topk` on a CPU
    return (first - values.scatter(1, place, -torch.inf).amax(1, keepdim=True))[:, 0]


def shown_margins(index: npt.NDArray[np.integer], margin: npt.NDArray[np.floating], size: int) -> FloatArray:
    """Return (N,) means of the margins (P,) that an epoch's passes showed of each example; NaN is of no pass."""
    known = ~np.isnan(margin)
    counts = np.bincount(index[known], minlength=size)
    sums = np.bincount(index[known], weights=margin[known], minlength=size)
    return np.asarray(np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0))


def running_average(before: FloatArray, shown: FloatArray, decay: float = DEFAULT_DECAY) -> FloatArray:
    """Return (max(M, N),) averages (M,) with one more epoch's margins (N,); NaN is not seen, and changes nothing."""
    size = max(len(before), len(shown))
    old, new = (np.pad(values, (0, size - len(values)), constant_values=np.nan) for values in (before, shown))
    mixed = decay * old + (1 - decay) * new
    return np.asarray(np.where(np.isnan(old), new, np.where(np.isnan(new), old, mixed)))


def running_levels(average: FloatArray, num_levels: int) -> IntArray:
    """Cut what was seen of N examples into R levels of equal size by their average margin; others are `NOT_SEEN`."""
    seen = ~np.isnan(average)
    levels = np.full(len(average), NOT_SEEN, dtype=np.int64)
    levels[seen] = assign_levels(average[seen], num_levels)
    return levels


def level_bounds(average: FloatArray, levels: IntArray, num_levels: int) -> FloatArray:
    """Return (R - 1,) the smallest average margin in each level but level 0: where a new example belongs."""
    return np.array([average[levels == level].min() for level in range(1, num_levels)])
