"""Corrupted images: the 15 + 4 kinds and 5 severities of Hendrycks & Dietterich (2019), generated here.

The strengths are those the authors published for 32x32 images; the code is robcal's own, and some textures are
substitutes (frost, snow, spatter), so the result is *not* CIFAR-10-C: that name is for the official files. Images stay
float32 and are not rounded to 8 bits (except inside JPEG). Lengths in pixels are the published ones times min(H, W) /
32, and as published for smaller images; those that the authors give as a share of the side (elastic deformation,
pixelation) or as a ratio (zoom) follow the side at any size.

Image i of a split has its own random stream, chosen by (seed, kind, severity, i): the result does not depend on the
batch, on the other images, or on the order of the cells.

Reference: Hendrycks, Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*, ICLR
2019; their constants for CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robcal.base.arrays import as_array
from robcal.base.checks import check_choice, refuse
from robcal.data.corruptions import blur, digital, noise, weather
from robcal.data.corruptions.draws import SEVERITIES, Draws, Float32Array, cell_key

__all__ = ["BENCHMARK_KINDS", "CORRUPTIONS", "EXTRA_KINDS", "SEVERITIES", "Corruption", "corrupt"]
#: Values of images (float32) worked on at a time; does not change the result.
CHUNK_VALUES = 2**20

MIN_SIDE = 4


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption."""

    # (images (n, C, H, W) float32 in [0, 1], *parameters, draws) → corrupted, before clipping to [0, 1]
    function: Callable[..., Float32Array]
    parameters: tuple[tuple[Any, ...], ...]  # the parameters of severities 1 to 5
    group: Literal["noise", "blur", "weather", "digital"]  # "noise", "blur", "weather" or "digital"
    extra: bool = False  # whether it is one of the four kept for validation


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)), "noise"),
    "shot_noise": Corruption(noise.shot_noise, ((500,), (250,), (100,), (75,), (50,)), "noise"),
    "impulse_noise": Corruption(noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)), "noise"),
    "defocus_blur": Corruption(blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)), "blur"),
    "glass_blur": Corruption(
        blur.glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)), "blur"
    ),
    "motion_blur": Corruption(blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), "blur"),
    "zoom_blur": Corruption(
        blur.zoom_blur, ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)), "blur"
    ),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "weather",
    ),
    "frost": Corruption(weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)), "weather"),
    "fog": Corruption(weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), "weather"),
    "brightness": Corruption(digital.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)), "weather"),
    "contrast": Corruption(digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)), "digital"),
    "elastic_transform": Corruption(
        digital.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        "digital",
    ),
    "pixelate": Corruption(digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)), "digital"),
    "jpeg_compression": Corruption(digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,)), "digital"),
    "speckle_noise": Corruption(noise.speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)), "noise", extra=True),
    "gaussian_blur": Corruption(blur.gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1,)), "blur", extra=True),
    "spatter": Corruption(
        weather.spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
        "weather",
        extra=True,
    ),
    "saturate": Corruption(
        digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)), "digital", extra=True
    ),
}

#: The fifteen kinds of the benchmark, and the four kept for validation.
BENCHMARK_KINDS = tuple(kind for kind, corruption in CORRUPTIONS.items() if not corruption.extra)
EXTRA_KINDS = tuple(kind for kind, corruption in CORRUPTIONS.items() if corruption.extra)


def corrupt(images: npt.NDArray[Any], kind: str, severity: int, *, seed: int, first_index: int = 0) -> Float32Array:
    """Corrupt images; with one channel, "saturate" changes nothing.

    Args:
        images: (N, C, H, W), C = 1 or 3, H and W at least 4; uint8 in 0 … 255 or floats in [0, 1].
        kind: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: chooses the noise; the same for every model that is to be compared.
        first_index: position of images[0] in its split, where a split is corrupted in pieces: the pieces then equal the
            whole, bit for bit.

    Returns:
        (N, C, H, W) float32 in [0, 1].

    >>> images = np.full((2, 3, 32, 32), 0.5, np.float32)
    >>> noisy = corrupt(images, "gaussian_noise", 3, seed=0)
    >>> round(float(noisy.std()), 2)
    0.08
    >>> np.array_equal(noisy[1:], corrupt(images[1:], "gaussian_noise", 3, seed=0, first_index=1))
    True
    """
    corruption, key = CORRUPTIONS[check_choice(kind, CORRUPTIONS, "kind")], cell_key(seed, kind, severity)
    images = as_array(images, "images")
    _check_images(images)
    out = np.empty(images.shape, np.float32)
    chunk = max(1, CHUNK_VALUES // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), chunk):
        piece = images[start : start + chunk]
        values = piece.astype(np.float32) / np.float32(255) if piece.dtype == np.uint8 else piece.astype(np.float32)
        draws = Draws(key, first_index + start, len(piece))
        result = corruption.function(values, *corruption.parameters[severity - 1], draws=draws)
        np.clip(result, 0, 1, out=out[start : start + chunk])
    return out


def _check_images(images: npt.NDArray[Any]) -> None:
    """Refuse what is not images (N, 1 or 3, H, W), uint8 or floats in [0, 1]."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < MIN_SIDE or len(images) == 0:
        given = f"images have shape {images.shape}"
        fix = _shape_hint(images)
        refuse(given, f"they must be (N, C, H, W) with C = 1 or 3 and sides of at least {MIN_SIDE} pixels", fix)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        given = f"images have dtype {images.dtype}"
        refuse(given, "they must be uint8 or floats in [0, 1]", "If they are 0 … 255: `images.astype(np.uint8)`")
    if images.dtype.kind == "f" and not (images.min() >= 0 and images.max() <= 1):
        refuse(
            f"images hold {images.min():.4g} to {images.max():.4g}",
            "float images lie in [0, 1]",
            "Divide by 255: `images / 255`"
            if 0 <= images.min() <= images.max() <= 255
            else "Undo the normalisation, which is part of the model: `images * std + mean`",
        )


def _shape_hint(images: npt.NDArray[Any]) -> str:
    """Return what to do with an array that is no batch of images."""
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return "Put the channels first: `images.transpose(0, 3, 1, 2)`"
    if images.ndim == 3:
        return "A single image is `images[None]`, grey images (N, H, W) are `images[:, None]`"
    return "Tables have robcal.data.table_shift; smaller images cannot be corrupted"
