"""One trained network → several drawn from a distribution over its weights; their probabilities are averaged.

SWAG (Maddox et al. 2019) draws whole networks from a Gaussian over the weights; Monte-Carlo dropout (Gal & Ghahramani
2016) draws which units are dropped. Either way each draw is an ordinary network, a function of its input alone, so
what predicts for an ensemble predicts for these: `p(z | x) ~ 1/K sum_k p(z | x, network k)`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from robcal.base.checks import check_positive_int, check_seed, refuse
from robcal.data import Split
from robcal.models.dropout import DROPOUT_LAYERS, has_dropout

#: Networks drawn by default: the number of the SWAG paper.
DEFAULT_SAMPLES = 30

Network = TypeVar("Network", bound=nn.Module)


def draw_weights(moments: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """One vector of weights from the Gaussian of SWAG (Maddox et al. 2019, equation 1).

        theta = mean + sqrt(diagonal / 2) * z + deviations' z' / sqrt(2 (K - 1)),   z, z' standard normal

    Args:
        moments: the final state of the method "swag": count, mean (P,), squares (P,), deviations (K, P).
        generator: of z and z', on the CPU.

    Returns:
        (P,) float32.

    Raises:
        InputError: if fewer than two vectors of weights were taken in.
    """
    count, columns = int(moments["count"]), moments["deviations"]
    if count < 2:
        refuse(f"swag has taken in {count} vectors of weights", "a Gaussian needs two", "Train for more epochs")
    mean = moments["mean"]
    diagonal = (moments["squares"] / count).clamp_min(0)
    spread = (diagonal / 2).sqrt() * torch.randn(mean.shape, generator=generator)
    low_rank = torch.randn(len(columns), generator=generator) @ columns
    weights: torch.Tensor = mean + spread + low_rank / (2 * (len(columns) - 1)) ** 0.5
    return weights


def swag_networks(
    network: Network,
    moments: Mapping[str, torch.Tensor],
    train: Split,
    *,
    count: int = DEFAULT_SAMPLES,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Network]:
    """Networks drawn from the Gaussian of SWAG, batch normalisation measured anew for each (section 3.4).

    Args:
        network: of the architecture that was trained; left as it is.
        moments: see `draw_weights`.
        train: what batch normalisation is measured on.
        count: number K of networks.
        seed: of the draws: network k depends on (seed, k) only.
        device: where batch normalisation is measured.

    Returns:
        K networks on the CPU in eval mode.

    Raises:
        InputError: if the moments are of another architecture, or of fewer than two epochs.
    """
    check_positive_int(count, "count")
    check_seed(seed)
    size = sum(parameter.numel() for parameter in network.parameters())
    if len(moments["mean"]) != size:
        refuse(
            f"the moments are of {len(moments['mean'])} weights, the network has {size}",
            "both must be of one architecture",
            "Pass the network that was trained",
        )
    drawn = []
    for number in range(count):
        sample = copy.deepcopy(network)
        parameters = list(sample.parameters())
        weights = torch.split(draw_weights(moments, _generator(seed, number)), [item.numel() for item in parameters])
        with torch.no_grad():
            for parameter, drawn_weights in zip(parameters, weights, strict=True):
                parameter.copy_(drawn_weights.view(parameter.shape))
        drawn.append(measure_batch_norm(sample.to(device), train).to("cpu").eval())
    return drawn


def measure_batch_norm(network: Network, train: Split, *, batch_size: int = 512, max_examples: int = 10_000) -> Network:
    """Set the running means and variances of batch normalisation to those of the training inputs, in place.

    They are averages over the batches, as in the SWAG authors' code; the rest of the network is in eval mode.

    Args:
        network: on any device; returned in eval mode.
        train: the training split, without augmentation.
        batch_size: examples a batch, about.
        max_examples: so many, evenly spaced, are enough [choice].

    Returns:
        The network.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    network.eval()
    if not layers:
        return network
    momenta = [layer.momentum for layer in layers]
    index = np.linspace(0, len(train) - 1, min(len(train), max_examples)).astype(np.int64)
    place = next(network.parameters()).device
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    with torch.no_grad():
        for part in np.array_split(index, max(1, round(len(index) / batch_size))):
            network(train.batch(part).to(place))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return network.eval()


def dropout_networks(network: Network, *, count: int = DEFAULT_SAMPLES, seed: int = 0) -> list[Network]:
    """Networks drawn by Monte-Carlo dropout (Gal & Ghahramani 2016): dropout stays on, one draw of units each.

    Each network drops the same units for every input, which is a draw of weights in the paper's sense, so a network's
    predictions depend on neither the batches nor the order of the inputs. Batch normalisation is in eval mode.

    Args:
        network: with modules of dropout; left as it is, and its weights are shared, not copied.
        count: number K of networks.
        seed: network k depends on (seed, k) only.

    Returns:
        K networks in eval mode.

    Raises:
        InputError: if the network has no module of dropout.

    >>> plain = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))
    >>> first, second = dropout_networks(plain, count=2)
    >>> bool((first(torch.ones(1, 8)) == second(torch.ones(1, 8))).all())
    False
    """
    check_positive_int(count, "count")
    check_seed(seed)
    if not has_dropout(network):
        refuse(
            "the network has no dropout",
            "Monte-Carlo dropout draws which of its units are dropped",
            "Choose a network with dropout, or put it in with robcal.models.dropout.with_dropout",
        )
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    drawn = []
    for number in range(count):
        sample = copy.deepcopy(network, dict(shared))
        generator = _generator(seed, number)
        for parent in list(sample.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, DROPOUT_LAYERS):
                    setattr(parent, name, FixedDropout(child, int(torch.randint(2**62, (), generator=generator))))
        drawn.append(sample.eval())
    return drawn


class FixedDropout(nn.Module):
    """Dropout of the same units for every input, in train and in eval mode.

    Args:
        layer: the dropout it stands for: single units, or whole channels for `nn.Dropout1d`, `2d` and `3d`.
        seed: of the draw.
    """

    def __init__(self, layer: nn.Module, seed: int) -> None:
        super().__init__()
        self.rate = float(layer.p)  # type: ignore[arg-type]
        self.by_channel = not isinstance(layer, nn.Dropout)
        self.seed = seed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, …) → the same shape: kept units over 1 - rate, the others 0."""
        shape = (x.shape[1], *([1] * (x.ndim - 2))) if self.by_channel else tuple(x.shape[1:])
        keep = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)) >= self.rate
        return x * keep.to(x.device, x.dtype) / (1 - self.rate) if self.rate < 1 else torch.zeros_like(x)


def _generator(seed: int, number: int) -> torch.Generator:
    """The generator of draw `number`."""
    words = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
