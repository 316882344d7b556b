"""Published ResNets for CIFAR-10, trained further on the JPEG images that they are measured on here."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from real.networks import JPEG, PUBLISHED, CifarResNet
from robcal.models import Average, admit_model
from robcal.runs.directory import load_networks
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

#: Passes over the 48,000 training images, by depth: about ten minutes of one core each.
EPOCHS = {20: 8, 56: 4}
#: What a table calls them, and the mean of their probabilities.
TUNED = {depth: f"ResNet-{depth} tuned on JPEG, {JPEG}" for depth in EPOCHS}
BOTH = f"Average of ResNet-20 and 56 tuned on JPEG, {JPEG}"


def resnet20(num_classes: int) -> CifarResNet:
    """Build a ResNet-20 as `robcal.models.admit_model` asks for it."""
    return CifarResNet(20, num_classes)


def resnet56(num_classes: int) -> CifarResNet:
    """Build a ResNet-56 in the same way."""
    return CifarResNet(56, num_classes)


def tuned_settings(folder: Path, depth: int) -> TrainSettings:
    """Return how a published ResNet is trained further; 2,000 training images are held out to watch it.

    The weight decay is the one that it was trained with (He et al. 2016, section 4.2). The learning rate was set before
    the first run, and no other was tried.
    """
    return TrainSettings(data=f"cifar10:{folder / 'cifar10'}", model=f"{__name__}:resnet{depth}", method="vanilla",
                         weights=str(folder / "pretrained/resnet-cifar10" / PUBLISHED[depth]), val_fraction=0.04,
                         epochs=EPOCHS[depth], learning_rate=0.05, weight_decay=1e-4, augment="standard",
                         precision="bf16", device="cpu")  # fmt: skip


def tuned_resnet(folder: Path, depth: int, work: Path) -> CifarResNet:
    """Train a published ResNet further, or read what was trained before; a training that was stopped goes on.

    Returns:
        The network in eval mode; its inputs are images in [0, 1], as those of the published one.
    """
    settings = tuned_settings(folder, depth)
    admit_model(settings.model)
    run = train_run(settings, work / TUNED[depth])
    return cast("CifarResNet", load_networks(run)[0].network)


def tuned_average(folder: Path, work: Path) -> Average:
    """Return the mean of the probabilities of both networks as one network in eval mode."""
    return Average([tuned_resnet(folder, depth, work) for depth in EPOCHS]).eval()
