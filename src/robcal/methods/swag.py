"""SWAG (Maddox, Garipov, Izmailov, Vetrov, Wilson 2019): a Gaussian over the weights that training passes through.

Training is plain; after every epoch past `start` the weights theta are taken into

    mean <- the average of the theta taken so far
    squares <- sum of (theta - mean)^2, so that squares / n = average of theta^2 - mean^2, the diagonal
    deviations <- the last `rank` columns theta - mean, mean as it was right after theta was taken

and networks are drawn from N(mean, (diagonal + deviations deviations' / (rank - 1)) / 2)
(section 3.3 and equation 1 of the paper). The diagonal is kept as a running sum of squared deviations: the same
numbers in exact arithmetic, without the cancellation in float32.

The paper takes weights at a constant learning rate. Here a method does not set the schedule, which falls to zero on a
cosine for every method alike: weights are taken over its second half, where it still moves them, and the Gaussian is
narrower than one taken at a constant rate.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from robcal.base.checks import check_fraction, check_positive_int, check_seed, refuse
from robcal.base.seeds import seed_of
from robcal.data.dataset import Split
from robcal.methods.method import EpochInfo, Method, Predictors, RunInfo, State

#: Default of the share of the epochs after which weights are taken [choice]; the paper's is 161/300 on CIFAR.
DEFAULT_START = 0.5

#: Networks drawn by default: the number of the paper.
DEFAULT_SAMPLES = 30

#: Examples, evenly spaced, that batch normalisation is measured on [choice].
MOST_MEASURED = 10_000

Network = TypeVar("Network", bound=nn.Module)


def swag(
    start: float = DEFAULT_START,  # share of the epochs after which the weights are taken, in (0, 1)
    rank: int = 20,  # number of columns kept for the low-rank part, at least 2; the paper's is 20
    samples: int = DEFAULT_SAMPLES,  # number of networks that are drawn and averaged, at least 2
) -> Method:
    """Train plainly, and draw networks from a Gaussian over the weights of the last epochs."""
    check_fraction(start, "start")
    check_positive_int(rank, "rank", minimum=2)

    def init(info: RunInfo) -> State:
        if info.epochs - int(start * info.epochs) < 2:
            refuse(
                f"swag takes weights after {start:g} of {info.epochs} epochs",
                "it needs those of at least two",
                "Train for more epochs, or lower start",
            )
        return {
            "count": torch.tensor(0),
            "mean": torch.zeros(0),
            "squares": torch.zeros(0),
            "deviations": torch.zeros(0, 0),
        }

    def after_epoch(state: State, info: EpochInfo) -> State:
        if info.epoch <= int(start * info.epochs):
            return state
        if info.model is None:
            refuse("the loop hands no network to swag", "it takes the weights after an epoch", "Pass EpochInfo.model")
        parts = [parameter.detach().reshape(-1) for parameter in info.model.parameters()]
        weights = torch.cat(parts).cpu().float()
        return take_in(state, weights, rank)

    def draw(network: nn.Module, state: State, train: Split | None, seed: int) -> Sequence[nn.Module]:
        assert train is not None, "networks that are kept are drawn at the end of training"
        return swag_networks(network, state, train, count=samples, seed=seed)

    predictors = Predictors(samples, draw, kept=True)
    return Method(name="swag", title="SWAG", init=init, after_epoch=after_epoch, predictors=predictors)


def take_in(state: State, weights: torch.Tensor, rank: int) -> State:
    """Return the moments with one more vector of weights, (P,) float32, among them."""
    count = int(state["count"])
    before = state["mean"] if count else torch.zeros_like(weights)
    mean = before + (weights - before) / (count + 1)
    squares = (state["squares"] if count else torch.zeros_like(weights)) + (weights - before) * (weights - mean)
    column = (weights - mean)[None]
    deviations = torch.cat([state["deviations"], column])[-rank:] if count else column
    return {"count": torch.tensor(count + 1), "mean": mean, "squares": squares, "deviations": deviations}


def draw_weights(moments: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return weights (P,), float32, from the Gaussian of SWAG (Maddox et al. 2019, equation 1), z and z' normal.

        theta = mean + sqrt(diagonal / 2) * z + deviations' z' / sqrt(2 (K - 1))

    The moments are count, mean (P,), squares (P,), deviations (K, P).
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
    network: Network, moments: Mapping[str, torch.Tensor], train: Split, *, count: int = DEFAULT_SAMPLES, seed: int = 0
) -> list[Network]:
    """Draw networks, network k by (seed, k), and measure batch normalisation anew for each on `train` (section 3.4)."""
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
        weights = draw_weights(moments, torch.Generator().manual_seed(seed_of(seed, number)))
        with torch.no_grad():
            sizes = [item.numel() for item in parameters]
            for parameter, part in zip(parameters, torch.split(weights, sizes), strict=True):
                parameter.copy_(part.view(parameter.shape))
        drawn.append(measure_batch_norm(sample, train).to("cpu").eval())
    return drawn


def measure_batch_norm(network: Network, train: Split, *, batch_size: int = 512) -> Network:
    """Set the running moments of batch normalisation to averages over batches of inputs, the rest in eval mode."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    network.eval()
    if not layers:
        return network
    momenta = [layer.momentum for layer in layers]
    index = np.linspace(0, len(train) - 1, min(len(train), MOST_MEASURED)).astype(np.int64)
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
