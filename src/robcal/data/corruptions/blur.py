"""Blur: defocus, glass, motion, zoom, Gaussian. Lengths in pixels are multiplied by `length_scale`."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter

from robcal.data.corruptions import filters
from robcal.data.corruptions.draws import Draws, Float32Array
from robcal.data.corruptions.filters import Matrix, Operator, length_scale


def gaussian_blur(images: Float32Array, sigma: float, draws: Draws) -> Float32Array:
    """Apply a Gaussian filter with standard deviation `sigma`, borders repeated, cut at 4 sigma."""
    return filters.gaussian_blur(images, sigma * length_scale(images))


def defocus_blur(images: Float32Array, radius: float, softness: float, draws: Draws) -> Float32Array:
    """Correlate with a disk of `radius` pixels that a 3x3 Gaussian of standard deviation `softness` smoothed."""
    scale = length_scale(images)
    return filters.correlate(images, _disk(radius * scale, softness * scale, max(1, round(scale))), mode="reflect")


def _disk(radius: float, softness: float, reach: int) -> Matrix:
    """Return a disk that sums to one, smoothed by a Gaussian cut at `reach` pixels."""
    half = math.floor(radius) + reach
    offsets = np.arange(-half, half + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    smooth = gaussian_filter(disk / disk.sum(), softness, mode="constant", radius=reach)
    return np.asarray(smooth)


def glass_blur(images: Float32Array, sigma: float, reach: float, rounds: int, draws: Draws) -> Float32Array:
    """Blur, let every pixel take the value of one up to `reach` away, `rounds` times over, and blur again.

    The value comes from -reach … reach - 1 down and right; pixels within `reach` of the border keep theirs. The
    published code means to swap two pixels, but exchanges views of one array, which copies; what its images show is
    what this function does. It also rounds to 8 bits in between, which is left out.
    """
    scale = length_scale(images)
    delta = max(1, round(reach * scale))
    n, _, height, width = images.shape
    rows, cols = np.arange(delta + 1, height - delta + 1), np.arange(delta + 1, width - delta + 1)
    down = draws.integers(-delta, delta, rounds, len(rows), len(cols))
    right = draws.integers(-delta, delta, rounds, len(rows), len(cols))
    values = filters.gaussian_blur(images, sigma * scale).reshape(n, -1, height * width)
    source = np.tile(np.arange(height * width).reshape(height, width), (n, 1, 1))
    for turn in range(rounds):
        partner = (rows[:, None] + down[:, turn]) * width + cols + right[:, turn]
        source[:, delta + 1 : height - delta + 1, delta + 1 : width - delta + 1] = partner
        values = np.take_along_axis(values, source.reshape(n, 1, -1), axis=2)
    return filters.gaussian_blur(values.reshape(images.shape), sigma * scale)


def motion_blur(images: Float32Array, radius: float, sigma: float, draws: Draws) -> Float32Array:
    """Blur by a one-sided Gaussian along a direction within 45 degrees of the row, drawn for each image."""
    scale = length_scale(images)
    return filters.motion_blur(images, draws.uniform(low=-45, high=45), radius * scale, sigma * scale)


def zoom_blur(images: Float32Array, stop: float, step: float, draws: Draws) -> Float32Array:
    """Average the image with itself zoomed by 1, 1 + step, … below `stop` (numpy.arange); 1 counts twice."""
    height, width = images.shape[2:]
    return filters.apply_operator(_zoom_blur_operator(height, width, stop, step), images, (height, width))


@functools.lru_cache(maxsize=16)
def _zoom_blur_operator(height: int, width: int, stop: float, step: float) -> Operator:
    """Return the mean of the zooms, as one operator on pixels."""
    factors = np.arange(1, stop, step)
    total: Any = sparse.eye_array(height * width, format="csr")
    for factor in factors:
        total = total + filters.separable(filters.zoom_matrix(height, factor), filters.zoom_matrix(width, factor))
    return (total / (len(factors) + 1)).astype(np.float32)
