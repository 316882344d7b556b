"""What a training step costs on this device, done in several ways; the answer to which way `wide.engine` takes.

Every way trains the same networks on the same batches of real images for the same few steps, and its loss stands beside
that of plain float32 steps: a way that is fast and wrong is seen.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from robcal.data import Dataset, load_dataset
from robcal.data.augment import cut_windows
from robcal.methods import Batch, make_method
from robcal.training.recipe import build_networks
from robcal.training.settings import TrainSettings
from wide.engine import Engine, Shape, capture
from wide.inputs import PADDING, Draws, draw_epoch
from wide.plan import Plan, load_plan

#: Steps of a measurement, and measurements after the one that compiles.
STEPS, REPEATS = 20, 4

#: Learning rate of all steps: large enough to move the loss, small enough for float32 and bf16 to stay together.
RATE = 0.01


@dataclass(frozen=True)
class Way:
    """A way to do a step.

    Attributes:
        name: for the table.
        members: networks side by side.
        batch_size: images of each.
        compiled: whether `torch.compile` fuses.
        captured: whether a step is a CUDA graph.
        stacked: whether the members' weights are stacked, so that convolutions become grouped ones.
        precision: "bf16" or "float32".
    """

    name: str
    members: int
    batch_size: int
    compiled: bool = True
    captured: bool = True
    stacked: bool = False
    precision: str = "bf16"


class Stack:
    """Members with stacked weights, one `vmap` over all: the alternative to `wide.engine`.

    Args:
        networks: the members.
        cast: arguments of the autocast.
        compiled: whether `torch.compile` fuses.
        fused: whether the optimiser is one kernel.
        weight_decay: of SGD.
    """

    def __init__(
        self, networks: Sequence[nn.Module], cast: dict[str, Any], *, compiled: bool, fused: bool, weight_decay: float
    ) -> None:
        self.weights, self.buffers = stack_module_state(list(networks))
        self.base, self.cast = copy.deepcopy(networks[0]).to("meta"), cast
        losses = torch.vmap(self._loss)
        self.losses: Callable[..., torch.Tensor] = torch.compile(losses, dynamic=False) if compiled else losses
        self.optimizer = torch.optim.SGD(
            self.weights.values(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=fused or None
        )
        for weight in self.weights.values():
            self.optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Move all members by (M, B, C, H, W) uint8 images and (M, B, Z) targets; returns (M,) losses."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(**self.cast):
            losses = self.losses(self.weights, self.buffers, images, targets)
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach()

    def _loss(
        self, weights: dict[str, Any], buffers: dict[str, Any], images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        inputs = (images.float() / 255).contiguous()
        return functional.cross_entropy(functional_call(self.base, (weights, buffers), (inputs,)), targets)


def ways(plan: Plan) -> list[Way]:
    """What is measured, the reference first."""
    size = plan.batch_size
    return [
        Way("float32, nothing fused", 1, size, compiled=False, captured=False, precision="float32"),
        Way("bf16, nothing fused", 1, size, compiled=False, captured=False),
        Way("bf16, captured", 1, size, compiled=False),
        Way("bf16, compiled, captured", 1, size),
        Way("the same, two members on two streams", 2, size),
        Way("the same, four members on four streams", 4, size),
        Way("four members stacked, captured", 4, size, compiled=False, stacked=True),
        Way("bf16, compiled", 1, size, captured=False),
        Way("compiled, captured, batches twice as large", 1, 2 * size),
        Way("four members stacked, compiled, captured", 4, size, stacked=True),
    ]


def measure_speed(
    spec: str,
    file: Path,
    device: str,
    seconds_left: Callable[[], float],
    log: Callable[[str], None],
    only: str = "",
) -> None:
    """Measure way after way until the time is over, and print a row of each; a way that fails says why.

    Args:
        spec: the data.
        file: the plan, of which model and batch size are taken.
        device: where.
        seconds_left: no way is begun when it is 0.
        log: prints.
        only: part of the names of the ways that are measured.
    """
    plan, place = load_plan(file), torch.device(device)
    data = load_dataset(spec)
    network = build_networks(TrainSettings(spec, plan.model, "vanilla", epochs=1), data)[0]
    flops = flops_of(network, data.input_shape)
    log(f"{plan.model}: {flops / 1e9:.3f} GFLOP an image forward, {3 * flops / 1e9:.2f} forward and backward")
    log(f"{'way':44} images/s  ms/step  TFLOP/s  first s    GB  loss")
    for way in ways(plan):
        if only in way.name and seconds_left() > 0 and (place.type == "cuda" or not way.captured):
            try:
                log(row(way, measure(way, network, data, plan, place), flops))
            except Exception as error:  # a way that this machine cannot go is a result too
                log(f"{way.name:44} failed: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
            gc.collect()
            torch.cuda.empty_cache()


def flops_of(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of a forward pass of one image: two a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(network).eval()(torch.zeros(1, *shape))
    return int(counter.get_total_flops())


def row(way: Way, found: dict[str, float], flops: int) -> str:
    """A line of the table."""
    images = way.members * way.batch_size / found["step"]
    rate = 3 * flops * images / 1e12
    return (
        f"{way.name:44} {images:8.0f}  {1e3 * found['step']:7.2f}  {rate:7.1f}  {found['first']:7.1f}"
        f"  {found['memory'] / 2**30:4.1f}  {found['loss']:.4f}"
    )


def measure(way: Way, network: nn.Module, data: Dataset, plan: Plan, device: torch.device) -> dict[str, float]:
    """Seconds of a step (median of the repeats), seconds until the first steps are done, bytes, and the mean loss."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    count = STEPS * way.batch_size
    split = data.split("train").subset(np.arange(len(data.split("train")))[:count])
    shape = Shape(count, data.input_shape, data.num_classes, way.batch_size, STEPS)
    draws = [draw_epoch(seed, 0, count, way.batch_size, augment=True, alpha=None) for seed in range(way.members)]
    began = time.perf_counter()
    run = (_stacked if way.stacked else _side_by_side)(way, network, split, shape, draws, plan, device)
    loss = run()
    first, times = time.perf_counter() - began, []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) / STEPS)
    memory = float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else 0.0
    return {"step": float(np.median(times)), "first": first, "memory": memory, "loss": loss}


