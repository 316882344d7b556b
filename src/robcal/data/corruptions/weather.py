"""Weather: snow, frost, fog, spatter.

The published scripts lay photographs of frost over the image, and call ImageMagick for the flakes and OpenCV for the
drops. Here all textures are generated; strengths are the published ones.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt, uniform_filter

from robcal.data.corruptions import filters
from robcal.data.corruptions.digital import grey
from robcal.data.corruptions.draws import Draws, Float32Array
from robcal.data.corruptions.filters import Matrix, Operator, length_scale, linear_matrix, separable

#: RGB of ice, pale turquoise water and mud.
ICE = (0.83, 0.93, 1.0)
WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)

EMBOSS = np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])


def fog(images: Float32Array, thickness: float, decay: float, draws: Draws) -> Float32Array:
    """Add haze: (x + t · plasma) · max / (max + t), a plasma fractal of thickness t, max the image's largest value."""
    height, width = images.shape[2:]
    haze = plasma(draws, max(height, width), decay)[:, None, :height, :width]
    largest = images.max(axis=(1, 2, 3), keepdims=True)
    return np.asarray((images + np.float32(thickness) * haze) * (largest / (largest + np.float32(thickness))))


def plasma(draws: Draws, size: int, decay: float) -> Float32Array:
    """Make height maps (n, M, M) float32 by the diamond-square algorithm on a torus, scaled to [0, 1].

    Each pass halves the grid and divides the amplitude, which enters squared, by `decay`. M is the next power of two
    of `size`.
    """
    side = 1 << max(1, (size - 1).bit_length())
    bumps = draws.uniform(side, side, low=-1, high=1)
    field = np.zeros_like(bumps)
    amplitude, step = 100.0, side
    while step >= 2:
        half, scale = step // 2, np.float32(amplitude**2)
        corners = field[:, ::step, ::step]
        total = corners + np.roll(corners, -1, axis=1)
        total = total + np.roll(total, -1, axis=2)
        field[:, half::step, half::step] = total / 4 + scale * bumps[:, half::step, half::step]
        middles = field[:, half::step, half::step]
        across = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        field[:, ::step, half::step] = across / 4 + scale * bumps[:, ::step, half::step]
        along = middles + np.roll(middles, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        field[:, half::step, ::step] = along / 4 + scale * bumps[:, half::step, ::step]
        step, amplitude = half, amplitude / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    return np.asarray(field / field.max(axis=(1, 2), keepdims=True))


def frost(images: Float32Array, keep: float, strength: float, draws: Draws) -> Float32Array:
    """Cover by ice: keep · x + strength · ice; the ice is a generated texture of ridges, not a photograph."""
    # ridged noise (n, 1, H, W) in [0, 1]: octaves of max(0, 1 - 4 |v - 1/2|), v a random grid
    height, width = images.shape[2:]
    ice = np.zeros((len(images), 1, height, width), np.float32)
    for cells, weight in ((2, 0.45), (4, 0.3), (8, 0.25)):
        grid = draws.uniform(1, cells + 1, cells + 1)
        smooth = filters.apply_operator(_stretch(cells + 1, height, width), grid, (height, width))
        ice += np.float32(weight) * np.maximum(0, 1 - 4 * np.abs(smooth - np.float32(0.5)))
    return np.float32(keep) * images + np.float32(strength) * _coloured(ice[:, 0], ICE, images.shape[1])


@functools.lru_cache(maxsize=16)
def _stretch(grid: int, height: int, width: int) -> Operator:
    """Interpolate a square grid linearly over a whole image."""

    def axis(size: int) -> Matrix:
        return linear_matrix(grid, np.linspace(0, grid - 1, size))

    return separable(axis(height), axis(width))


def snow(
    images: Float32Array,
    mean: float,
    spread: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    keep: float,
    draws: Draws,
) -> Float32Array:
    """Whiten an image by 1 - keep, and let flakes fall over it.

    Normal noise (mean, spread) is zoomed, cut below `threshold` and motion-blurred (radius, sigma) along a direction
    within 45 degrees of the vertical; it is added once as it is and once turned by 180 degrees. The image becomes
    keep · x + (1 - keep) · max(x, 1.5 grey + 0.5).
    """
    height, width = images.shape[2:]
    scale = length_scale(images)
    noise = np.float32(mean) + np.float32(spread) * draws.normal(1, height, width)
    layer = filters.apply_operator(filters.zoom_operator(height, width, zoom * scale), noise, (height, width))
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1).astype(np.float32)
    flakes = filters.motion_blur(layer, draws.uniform(low=-135, high=-45), radius * scale, sigma * scale)
    white = np.maximum(images, grey(images) * np.float32(1.5) + np.float32(0.5))
    return np.asarray(np.float32(keep) * images + np.float32(1 - keep) * white + flakes + flakes[:, :, ::-1, ::-1])


def spatter(
    images: Float32Array,
    mean: float,
    spread: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
    draws: Draws,
) -> Float32Array:
    """Spatter drops of water, or of mud.

    Normal noise (mean, spread), blurred by `sigma`, is liquid where it exceeds `threshold`. (Larger images are blurred
    by more pixels; there the noise spreads by as much more as that takes away.) Water: the drops, embossed by their
    distance from the shore, are scaled to `strength` at most and added in pale turquoise (a substitute for OpenCV's
    edges and histogram). Mud: the drops, blurred by `strength` pixels and kept where above 0.8, hide the image.
    """
    scale = length_scale(images)
    spread *= filters.gaussian_gain(sigma) / filters.gaussian_gain(sigma * scale)
    noise = np.float32(mean) + np.float32(spread) * draws.normal(*images.shape[2:])
    liquid = filters.gaussian_blur(noise, sigma * scale)
    drops = liquid > threshold
    if mud:
        cover = filters.gaussian_blur(drops.astype(np.float32), strength * scale)
        cover = np.where(cover < 0.8, 0, cover).astype(np.float32)
        return images * (1 - cover[:, None]) + _coloured(cover, MUD, images.shape[1])
    relief = liquid * drops * _emboss(drops, scale)
    largest = relief.max(axis=(1, 2), keepdims=True)
    shine = np.float32(strength) * relief / np.where(largest > 0, largest, 1)
    return images + _coloured(shine.astype(np.float32), WATER, images.shape[1])


def _emboss(drops: npt.NDArray[np.bool_], scale: float) -> Float32Array:
    """Light a relief, as high as the distance from the shore, from the lower right: (n, H, W), not negative."""
    shore = drops & ~binary_erosion(drops, np.ones((1, 3, 3), bool), border_value=1)
    far = 20.0 * scale
    # images are stacked so far apart that no distance reaches from one to another
    distance = distance_transform_edt(~shore, sampling=(1e6, 1, 1)) if shore.any() else np.full(shore.shape, far)
    height = uniform_filter(np.minimum(distance, far).astype(np.float32), (0, 3, 3), mode="mirror")
    light = filters.correlate(height[:, None], EMBOSS, mode="reflect")[:, 0]
    smooth = uniform_filter(np.maximum(light, 0), (0, 3, 3), mode="mirror")
    return np.asarray(smooth, dtype=np.float32)


def _coloured(layer: Float32Array, colour: tuple[float, float, float], channels: int) -> Float32Array:
    """Return (n, H, W) times a colour, or times its luminance for grey images: (n, channels, H, W)."""
    tint = np.array(colour, np.float32).reshape(1, 3, 1, 1)
    return layer[:, None] * (tint if channels == 3 else grey(tint))
