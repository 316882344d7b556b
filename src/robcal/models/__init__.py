"""Reference networks for small images and tables, by name. Any torch module is welcome everywhere else.

The normalisation is part of every model here (METHOD 1), so inputs, norms and distances are in input units.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from robcal.checks import refuse
from robcal.models.resnet import small_resnet, wide_resnet
from robcal.models.small import cnn, fast_cnn, mlp

Builder = Callable[[tuple[int, ...], int], nn.Module]

#: Models with a fixed name: (input shape, number of classes) → module that takes normalised inputs.
MODELS: dict[str, Builder] = {"mlp": mlp, "cnn": cnn, "cnn-fast": fast_cnn, "resnet-small": small_resnet}

#: For help texts: every name that `build_model` knows.
MODEL_NAMES = (*MODELS, "wrn-DEPTH-WIDTH")


class Normalized(nn.Module):
    """`network((x - mean) / std)`, with mean and std (one number a channel or feature) kept as buffers."""

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, …) inputs in input units → (B, Z) logits."""
        shape = (1, -1, *([1] * (x.ndim - 2)))
        logits: torch.Tensor = self.network((x - self.mean.view(shape)) / self.std.view(shape))
        return logits


def build_model(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    mean: torch.Tensor | None = None,
    std: torch.Tensor | None = None,
    seed: int = 0,
) -> Normalized:
    """Build a reference network by name, initialised from `seed` (the global random state is left as found).

    Args:
        name: a key of `MODELS`, or "wrn-DEPTH-WIDTH" (Zagoruyko & Komodakis 2016), for example "wrn-28-10".
        input_shape: (C, H, W) for images, (D,) for tables.
        num_classes: Z.
        mean: (C,) or (D,), subtracted from the inputs; default 0.
        std: (C,) or (D,), divides them; default 1.
        seed: of the initialisation.

    Returns:
        The network with its normalisation, in float32 on the CPU, in train mode.

    Raises:
        InputError: on an unknown name, or a model that does not take inputs of this shape.

    >>> build_model("mlp", input_shape=(4,), num_classes=3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """
    wide = re.fullmatch(r"wrn-(\d+)-(\d+)", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if wide:
            network = wide_resnet(input_shape, num_classes, depth=int(wide[1]), width=int(wide[2]))
        elif name in MODELS:
            network = MODELS[name](input_shape, num_classes)
        else:
            refuse(f"the model is {name!r}", f"it must be one of {', '.join(MODEL_NAMES)}", "Check --model")
    channels = input_shape[0]
    return Normalized(
        network,
        torch.zeros(channels) if mean is None else mean,
        torch.ones(channels) if std is None else std,
    )
