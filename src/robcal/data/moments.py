"""Mean and spread of every feature of a split, and which features are constant: what a normalisation is fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, IntArray
from robcal.data.dataset import Split

#: A feature that spreads by no more than this share of its largest magnitude shows the rounding of float32 and nothing
#: else: four units in the last place.
ROUNDING = 4 * float(np.finfo(np.float32).eps)
#: Images that a normalisation is fitted on, evenly spaced over the split; of a table it is every row.
MOST_IMAGES = 5000
#: Values that are held as float64 at a time.
BLOCK_VALUES = 2**23
#: Features that a note names one by one.
MOST_NAMED = 20


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each feature: a column of a table, a channel of images."""

    mean: FloatArray  # (D,) float64, or (C,) over all pixels
    std: FloatArray  # likewise; squares are divided by their number less one
    largest: FloatArray  # likewise; the largest |x|

    @classmethod
    def of(cls, split: Split) -> Moments:
        """Compute the moments of a split, in float64: large offsets, such as seconds since 1970, cost no digits.

        Blocks are joined by the update of Chan, Golub & LeVeque (1983, "Algorithms for computing the sample variance",
        equation 2.1), which subtracts means before it squares.
        """
        rows = fitted_rows(split)
        step = max(1, BLOCK_VALUES // int(np.prod(split.inputs.shape[1:])))
        count, mean, squares, largest = 0, np.zeros(1), np.zeros(1), np.zeros(1)
        for start in range(0, len(rows), step):
            values = _by_feature(split.batch(rows[start : start + step]).numpy())
            size, total = len(values), count + len(values)
            centre = values.mean(0)
            delta = centre - mean
            squares = squares + ((values - centre) ** 2).sum(0) + delta**2 * (count * size / total)
            mean, count = mean + delta * (size / total), total
            largest = np.maximum(largest, np.abs(values).max(0))
        return cls(mean, np.sqrt(squares / max(count - 1, 1)), largest)

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which features vary by no more than the rounding of float32."""
        return self.std <= ROUNDING * self.largest

    @property
    def scale(self) -> FloatArray:
        """What a normalisation divides by: the standard deviation; of a constant feature 1, if that is more."""
        return np.where(self.constant, np.maximum(self.std, 1.0), self.std)


def fitted_rows(split: Split) -> IntArray:
    """Return the positions that a normalisation is fitted on: all of a table, `MOST_IMAGES` images."""
    most = len(split) if len(split.inputs.shape) == 2 else min(len(split), MOST_IMAGES)
    return np.linspace(0, len(split) - 1, most).astype(np.int64)


def constant_notes(splits: Mapping[str, Split], moments: Moments) -> tuple[str, ...]:
    """Return what a user should know of features that do not vary in training, and of those that do elsewhere."""
    found = np.flatnonzero(moments.constant)
    if not found.size:
        return ()
    kind = "column" if len(splits["train"].inputs.shape) == 2 else "channel"
    rounded = found[moments.std[found] > 0]
    notes = [
        f"{named(kind, found)} constant in the training split (the first {kind} is 0): divided by 1, not by a "
        "standard deviation; no model can learn from what does not vary"
    ]
    if rounded.size:
        notes.append(
            f"{named(kind, rounded)} not constant in every digit, but within the rounding of float32: where the "
            "differences mean something, subtract an offset in float64 before the data are saved"
        )
    new = {name: _unseen(split, found, moments) for name, split in splits.items() if name != "train"}
    if new and (moved := found[np.any(list(new.values()), axis=0)]).size:
        where = " and ".join(name for name, features in new.items() if features.any())
        notes.append(f"{named(kind, moved)} constant in training and different in {where}: nothing is known of that")
    return tuple(notes)


def _unseen(split: Split, features: IntArray, moments: Moments) -> npt.NDArray[np.bool_]:
    """Tell which of some features, constant in training, take values here that training did not show."""
    values = split.batch(fitted_rows(split)).numpy()[:, features]
    middle = moments.mean[features].reshape(1, -1, *[1] * (values.ndim - 2))
    distance = _by_feature(np.abs(values - middle)).max(0)
    return np.asarray(distance > np.maximum(ROUNDING * moments.largest, 4 * moments.std)[features])


def _by_feature(values: npt.NDArray[Any]) -> FloatArray:
    """Return (N, D) or (N, C, H, W) inputs as float64 rows of one value a feature."""
    return np.moveaxis(values.astype(np.float64), 1, -1).reshape(-1, values.shape[1])


def named(kind: str, numbers: Sequence[int] | IntArray) -> str:
    """Return which features a sentence is about, with its verb; at most `MOST_NAMED` numbers.

    >>> named("column", [3]), named("column", [3, 5, 7])
    ('column 3 is', 'columns 3, 5 and 7 are')
    """
    if len(numbers) == 1:
        return f"{kind} {numbers[0]} is"
    shown = [str(number) for number in numbers[:MOST_NAMED]]
    last = f"{len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else shown.pop()
    return f"{kind}s {', '.join(shown)} and {last} are"
