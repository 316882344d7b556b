"""Training steps on a device: all memory is allocated once, and a step is one replay of a captured CUDA graph.

A step gathers its images from those kept on the device, cuts and mirrors them, mixes them, and runs the network
forward and backward under autocast in a function that `torch.compile` fused; then SGD moves all members. What changes
from step to step (order, crops, mixtures, learning rate) lies in tables on the device, which a counter on the device
reads, so the host does nothing between two steps. On a CPU the same function runs step by step, uncompiled.

Several members advance side by side, each on a stream of its own and with memory of its own: the kernels of one fill
the gaps of another, and every member computes what it would compute alone. Stacking their weights into one batched
network instead (`wide.speed`) turns convolutions into grouped ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from robcal.data.augment import cut_windows
from robcal.methods.mixup import mix
from robcal.robustness.modes import float32_arithmetic
from wide.inputs import PADDING, Draws

#: Images that are predicted at once.
PREDICTED = 1000

#: Steps before a graph is captured: the first compiles, the next let cuDNN choose its algorithms.
WARM_UP = 3

#: Arithmetic of a prediction: in float32 throughout, with products in TF32, or under autocast to bfloat16.
Arithmetic = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True)
class Shape:
    """Sizes that a captured step is made for.

    Attributes:
        num_train: N, training images.
        input_shape: (C, H, W).
        num_classes: Z.
        batch_size: B.
        steps: S, steps an epoch.
    """

    num_train: int
    input_shape: tuple[int, ...]
    num_classes: int
    batch_size: int
    steps: int


def mixed_loss(
    network: nn.Module, images: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, partner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean cross-entropy of a batch whose images and targets are mixed, and its logits.

    Args:
        network: float32 images in [0, 1] → logits.
        images: (B, C, H, W) uint8.
        targets: (B, Z) soft targets.
        share: () float32, weight of the image itself; with 1 nothing is mixed.
        partner: (B,) int64, with which image of the batch it is mixed.
    """
    inputs = images.float() / 255
    mixed = mix(inputs, inputs[partner], share).contiguous(memory_format=torch.channels_last)
    logits = network(mixed)
    return functional.cross_entropy(logits, mix(targets, targets[partner], share)), logits.detach()


class Slot:
    """A member's place on the device: network, images, targets, the draws of an epoch, and the logits that it gave."""

    def __init__(self, network: nn.Module, shape: Shape, device: torch.device) -> None:
        self.network = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        n, z, b, s = shape.num_train, shape.num_classes, shape.batch_size, shape.steps
        self.images = torch.zeros(n, *shape.input_shape, dtype=torch.uint8, device=device)
        self.targets = torch.zeros(n, z, device=device)
        self.logits = torch.zeros(n, z, device=device)
        self.loss_sum = torch.zeros((), device=device)
        self.draws = Draws(
            order=torch.zeros(s, b, dtype=torch.int64, device=device),
            offsets=torch.full((s, 2, b), PADDING, device=device),
            mirrored=torch.zeros(s, b, dtype=torch.bool, device=device),
            share=torch.ones(s, device=device),
            partner=torch.zeros(s, b, dtype=torch.int64, device=device),
        )


