"""Settings → networks and their training: the recipe that a run, its reference model and cross-fitting share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from robcal.base.checks import refuse
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of
from robcal.base.types import EpochRow
from robcal.data import Dataset
from robcal.data.augment import standard_augmentation
from robcal.data.moments import Moments
from robcal.methods import Method
from robcal.methods.method import State
from robcal.models import Normalized, build_model
from robcal.training.loop import Augment, Levels, fit_ensemble, member_seed
from robcal.training.settings import TrainSettings


def build_networks(settings: TrainSettings, data: Dataset) -> list[Normalized]:
    """The networks that the settings name, untrained, each initialised by its own seed, normalised by `data`."""
    normalization = _normalization(data)
    return [
        build_model(
            settings.network,
            input_shape=data.input_shape,
            num_classes=data.num_classes,
            seed=member_seed(settings.seed, k),
            **normalization,
        )
        for k in range(settings.members)
    ]


def train_networks(
    networks: Sequence[Normalized],
    settings: TrainSettings,
    data: Dataset,
    method: Method,
    *,
    levels: Levels | None = None,
    state_file: Path,
    key: str | None = None,
    keep_state: Callable[[State], object] | None = None,
    reporter: Reporter = SILENT,
    description: str = "train",
) -> list[EpochRow]:
    """Train networks in place as the settings say; see `robcal.training.loop.fit_ensemble`.

    Args:
        networks: of `build_networks`.
        settings: the recipe.
        data: the data.
        method: the training method.
        levels: of train and val, for methods that have levels.
        state_file: where the unfinished training is kept.
        key: what the unfinished training belongs to; default: the digest of the settings.
        keep_state: is handed the method's state after the last epoch.
        reporter: shows progress.
        description: of the progress.
    """
    return fit_ensemble(
        networks,
        data,
        method,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        optimizer=settings.optimizer,
        augment=augmentation(settings, data),
        seed=settings.seed,
        levels=levels,
        num_levels=settings.levels,
        precision=settings.precision,
        device=settings.device,
        state_file=state_file,
        key=digest_of(settings.relevant()) if key is None else key,
        keep_state=keep_state,
        reporter=reporter,
        description=description,
    )


def describe_network(settings: TrainSettings, data: Dataset) -> dict[str, object]:
    """What a checkpoint says about its network, so that it can be built again."""
    return {
        "model": settings.network,
        "input_shape": list(data.input_shape),
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "data": data.name,
        "method": settings.method,
        "seed": settings.seed,
    }


def _normalization(data: Dataset) -> dict[str, torch.Tensor]:
    """What the training inputs are centred on and divided by, a channel or feature each."""
    moments = Moments.of(data.split("train"))
    return {"mean": torch.from_numpy(moments.mean).float(), "std": torch.from_numpy(moments.scale).float()}


def augmentation(settings: TrainSettings, data: Dataset) -> Augment | None:
    """What the settings do to the inputs of a batch.

    Raises:
        InputError: if the data are no images.
    """
    if settings.augment == "none":
        return None
    if data.kind != "image":
        refuse(f"--augment {settings.augment} with a table", "augmentation is for images", "Drop --augment")
    return standard_augmentation(data.name, data.input_shape)
