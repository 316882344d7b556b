"""What chance decides of an epoch: the order of the images, their crops and flips, and what mixup mixes.

All of it is a function of (seed, epoch, batch), drawn by the generators that `robcal.training` draws by: a run that was
stopped goes on with the same numbers, and the training is that of `robcal train`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from robcal.base.checks import refuse
from robcal.data.augment import draw_windows
from robcal.methods.mixup import draw_mixture

#: Pixels of the padding that crops are cut out of.
PADDING = 4


@dataclass(frozen=True)
class Draws:
    """The draws of an epoch of S steps of B images, on the CPU.

    Attributes:
        order: (S, B) int64, positions in the training split.
        offsets: (S, 2, B) int64, where the crop begins, from the top and from the left of the padded image.
        mirrored: (S, B) bool.
        share: (S,) float32, weight of the image itself in its mixture.
        partner: (S, B) int64, with which image of the batch it is mixed.
    """

    order: torch.Tensor
    offsets: torch.Tensor
    mirrored: torch.Tensor
    share: torch.Tensor
    partner: torch.Tensor


def steps_of(num_train: int, batch_size: int) -> int:
    """Return the steps of an epoch.

    Raises:
        InputError: if the batches would differ in size, for which a captured step has no room.
    """
    if num_train % batch_size:
        near = [size for size in range(1, num_train + 1) if num_train % size == 0]
        best = min(near, key=lambda size: abs(size - batch_size))
        refuse(
            f"batch_size is {batch_size} for {num_train} training images",
            "it must divide their number, for all steps have one shape",
            f"Set batch_size = {best}",
        )
    return num_train // batch_size


def draw_epoch(seed: int, epoch: int, num_train: int, batch_size: int, *, augment: bool, alpha: float | None) -> Draws:
    """Draw an epoch.

    Args:
        seed: of the run.
        epoch: number of finished epochs.
        num_train: number of training images.
        batch_size: B, which divides it.
        augment: whether images are cropped and mirrored; else the crop is the image.
        alpha: of mixup; None mixes every image with itself.
    """
    steps = steps_of(num_train, batch_size)
    order = np.random.default_rng([seed, epoch]).permutation(num_train).reshape(steps, batch_size)
    offsets = torch.full((steps, 2, batch_size), PADDING)
    mirrored = torch.zeros(steps, batch_size, dtype=torch.bool)
    share, partner = torch.ones(steps), torch.arange(batch_size).repeat(steps, 1)
    generator = torch.Generator()
    for step in range(steps if augment or alpha is not None else 0):
        generator.manual_seed(_seed_of_batch(seed, epoch, step))
        if augment:
            offsets[step], mirrored[step] = draw_windows(batch_size, PADDING, generator=generator)
        if alpha is not None:
            share[step], partner[step] = draw_mixture(batch_size, alpha, generator)
    return Draws(torch.from_numpy(order), offsets, mirrored, share, partner)


def _seed_of_batch(seed: int, epoch: int, step: int) -> int:
    """The seed by which `robcal.training.member` draws for the batch; a test compares whole trainings."""
    return int(np.random.SeedSequence([seed, epoch, 1 + step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
