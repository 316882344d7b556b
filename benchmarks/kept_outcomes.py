"""Outcomes of runs as arrays of a few small files (`wide.store.Results`), and back, to the last bit.

What tables of means and differences need is kept: values, their replicates over the test examples, the bins of
corrected errors, figures of every level and cell. Probabilities of single examples are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robcal.base.results import VARIANTS
from robcal.calibration.corrected import BinGaps
from robcal.calibration.seeds import Replicated
from robcal.comparison.outcomes import Outcome
from wide.store import Arrays

#: Fields of an outcome that are arrays by name.
_TABLES = ("levels", "cells")


def to_arrays(pair: tuple[Outcome, Outcome]) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of an entry, and what else is to be kept: values that JSON holds exactly."""
    arrays: Arrays = {}
    facts: dict[str, Any] = {}
    for variant, one in zip(VARIANTS, pair, strict=True):
        facts[variant] = {
            "temperature": one.temperature,
            "metrics": {name: {"value": each.value, "examples": each.examples} for name, each in one.metrics.items()},
        }
        arrays[f"{variant}/risk"] = one.risk
        for name, each in one.metrics.items():
            arrays[f"{variant}/replicates/{name}"] = each.replicates
            if each.gaps is not None:
                arrays[f"{variant}/gap/{name}"], arrays[f"{variant}/floor/{name}"] = each.gaps.gap, each.gaps.floor
        for table in _TABLES:
            arrays |= {f"{variant}/{table}/{name}": np.asarray(row) for name, row in getattr(one, table).items()}
    return arrays, facts


def from_arrays(arrays: Arrays, facts: Mapping[str, Any]) -> tuple[Outcome, Outcome]:
    """Return the outcomes that `to_arrays` was given, without the probabilities of single examples."""
    raw, scaled = (_outcome(arrays, facts[variant], variant) for variant in VARIANTS)
    return raw, scaled


def _outcome(arrays: Arrays, facts: Mapping[str, Any], variant: str) -> Outcome:
    metrics = {
        name: Replicated(
            one["value"], arrays[f"{variant}/replicates/{name}"], _gaps(arrays, variant, name), one["examples"]
        )
        for name, one in facts["metrics"].items()
    }
    levels, cells = (_below(arrays, f"{variant}/{table}/") for table in _TABLES)
    return Outcome(metrics, levels, cells, facts["temperature"], risk=arrays[f"{variant}/risk"])


def _gaps(arrays: Arrays, variant: str, name: str) -> BinGaps | None:
    gap = arrays.get(f"{variant}/gap/{name}")
    return None if gap is None else BinGaps(gap, arrays[f"{variant}/floor/{name}"])


def _below(arrays: Arrays, start: str) -> Arrays:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
