"""Which training a saved state belongs to: a run resumes with the settings and the data it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import refuse
from robcal.base.encoding import plain
from robcal.data import Dataset
from robcal.methods import Method, RunInfo
from robcal.training.running import FixedLevels, RunningLevels
from robcal.training.settings import Recipe

#: What a resumed run must share of its recipe.
_OF_RECIPE = ("batch_size", "accumulate", "learning_rate", "weight_decay", "optimizer", "precision")


def training_of(
    dataset: Dataset,
    method: Method,
    info: RunInfo,
    levels: FixedLevels | RunningLevels,
    recipe: Recipe,
    *,
    num_networks: int,
    augmented: bool,
) -> dict[str, Any]:
    """Return what tells a training from others, by names that an error can tell; data by their labels and shapes."""
    splits = {name: dataset.split(name) for name in ("train", "val")}
    fixed = levels.fixed
    found = {
        "method": method.name,
        **{f"{method.name} {name}": value for name, value in method.options.items()},
        "epochs": info.epochs,
        "seed": info.seed,
        "num_levels": info.num_levels,
        "number of networks": num_networks,
        **levels.settings,
        **{name: getattr(recipe, name) for name in _OF_RECIPE},
        "augmented": augmented,
        "num_classes": info.num_classes,
        "input shape": list(dataset.input_shape),
        **{f"{name} examples": len(split) for name, split in splits.items()},
        **{f"{name} labels": _digest(split.labels) for name, split in splits.items()},
        **{f"{name} levels": _digest(fixed[name]) for name in splits if fixed is not None},
    }
    return {name: plain(value) for name, value in found.items()}


def check_training(saved: Mapping[str, Any], own: Mapping[str, Any], file: Path) -> None:
    """Refuse the state of another training, naming the first setting that differs."""
    for name in dict.fromkeys((*own, *saved)):
        if saved.get(name) != own.get(name):
            refuse(
                f"{file} belongs to a run with other settings: its {name} is {saved.get(name)!r}",
                f"here it is {own.get(name)!r}, and a run resumes with the settings and data it began with",
                "Go back to these, or start again: delete this file (--overwrite), or name another (--out)",
            )


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