class Engine:
    """Members that advance step by step under one learning rate.

    Args:
        network: an untrained network; every member is a copy.
        shape: the sizes.
        members: how many.
        device: where they train.
        weight_decay: of SGD with Nesterov momentum .9.
        precision: "bf16" or "float32".
        augmented: whether images are cut by the draws.
        compiled: whether `torch.compile` fuses the loss.
        captured: whether a step is captured as a CUDA graph; weights must then be loaded before the first epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: Shape,
        *,
        members: int,
        device: torch.device,
        weight_decay: float,
        precision: str,
        augmented: bool,
        compiled: bool,
        captured: bool,
    ) -> None:
        self.shape, self.device, self.augmented = shape, device, augmented
        self.slots = [Slot(network, shape, device) for _ in range(members)]
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.rates, self.rate = torch.zeros(shape.steps, device=device), torch.zeros((), device=device)
        self.cast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": precision == "bf16"}
        weights = [weight for slot in self.slots for weight in slot.network.parameters()]
        self.optimizer = torch.optim.SGD(
            weights,
            lr=self.rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=weight_decay,
            fused=device.type == "cuda" or None,
        )
        for weight in weights:
            self.optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        self.loss: Callable[..., tuple[torch.Tensor, torch.Tensor]] = mixed_loss
        if compiled:
            self.loss = torch.compile(mixed_loss, dynamic=False)
        self.streams = [torch.cuda.Stream(device) for _ in self.slots] if device.type == "cuda" and members > 1 else []
        self.advance: Callable[[], object] = self._step
        if captured:
            torch.backends.cudnn.benchmark = True
            self.advance = capture(self._step, self.position.zero_)

    def load(self, member: int, state: Mapping[str, torch.Tensor], images: npt.NDArray[np.uint8]) -> None:
        """Put the weights of a network and its training images into a member's place; momentum begins at zero."""
        slot = self.slots[member]
        slot.network.load_state_dict(state)
        slot.images.copy_(torch.from_numpy(images))
        for momentum in self._momenta(slot).values():
            momentum.zero_()

    def run_epoch(self, draws: Sequence[Draws], targets: Sequence[torch.Tensor], rates: Sequence[float]) -> None:
        """Advance all members by an epoch.

        Args:
            draws: of each member.
            targets: (N, Z) of each member, on the device.
            rates: S learning rates.
        """
        self.rates.copy_(torch.tensor(rates))
        self.position.zero_()
        for slot, drawn, soft in zip(self.slots, draws, targets, strict=True):
            slot.targets.copy_(soft)
            slot.loss_sum.zero_()
            for one in fields(Draws):
                getattr(slot.draws, one.name).copy_(getattr(drawn, one.name), non_blocking=True)
        for _ in range(self.shape.steps):
            self.advance()

    def train_loss(self, member: int) -> float:
        """Mean loss of the epoch; waits for the device."""
        return float(self.slots[member].loss_sum) / self.shape.steps

    def predict(self, member: int, images: torch.Tensor, arithmetic: Arithmetic) -> npt.NDArray[np.float32]:
        """Return (n, Z) logits in eval mode.

        Args:
            member: which network.
            images: (n, C, H, W) uint8, or float32 in [0, 1], on the device.
            arithmetic: see `Arithmetic`.
        """
        network = self.slots[member].network.eval()
        exact = float32_arithmetic() if arithmetic == "float32" else nullcontext()
        with torch.no_grad(), exact, torch.autocast(**{**self.cast, "enabled": arithmetic == "bf16"}):
            parts = [network(as_inputs(part)).float() for part in images.split(PREDICTED)]
        network.train()
        return torch.cat(parts).cpu().numpy()

    def snapshot(self, member: int) -> dict[str, Any]:
        """Return the weights, buffers and momenta of a member, on the CPU."""
        slot = self.slots[member]
        kept = {"model": slot.network.state_dict(), "momentum": self._momenta(slot)}
        return {
            part: {name: value.detach().cpu().clone() for name, value in held.items()} for part, held in kept.items()
        }

    def restore(self, member: int, saved: Mapping[str, Any], images: npt.NDArray[np.uint8]) -> None:
        """Go on where `snapshot` was taken."""
        self.load(member, saved["model"], images)
        for name, momentum in self._momenta(self.slots[member]).items():
            momentum.copy_(saved["momentum"][name])

    def _momenta(self, slot: Slot) -> dict[str, torch.Tensor]:
        state = self.optimizer.state
        return {name: state[weight]["momentum_buffer"] for name, weight in slot.network.named_parameters()}

    def _step(self) -> None:
        """Move every member by the batch at `position`."""
        self.rate.copy_(self.rates.index_select(0, self.position)[0])
        self.optimizer.zero_grad(set_to_none=True)
        if self.streams:
            here = torch.cuda.current_stream()
            for slot, stream in zip(self.slots, self.streams, strict=True):
                stream.wait_stream(here)
                with torch.cuda.stream(stream):
                    self._forward_backward(slot)
            for stream in self.streams:
                here.wait_stream(stream)
        else:
            for slot in self.slots:
                self._forward_backward(slot)
        self.optimizer.step()
        self.position += 1

    def _forward_backward(self, slot: Slot) -> None:
        drawn = {one.name: getattr(slot.draws, one.name).index_select(0, self.position)[0] for one in fields(Draws)}
        index = drawn["order"]
        images = slot.images.index_select(0, index)
        if self.augmented:
            images = cut_windows(images, PADDING, drawn["offsets"], drawn["mirrored"])
        with torch.autocast(**self.cast):
            loss, logits = self.loss(
                slot.network, images, slot.targets.index_select(0, index), drawn["share"], drawn["partner"]
            )
        loss.backward()
        slot.logits.index_copy_(0, index, logits.float())
        slot.loss_sum += loss.detach()


def capture(step: Callable[[], object], rewind: Callable[[], object] = lambda: None) -> Callable[[], object]:
    """Record a step as a CUDA graph and return what replays it; the steps before the recording move the weights too.

    Args:
        step: all its memory must stay where it is.
        rewind: called before every step.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            rewind()
            step()
    torch.cuda.current_stream().wait_stream(side)
    rewind()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@contextmanager
def unsearched() -> Iterator[None]:
    """Let cuDNN take algorithms by its rules: the search that `capture` asks for takes a second a size of batch."""
    found = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = found


def as_inputs(images: torch.Tensor) -> torch.Tensor:
    """Images as a network takes them: float32 in [0, 1], channels last."""
    values = images.float() / 255 if images.dtype == torch.uint8 else images
    return values.contiguous(memory_format=torch.channels_last)
