"""Shift of tables: noise, missing features and scaling at five severities each, deterministic by seed.

There is no published benchmark of this kind for tables: kinds and strengths are robcal's choice. Each kind is a way in
which measurements go wrong, the severities go from hardly visible to half of what there is. Strengths are relative to
each feature's own mean and standard deviation, so units do not matter.

Randomness: example i has its own stream, chosen by (seed, kind, severity, i), as with `robcal.data.corruptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.arrays import as_array
from robcal.base.checks import check_choice, refuse
from robcal.data.corruptions.draws import Draws, Float32Array, cell_key


@dataclass(frozen=True)
class Features:
    """What the strengths are relative to: mean and standard deviation of each of D features, float32."""

    mean: Float32Array
    std: Float32Array

    @classmethod
    def of(cls, table: npt.NDArray[Any]) -> Features:
        """Return the mean and standard deviation of each column of an (N, D) table, computed in float64."""
        values = as_array(table, "table").astype(np.float64)
        return cls(values.mean(0).astype(np.float32), values.std(0).astype(np.float32))


def add_noise(table: Float32Array, share: float, features: Features, draws: Draws) -> Float32Array:
    """Add noise: x_j + share · σ_j · n, n standard normal."""
    return table + np.float32(share) * features.std * draws.normal(table.shape[1])


def drop_features(table: Float32Array, share: float, features: Features, draws: Draws) -> Float32Array:
    """Drop features: each is missing with probability `share`, and its mean stands in for it."""
    return np.where(draws.uniform(table.shape[1]) < share, features.mean, table)


def scale_features(table: Float32Array, spread: float, features: Features, draws: Draws) -> Float32Array:
    """Scale features: x_j · exp(spread · n), n standard normal, like instruments whose gain has drifted."""
    return np.asarray(table * np.exp(np.float32(spread) * draws.normal(table.shape[1])))


#: Kind → its function and the strength of severities 1 to 5.
TABLE_SHIFTS: Mapping[str, tuple[Callable[..., Float32Array], tuple[float, ...]]] = {
    "noise": (add_noise, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "missing_features": (drop_features, (0.05, 0.1, 0.2, 0.35, 0.5)),
    "scaling": (scale_features, (0.1, 0.2, 0.3, 0.4, 0.5)),
}
TABLE_KINDS = tuple(TABLE_SHIFTS)


def shift_table(
    table: npt.NDArray[Any], kind: str, severity: int, *, features: Features, seed: int, first_index: int = 0
) -> Float32Array:
    """Shift the rows of a table (N, D) of finite numbers; return float32, not clipped to any box.

    The `features` are those of the table that the rows are from, the same for all of its pieces; the seed is the same
    for every model that is to be compared; `first_index` is the position of table[0] in its split.
    """
    function, strengths = TABLE_SHIFTS[check_choice(kind, TABLE_SHIFTS, "kind")]
    key = cell_key(seed, f"table {kind}", severity)
    table = as_array(table, "table")
    if table.ndim != 2 or table.shape[1:] != features.mean.shape:
        given = f"the table has shape {table.shape}, its features {features.mean.shape}"
        fix = "Take the features of the same table: `Features.of(table)` (images have robcal.data.corruptions)"
        refuse(given, "it must be (N, D), one mean a column", fix)
    draws = Draws(key, first_index, len(table))
    return np.asarray(function(table.astype(np.float32), strengths[severity - 1], features, draws), np.float32)
