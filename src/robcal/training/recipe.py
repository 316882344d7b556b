"""Settings → networks, which a run, its reference model and cross-fitting share."""

from __future__ import annotations

from pathlib import Path

import torch

from robcal.base.checks import refuse
from robcal.base.seals import digest_of_file
from robcal.data import Dataset
from robcal.data.moments import Moments
from robcal.models import Normalized, build_model
from robcal.models.weights import fill, read_weights
from robcal.training.member import member_seed
from robcal.training.settings import TrainSettings


def build_networks(settings: TrainSettings, data: Dataset, *, notes: list[str] | None = None) -> list[Normalized]:
    """Return the networks that the settings name, by their own seeds or the file of weights, normalised by `data`."""
    moments = Moments.of(data.split("train"))
    mean, std = (torch.from_numpy(values).float() for values in (moments.mean, moments.scale))
    networks = [
        build_model(
            settings.network,
            input_shape=data.input_shape,
            num_classes=data.num_classes,
            seed=member_seed(settings.seed, k),
            mean=mean,
            std=std,
        )
        for k in range(settings.members)
    ]
    if settings.weights is not None:
        file = Path(settings.weights)
        if digest_of_file(file) != settings.weights_digest:
            refuse(
                f"--weights {file} was changed since the run was named",
                "a run starts from one file",
                "Put the file back, or train into another --out",
            )
        tensors = read_weights(file)
        told = {fill(network, tensors, file) for network in networks}
        if notes is not None:
            notes += [note for note in told if note]
    return networks


def describe_network(settings: TrainSettings, data: Dataset) -> dict[str, object]:
    """Return what a checkpoint says about its network, so that it can be built again."""
    return {
        "model": settings.network,
        "input_shape": list(data.input_shape),
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "data": data.name,
        "method": settings.method,
        "seed": settings.seed,
    }
