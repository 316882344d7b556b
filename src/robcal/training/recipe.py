"""Settings → networks, which a run, its reference model and cross-fitting share."""

from __future__ import annotations

import torch

from robcal.data import Dataset
from robcal.data.moments import Moments
from robcal.models import Normalized, build_model
from robcal.training.member import member_seed
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
