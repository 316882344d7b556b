"""Digital: brightness, contrast, saturation, elastic deformation, pixelation, JPEG."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from robcal.data.corruptions import filters
from robcal.data.corruptions.draws import Draws, Float32Array

#: Weights of red, green and blue in grey (ITU-R BT.601).
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def grey(images: Float32Array) -> Float32Array:
    """Return the luminance (N, 1, H, W) of (N, 3, H, W); grey images are returned as they are."""
    if images.shape[1] == 1:
        return images
    weighted = images * LUMINANCE[:, None, None]
    return np.asarray(weighted[:, 0:1] + weighted[:, 1:2] + weighted[:, 2:3])


def brightness(images: Float32Array, shift: float, draws: Draws) -> Float32Array:
    """Add `shift` to the value V of HSV (clipped to 1): with V = max(R, G, B), x' = x · V' / V, grey where V = 0."""
    value = images.max(axis=1, keepdims=True)
    raised = np.clip(value + np.float32(shift), 0, 1)
    return np.asarray(np.where(value > 0, images * (raised / np.where(value > 0, value, 1)), raised))


def contrast(images: Float32Array, factor: float, draws: Draws) -> Float32Array:
    """Return (x - m) · factor + m, m the mean of each channel of each image."""
    means = images.mean(axis=(2, 3), keepdims=True)
    return np.asarray((images - means) * np.float32(factor) + means)


def saturate(images: Float32Array, factor: float, shift: float, draws: Draws) -> Float32Array:
    """Set the saturation S of HSV to clip(factor · S + shift, 0, 1); hue and value stay.

    x = V (1 - S f) with f in [0, 1] given by the hue, so x' = V - (V - x) S' / S. Where S = 0 the hue is red by
    convention, as in the published scripts. Images of one channel have no saturation and are returned as they are.
    """
    if images.shape[1] == 1:
        return images.copy()
    value = images.max(axis=1, keepdims=True)
    chroma = value - images.min(axis=1, keepdims=True)
    saturation = chroma / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * np.float32(factor) + np.float32(shift), 0, 1)
    red = np.array([0, 1, 1], np.float32)[:, None, None]
    distance = np.where(chroma > 0, (value - images) / np.where(chroma > 0, chroma, 1), red)
    return np.asarray(value * (1 - wanted * distance))


def pixelate(images: Float32Array, factor: float, draws: Draws) -> Float32Array:
    """Shrink each side to int(factor · side) and enlarge it again, by Pillow's BOX filter, without its rounding."""
    height, width = images.shape[2:]
    return filters.apply_operator(_pixelate_operator(height, width, factor), images, (height, width))


@functools.lru_cache(maxsize=16)
def _pixelate_operator(height: int, width: int, factor: float) -> filters.Operator:
    """Return the way down and up, as one operator on pixels."""

    def axis(size: int) -> filters.Matrix:
        small = max(1, int(size * factor))
        return filters.box_matrix(small, size) @ filters.box_matrix(size, small)

    return filters.separable(axis(height), axis(width))


def jpeg_compression(images: Float32Array, quality: int, draws: Draws) -> Float32Array:
    """Compress by Pillow's JPEG at this quality (chroma at half resolution), after rounding to 8 bits."""
    mode = "L" if images.shape[1] == 1 else "RGB"
    size = (images.shape[3], images.shape[2])
    pixels = np.ascontiguousarray((images * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1))
    decoded = []
    for picture in pixels:
        stream = io.BytesIO()
        Image.frombytes(mode, size, picture.tobytes()).save(stream, "JPEG", quality=quality)
        with Image.open(stream, formats=("JPEG",)) as reopened:
            decoded.append(reopened.tobytes())
    back = np.frombuffer(b"".join(decoded), np.uint8).reshape(pixels.shape)
    return np.ascontiguousarray(back.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def elastic_transform(images: Float32Array, alpha: float, sigma: float, affine: float, draws: Draws) -> Float32Array:
    """Return a random affine map, then a smooth random displacement of every pixel, both interpolated linearly.

    Three points about the middle move by up to affine · side in each coordinate and carry the plane with them; then
    each pixel moves by alpha · side times uniform noise on [-1, 1] smoothed by sigma · side. All three lengths are
    shares of the shorter side, in the published scripts too, so they scale down as well as up.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    moved = draws.uniform(3, 2, low=-affine * side, high=affine * side)
    rows, cols = _affine_coordinates(height, width, moved)
    images = _sample(images, _fold(rows, height), _fold(cols, width))
    if alpha == 0:
        return images
    noise = draws.uniform(2, height, width, low=-1, high=1)
    shift = filters.gaussian_blur(noise, sigma * side, mode="reflect", truncate=3) * np.float32(alpha * side)
    rows, cols = np.arange(height)[:, None] + shift[:, 1], np.arange(width) + shift[:, 0]
    return _sample(images, _fold_half(rows, height), _fold_half(cols, width))


def _affine_coordinates(height: int, width: int, moved: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return source row and column (n, H, W) of each pixel under the affine map that moves three points by `moved`."""
    middle, reach = np.array([width // 2, height // 2]), max(1, min(height, width) // 3)
    points = middle + reach * np.array([[1.0, 1], [1, -1], [-1, -1]])
    corners = np.concatenate([points + moved.astype(np.float64), np.ones((len(moved), 3, 1))], axis=2)
    back = np.linalg.solve(corners, np.broadcast_to(points, (len(moved), 3, 2))).astype(np.float32)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    weights = back[:, :, :, None, None]
    cols = weights[:, 0, 0] * x + weights[:, 1, 0] * y + weights[:, 2, 0]
    rows = weights[:, 0, 1] * x + weights[:, 1, 1] * y + weights[:, 2, 1]
    return rows, cols


def _fold(coordinates: Float32Array, size: int) -> Float32Array:
    """Reflect coordinates into [0, size - 1] about the middles of the border pixels."""
    period = np.float32(2 * (size - 1))
    return np.asarray(np.float32(size - 1) - np.abs(np.mod(coordinates, period) - np.float32(size - 1)))


def _fold_half(coordinates: Float32Array, size: int) -> Float32Array:
    """Reflect coordinates about the outer edges of the border pixels, then hold them in [0, size - 1]."""
    folded = np.float32(size) - np.abs(np.mod(coordinates + np.float32(0.5), np.float32(2 * size)) - np.float32(size))
    return np.asarray(np.clip(folded - np.float32(0.5), 0, size - 1))


def _sample(images: Float32Array, rows: Float32Array, cols: Float32Array) -> Float32Array:
    """Sample (n, C, H, W) bilinearly at rows and cols (n, H, W) within the image."""
    n, channels, height, width = images.shape
    top, left = np.floor(rows), np.floor(cols)
    down, across = rows - top, cols - left
    corner = (top * width + left).astype(np.intp) + (np.arange(n) * channels * height * width)[:, None, None]
    below, right = np.where(top < height - 1, width, 0), np.where(left < width - 1, 1, 0)
    corners = (corner, corner + right, corner + below, corner + below + right)
    weights = ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    out = np.zeros_like(images)
    for channel in range(channels):
        plane = images.reshape(-1)[channel * height * width :]
        for index, weight in zip(corners, weights, strict=True):
            out[:, channel] += plane.take(index, mode="clip") * weight
    return out
