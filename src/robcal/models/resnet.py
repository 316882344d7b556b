"""Residual networks: pre-activation ones for small images (He et al. 2016b; Zagoruyko & Komodakis 2016), and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import refuse
from robcal.models.small import check_image

#: Most layers of a residual network whose depth its name says: the deepest of He et al. (2016a) has 1,202.
MOST_DEPTH = 1202

#: Most parameters of a network whose size its name says: 4 GB. A Wide ResNet has about 96,768 n width^2 (n blocks a
#: stage: 2 x 9 (16 width)^2 (1 + 4 + 16) of its 3x3 convolutions).
MOST_PARAMETERS = 10**9

#: Depths of the pre-activation networks: 9 n + 2 layers.
PREACT_DEPTHS = (20, 29, 56, 110)

#: Blocks a stage of the networks for large images, by depth (He et al. 2016a, table 1).
LARGE_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

#: Smallest side of an image that a network for large images takes, in pixels: it halves it five times.
LARGE_SIDE = 32


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; the shortcut is a 1x1 convolution of the activation where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        changes = stride != 1 or inside != outside
        self.shortcut = nn.Conv2d(inside, outside, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, inside, H, W) to (B, outside, H / stride, W / stride)."""
        active = functional.relu(self.norm1(x))
        residual = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        shortcut: torch.Tensor = x if self.shortcut is None else self.shortcut(active)
        return torch.add(shortcut, residual)


def residual_network(
    input_shape: tuple[int, ...], num_classes: int, *, stem: int, widths: Sequence[int], blocks_per_stage: int
) -> nn.Module:
    """Build a 3x3 stem, one stage a width (strides 1, 2, 2, …), BN, ReLU, mean over positions, linear."""
    check_image(input_shape, "residual networks")
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], stem, 3, padding=1, bias=False)]
    inside = stem
    for stage, stride in _blocks([blocks_per_stage] * len(widths)):
        layers.append(PreActivationBlock(inside, widths[stage], stride))
        inside = widths[stage]
    network = nn.Sequential(*layers, nn.BatchNorm2d(inside), nn.ReLU(), *_head(inside, num_classes))
    _initialise(network, "fan_out", nn.Conv2d)
    return network


