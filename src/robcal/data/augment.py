"""Random shifts, crops and flips of a batch of images, on its device, with an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from robcal.base.checks import IntArray, check_positive_int, refuse

#: Share of the area and ratio of the sides that a random resized crop takes (Szegedy et al. 2015, section 6).
CROP_SHARE = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
#: Images with sides of at least so many pixels are augmented as large ones.
LARGE_SIDE = 64
#: Data sets whose images are shifted by so many pixels, and never mirrored.
SHIFTS: Mapping[str, int] = {"digits": 1, "SVHN": 4, "idx": 4}
#: Windows drawn for an image until one fits into it; after these the largest central one is taken.
CROP_TRIALS = 10


def pad_crop_flip(x: torch.Tensor, *, padding: int = 4, flip: bool = True, generator: torch.Generator) -> torch.Tensor:
    """Pad with zeros, crop at random to the old size, flip left to right at random: each image by draws of its own.

    The standard augmentation of 32x32 images (B, C, H, W), floats or uint8 (He et al. 2016, section 4.2): offsets are
    uniform on 0 … 2 padding, a flip has probability 1/2. Black is 0, in input units. The generator is of the CPU.
    """
    check_positive_int(padding, "padding", minimum=0)
    if x.ndim != 4:
        refuse(f"x has shape {tuple(x.shape)}", "it must be (B, C, H, W)", _batch_hint(x))
    offsets, mirrored = draw_windows(len(x), padding, flip=flip, generator=generator)
    return cut_windows(x, padding, offsets.to(x.device), mirrored.to(x.device))


def draw_windows(
    count: int, padding: int, *, flip: bool = True, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw what chance decides of `pad_crop_flip`: (2, B) int64 offsets from the top and left, (B,) bool flips."""
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    return offsets, torch.rand(count, generator=generator) < (0.5 if flip else 0.0)


