"""Rank-one members over the weights of one network: BatchEnsemble (Wen, Tran, Ba 2020).

    W_k = W * (s_k r_k')               the weights of member k: the shared ones, times a matrix of rank one (equation 1)
    y = ((x * r_k) W) * s_k + b_k      the same without forming W_k (equation 5)

M members cost little more memory than one network. In train mode the members share the batch, row i going through
member i mod M, so a step costs about what a step of the network costs; in eval mode every row goes through all members,
and what comes out is the log of the mean of their probabilities, which is a classifier's logits like any others'.
"""

from __future__ import annotations

import math
import re

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import check_positive_int, refuse
from robcal.models.dropout import layers_in

#: What a model's name ends in to have so many members put into it.
MEMBERS_SUFFIX = re.compile(r"\+members-(\d+)$")

#: Most members of one network.
MOST_MEMBERS = 100

#: Spread of r and s about 1 at the start: that of the authors' code for CIFAR and ImageNet.
SPREAD = 0.5


class RankOneLayer(nn.Module):
    """A linear or convolutional layer with a rank-one factor and a bias of each member; row i is of member i mod M."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, members: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            inputs, outputs = layer.in_channels, layer.out_channels
        else:
            inputs, outputs = layer.in_features, layer.out_features
        self.r = nn.Parameter(1 + SPREAD * torch.randn(members, inputs))
        self.s = nn.Parameter(1 + SPREAD * torch.randn(members, outputs))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(members, 1))
        layer.bias = None
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, …) → what the layers of the members make of their rows."""
        member = torch.arange(len(x), device=x.device) % len(self.r)
        y: torch.Tensor = self.layer(x * self._of_rows(self.r, member, x)) * self._of_rows(self.s, member, x)
        return y if self.bias is None else y + self._of_rows(self.bias, member, x)

    def _of_rows(self, vectors: torch.Tensor, member: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return (B, C, 1, 1) for convolutions, else (B, 1, …, D): the vector of each row's member."""
        middle, size = (1,) * (x.ndim - 2), vectors.shape[1]
        shape = (-1, size, *middle) if isinstance(self.layer, nn.Conv2d) else (-1, *middle, size)
        return vectors[member].view(shape)


class BatchEnsemble(nn.Module):
    """A network whose layers have members: in train mode each row goes through one, in eval mode through all."""

    def __init__(self, network: nn.Module, members: int) -> None:
        super().__init__()
        self.network, self.members = network, members

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, …) to (B, Z) logits of one member in train mode; log mean probabilities of all in eval mode."""
        if self.training:
            logits: torch.Tensor = self.network(x)
            return logits
        each = functional.log_softmax(self.network(x.repeat_interleave(self.members, 0)), dim=1)
        return each.view(len(x), self.members, -1).logsumexp(1) - math.log(self.members)


def check_members(members: int) -> None:
    """Refuse a number of members that no network has."""
    check_positive_int(members, "size", minimum=2)
    if members > MOST_MEMBERS:
        refuse(
            f"size is {members:,}", f"a network has {MOST_MEMBERS} members at most", f"Pass size={MOST_MEMBERS} or less"
        )


def with_members(network: nn.Module, members: int) -> BatchEnsemble:
    """Give every linear and convolutional layer of a network M >= 2 rank-one members, in place; W and biases stay."""
    check_members(members)
    whole = nn.ModuleDict({"network": network})
    places = layers_in(whole, (nn.Linear, nn.Conv2d))
    if not places:
        refuse(
            "the network has no linear or convolutional layer",
            "rank-one members are of such layers",
            "Choose a network that has one, such as mlp",
        )
    for parent, name in places:
        parent._modules[name] = RankOneLayer(getattr(parent, name), members)
    return BatchEnsemble(whole["network"], members)


def has_members(network: nn.Module) -> bool:
    """Return whether a network, or a part of it, has rank-one members."""
    return any(isinstance(module, BatchEnsemble) for module in network.modules())
