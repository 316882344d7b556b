"""Noise: independent in every pixel and channel; no lengths, so nothing scales with the image size."""

from __future__ import annotations

import numpy as np

from robcal.data.corruptions.draws import Draws, Float32Array


def gaussian_noise(images: Float32Array, sigma: float, draws: Draws) -> Float32Array:
    """Add noise: x + sigma · n, n standard normal."""
    return images + np.float32(sigma) * draws.normal(*images.shape[1:])


def shot_noise(images: Float32Array, photons: float, draws: Draws) -> Float32Array:
    """Draw Poisson(photons · x) / photons: white is `photons` counts."""
    return draws.poisson(images * np.float32(photons)) / np.float32(photons)


def impulse_noise(images: Float32Array, amount: float, draws: Draws) -> Float32Array:
    """Add salt and pepper: a share `amount` of the values becomes 0 or 1, either with probability 1/2."""
    chance = draws.uniform(*images.shape[1:])
    out = np.where(chance < amount / 2, np.float32(0), images)
    out[(chance >= amount / 2) & (chance < amount)] = 1
    return out


def speckle_noise(images: Float32Array, sigma: float, draws: Draws) -> Float32Array:
    """Multiply by noise: x + x · sigma · n, n standard normal."""
    return images + images * np.float32(sigma) * draws.normal(*images.shape[1:])
