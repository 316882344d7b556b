"""Linear filters and resampling, vectorised over images (N, C, H, W), bit for bit independent of the batch."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.ndimage import gaussian_filter

from robcal.data.corruptions.draws import Float32Array

Matrix = npt.NDArray[np.float64]
#: A linear map of flattened pixels to flattened pixels: a float32 `scipy.sparse.csr_array`.
Operator = Any
#: The size the published constants are for.
REFERENCE_SIZE = 32


def length_scale(images: Float32Array) -> float:
    """Return the factor for lengths in pixels: min(H, W) / 32, and 1 for smaller images."""
    return max(1.0, float(min(images.shape[2:])) / REFERENCE_SIZE)


def gaussian_blur(
    images: Float32Array, sigma: float, *, mode: Literal["nearest", "reflect"] = "nearest", truncate: float = 4.0
) -> Float32Array:
    """Blur height and width of (…, H, W) by a Gaussian, `sigma` in pixels, cut at `truncate` sigmas."""
    out: Float32Array = gaussian_filter(images, sigma, mode=mode, truncate=truncate, axes=(-2, -1))
    return out


@functools.lru_cache(maxsize=32)
def gaussian_gain(sigma: float) -> float:
    """Return the standard deviation that `gaussian_blur` leaves of white noise: Σ k², k its kernel."""
    point = np.zeros(2 * math.ceil(4 * sigma + 1) + 1)
    point[len(point) // 2] = 1
    return float((gaussian_filter(point, sigma) ** 2).sum())


def correlate(images: Float32Array, kernel: Matrix, *, mode: str) -> Float32Array:
    """Correlate (N, C, H, W) with one odd 2-d kernel; `mode` is numpy.pad's ("reflect" is OpenCV's default)."""
    rows, cols = kernel.shape[0] // 2, kernel.shape[1] // 2
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (rows, rows), (cols, cols)), mode=mode)  # type: ignore[call-overload]
    out = np.zeros_like(images)
    for row, col in zip(*np.nonzero(kernel), strict=True):
        out += np.float32(kernel[row, col]) * padded[:, :, row : row + height, col : col + width]
    return out


def motion_blur(images: Float32Array, degrees: Float32Array, radius: float, sigma: float) -> Float32Array:
    """Blur each of (N, C, H, W) images along its own direction, with a one-sided Gaussian; 0 degrees is along a row.

    Output pixel p is the mean of the pixels nearest to p + i · (cos a, sin a), i = 0 … 2 ceil(radius), with weights
    exp(-i² / 2 sigma²): the model of ImageMagick's motion blur, which the published scripts call. Borders repeat.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    steps = steps[weights > 1e-3]
    weights = weights[weights > 1e-3] / weights[weights > 1e-3].sum()
    order = np.argsort(degrees, kind="stable")
    angle = np.deg2rad(degrees[order].astype(np.float64))
    down = np.rint(steps[:, None] * np.sin(angle)).astype(np.int64)
    right = np.rint(steps[:, None] * np.cos(angle)).astype(np.int64)
    height, width = images.shape[2:]
    pad = int(steps[-1])
    padded = np.pad(images[order], ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge")
    blurred = np.zeros_like(images)
    for step, weight in enumerate(weights):
        turns = np.flatnonzero(np.diff(down[step]) | np.diff(right[step])) + 1
        for start, stop in zip([0, *turns], [*turns, len(order)], strict=True):
            top, left = pad + down[step, start], pad + right[step, start]
            blurred[start:stop] += np.float32(weight) * padded[start:stop, :, top : top + height, left : left + width]
    out = np.empty_like(blurred)
    out[order] = blurred
    return out


def apply_operator(operator: Operator, images: Float32Array, shape: tuple[int, int]) -> Float32Array:
    """Apply a linear operator on pixels, (H' W', H W), to (N, C, H, W); the result is (N, C, *shape)."""
    n, channels = images.shape[:2]
    columns = np.ascontiguousarray(images.reshape(n * channels, -1).T)
    return np.ascontiguousarray((operator @ columns).T).reshape(n, channels, *shape)


def separable(rows: Matrix, cols: Matrix) -> Operator:
    """Return the operator on pixels that applies `rows` (H', H) down the columns and `cols` (W', W) along the rows."""
    return sparse.kron(sparse.csr_array(rows), sparse.csr_array(cols), format="csr").astype(np.float32)


def linear_matrix(size: int, coordinates: npt.NDArray[np.floating[Any]]) -> Matrix:
    """Return the linear interpolation of `size` samples, as a matrix (len(coordinates), size)."""
    low = np.clip(np.floor(coordinates).astype(np.int64), 0, size - 1)
    high = np.minimum(low + 1, size - 1)
    share = coordinates - low
    matrix, rows = np.zeros((len(coordinates), size)), np.arange(len(coordinates))
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


def zoom_matrix(size: int, factor: float) -> Matrix:
    """Zoom into the middle of `size` samples by `factor` >= 1, linearly, as the published scripts do it.

    The middle ceil(size / factor) samples are stretched, end on end, over round(factor · their number) positions, of
    which the middle `size` are kept. Below 32 samples such rounding would leave the image as it is; there the zoom is
    exact, about the middle.
    """
    if size < REFERENCE_SIZE:
        middle = (size - 1) / 2
        return linear_matrix(size, middle + (np.arange(size) - middle) / factor)
    crop = math.ceil(size / factor)
    first, stretched = (size - crop) // 2, round(crop * factor)
    positions = np.arange(size) + (stretched - size) // 2
    return linear_matrix(size, first + positions * ((crop - 1) / max(stretched - 1, 1)))


@functools.lru_cache(maxsize=64)
def zoom_operator(height: int, width: int, factor: float) -> Operator:
    """Zoom of a whole image about its middle."""
    return separable(zoom_matrix(height, factor), zoom_matrix(width, factor))


def box_matrix(size: int, new_size: int) -> Matrix:
    """Return Pillow's BOX resampling as (new_size, size): samples with their middle in an output's box count alike."""
    scale = size / new_size
    box = max(scale, 1.0)
    middle = (np.arange(new_size)[:, None] + 0.5) * scale
    distance = (np.arange(size) + 0.5 - middle) / box
    counted = (distance > -0.5) & (distance <= 0.5)
    return np.asarray(counted / counted.sum(1, keepdims=True))
