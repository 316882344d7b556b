"""Dropout before the weight layers of any network (Gal & Ghahramani 2016), as Monte-Carlo dropout wants it."""

from __future__ import annotations

from torch import nn

from robcal.base.checks import check_fraction, refuse

#: What a model's name ends in to have dropout of this rate [choice] put into it.
DROPOUT_SUFFIX, DROPOUT_RATE = "+dropout", 0.1

#: Layers that hold weights, before each of which dropout goes.
_WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

#: Modules of dropout, of units or of whole channels.
DROPOUT_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def has_dropout(network: nn.Module) -> bool:
    """Return whether the network has a module of dropout that drops anything."""
    return any(isinstance(module, DROPOUT_LAYERS) and module.p > 0 for module in network.modules())


def layers_in(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[nn.Module, str]]:
    """Return where the layers of some kinds are within a network: the module that holds each, and its name there."""
    named = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()]
    return [(parent, name) for parent, name, child in named if isinstance(child, kinds)]


def with_dropout(network: nn.Module, rate: float) -> nn.Module:
    """Put dropout before every linear and convolutional layer but the first, in place, unless the network has some."""
    check_fraction(rate, "the rate of dropout")
    if has_dropout(network):
        return network
    first = next((module for module in network.modules() if isinstance(module, _WEIGHT_LAYERS)), None)
    places = [place for place in layers_in(network, _WEIGHT_LAYERS) if getattr(*place) is not first]
    if not places:
        refuse(
            "the network has no linear or convolutional layer after its first",
            "dropout goes before such layers",
            "Choose a network of several such layers, such as mlp",
        )
    for parent, name in places:
        setattr(parent, name, nn.Sequential(nn.Dropout(rate), getattr(parent, name)))
    return network
