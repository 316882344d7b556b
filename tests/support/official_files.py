"""Small data sets of random pixels in the files that the originals are published in; each returns its `--data` text."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def write_svhn(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 20)):
        y = np.tile(np.arange(1, 11, dtype=np.uint8), count // 10)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": y})
    return f"svhn:{folder}"


def write_imagenet(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for wnid in ("n01440764", "n01443537"):
            (folder / part / wnid).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 256, (80 + number, 100, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / part / wnid / f"{wnid}_{number}.JPEG")
    return f"imagenet:{folder}"
