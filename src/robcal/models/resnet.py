"""Pre-activation residual networks for small images (He et al. 2016b; Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Sequence

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
    for stage, width in enumerate(widths):
        for block in range(blocks_per_stage):
            layers.append(PreActivationBlock(inside, width, stride=2 if stage and not block else 1))
            inside = width
    layers += [nn.BatchNorm2d(inside), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, num_classes)]
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def wide_resnet(input_shape: tuple[int, ...], num_classes: int, *, depth: int, width: int) -> nn.Module:
    """Build a Wide ResNet without dropout; WRN-28-10 for 10 classes has 36,479,194 parameters."""
    blocks = (depth - 4) // 6
    if 96_768 * blocks * width**2 > MOST_PARAMETERS or depth > MOST_DEPTH:
        refuse(
            f"a Wide ResNet of depth {depth} and width {width}",
            f"it may have {MOST_PARAMETERS:,} parameters and {MOST_DEPTH:,} layers",
            "Try wrn-28-10",
        )
    if depth < 10 or (depth - 4) % 6 or width < 1:
        refuse(
            f"a Wide ResNet of depth {depth} and width {width}",
            "the depth must be 6 n + 4, the width >= 1",
            "Try wrn-28-10",
        )
    widths = [16 * width, 32 * width, 64 * width]
    return residual_network(input_shape, num_classes, stem=16, widths=widths, blocks_per_stage=blocks)


def small_resnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build three pre-activation blocks of widths 32, 64, 128, which learn CIFAR-10 on a laptop's CPU."""
    return residual_network(input_shape, num_classes, stem=32, widths=[32, 64, 128], blocks_per_stage=1)
