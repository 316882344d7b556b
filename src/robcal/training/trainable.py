"""Whether a network can be trained as a classifier of these data: tried on a few inputs before the first step.

A network that returns probabilities, or more than logits in train mode, trains without an error and ends elsewhere:
nothing that comes later would tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from robcal.base.checks import refuse
from robcal.data.dataset import Split
from robcal.robustness.modes import eval_mode
from robcal.robustness.probe import are_probabilities, check_outputs, refuse_probabilities

#: How many training inputs are tried: that so many rows of logits look like probabilities by chance does not occur.
TRIED = 4

_UNFREEZE = (
    "Call requires_grad_(True) on the parameters to train, and leave torch.no_grad and detach out of the forward"
)


def check_network(network: nn.Module, inputs: torch.Tensor, num_classes: int) -> None:
    """Refuse a network that returns no logits (B, Z) with a gradient in eval and train mode; it is left as found."""
    if not torch.isfinite(inputs).all():
        refuse_inputs()
    if not any(parameter.requires_grad for parameter in network.parameters()):
        refuse("the model has no parameter that requires a gradient", "there must be something to train", _UNFREEZE)
    made = {}
    for mode in ("eval", "train"):
        with _as_it_was(network):
            outputs = _outputs(network.train(mode == "train"), inputs)
        made[mode] = _logits(outputs, len(inputs), num_classes, mode)
    if not made["train"].requires_grad:
        refuse(
            "no gradient reaches the parameters of the model",
            "its logits must depend on parameters that require a gradient",
            _UNFREEZE,
        )
    _refuse_probabilities(made)


def refuse_divergence(what: str, split: Split, learning_rate: float, *, step: int) -> NoReturn:
    """Refuse to go on with figures that are not finite (`what`, after `step` steps), saying what will help."""
    if count := _not_finite(split):
        refuse_inputs(count)
    if step == 0:
        refuse(
            what,
            "it must be finite, and no step was taken yet",
            "Look in the forward pass for classes masked by -inf (mask them by -1e4), a division by 0, or a log of 0",
        )
    refuse(
        what,
        "it must be finite",
        f"Lower the learning rate, now {learning_rate:g} (--learning-rate, with --overwrite to start again)",
    )


def _not_finite(split: Split) -> int:
    """Return how many inputs of a split hold a NaN or infinite value; integers hold none."""
    if np.issubdtype(split.inputs.dtype, np.integer):
        return 0
    blocks = np.array_split(np.arange(len(split)), max(1, len(split) // 1024))
    return sum(int((~torch.isfinite(split.batch(block)).flatten(1).all(1)).sum()) for block in blocks)


def refuse_inputs(count: int | None = None) -> NoReturn:
    """Refuse training inputs (`count` of them, where that is known) that are not finite; no other network can help."""
    refuse(
        f"{'training inputs hold' if count is None else f'{count} training inputs hold'} NaN or infinite values",
        "all inputs must be finite",
        "Drop these inputs, or replace the values, for example by the mean of their column",
    )


def _outputs(network: nn.Module, inputs: torch.Tensor) -> Any:
    """Return what the network's forward returns; an error of its own is told as bad input."""
    try:
        return network(inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        refuse(
            f"the model does not take a batch of the training inputs ({(str(error).splitlines() or [''])[0]})",
            f"it is given {tuple(inputs.shape)} of {inputs.dtype}: all inputs of a batch at once",
            "Build it for inputs of this shape, or add the layer that brings them into its own",
        )


def _logits(outputs: Any, num_rows: int, num_classes: int, mode: str) -> torch.Tensor:
    if mode == "train" and not isinstance(outputs, torch.Tensor):
        refuse(
            f"the model returns {type(outputs).__name__} in train mode, and logits in eval mode",
            "it must return one tensor of logits (B, Z) in both",
            "Build it without auxiliary outputs (aux_logits=False), or wrap it in a module whose forward returns "
            f"{_wrapped(outputs)}",
        )
    logits = check_outputs(outputs, num_rows)
    if logits.shape[1] != num_classes:
        refuse(
            f"the model returns {logits.shape[1]} logits an input",
            f"the data have {num_classes} classes",
            f"Build it with num_classes={num_classes}",
        )
    if bool(logits.isnan().any()) or bool((logits == torch.inf).any()):
        refuse(
            f"the untrained model returns NaN or infinite logits in {mode} mode",
            "logits of finite inputs are finite",
            "Look in its forward for a division by 0 or a logarithm of 0, and initialise its parameters",
        )
    return logits


def _wrapped(outputs: Any) -> str:
    """Say how a wrapper takes the logits out of what only train mode returns, in both modes."""
    part = "out.logits" if hasattr(outputs, "logits") else "out[0]"
    if isinstance(outputs, dict) and not hasattr(outputs, "logits"):
        part = f"out[key], keys {', '.join(map(repr, outputs))}"
    return f"out if isinstance(out, torch.Tensor) else {part}"


def _refuse_probabilities(made: dict[str, torch.Tensor]) -> None:
    """Refuse a network that ends in a softmax, in one mode or in both."""
    ends = {mode for mode, logits in made.items() if are_probabilities(logits)}
    if len(ends) == 2:
        refuse_probabilities(made["train"])
    for mode in ends:
        refuse(
            f"the model returns probabilities in {mode} mode and logits in the other",
            "it must return logits in both",
            f"Leave out the softmax that its forward adds in {mode} mode",
        )


@contextmanager
def _as_it_was(network: nn.Module) -> Iterator[None]:
    """Put modes, buffers and the global random state back."""
    buffers = {buffer: buffer.detach().clone() for buffer in network.buffers()}
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)), eval_mode(network):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
