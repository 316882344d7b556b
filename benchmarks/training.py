"""What the training loop costs: AR-AdaLS, AdaLS, label smoothing and plain training beside a loop written by hand.

Usage: python benchmarks/training.py --model cnn-fast            (synthetic images of 32x32)
       python benchmarks/training.py --model mlp --epochs 60     (synthetic digits of 8x8)
       python benchmarks/training.py --also augmix mixup ar-adals+mixup batch-ensemble  (levels of the latter: running)
       python benchmarks/training.py --model wrn-28-10 --device cuda --precision bf16 --augment standard

All train the same network on the same examples in the same order, with the same schedule, and look at the
validation split once an epoch. They run in turn, a few steps each (see `turns`), and are compared epoch by epoch: the
median of the paired ratios, with a 95% bootstrap interval. Timed is CPU time on a CPU and wall time on a GPU; the first
epoch is warm-up. The hand-written loop runs twice: the ratio of the two is what the measurement itself is worth. The
network learns nothing here: inputs, labels and the levels that are given are drawn at random.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import robcal
from robcal.base.progress import Advance
from robcal.base.storage import save_json
from robcal.data.augment import pad_crop_flip
from robcal.data.dataset import Dataset, Split
from robcal.methods import make_method
from robcal.models import build_model
from robcal.training.loop import fit, schedule
from robcal.training.running import RunningLevels
from turns import Contender, machine, median_interval, take_turns

#: What the ratios ought to stay under: (contender, compared with) → limit.
TARGETS: dict[tuple[str, str], float | None] = {
    ("AR-AdaLS", "plain"): 1.03,
    ("AR-AdaLS, running levels", "AdaLS"): 1.03,
    ("label smoothing", "plain"): None,
    ("plain", "hand-written"): 1.02,
    ("hand-written, again", "hand-written"): None,
}
NUM_CLASSES, NUM_LEVELS = 10, 10


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    data = synthetic(options.model, options.train, options.val)
    seconds, loops = measure(options, data)
    parameters = sum(parameter.numel() for parameter in network(options, data).parameters())
    clock = "wall" if options.device == "cuda" else "CPU"
    place = torch.cuda.get_device_name() if options.device == "cuda" else f"{machine()}, {options.threads} thread"
    print(
        f"{options.model} ({parameters:,} parameters), {options.train:,} + {options.val:,} examples of "
        f"{'x'.join(map(str, data.input_shape))}, batches of {options.batch_size}, {options.precision}, augment "
        f"{options.augment}, {len(seconds[0])} epochs after warm-up; {place}; robcal {robcal.__version__}, torch "
        f"{torch.__version__}\n"
    )
    print(table(loops, seconds, clock))
    if options.json:
        save_json(
            {"machine": place, "clock": clock, "seconds": dict(zip(loops, seconds.tolist(), strict=True))}, options.json
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn-fast", help="any name that `robcal train --model` knows")
    parser.add_argument("--train", type=int, help="training examples; default 1,280 images, 12,800 for the mlp")
    parser.add_argument("--val", type=int, help="validation examples; default a tenth of that")
    parser.add_argument("--epochs", type=int, default=11, help="the first is warm-up")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--turn", type=int, help="steps a turn; default 2, for the mlp an epoch")
    parser.add_argument("--augment", choices=("none", "standard"), default="none")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="METHOD", help="further methods, beside plain training"
    )
    parser.add_argument("--json", type=Path, help="write the seconds of every epoch here, too")
    options = parser.parse_args()
    TARGETS.update({(name, "plain"): None for name in options.also})
    small = options.model == "mlp"
    options.train = options.train or (12_800 if small else 1_280)
    options.val = options.val or options.train // 10
    steps = -(-options.train // options.batch_size)
    options.turn = options.turn or (steps if small else 2)
    if steps % options.turn:
        parser.error(f"an epoch has {steps} steps: --turn must divide that")
    return options


def synthetic(model: str, train: int, val: int, *, seed: int = 0) -> Dataset:
    """Random uint8 images, 3x32x32, or 1x8x8 for the mlp, with random labels."""
    rng = np.random.default_rng(seed)
    shape = (1, 8, 8) if model == "mlp" else (3, 32, 32)

    def split(size: int) -> Split:
        return Split(rng.integers(0, 256, (size, *shape), dtype=np.uint8), rng.integers(0, NUM_CLASSES, size))

    names = tuple(str(k) for k in range(NUM_CLASSES))
    return Dataset("synthetic", {"train": split(train), "val": split(val)}, names, (0, 1), "image", "synthetic")


def network(options: argparse.Namespace, data: Dataset, method: str = "vanilla") -> nn.Module:
    """The network, with the same weights for every contender whose method does not change it."""
    name = make_method(method).network(options.model)
    return build_model(name, input_shape=data.input_shape, num_classes=NUM_CLASSES, seed=options.seed)


def measure(options: argparse.Namespace, data: Dataset) -> tuple[np.ndarray, list[str]]:
    """(loops, epochs - 1) seconds of every epoch but the first, and the names of the loops."""

    def by_hand(turn: Contender) -> object:
        return hand_written(network(options, data), data, options, turn.advance)

    loops: dict[str, Callable[[Contender], object]] = {
        "hand-written": by_hand,
        "hand-written, again": by_hand,
        "plain": ours("vanilla", options, data),
        "label smoothing": ours("label-smoothing", options, data),
        "AdaLS": ours("adals", options, data, drawn_levels(data, 1)),
        "AR-AdaLS": ours("ar-adals", options, data, drawn_levels(data, NUM_LEVELS)),
        "AR-AdaLS, running levels": ours("ar-adals", options, data, RunningLevels(NUM_LEVELS)),
        **{name: ours(name, options, data, levels_of(name)) for name in options.also},
    }
    clock = time.process_time
    if options.device == "cuda":

        def clock() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

    contenders = [Contender(name, work, every=options.turn, clock=clock) for name, work in loops.items()]
    turns = -(-options.train // options.batch_size) // options.turn  # of an epoch
    # An epoch's look at the validation split falls into the first turn of the next; the last one's is left out.
    times = take_turns(contenders, turns * options.epochs, seed=options.seed)
    return times.reshape(len(loops), options.epochs, turns).sum(2)[:, 1:], list(loops)


def drawn_levels(data: Dataset, num_levels: int) -> dict[str, np.ndarray]:
    """Levels of train and val, drawn at random."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, num_levels, len(data.split(name))) for name in ("train", "val")}


