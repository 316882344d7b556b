"""Random numbers that belong to one image, whatever batch it comes in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import check_positive_int, check_seed, refuse

Float32Array = npt.NDArray[np.float32]


#: Of every kind of shift.
SEVERITIES = (1, 2, 3, 4, 5)


def cell_key(seed: int, kind: str, severity: int) -> npt.NDArray[np.uint64]:
    """Return the 128-bit Philox key of one cell of the benchmark: a hash of seed, kind and severity."""
    if check_positive_int(severity, "severity") > len(SEVERITIES):
        refuse(f"severity is {severity}", "it must be 1, 2, 3, 4 or 5", "Choose one of these")
    words = np.random.SeedSequence([check_seed(seed), zlib.crc32(kind.encode()), severity])
    return np.asarray(words.generate_state(2, np.uint64), np.uint64)


class Draws:
    """Independent random fields for n images: image i's numbers depend on the key (`cell_key`) and its index alone.

    The generator is Philox (Salmon et al. 2011), counter-based: its 256-bit counter is set to (0, 0, field, index)
    before each image's draw, in about 1.5 µs, so no image's numbers depend on how many another one took, or on which
    others are there. `first` is the index of the first image in its split.
    """

    def __init__(self, key: npt.NDArray[np.uint64], first: int, n: int) -> None:
        self.n = n
        self._first = check_positive_int(first, "first_index", minimum=0)
        self._field = 0
        self._philox = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._philox)
        self._state: Any = self._philox.state

    def normal(self, *shape: int) -> Float32Array:
        """Draw standard normal float32 numbers, (n, *shape)."""
        out = np.empty((self.n, *shape), np.float32)
        for row, generator in self._each_image():
            generator.standard_normal(out=out[row : row + 1], dtype=np.float32)
        return out

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float32Array:
        """Draw uniform float32 numbers in [low, high), (n, *shape)."""
        out = np.empty((self.n, *shape), np.float32)
        for row, generator in self._each_image():
            generator.random(out=out[row : row + 1], dtype=np.float32)
        out *= np.float32(high - low)
        out += np.float32(low)
        return out

    def integers(self, low: int, high: int, *shape: int) -> npt.NDArray[np.int32]:
        """Draw whole numbers in low … high - 1, (n, *shape) int32."""
        out = np.empty((self.n, *shape), np.int32)
        for row, generator in self._each_image():
            out[row] = generator.integers(low, high, shape, dtype=np.int32)
        return out

    def poisson(self, mean: Float32Array) -> Float32Array:
        """Draw Poisson numbers with these means, float32 of the same shape (n, …)."""
        out = np.empty(mean.shape, np.float32)
        for row, generator in self._each_image():
            out[row] = generator.poisson(mean[row])
        return out

    def _each_image(self) -> Iterator[tuple[int, np.random.Generator]]:
        """Yield each image's row with the generator placed at the start of its own stream of a new field."""
        for row in range(self.n):
            self._state["state"]["counter"] = np.array([0, 0, self._field, self._first + row], np.uint64)
            self._state["buffer_pos"], self._state["has_uint32"] = 4, 0
            self._philox.state = self._state
            yield row, self._generator
        self._field += 1
