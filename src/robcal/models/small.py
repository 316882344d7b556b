"""Small networks for tables and small images."""

from __future__ import annotations

import math

from torch import nn

from robcal.base.checks import refuse


def check_image(input_shape: tuple[int, ...], what: str) -> None:
    """Refuse inputs that are not images, for networks, by the name `what`, that take nothing else."""
    if len(input_shape) != 3:
        refuse(f"inputs have shape {input_shape}", f"{what} take images (C, H, W)", "Use --model mlp")


def mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build two hidden layers of 256 rectified units; inputs of any shape are flattened."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )


def _block(inside: int, outside: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inside, outside, kernel, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outside), nn.ReLU()]


def cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build four 3x3 convolutions with batch normalisation, a pooling after the second, and a mean over positions."""
    check_image(input_shape, "convolutional networks")
    return nn.Sequential(
        *_block(input_shape[0], 32),
        *_block(32, 32),
        nn.MaxPool2d(2),
        *_block(32, 64),
        *_block(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def fast_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build four convolutions (32, 64, 96, 256) with BN, the first at stride 2, two poolings: for studies on a CPU."""
    check_image(input_shape, "convolutional networks")
    return nn.Sequential(
        *_block(input_shape[0], 32, kernel=4, stride=2),
        nn.MaxPool2d(2),
        *_block(32, 64),
        *_block(64, 96),
        nn.MaxPool2d(2),
        *_block(96, 256),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )
