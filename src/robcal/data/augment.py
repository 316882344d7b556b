"""Random shifts and flips of a batch of images, on its device, with an explicit generator."""

from __future__ import annotations

import torch
from torch.nn import functional

from robcal.checks import check_positive_int, refuse


def pad_crop_flip(x: torch.Tensor, *, padding: int = 4, flip: bool = True, generator: torch.Generator) -> torch.Tensor:
    """Pad with zeros, crop at random to the old size, flip left to right at random: each image by draws of its own.

    The standard augmentation of 32x32 images (He et al. 2016, section 4.2): offsets are uniform on 0 … 2 padding, a
    flip has probability 1/2. Zero is black, in input units: the normalisation is part of the model.

    Args:
        x: (B, C, H, W) floats or uint8.
        padding: zeros added on each side, in pixels; 0 leaves the images in place.
        flip: whether to flip.
        generator: a CPU generator; it advances by the same amount on every device.

    Returns:
        (B, C, H, W) of the same dtype and device; `x` is not changed.

    Raises:
        InputError: if x is not a batch of images, or the padding is not a whole number >= 0.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> pad_crop_flip(torch.ones(2, 1, 4, 4), padding=1, generator=generator).shape
        torch.Size([2, 1, 4, 4])
    """
    check_positive_int(padding, "padding", minimum=0)
    if x.ndim != 4:
        refuse(f"x has shape {tuple(x.shape)}", "it must be (B, C, H, W)", "Only images are shifted and flipped")
    offsets = torch.randint(0, 2 * padding + 1, (2, len(x)), generator=generator)
    mirrored = torch.rand(len(x), generator=generator) < (0.5 if flip else 0.0)
    return _gather_windows(x, padding, offsets.to(x.device), mirrored.to(x.device))


def shift(x: torch.Tensor, max_pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Move each image by up to `max_pixels` in each direction, uniformly; what comes in is zero.

    For digits and other images that a flip would turn into something else.

    Args:
        x: (B, C, H, W) floats or uint8.
        max_pixels: largest shift, in pixels.
        generator: a CPU generator.

    Returns:
        (B, C, H, W) of the same dtype and device; `x` is not changed.

    Raises:
        InputError: as `pad_crop_flip`.
    """
    return pad_crop_flip(x, padding=max_pixels, flip=False, generator=generator)


def _gather_windows(x: torch.Tensor, padding: int, offsets: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """The window of the old size at `offsets` (2, B), top and left, of each padded image, mirrored where asked."""
    batch, channels, height, width = x.shape
    padded = functional.pad(x, (padding, padding, padding, padding)).flatten(2)
    steps = torch.arange(width, device=x.device)
    cols = offsets[1][:, None] + torch.where(mirrored[:, None], width - 1 - steps, steps)
    rows = offsets[0][:, None] + torch.arange(height, device=x.device)
    pixels = (rows[:, :, None] * (width + 2 * padding) + cols[:, None, :]).view(batch, 1, -1)
    return padded.gather(2, pixels.expand(-1, channels, -1)).view_as(x)