def standard_augmentation(name: str, input_shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """Return the usual augmentation of a data set's images (C, H, W), as a function of (inputs, CPU generator).

    Those of `SHIFTS` are shifted; images with sides of `LARGE_SIDE` pixels or more get random resized crops and flips,
    all others pad-crop and flips.
    """
    if name in SHIFTS:
        return lambda inputs, generator: pad_crop_flip(inputs, padding=SHIFTS[name], flip=False, generator=generator)
    if min(input_shape[1:]) >= LARGE_SIDE:
        return random_resized_crop
    return lambda inputs, generator: pad_crop_flip(inputs, generator=generator)


@dataclass(frozen=True)
class CropDraws:
    """What chance decides of the random resized crops of B images, before their sizes are known."""

    shares: npt.NDArray[np.float64]  # (B, 10) float64, shares of the area
    ratios: npt.NDArray[np.float64]  # (B, 10) float64, width over height
    corners: npt.NDArray[np.float64]  # (B, 2) float64 in [0, 1): where the window lies, from the top and from the left
    mirrored: npt.NDArray[np.bool_]  # (B,) bool

    def windows(self, heights: IntArray, widths: IntArray) -> IntArray:
        """Return the first window that fits, else the largest central one: (B, 4) top, left, height, width, pixels."""
        areas = self.shares * (heights * widths)[:, None]
        wide, high = np.rint(np.sqrt(areas * self.ratios)), np.rint(np.sqrt(areas / self.ratios))
        fits = (wide >= 1) & (wide <= widths[:, None]) & (high >= 1) & (high <= heights[:, None])
        rows, first = np.arange(len(heights)), fits.argmax(1)
        found = fits[rows, first]
        height = np.where(found, high[rows, first], np.minimum(heights, np.maximum(np.rint(widths / CROP_RATIO[0]), 1)))
        width = np.where(found, wide[rows, first], np.minimum(widths, np.maximum(np.rint(heights * CROP_RATIO[1]), 1)))
        free = np.stack([heights - height, widths - width], axis=1)
        corner = np.where(found[:, None], np.floor(self.corners * (free + 1)), free // 2)
        return np.concatenate([corner, height[:, None], width[:, None]], axis=1).astype(np.int64)

    def of(self, row: int) -> CropDraws:
        """Return the draws of one image."""
        part = slice(row, row + 1)
        return CropDraws(self.shares[part], self.ratios[part], self.corners[part], self.mirrored[part])


def draw_crops(count: int, generator: torch.Generator) -> CropDraws:
    """Draw the random resized crops of `count` images; the generator advances by the same amount for every size.

    The area is uniform on `CROP_SHARE`, the ratio log-uniform on `CROP_RATIO`; a flip has probability 1/2.
    """
    draws = torch.rand(count, 2 * CROP_TRIALS + 3, generator=generator, dtype=torch.float64).numpy()
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    return CropDraws(
        shares=CROP_SHARE[0] + (CROP_SHARE[1] - CROP_SHARE[0]) * draws[:, :CROP_TRIALS],
        ratios=np.exp(low + (high - low) * draws[:, CROP_TRIALS : 2 * CROP_TRIALS]),
        corners=draws[:, -3:-1],
        mirrored=draws[:, -1] < 0.5,
    )


def random_resized_crop(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cut a random window out of each image (B, C, H, W), bring it back to the old size, bilinear, and flip at random.

    The standard augmentation of large images (Szegedy et al. 2015, section 6), for images of one size that are decoded;
    it only ever enlarges, so it needs no anti-aliasing. `Split.random_crops` cuts out of the stored pictures.
    """
    if x.ndim != 4 or not x.is_floating_point() or min(x.shape[2:]) < 2:
        fix = "Divide by 255: `x / 255`" if x.ndim == 4 and not x.is_floating_point() else _batch_hint(x)
        refuse(f"x is {x.dtype} of shape {tuple(x.shape)}", "it must be floats (B, C, H, W), sides of 2 or more", fix)
    batch, _, height, width = x.shape
    draws = draw_crops(batch, generator)
    windows = torch.from_numpy(draws.windows(np.full(batch, height), np.full(batch, width))).to(x.device)
    rows = _places(windows[:, 0], windows[:, 2], height, x.dtype)
    columns = _places(windows[:, 1], windows[:, 3], width, x.dtype)
    mirrored = torch.from_numpy(draws.mirrored).to(x.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    across = columns[:, None, :].expand(batch, height, width)
    grid = torch.stack([across, rows[:, :, None].expand(batch, height, width)], dim=3)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _batch_hint(x: torch.Tensor) -> str:
    """Return what to do with a tensor that is no batch of images."""
    if x.ndim == 3:
        return "A single image is `x[None]`, grey images (B, H, W) are `x[:, None]`"
    return "Leave the augmentation out: it is for images of 2x2 pixels or more"


def _places(start: torch.Tensor, length: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Return (B, size) places that pixels of a window are read from: -1 is the first pixel, 1 the last."""
    steps = (torch.arange(size, device=start.device, dtype=torch.float64) + 0.5) / size
    inside = (steps * length[:, None] - 0.5).clamp_min(0).minimum(length[:, None] - 1)
    return ((start[:, None] + inside) * (2 / (size - 1)) - 1).to(dtype)


def cut_windows(x: torch.Tensor, padding: int, offsets: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Cut the window of the old size at `offsets` (2, B), top and left, out of each padded image, mirrored if asked."""
    batch, channels, height, width = x.shape
    padded = functional.pad(x, (padding, padding, padding, padding)).flatten(2)
    steps = torch.arange(width, device=x.device)
    cols = offsets[1][:, None] + torch.where(mirrored[:, None], width - 1 - steps, steps)
    rows = offsets[0][:, None] + torch.arange(height, device=x.device)
    pixels = (rows[:, :, None] * (width + 2 * padding) + cols[:, None, :]).view(batch, 1, -1)
    return padded.gather(2, pixels.expand(-1, channels, -1)).view_as(x)