def levels_of(method: str) -> RunningLevels | None:
    """Running levels for a method that takes levels of scores."""
    return RunningLevels(NUM_LEVELS) if make_method(method).levels == "robustness" else None


def ours(
    method: str,
    options: argparse.Namespace,
    data: Dataset,
    levels: dict[str, np.ndarray] | RunningLevels | None = None,
) -> Callable[[Contender], object]:
    """`robcal.training.loop.fit` by a method, as anybody calls it."""
    augment = None if options.augment == "none" else lambda x, generator: pad_crop_flip(x, generator=generator)

    def work(turn: Contender) -> object:
        return fit(
            network(options, data, method),
            data,
            make_method(method),
            epochs=options.epochs,
            batch_size=options.batch_size,
            augment=augment,
            seed=options.seed,
            levels=levels,
            precision=options.precision,
            device=options.device,
            reporter=turn,
        )

    return work


def hand_written(model: nn.Module, data: Dataset, options: argparse.Namespace, advance: Advance) -> nn.Module:
    """The same training as somebody writes it who needs this one experiment only; data resident on the device."""
    device, train, val = torch.device(options.device), data.split("train"), data.split("val")
    bf16 = options.precision == "bf16"
    model.to(device, memory_format=torch.channels_last)
    images, labels = torch.from_numpy(train.inputs).to(device), torch.from_numpy(train.labels).to(device)
    val_images, val_labels = torch.from_numpy(val.inputs).to(device), torch.from_numpy(val.labels).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(options.seed)
    steps, step = -(-len(train) // options.batch_size), 0
    for epoch in range(options.epochs):
        model.train()
        total = torch.zeros((), device=device)
        order = torch.from_numpy(np.random.default_rng([options.seed, epoch]).permutation(len(train))).to(device)
        for index in order.tensor_split(steps):
            x = images[index].float() / 255
            if options.augment == "standard":
                x = pad_crop_flip(x, generator=generator)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                loss = functional.cross_entropy(model(x), labels[index])
            optimizer.param_groups[0]["lr"] = 0.1 * schedule(step, options.epochs * steps)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
            step += 1
            advance(step)
        model.eval()
        with torch.no_grad():
            parts = [model(_pixels(part)) for part in val_images.split(512)]
        logits = torch.cat(parts).float()
        accuracy = (logits.argmax(1) == val_labels).float().mean()
        row = float(total) / steps, float(accuracy), float(functional.cross_entropy(logits, val_labels))
        if not np.isfinite(row).all():
            raise RuntimeError(f"the loss became {row}")
    return model.eval()


def _pixels(images: torch.Tensor) -> torch.Tensor:
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def table(loops: list[str], seconds: np.ndarray, clock: str) -> str:
    """Markdown: seconds an epoch, and the paired ratios with their targets."""
    lines = [f"| loop | {clock} seconds an epoch |", "|---|--:|"]
    lines += [f"| {name} | {np.median(times):.4g} |" for name, times in zip(loops, seconds, strict=True)]
    lines += ["", "| ratio | median of paired ratios (95%) | target |", "|---|--:|--:|"]
    for (name, other), limit in TARGETS.items():
        ratios = seconds[loops.index(name)] / seconds[loops.index(other)]
        median, low, high = median_interval(ratios.tolist())
        lines.append(f"| {name} / {other} | {median:.3f} ({low:.3f}–{high:.3f}) | {'' if limit is None else limit} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
