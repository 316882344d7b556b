"""Reference networks for images and tables, by name; networks of timm and torchvision; anybody's own.

The normalisation is part of every model here (method, section 1), so inputs, norms and distances are in input units.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from robcal.base.checks import check_seed, refuse
from robcal.models.dropout import DROPOUT_RATE, DROPOUT_SUFFIX, with_dropout
from robcal.models.external import admit_model, external_model, is_external
from robcal.models.rank_one import MEMBERS_SUFFIX, with_members
from robcal.models.resnet import LARGE_BLOCKS, PREACT_DEPTHS, large_resnet, preact_resnet, small_resnet, wide_resnet
from robcal.models.small import cnn, fast_cnn, mlp

__all__ = ["MODELS", "MODEL_NAMES", "Normalized", "admit_model", "build_model"]

Builder = Callable[[tuple[int, ...], int], nn.Module]

#: Models with a fixed name: (input shape, number of classes) → module that takes normalised inputs.
MODELS: dict[str, Builder] = {"mlp": mlp, "cnn": cnn, "cnn-fast": fast_cnn, "resnet-small": small_resnet}

#: For help texts: every name that `build_model` knows.
MODEL_NAMES = (
    *MODELS,
    "wrn-DEPTH-WIDTH",
    *(f"preact-resnet-{depth}" for depth in PREACT_DEPTHS),
    *(f"resnet-{depth}" for depth in LARGE_BLOCKS),
    "timm:NAME",
    "torchvision:NAME",
    "package.module:factory",
)


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
        """Return (B, …) inputs in input units → (B, Z) logits."""
        shape = (1, -1, *([1] * (x.ndim - 2)))
        logits: torch.Tensor = self.network((x - self.mean.view(shape)) / self.std.view(shape))
        return logits


class Average(nn.Module):
    """The mean of the members' probabilities (method, section 4), as logits: `log 1/M sum_m softmax(z_m(x))`."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (B, …) inputs → (B, Z) log-probabilities."""
        logs = torch.stack([member(inputs).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))


#: Longest name of a model.
MOST_LETTERS = 300


def build_model(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    mean: torch.Tensor | None = None,
    std: torch.Tensor | None = None,
    seed: int = 0,
) -> Normalized:
    """Build a network by name, initialised from `seed` (the global random state is left as found).

    No name makes this function import the user's code: "package.module:factory" is built only after `admit_model` has
    imported it, which the command line does with what the user wrote (see `robcal.models.external`).

    Args:
        name: a key of `MODELS`; "wrn-DEPTH-WIDTH" (Zagoruyko & Komodakis 2016), for example "wrn-28-10";
            "preact-resnet-20", 29, 56 or 110 (He et al. 2016b) for small images; "resnet-50" or "resnet-101" (He et al.
            2016a) for large ones; "timm:NAME" or "torchvision:NAME" where these are installed; or a factory of the
            user's own, "package.module:factory", that `admit_model` has imported. Any of them with "+dropout" after it
            has dropout before every weight layer but the first (see `robcal.models.dropout`); with "+members-4" after
            it, rank-one members (see `robcal.models.rank_one`).
        input_shape: (C, H, W) for images, (D,) for tables.
        num_classes: Z.
        mean: (C,) or (D,), subtracted from the inputs; default 0.
        std: (C,) or (D,), divides them; default 1.
        seed: of the initialisation.

    Returns:
        The network with its normalisation, in float32 on the CPU, in train mode.

    Raises:
        InputError: on an unknown name, a seed that is none, or a model that does not take inputs of this shape.

    >>> build_model("mlp", input_shape=(4,), num_classes=3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """
    check_seed(seed)
    if len(name) > MOST_LETTERS:
        refuse(
            f"the model is {name[:40]}…",
            f"its name has {MOST_LETTERS} letters at most",
            "Write for example --model mlp",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(name, input_shape, num_classes).float()  # whatever torch's default dtype
    channels = input_shape[0]
    return Normalized(
        network,
        torch.zeros(channels, dtype=torch.float32) if mean is None else mean,
        torch.ones(channels, dtype=torch.float32) if std is None else std,
    )


def _network(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the network that a name stands for, freshly initialised."""
    if members := MEMBERS_SUFFIX.search(name):
        return with_members(_network(name[: members.start()], input_shape, num_classes), int(members[1]))
    if name.endswith(DROPOUT_SUFFIX):
        return with_dropout(_network(name.removesuffix(DROPOUT_SUFFIX), input_shape, num_classes), DROPOUT_RATE)
    if name in MODELS:
        return MODELS[name](input_shape, num_classes)
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return wide_resnet(input_shape, num_classes, depth=int(wide[1]), width=int(wide[2]))
    if preact := re.fullmatch(r"preact-resnet-(\d+)", name):
        return preact_resnet(input_shape, num_classes, depth=int(preact[1]))
    if (large := re.fullmatch(r"resnet-(\d+)", name)) and int(large[1]) in LARGE_BLOCKS:
        return large_resnet(input_shape, num_classes, depth=int(large[1]))
    if is_external(name):
        return external_model(name, input_shape, num_classes)
    near = difflib.get_close_matches(name, [*MODELS, "wrn-28-10", *MODEL_NAMES], n=1)
    hint = f"Did you mean {near[0]!r}?" if near and near[0].islower() else "Pass --model mlp, or another of these"
    refuse(f"the model is {name!r}", f"it must be one of {', '.join(MODEL_NAMES)}", hint)
