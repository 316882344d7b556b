"""Operations on batches of 8-bit images, each with a strength of its own, as Pillow does them on one image.

They are those of AugMix (Hendrycks et al. 2020, appendix C): AutoAugment's less those that overlap with the corruptions
that robustness is tested by (contrast, brightness, color, sharpness).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

#: Names of the operations; those of one name but for the direction differ in it alone.
OPERATIONS = (
    *("autocontrast", "equalize", "posterize", "rotate", "solarize"),
    *("shear-x", "shear-y", "translate-x", "translate-y"),
)


@dataclass(frozen=True)
class Choice:
    """What is done to each of N images, on the device of the images."""

    operation: torch.Tensor  # (N,) int64, positions in `OPERATIONS`; -1 for nothing
    level: torch.Tensor  # (N,) float64 strengths from 0 to 10
    sign: torch.Tensor  # (N,) float64, 1 or -1, of what has a direction

    def of(self, *names: str) -> torch.Tensor:
        """Return (n,) int64, the images that one of these operations is for."""
        wanted = torch.tensor([OPERATIONS.index(name) for name in names], device=self.operation.device)
        return torch.isin(self.operation, wanted).nonzero()[:, 0]


def operate(images: torch.Tensor, choice: Choice) -> torch.Tensor:
    """Do to each image, (N, C, H, W) uint8, what is chosen for it."""
    found = images.clone()
    if len(rows := choice.of("autocontrast")):
        found[rows] = autocontrast(images[rows])
    if len(rows := choice.of("equalize")):
        found[rows] = equalize(images[rows])
    if len(rows := choice.of("posterize")):
        found[rows] = posterize(images[rows], 4 - (choice.level[rows] * 0.4).long())
    if len(rows := choice.of("solarize")):
        found[rows] = solarize(images[rows], 256 - (choice.level[rows] * 25.6).long())
    if len(rows := choice.of("rotate", *OPERATIONS[5:])):
        found[rows] = affine(images[rows], _matrices(images, choice, rows))
    return found


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch every channel to 0 … 255; one of a single value stays."""
    values = images.flatten(2).double()
    low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
    scale = torch.full_like(high, 255) / (high - low).clamp_min(1)  # `255 / …` would round twice
    stretched = (values * scale - low * scale).long().clamp(0, 255)
    return torch.where(high > low, stretched, values.long()).to(torch.uint8).view(images.shape)


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Give every channel a histogram as even as a map of its values can."""
    values = images.flatten(2).flatten(0, 1).long()
    counts = torch.zeros(len(values), 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    step = (values.shape[1] - counts.gather(1, values.amax(1, keepdim=True))) // 255
    table = (step // 2 + counts.cumsum(1) - counts) // step.clamp_min(1)
    even = table.clamp(0, 255).gather(1, values)
    return torch.where(step > 0, even, values).to(torch.uint8).view(images.shape)


def posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest bits of every value, as many of each image as (N,) `bits` says."""
    mask = (256 - 2 ** (8 - bits)).to(torch.uint8)
    return images & mask.view(-1, 1, 1, 1)


def solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert the values that are not below the (N,) `threshold` of the image."""
    return torch.where(images.long() < threshold.view(-1, 1, 1, 1), images, 255 - images)


def affine(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Take each pixel (x, y) from where the (N, 2, 3) matrix maps (x, y, 1), bilinearly; 0 where that lies outside."""
    height, width = images.shape[2:]
    scale = torch.tensor([[1, height / width], [width / height, 1]], dtype=torch.float64, device=images.device)
    size = torch.tensor([width, height], dtype=torch.float64, device=images.device)
    turn = matrices[:, :, :2] * scale  # of places from -1 to 1 in place of pixels
    shift = turn.sum(2) + 2 * matrices[:, :, 2] / size - 1
    theta = torch.cat([turn, shift[:, :, None]], 2).float()
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    inside = ((grid >= -1) & (grid < 1)).all(3)[:, None]
    values = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    # Pillow cuts off; sums of float32 fall short of whole numbers
    return values.add_(1e-3).mul_(inside).to(torch.uint8)


def _matrices(images: torch.Tensor, choice: Choice, rows: torch.Tensor) -> torch.Tensor:
    """Return the maps (n, 2, 3) of those of the images that are moved, turned or sheared."""
    height, width = images.shape[2:]
    level, sign, operation = choice.level[rows], choice.sign[rows], choice.operation[rows]
    name = {one: operation == OPERATIONS.index(one) for one in ("rotate", *OPERATIONS[5:])}
    angle = torch.deg2rad(sign * (level * 3).long()) * name["rotate"]
    shear = sign * level * 0.03
    found = torch.zeros(len(rows), 2, 3, dtype=torch.float64, device=images.device)
    found[:, 0, 0] = found[:, 1, 1] = angle.cos()
    found[:, 0, 1] = -angle.sin() + shear * name["shear-x"]
    found[:, 1, 0] = angle.sin() + shear * name["shear-y"]
    centre = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=images.device)
    turned = (centre - (found[:, :, :2] @ centre)) * name["rotate"][:, None]
    found[:, 0, 2] = turned[:, 0] + sign * (level * width / 30).long() * name["translate-x"]
    found[:, 1, 2] = turned[:, 1] + sign * (level * height / 30).long() * name["translate-y"]
    return found
