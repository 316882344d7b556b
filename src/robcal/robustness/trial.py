"""A few inputs through the model before work starts: it must be a function of each input, in float32, into logits.

What "verified" means rests on it (method, section 1), so it is tried, not assumed. The trial costs about 50 forward
passes of single inputs, whatever the size of the data set; `passes` of the scores do not count it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from robcal.base.checks import refuse
from robcal.robustness.inputs import TOKENS
from robcal.robustness.network import Network
from robcal.robustness.probe import (
    LowPrecision,
    check_outputs,
    differing_rows,
    masked_classes,
    refuse_low_precision,
    refuse_probabilities,
)

#: How many inputs are tried.
TRIED = 16
#: What a forward raises that does not fit its inputs.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
#: How much the gaps between logits may differ, as a share of the typical gap: between two evaluations of one batch, and
#: between a batch and its rows alone, for which other kernels sum in another order.
_TWICE, _ALONE = 1e-4, 1e-3


def try_model(network: Network, x: Tensor) -> None:
    """Run some inputs x (B, D), B at most `TRIED`, through the model and refuse one that cannot be scored.

    Raises:
        InputError: for a model that does not take these inputs, or whose outputs are no differentiable logits (B, Z),
            are computed in less than float32, differ when it is asked again, or depend on the other rows of a batch.
    """
    logits = _first_logits(network, x)
    network.masked = masked_classes(logits)
    network.num_classes = int(logits.shape[1])
    refuse_probabilities(logits)
    if not logits.requires_grad:
        _refuse_without_gradient(network.model)
    logits = logits.detach()
    _refuse_noise(logits, _watched_logits(network, x))
    if len(x) > 1:
        _refuse_coupling(network, x, logits)
    if network.compiling:
        _compile(network, x)


def _first_logits(network: Network, x: Tensor) -> Tensor:
    """(B, Z) the outputs, in the memory format and the size of batches that the model takes."""
    try:
        outputs = _first_run(network, x)
    except _MISFITS as error:
        _let_through(error)
        _refuse_layout(network, x, _told(error))
        _refuse_to_run(network, x, error)
    misfit = isinstance(outputs, Tensor) and outputs.shape[:1] != x.shape[:1]
    if misfit and _has(network.model, nn.modules.conv._ConvNd):  # which takes a single picture without a batch axis
        _refuse_layout(network, x, f"it returns shape {tuple(outputs.shape)}")
    return check_outputs(outputs, len(x))


def _first_run(network: Network, x: Tensor) -> Any:
    """What the model returns for x as it is; else for a copy, for contiguous images, or in batches of full size."""
    try:
        return network.run(network.leaf(x), len(x))
    except _MISFITS as error:
        _let_through(error)
        first = error
    for setting, value in (
        *([("copies", True)] if "leaf Variable that requires grad" in str(first) else []),  # changed in place
        *([("channels_last", False)] if network.channels_last else []),  # .view of its feature maps
        *([("fixed_batch", network.batch_size)] if len(x) < network.batch_size else []),  # exported for one size
    ):
        setattr(network, setting, value)
        try:
            return network.run(network.leaf(x), len(x))
        except _MISFITS as error:
            _let_through(error)
    raise first


def _watched_logits(network: Network, x: Tensor) -> Tensor:
    """(B, Z) logits of another evaluation, in which no number that depends on x is of less than float32.

    Raises:
        InputError: if some number is, or the model's parameters or buffers are.
    """
    leaf = network.leaf(x)
    watch = LowPrecision(leaf)
    try:
        with watch:
            logits = network.run(leaf, len(x))
        seen = watch.seen
    except _MISFITS as error:  # some operations cannot be watched: what they return must do
        _let_through(error)
        logits = network.run(leaf, len(x))
        seen = watch.seen or _coarse(logits)
    refuse_low_precision(network.model, seen)
    return logits.detach()


def _coarse(logits: Tensor) -> str:
    """The lower precision that all logits are numbers of, if there is one."""
    for kind in (torch.bfloat16, torch.float16):
        if bool((logits == logits.to(kind).to(logits.dtype)).all()):
            return f"{kind}, of which all its logits are numbers"
    return ""


def _refuse_noise(first: Tensor, again: Tensor) -> None:
    """Refuse a model that answers otherwise when it is asked twice.

    Raises:
        InputError: if so.
    """
    differing = differing_rows(first, again, share=_TWICE)
    if differing:
        refuse(
            f"the model returns other logits for {differing} of {len(first)} inputs when it is asked again",
            "an input has a distance to another label only if it always has the same label",
            "Switch off noise, sampling and dropout in eval mode, as in functional.dropout(x, p, self.training), and "
            "the observers of a network that is being quantised; behind a function, call eval() on the network",
        )


def _refuse_coupling(network: Network, x: Tensor, together: Tensor) -> None:
    """Refuse a model whose logits of a row depend on its place or on the other rows of its batch.

    Raises:
        InputError: if so, or for a model that takes batches of one size only, and not of `batch_size`.
    """
    ends = torch.tensor([0, len(x) - 1], device=x.device)
    turned = network.logits(x.flip(0)).flip(0)
    try:
        alone = torch.cat([network.logits(x[:1]), network.logits(x[-1:])])
    except _MISFITS as error:
        _let_through(error)
        if network.fixed_batch:
            _refuse_to_run(network, x[:1], error)
        network.fixed_batch = network.batch_size
        try:
            alone = torch.cat([network.logits(x[:1]), network.logits(x[-1:])])
        except _MISFITS:
            _refuse_to_run(network, x[:1], error)
    differing = differing_rows(together, turned, share=_ALONE) + differing_rows(together[ends], alone, share=_ALONE)
    if differing:
        refuse(
            f"the model's logits of an input depend on its batch: {differing} of {len(x) + 2} rows changed when they "
            "were alone or in another order",
            "the robustness of an input is that of the input alone",
            "Give batch norm its running statistics, and normalise or compare within each input only; behind a "
            "function, call eval() on the network; score a dynamically quantised network as it was before",
        )


def _refuse_without_gradient(model: Any) -> NoReturn:
    tokens = f"; if its inputs are token ids, {TOKENS}" if _has(model, nn.Embedding) else ""
    refuse(
        "the model's logits do not depend differentiably on its input",
        "attacks follow input gradients",
        "Remove detach(), no_grad, argmax, integer casts and numpy steps from its forward; score a quantised network "
        f"as it was before{tokens}",
    )


def _refuse_layout(network: Network, x: Tensor, found: str) -> None:
    """Refuse inputs that the model takes when their axes are arranged in another way, and say in which.

    Raises:
        InputError: if there is such a way.
    """
    shape = (len(x), *network.input_shape)
    for arranged, how in _arrangements(x.reshape(shape)):
        try:
            with torch.no_grad():
                outputs = network.model(arranged.to(network.dtype))
        except _MISFITS as error:
            _let_through(error)
            continue
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == len(arranged) and outputs.shape[1] > 1:
            refuse(
                f"the model does not take inputs of shape (N, {', '.join(map(str, shape[1:]))}) ({found})",
                f"it takes (N, {', '.join(map(str, arranged.shape[1:]))})",
                f"Pass {how}",
            )


def _arrangements(x: Tensor) -> Iterator[tuple[Tensor, str]]:
    """Other arrangements of the axes of a batch, and how a user makes them of an array or tensor."""
    if x.ndim == 3:
        if 1 < len(x) < TRIED:  # these are all inputs that there are: perhaps the channels of one picture
            yield x.unsqueeze(0), "`inputs[None]`: a single picture is a batch of one"
        yield x.unsqueeze(1), "`inputs[:, None]`: pictures have a channel axis, (N, C, H, W)"
    if x.ndim == 4:
        to_first = "`inputs.transpose(0, 3, 1, 2)` of an array, `inputs.permute(0, 3, 1, 2)` of a tensor"
        yield x.permute(0, 3, 1, 2).contiguous(), f"{to_first}: channels come first, (N, C, H, W)"
        to_last = "`inputs.transpose(0, 2, 3, 1)` of an array, `inputs.permute(0, 2, 3, 1)` of a tensor"
        yield x.permute(0, 2, 3, 1).contiguous(), f"{to_last}: channels come last, (N, H, W, C)"
    if x.ndim > 2:
        yield x.flatten(1), "`inputs.reshape(len(inputs), -1)`: one row an input"


def _refuse_to_run(network: Network, x: Tensor, error: Exception) -> NoReturn:
    """Refuse a model that raises an error for a batch of such inputs."""
    size, told = _exported_batch(network.model), _told(error)
    if size:
        refuse(
            f"the model was exported for batches of {size}, batch_size is {network.batch_size}",
            "it must take batches of that size, or of any",
            f"Pass batch_size={size}, or export it with dynamic_shapes=({{0: torch.export.Dim.DYNAMIC}},)",
        )
    if "numpy() on Tensor that requires grad" in told:
        _refuse_without_gradient(network.model)
    fix = (
        "Check their shape, and that the model needs nothing beside them; one that is made for batches of one size "
        "takes that size as batch_size"
    )
    if "embedding" in told:
        fix = f"If they are token ids, {TOKENS}"
    shape = (len(x), *network.input_shape)
    refuse(f"the model cannot run on inputs of shape {shape} ({told})", "it takes a batch of the inputs", fix)


def _exported_batch(model: Any) -> int:
    """The one size of batches that a model from torch.export takes; 0 for other models."""
    if not isinstance(model, torch.fx.GraphModule):
        return 0
    for node in model.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, Tensor) and value.ndim and isinstance(value.shape[0], int):
            return int(value.shape[0])
    return 0


def _compile(network: Network, x: Tensor) -> None:
    """Compile the forward with and without gradients and the backward, at the one shape that will be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the compiler's own, about itself
            network.compile()
            network.logits(x[:1])
            network.linearise(x[:1], torch.full((1,), -1, device=x.device), min(2, network.num_classes - 1))
    except Exception as error:  # whatever a compiler and a user's model may raise between them
        refuse(
            f"torch.compile cannot run this model ({_told(error)})",
            "compile=True needs a model and a machine that torch.compile supports (a C++ compiler on CPUs)",
            "Score without compile; the results are the same",
        )


def _let_through(error: BaseException) -> None:
    """Raise an error that says nothing of the model: the device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error


def _told(error: BaseException) -> str:
    """An error's name and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _has(model: Any, kind: type[nn.Module]) -> bool:
    return isinstance(model, nn.Module) and any(isinstance(part, kind) for part in model.modules())
