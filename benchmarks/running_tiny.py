"""Write the training images of Tiny ImageNet at 32x32 to one file, of which robcal cuts training, validation and test.

Usage: python benchmarks/running_tiny.py PATH/train.parquet tiny-imagenet.npz

The test file of that data set is sharper than its training file, so a network is tested under a shift there. A file
without a test part is tested without one: `npz:tiny-imagenet.npz` sets a fifth of the images aside as test images, the
same for every seed, and cuts the validation images of a seed from the others, both in equal numbers of each class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from robcal.base.files import replacing
from robcal.data.cifar import SIZE
from robcal.data.parquet import read_parquet_images


def main(arguments: list[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="the parquet file of the training images")
    parser.add_argument("out", type=Path, help="the npz file to write")
    options = parser.parse_args(arguments)
    found = read_parquet_images([options.train], size=SIZE)
    with replacing(options.out) as temporary, temporary.open("wb") as file:
        np.savez(file, x_train=found.images, y_train=found.labels.values)
    print(f"{options.out}: {len(found.images):,} images of {len(np.unique(found.labels.values))} classes")


if __name__ == "__main__":
    main()
