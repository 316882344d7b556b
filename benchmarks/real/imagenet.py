"""An EfficientNet-lite0 for ImageNet with published weights, and one image of each class.

The architecture is that of the package `efficientnet-lite-pytorch` (benchmarks/requirements.txt). The images came with
logits of the same weights, which are used; `check_alike` refuses to go on where the network does not give them.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from real.networks import run
from robcal.base.checks import FloatArray, IntArray

WEIGHTS, SAMPLE = "pretrained/efficientnet-lite0/efficientnet-lite0-57934424.pth", "imagenet-sample1000"
#: Images whose logits are compared in full, before any work.
FEW = 20


@dataclass(frozen=True)
class Sample:
    """Hold the images.

    Attributes:
        images: (1000, 3, 224, 224) uint8.
        labels: (1000,) one of each class.
        logits: (1000, 1000) of the published network.
    """

    images: npt.NDArray[np.uint8]
    labels: IntArray
    logits: FloatArray


class ScaledNetwork(nn.Module):
    """Map images in [0, 1] to logits, by a network whose inputs are (pixel - 127) / 128 with pixels from 0 to 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, Z) of images (B, 3, H, W)."""
        return self.network((x * 255 - 127) / 128)


def at_hand(folder: Path) -> bool:
    """Return whether weights, images and the package of the architecture are there."""
    files = (folder / WEIGHTS).is_file() and (folder / SAMPLE).is_dir()
    return files and importlib.util.find_spec("efficientnet_lite_pytorch") is not None


def read_sample(folder: Path) -> Sample:
    """Read the images with their labels and published logits, in an order drawn at random."""
    rows = pq.read_table(folder / SAMPLE / "images.parquet")
    pictures = [Image.open(io.BytesIO(row)).convert("RGB") for row in rows["image"].to_pylist()]
    images = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])
    with np.load(folder / SAMPLE / "efficientnet-lite0-logits.npz", allow_pickle=False) as data:
        logits = data["logits"][np.argsort(data["row"])]
    order = np.random.default_rng(0).permutation(len(images))
    return Sample(images[order], rows["label"].to_numpy().astype(np.int64)[order], logits[order])


def published_efficientnet(folder: Path, sample: Sample) -> nn.Module:
    """Read the published weights, in eval mode and channels-last.

    Raises:
        ValueError: if the network gives other logits for the first images.
    """
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    model = ScaledNetwork(network).eval().to(memory_format=torch.channels_last)
    few = torch.from_numpy(sample.images[:FEW]).float() / 255
    check_alike(run(model, few), sample.logits[:FEW])
    return model


def check_alike(found: FloatArray, wanted: FloatArray, most: float = 1e-3) -> None:
    """Refuse to go on with a network that is not the published one.

    Raises:
        ValueError: if a number differs by more than `most`.
    """
    if (difference := float(abs(found - wanted).max())) > most:
        raise ValueError(f"the network differs by {difference:.2g} from the published logits")
