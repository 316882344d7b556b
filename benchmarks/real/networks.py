"""Published networks and their inputs, read from a folder of data that is not part of the repository.

A folder holds `resnet50-cifar10-logits`, `pretrained/resnet-cifar10`, `pretrained/efficientnet-lite0`, `cifar10`,
`cifar10h`, `cifar10-natural-shift`, `tinyimagenet32`, `imagenet-sample1000`, `tabular` and `text`; a part that is
absent is left out of the pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import FloatArray, IntArray
from robcal.data import load_dataset

PUBLISHED = {
    20: "resnet20-12fca82f.th",
    32: "resnet32-d509ac18.th",
    44: "resnet44-014dd654.th",
    56: "resnet56-4bfd9763.th",
}
ENTROPY, FOCAL = "ResNet-50 by cross-entropy, CIFAR-10", "ResNet-50 by focal loss, CIFAR-10"
JPEG = "CIFAR-10 (JPEG)"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Predictions:
    """Logits of one network on the examples that fit a recalibration and on those that measure it.

    Attributes:
        name: what a table calls it.
        val: (V, Z) logits and (V,) labels of the examples that a recalibration may use.
        test: (N, Z) logits and (N,) labels of the examples that are measured.
    """

    name: str
    val: tuple[FloatArray, IntArray]
    test: tuple[FloatArray, IntArray]


class Block(nn.Module):
    """Add two convolutions to a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features to features."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            more = out.shape[1] - x.shape[1]
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, more // 2, more - more // 2))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """Map images in [0, 1], (B, 3, 32, 32), to logits (B, Z): ResNet for CIFAR-10 (He et al. 2016, section 4.2)."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [(16, 16), (16, 32), (32, 64)]
        for number, (inputs, outputs) in enumerate(widths, 1):
            first = [Block(inputs, outputs)]
            setattr(
                self, f"layer{number}", nn.Sequential(*first, *(Block(outputs, outputs) for _ in range(blocks - 1)))
            )
        self.linear = nn.Linear(64, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the (B, 64) inputs of the last layer."""
        x = functional.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        return self.linear(self.features(x))


def published_resnet(folder: Path, depth: int) -> CifarResNet:
    """Read the weights of a published ResNet for CIFAR-10, in eval mode and channels-last."""
    file = folder / "pretrained/resnet-cifar10" / PUBLISHED[depth]
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(depth)
    network.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
    return network.eval().to(memory_format=torch.channels_last)


def published_logits(folder: Path) -> dict[str, Predictions]:
    """Read the logits of the published ResNet-50, by cross-entropy and by focal loss, on the official pixels."""
    found = {}
    for stem, name in (("cross_entropy", ENTROPY), ("focal_loss", FOCAL)):
        with np.load(folder / f"resnet50-cifar10-logits/{stem}.npz", allow_pickle=False) as data:
            val, test = ((data[f"{split}_logits"], data[f"{split}_labels"]) for split in ("val", "test"))
        found[name] = Predictions(name, val, test)
    return found


def image_jobs(
    folder: Path, resnet50: Callable[..., Any], resnet: Callable[..., Any], limit: int, work: Path
) -> dict[str, Any]:
    """Name every network of images whose data the folder holds, with what is done with it: a call without arguments.

    Args:
        folder: of the data.
        resnet50: (folder, name, name of the same network trained by the other loss) → result.
        resnet: (folder, depth, limit, work) → result.
        limit: images that are measured.
        work: folder that keeps distances.
    """
    found: dict[str, Any] = {}
    if (folder / "resnet50-cifar10-logits").is_dir():
        for name, other in ((ENTROPY, FOCAL), (FOCAL, ENTROPY)):
            found[name] = partial(resnet50, folder, name, other)
    if resnets_at_hand(folder):
        for depth in (20, 56):
            found[f"ResNet-{depth}, {JPEG}"] = partial(resnet, folder, depth, limit, work)
    return found


def resnets_at_hand(folder: Path) -> bool:
    """Say whether a folder holds the published ResNets and the images that they classify."""
    return (folder / "pretrained/resnet-cifar10").is_dir() and (folder / "cifar10").is_dir()


def halves(n: int, limit: int) -> tuple[IntArray, IntArray]:
    """Divide n rows at random: one half to repair with, and at most `limit` of the other to measure."""
    order = np.random.default_rng(0).permutation(n)
    return order[: n // 2], order[n // 2 :][:limit]


def cifar10_test(folder: Path) -> tuple[torch.Tensor, IntArray]:
    """Read the test images of CIFAR-10 (JPEG), (10000, 3, 32, 32) in [0, 1], and their labels."""
    test = load_dataset(f"cifar10:{folder / 'cifar10'}").split("test")
    return test.batch(np.arange(len(test))).to(memory_format=torch.channels_last), test.labels


@torch.inference_mode()
def run(function: nn.Module, inputs: torch.Tensor, batch: int = 250) -> FloatArray:
    """Apply a function of batches to all inputs and return a float32 array."""
    return torch.cat([function(part) for part in inputs.split(batch)]).numpy()