def _blocks(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the stage and the stride of every block: the first of each stage but the first halves the sides."""
    return ((stage, 2 if stage and not block else 1) for stage, count in enumerate(counts) for block in range(count))


def _head(inside: int, num_classes: int) -> tuple[nn.Module, ...]:
    """Return the mean over positions, and the linear layer."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, num_classes)


def _initialise(network: nn.Module, mode: Literal["fan_in", "fan_out"], *kinds: type[nn.Module]) -> None:
    """Draw the weights of these layers for rectified units (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]


def wide_resnet(input_shape: tuple[int, ...], num_classes: int, *, depth: int, width: int) -> nn.Module:
    """Build a Wide ResNet without dropout; WRN-28-10 for 10 classes has 36,479,194 parameters."""
    blocks, given = (depth - 4) // 6, f"a Wide ResNet of depth {depth} and width {width}"
    if 96_768 * blocks * width**2 > MOST_PARAMETERS or depth > MOST_DEPTH:
        allowed = f"it may have {MOST_PARAMETERS:,} parameters and {MOST_DEPTH:,} layers"
        refuse(given, allowed, "Try wrn-28-10")
    if depth < 10 or (depth - 4) % 6 or width < 1:
        refuse(given, "the depth must be 6 n + 4, the width >= 1", "Try wrn-28-10")
    widths = [16 * width, 32 * width, 64 * width]
    return residual_network(input_shape, num_classes, stem=16, widths=widths, blocks_per_stage=blocks)


def small_resnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build three pre-activation blocks of widths 32, 64, 128, which learn CIFAR-10 on a laptop's CPU."""
    return residual_network(input_shape, num_classes, stem=32, widths=[32, 64, 128], blocks_per_stage=1)


class PreActivationBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after batch normalisation and ReLU; what comes in may be `active` already."""

    def __init__(self, inside: int, width: int, outside: int, stride: int, *, active: bool) -> None:
        super().__init__()
        self.norm1 = None if active else nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, width, 1, stride=stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride=stride) if inside != outside else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, inside, H, W) to (B, outside, H / stride, W / stride)."""
        y = self.conv1(x if self.norm1 is None else functional.relu(self.norm1(x)))
        y = self.conv2(functional.relu(self.norm2(y)))
        y = self.conv3(functional.relu(self.norm3(y)))
        shortcut: torch.Tensor = x if self.shortcut is None else self.shortcut(x)
        return torch.add(shortcut, y)


def preact_resnet(input_shape: tuple[int, ...], num_classes: int, *, depth: int) -> nn.Module:
    """Build a pre-activation ResNet for small images ("ResNet v2", He et al. 2016b), 9 n + 2 layers deep.

    These are bottlenecks, n a stage, as the ResNet-20, 29, 56 and 110 "v2" of the Keras example made them common: a 3x3
    stem of 16 channels, stages of width 16, 64, 128 with 64, 128, 256 channels out, stride at the first 1x1
    convolution, a linear shortcut from the block's input, and biases on every convolution. ResNet-20 v2 for 10 classes
    has 570,602 parameters. The paper's own (ResNet-164) are narrower inside; depths 20, 56 and 110 also exist as
    6 n + 2 layers of basic blocks.
    """
    check_image(input_shape, "residual networks")
    if not 11 <= depth <= MOST_DEPTH or (depth - 2) % 9:
        refuse(
            f"a pre-activation ResNet of depth {depth}",
            f"the depth must be 9 n + 2 (bottleneck blocks), {MOST_DEPTH} at most",
            f"Try one of {', '.join(f'preact-resnet-{known}' for known in PREACT_DEPTHS)}",
        )
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    inside = 16
    for stage, stride in _blocks([(depth - 2) // 9] * 3):
        width, outside = ((16, 64), (64, 128), (128, 256))[stage]
        layers.append(PreActivationBottleneck(inside, width, outside, stride, active=inside == 16))
        inside = outside
    network = nn.Sequential(*layers, nn.BatchNorm2d(inside), nn.ReLU(), *_head(inside, num_classes))
    _initialise(network, "fan_in", nn.Conv2d, nn.Linear)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride: v1.5) and 1x1 convolutions, each before BN; ReLU after the sum (He et al. 2016a)."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outside)
        self.shortcut = None
        if inside != outside:
            projection = nn.Conv2d(inside, outside, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, inside, H, W) to (B, 4 width, H / stride, W / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        shortcut: torch.Tensor = x if self.shortcut is None else self.shortcut(x)
        return functional.relu(torch.add(shortcut, y))


def large_resnet(input_shape: tuple[int, ...], num_classes: int, *, depth: int) -> nn.Module:
    """Build a ResNet-50 or 101 (He et al. 2016a, table 1), of 25,557,032 or 44,549,160 parameters at Z = 1,000.

    The scale of the last normalisation of every block begins at 0: the identity (Goyal et al. 2017, section 5.1).
    """
    if depth not in LARGE_BLOCKS:
        known = ", ".join(f"resnet-{depth}" for depth in LARGE_BLOCKS)
        refuse(
            f"a ResNet of depth {depth} for large images",
            f"there are {known}",
            "Pass one of these, such as --model resnet-50",
        )
    check_image(input_shape, "residual networks")
    if min(input_shape[1:]) < LARGE_SIDE:
        refuse(
            f"images are {input_shape[1]}x{input_shape[2]}",
            f"this network takes sides of {LARGE_SIDE} pixels or more",
            "Use a network for small images, such as preact-resnet-29",
        )
    network = nn.Sequential(
        *(nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        nn.MaxPool2d(3, stride=2, padding=1),
        *_bottlenecks(LARGE_BLOCKS[depth]),
        *_head(2048, num_classes),
    )
    _initialise(network, "fan_out", nn.Conv2d)
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.norm3.weight)
    return network


def _bottlenecks(counts: Sequence[int]) -> Iterator[Bottleneck]:
    """Build stages of widths 64, 128, …, with so many blocks each."""
    inside = 64
    for stage, stride in _blocks(counts):
        width = 64 * 2**stage
        yield Bottleneck(inside, width, stride)
        inside = 4 * width
