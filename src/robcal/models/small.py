"""Small networks for tables and small images."""

from __future__ import annotations

import math

from torch import nn

from robcal.base.checks import refuse


def mlp(input_shape: tuple[int, ...], num_classes: int, *, hidden: int = 256) -> nn.Module:
    """Build two hidden layers of `hidden` rectified units; inputs of any shape are flattened."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def cnn(input_shape: tuple[int, ...], num_classes: int, *, width: int = 32) -> nn.Module:
    """Build four 3x3 convolutions with batch normalisation, a pooling after the second, and a mean over positions.

    Raises:
        InputError: if the inputs are not images.
    """
    if len(input_shape) != 3:
        refuse(
            f"inputs have shape {input_shape}", "the model 'cnn' takes images (C, H, W)", "Use --model mlp for tables"
        )

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    return nn.Sequential(
        *block(input_shape[0], width),
        *block(width, width),
        nn.MaxPool2d(2),
        *block(width, 2 * width),
        *block(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


def fast_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build four convolutions (32, 64, 96, 256) with batch normalisation; the first at stride 2, two poolings.

    About 300,000 parameters and 9 million multiplications for a 32x32 image: the network for studies of many runs on
    a CPU. It gets about .70 of CIFAR-10 right from 10,000 training images in 12 epochs.

    Raises:
        InputError: if the inputs are not images.
    """
    if len(input_shape) != 3:
        refuse(
            f"inputs have shape {input_shape}",
            "the model 'cnn-fast' takes images (C, H, W)",
            "Use --model mlp for tables",
        )

    def block(inside: int, outside: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inside, outside, kernel, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outside), nn.ReLU()]

    return nn.Sequential(
        *block(input_shape[0], 32, kernel=4, stride=2),
        nn.MaxPool2d(2),
        *block(32, 64),
        *block(64, 96),
        nn.MaxPool2d(2),
        *block(96, 256),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )
