"""What a training method is: a value, a frozen dataclass of functions with defaults that do nothing special.

The loop in `robcal.training.loop` calls them in this order: `init` once; for each batch `targets`,
`augment` and `loss`; `after_epoch` with figures of the validation split; at the end the networks of `predictors`. A
method's state is a flat dict of tensors, so it saves and restores exactly, and no file of it can execute code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from robcal.base.checks import MOST_NETWORKS, FloatArray, IntArray, check_positive_int, refuse
from robcal.data.dataset import Box, Dataset, Split

State = Mapping[str, torch.Tensor]

#: Where a method's levels come from: it has none; all examples share one; drawn at random; cut from robustness scores.
LevelSource = Literal["none", "single", "random", "robustness"]


@dataclass(frozen=True)
class RunInfo:
    """What a method knows before training.

    Attributes:
        num_classes: Z.
        num_levels: R.
        epochs: number of epochs.
        seed: of the run.
        num_train: number of training examples, for methods that remember something of each.
        box: (lo, hi) the inputs live in, numbers or arrays that broadcast to one input; None if they are unbounded.
    """

    num_classes: int
    num_levels: int
    epochs: int
    seed: int
    num_train: int = 0
    box: Box = None


@dataclass(frozen=True)
class Batch:
    """A batch on the training device.

    Attributes:
        inputs: (B, …) float32 in input units.
        labels: (B,) int64.
        levels: (B,) int64, or None for a method without levels.
        index: (B,) int64, positions in the training split.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    levels: torch.Tensor | None
    index: torch.Tensor


@dataclass(frozen=True)
class EpochInfo:
    """Figures of the validation split after an epoch, in eval mode.

    Attributes:
        epoch: number of finished epochs, from 1.
        epochs: number of epochs of the run.
        probs: (N, Z) predicted probabilities.
        labels: (N,) true classes.
        levels: (N,) level of each validation example, or None.
        num_levels: R.
        model: the network at the end of the epoch, to read and not to change; None where there is none at hand.
    """

    epoch: int
    epochs: int
    probs: FloatArray
    labels: IntArray
    levels: IntArray | None
    num_levels: int
    model: nn.Module | None = None

    @property
    def confidence(self) -> FloatArray:
        """(N,) probability of the top label."""
        return np.asarray(self.probs.max(1))

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the top label is the true class."""
        return np.asarray(self.probs.argmax(1) == self.labels)


@dataclass(frozen=True)
class Predictors:
    """How one trained network becomes several, whose probabilities are averaged to predict.

    Attributes:
        count: how many, from 2.
        draw: (trained network, final state, training split, seed of the run) → `count` networks on the CPU in eval
            mode. Those that are not kept are drawn whenever the network is loaded, without a state and a split.
        kept: whether they are written at the end of training.

    Raises:
        InputError: if `count` is out of range.
    """

    count: int
    draw: Callable[[nn.Module, State, Split | None, int], Sequence[nn.Module]]
    kept: bool

    def __post_init__(self) -> None:
        """Check the number of networks."""
        check_positive_int(self.count, "samples", minimum=2)
        if self.count > MOST_NETWORKS:
            refuse(f"samples is {self.count:,}", f"it may be {MOST_NETWORKS:,}", "Choose fewer networks")


def no_state(info: RunInfo) -> State:
    """Return a method without memory."""
    return {}


def one_hot_targets(state: State, batch: Batch, num_classes: int) -> torch.Tensor:
    """Return (B, Z) float32: the hard labels."""
    return _identity(num_classes, batch.labels.device).index_select(0, batch.labels)


@functools.lru_cache(maxsize=4)
def _identity(size: int, device: torch.device) -> torch.Tensor:
    """Return the rows that hard labels pick from; they are kept, since making them takes as long as a small step."""
    return torch.eye(size, device=device)


def keep_batch(
    inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change neither inputs nor targets."""
    return inputs, targets


def cross_entropy(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
    """Return the mean over the batch of `-sum_z target_z log p_z`."""
    return functional.cross_entropy(model(batch.inputs), targets), state


def keep_state(state: State, info: EpochInfo) -> State:
    """Learn nothing from the validation split."""
    return state


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        name: its key in `METHODS` and on the command line.
        title: what tables call it.
        init: state before the first epoch.
        targets: (state, batch, Z) → (B, Z) soft targets, rows sum to 1.
        augment: (inputs, targets, generator) → the same, changed together (mixup does).
        loss: (state, model, batch, targets) → mean loss over the batch, and the state.
        after_epoch: state of the next epoch.
        epsilon: eps of each level, for the history.
        levels: where its levels come from.
        network: name of the model that was asked for → name of the network that is trained.
        check: (network, data set) → refuses what the method cannot be trained on, before anything is trained.
        predictors: how the trained network becomes several; None for itself alone.
        mixes: whether `augment` mixes inputs of different labels; their targets it mixes alike, column by column,
            however many columns these have.
        by_label: whether `loss` looks at the label of each input, so that it cannot take mixed ones.
        options: its hyper-parameters, for the record; `robcal.methods.make_method` fills them in.
        parts: the methods that it is composed of; see `robcal.methods.compose`.
    """

    name: str
    title: str
    init: Callable[[RunInfo], State] = no_state
    targets: Callable[[State, Batch, int], torch.Tensor] = one_hot_targets
    augment: Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]] = keep_batch
    loss: Callable[[State, nn.Module, Batch, torch.Tensor], tuple[torch.Tensor, State]] = cross_entropy
    after_epoch: Callable[[State, EpochInfo], State] = keep_state
    epsilon: Callable[[State], tuple[float, ...]] = lambda state: ()
    levels: LevelSource = "none"
    network: Callable[[str], str] = lambda model: model
    check: Callable[[nn.Module, Dataset], None] = lambda network, dataset: None
    predictors: Predictors | None = None
    mixes: bool = False
    by_label: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Method, ...] = ()

    @property
    def is_plain_step(self) -> bool:
        """Whether it learns from the cross-entropy with hard labels alone: numbers of classes do for targets then.

        The gradient is the same to the last bit, and a small network's step takes a fortieth less.
        """
        return (self.targets, self.augment, self.loss) == (one_hot_targets, keep_batch, cross_entropy)


def vanilla() -> Method:
    """Train on the cross-entropy with hard labels."""
    return Method(name="vanilla", title="Plain")