def _side_by_side(
    way: Way, network: nn.Module, split: Any, shape: Shape, draws: list[Draws], plan: Plan, device: torch.device
) -> Callable[[], float]:
    """The engine's way: an epoch from the same weights, its mean loss."""
    engine = Engine(
        network,
        shape,
        members=way.members,
        device=device,
        weight_decay=plan.weight_decay,
        precision=way.precision,
        augmented=True,
        compiled=way.compiled,
        captured=way.captured,
    )
    labels = torch.from_numpy(split.labels).to(device)
    batch = Batch(labels, labels, None, labels)
    targets = [make_method("vanilla").targets({}, batch, shape.num_classes)] * way.members
    for member in range(way.members):
        engine.load(member, network.state_dict(), split.inputs)

    def run() -> float:
        engine.run_epoch(draws, targets, [RATE] * STEPS)
        return float(np.mean([engine.train_loss(member) for member in range(way.members)]))

    return run


def _stacked(
    way: Way, network: nn.Module, split: Any, shape: Shape, draws: list[Draws], plan: Plan, device: torch.device
) -> Callable[[], float]:
    """The other way: stacked weights, a graph of a step that reads the batch from one place."""
    networks = [copy.deepcopy(network).to(device) for _ in range(way.members)]
    cast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": way.precision == "bf16"}
    cuda = device.type == "cuda"
    stack = Stack(networks, cast, compiled=way.compiled, fused=cuda, weight_decay=plan.weight_decay)
    images, labels = (torch.from_numpy(values).to(device) for values in (split.inputs, split.labels))
    targets = functional.one_hot(labels, shape.num_classes).float()
    batches = [batch_of(images, targets, draws, step) for step in range(STEPS)]
    here = [part.clone() for part in batches[0]]
    total = torch.zeros(way.members, device=device)
    began = {name: value.detach().clone() for name, value in (stack.weights | stack.buffers).items()}

    def step() -> None:
        total.add_(stack.step(*here))

    advance: Callable[[], object] = capture(step) if way.captured else step
    with torch.no_grad():  # the steps before the capture moved the weights
        for name, value in (stack.weights | stack.buffers).items():
            value.copy_(began[name])
        for weight in stack.weights.values():
            stack.optimizer.state[weight]["momentum_buffer"].zero_()

    def run() -> float:
        total.zero_()
        for batch in batches:
            for place, part in zip(here, batch, strict=True):
                place.copy_(part)
            advance()
        return float(total.mean()) / STEPS

    return run


def batch_of(images: torch.Tensor, targets: torch.Tensor, draws: Sequence[Draws], step: int) -> list[torch.Tensor]:
    """(M, B, C, H, W) images, cut and mirrored, and (M, B, Z) targets of a step of M members."""
    device, parts = images.device, []
    for drawn in draws:
        index = drawn.order[step].to(device)
        offsets, mirrored = drawn.offsets[step].to(device), drawn.mirrored[step].to(device)
        parts.append((cut_windows(images[index], PADDING, offsets, mirrored), targets[index]))
    return [torch.stack(pieces) for pieces in zip(*parts, strict=True)]
