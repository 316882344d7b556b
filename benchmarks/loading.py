"""What share of a training step waits for pictures: JPEG files in folders, as of ImageNet, by number of workers.

Usage: python benchmarks/loading.py [--model resnet-50 --device cuda | --rates 100,200,400] [--workers 1,2,4,8,16]

Writes JPEG files of random scenes (224 pixels on the shorter side, quality 90, about 20 kB) to a temporary folder, and
trains on them with random resized crops as `robcal train --data folder:… --augment standard --profile` does. Side by
side, for each number of threads that decode: pictures decoded a second with nothing else to do; pictures that a step
takes a second once they are there; and the share of the steps that waits, read ahead and (for comparison) not.

With `--rates` the network stands in for one on a GPU: its forward pass sleeps as long as a device that trains so many
pictures a second needs, and leaves the cores to those who decode. Without, a network of robcal trains; on a CPU it
shares the cores with them, so that more workers cannot make both faster.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from robcal.data import load_dataset, pictures
from robcal.data.dataset import Dataset
from robcal.methods import make_method
from robcal.models import build_model
from robcal.training import loading
from robcal.training.loop import fit
from robcal.training.profile import Profile

CLASSES = 4


class StandIn(nn.Module):
    """A network whose pass takes as long as on a device that trains `rate` pictures a second."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.last = rate, nn.Linear(3, CLASSES)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Look at the corner of each picture, and sleep."""
        if torch.is_grad_enabled():
            time.sleep(len(pictures) / self.rate)
        return self.last(pictures[:, :, 0, 0])


def main() -> None:
    """Generate, train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", default="resnet-50")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--rates", help="Pictures a second of devices that are stood in for.")
    parser.add_argument("--repeats", type=int, default=3, help="Trainings a row, whose medians are told.")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), options.pictures)
        data = load_dataset(f"folder:{folder}", image_size=224, seed=0)
        print(f"batches of {options.batch_size}; {cores} CPU cores; {len(data.split('train'))} JPEG files an epoch; "
              f"medians of {options.repeats} epochs\n")  # fmt: skip
        print("| step | workers | decoded a second | stepped a second | waits, read ahead | waits, not |")
        print("|---|--:|--:|--:|--:|--:|")
        for name, make in networks(data, options).items():
            for workers in (int(word) for word in options.workers.split(",")):
                if workers <= cores:
                    print(f"| {name} | {row(data, make, workers, options)} |", flush=True)


def networks(data: Dataset, options: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """What trains, by the name that the table gives it."""
    if options.rates:
        rates = [int(word) for word in options.rates.split(",")]
        return {f"stand-in, {rate} a second": lambda rate=rate: StandIn(rate) for rate in rates}  # type: ignore[misc]
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    shape = {"input_shape": data.input_shape, "num_classes": CLASSES, "seed": 0}
    return {f"{options.model}, {options.precision}, {place}": lambda: build_model(options.model, **shape)}


def row(data: Dataset, make: Callable[[], nn.Module], workers: int, options: argparse.Namespace) -> str:
    """The cells of one row."""
    pictures.MAX_WORKERS = workers
    ahead, asked = ([profiled(data, make(), options, n) for _ in range(options.repeats)] for n in (loading.AHEAD, 0))
    busy = [sum(one.seconds[name] for name in ("forward", "backward", "optimizer")) for one in asked]
    stepped = np.median([len(data.split("train")) / seconds for seconds in busy])
    read = np.median([decoded(data, options) for _ in range(options.repeats)])
    waits = [100 * np.median([one.step_waits() for one in runs]) for runs in (ahead, asked)]
    return f"{workers} | {read:.0f} | {stepped:.0f} | {waits[0]:.1f}% | {waits[1]:.1f}%"


def profiled(data: Dataset, model: nn.Module, options: argparse.Namespace, depth: int) -> Profile:
    """An epoch of training that reads so many batches ahead."""
    usual, loading.AHEAD = loading.AHEAD, depth
    profile = Profile()
    try:
        fit(
            model, data, make_method("vanilla"), epochs=1, batch_size=options.batch_size, augment="standard",
            device=options.device, precision=options.precision, profile=profile,
        )  # fmt: skip
    finally:
        loading.AHEAD = usual
    return profile


def decoded(data: Dataset, options: argparse.Namespace) -> float:
    """Pictures a second that are decoded and cut with nothing else to do."""
    train, generator = data.split("train"), torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for index in np.array_split(np.arange(len(train)), max(1, len(train) // options.batch_size)):
        train.random_crops(index, generator)
    return len(train) / (time.perf_counter() - start)


def write_pictures(folder: Path, count: int) -> None:
    """JPEG files of blurred noise in one subfolder a class: as large as photographs are, and as dear to decode."""
    rng = np.random.default_rng(0)
    for number in range(count):
        side = (224, int(rng.integers(224, 340)))
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize(side[::-1], Image.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + rng.normal(0, 6, (*side, 3)).astype(np.int16)
        place = folder / f"class-{number % CLASSES}"
        place.mkdir(exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{number:06d}.jpg", quality=90)


if __name__ == "__main__":
    main()
