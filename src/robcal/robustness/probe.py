"""What a model must be for its outputs to mean anything: checks of what it returned, before any work starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robcal.base.checks import refuse

#: Probabilities of one input miss a sum of 1 by at most this many units of rounding of their dtype.
_SUM_ULPS = 16


def check_outputs(outputs: Any, num_rows: int) -> Tensor:
    """Return the outputs if they can be the logits of `num_rows` inputs: one tensor (B, Z), Z >= 2.

    Args:
        outputs: what the model's forward returned.
        num_rows: B, how many inputs it was given.

    Raises:
        InputError: for a tuple, a dictionary or another object in place of a tensor, and for other shapes or numbers.

    Example:
        >>> check_outputs(torch.zeros(2, 3), 2).shape
        torch.Size([2, 3])
    """
    if not isinstance(outputs, Tensor):
        refuse(
            f"the model returns {type(outputs).__name__}",
            "it must return one tensor of logits (B, Z)",
            f"Wrap it in a module whose forward returns the logits, {_entry(outputs)}",
        )
    if outputs.ndim != 2 or outputs.shape[0] != num_rows or outputs.shape[1] < 2:
        refuse(
            f"the model returns shape {tuple(outputs.shape)} for {num_rows} inputs",
            "logits have shape (B, Z) with at least two classes",
            _of_shape(outputs),
        )
    if not outputs.is_floating_point():
        refuse(
            f"the model returns {outputs.dtype}",
            "logits are floating-point numbers",
            "Return them as they are before any argmax, rounding or quantisation; of complex outputs model(x).real or "
            "model(x).abs(), as in its training",
        )
    return outputs


def _of_shape(outputs: Tensor) -> str:
    """How logits (B, Z) are made of outputs of another shape."""
    if outputs.ndim > 2 and outputs.shape[1] > 1 and outputs[0].numel() == outputs.shape[1]:
        return "Return model(x).flatten(1), without the axes of length 1"
    if bool(((outputs >= 0) & (outputs <= 1)).all()):
        return (
            "Leave out the sigmoid that ends the model, and of its score s of shape (B,) return "
            "torch.stack([-s, s], 1) / 2; of a probability p of class 1 the score is torch.logit(p)"
        )
    return "For one score s of a binary classifier, of shape (B,), return torch.stack([-s, s], 1) / 2"


def _entry(outputs: Any) -> str:
    """How the logits are most likely taken out of something that is no tensor."""
    if hasattr(outputs, "logits"):
        return "model(x).logits"
    if isinstance(outputs, dict):
        return f"one of model(x)[key], keys {', '.join(map(repr, outputs))}"
    return "for example model(x)[0]"


def are_probabilities(logits: Tensor) -> bool:
    """Tell whether all rows of (B, Z) outputs are probabilities: in [0, 1], with a sum of 1 up to rounding.

    Rows that are all alike can be so by chance, and tell nothing: False. Logarithms of probabilities are logits.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.0, 3.0]])
        >>> are_probabilities(scores), are_probabilities(scores.softmax(1)), are_probabilities(scores.log_softmax(1))
        (False, True, False)
    """
    values = logits.detach()
    within = _SUM_ULPS * torch.finfo(values.dtype).eps
    inside = bool((values >= 0).all()) and bool((values <= 1 + within).all())
    varied = bool((values != values[:1]).any())
    return varied and inside and bool(((values.double().sum(1) - 1).abs() <= within).all())


def refuse_probabilities(logits: Tensor) -> None:
    """Refuse a model whose outputs (B, Z) are probabilities: a softmax ends it where robcal expects logits.

    Raises:
        InputError: if so.
    """
    if are_probabilities(logits):
        refuse(
            f"the model returns probabilities: all {len(logits)} rows that were tried lie in [0, 1] and sum to 1",
            "it must return logits, whose differences neither saturate nor vanish",
            "Leave out the softmax that ends it, or wrap it in a module that returns model(x).clamp_min(1e-30).log()",
        )


def masked_classes(logits: Tensor) -> Tensor:
    """Return (Z,) bool, which classes are masked by -inf in the logits (B, Z) of clean inputs.

    Raises:
        InputError: NaN or +inf, a class that is masked at some inputs only, or fewer than two that are not.

    Example:
        >>> masked_classes(torch.tensor([[0.5, -torch.inf, 1.0], [0.1, -torch.inf, 0.0]]))
        tensor([False,  True, False])
    """
    masked = torch.isneginf(logits[0])
    refuse_unfinite(logits, masked)
    if int((~masked).sum()) < 2:
        refuse(
            f"the model returns -inf for {int(masked.sum())} of {len(masked)} classes",
            "an input has another label only if two classes or more have finite logits",
            "Leave at least two classes unmasked",
        )
    return masked


def refuse_unfinite(logits: Tensor, masked: Tensor) -> None:
    """Refuse logits (B, Z) of clean inputs that are not finite, but for the -inf of masked classes (Z,).

    Raises:
        InputError: if there are any.
    """
    other = torch.isneginf(logits) != masked
    bad = torch.isnan(logits) | torch.isposinf(logits)
    if bool(bad.any()):
        refuse(
            f"the model returns NaN or infinite logits for {int(bad.any(1).sum())} of {len(logits)} inputs of a batch",
            "logits are finite, or -inf for a class that is masked at all inputs",
            "Check its weights and the scale of its inputs",
        )
    if bool(other.any()):
        refuse(
            f"the model's logit of class {int(other.any(0).nonzero()[0])} is -inf at some inputs and finite at others",
            "a class is masked by -inf at all inputs or at none",
            "Bound the logits from below, for example logits.clamp_min(-1e4)",
        )


def differing_rows(first: Tensor, second: Tensor, *, share: float) -> int:
    """Return how many rows of two evaluations (B, Z) of the same inputs differ by more than rounding explains.

    What is compared is the gap between the two largest logits of a row, which decides its label: masked classes and
    common offsets do not count.

    Args:
        first: logits of one evaluation.
        second: of the other.
        share: of the typical (median) gap, by which two may differ beside the last digits of the logits.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 3.0, -torch.inf]])
        >>> differing_rows(logits, logits + 7, share=1e-4), differing_rows(logits, logits.flip(0), share=1e-4)
        (0, 2)
    """
    best = first.topk(2, dim=1).indices
    one, other = first.gather(1, best), second.gather(1, best)
    gap, there = one[:, 0] - one[:, 1], other[:, 0] - other[:, 1]
    digits = 2.0**-20 * torch.maximum(one.abs().sum(1), other.abs().sum(1))
    return int((~((gap - there).abs() <= share * gap.median() + digits)).sum())


class LowPrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches what torch computes, and notes the first number of less than float32 that depends on an input.

    Autocast regions, casts to bfloat16 and back and the wrappers of training engines all show here, whatever the dtype
    of the outputs; scripted, exported and compiled models too (torch runs the latter uncompiled while it is watched).

    Args:
        x: the input.

    Attributes:
        seen: what was seen, "" for nothing.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with LowPrecision(x) as watch:
        ...     _ = (x + 1).bfloat16().float()
        >>> watch.seen
        'torch.bfloat16 (in aten._to_copy)'
    """

    supports_higher_order_operators = True

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = ""
        self._dependent = {id(x): x}  # kept alive, so that no other tensor gets their ids

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and look at what it returns if it was given something that depends on the input."""
        outputs = func(*args, **(kwargs or {}))
        if any(id(value) in self._dependent for value in tree_leaves((args, kwargs))):
            for value in tree_leaves(outputs):
                if isinstance(value, Tensor):
                    self._dependent[id(value)] = value
                    if value.is_floating_point() and value.dtype not in _ENOUGH and not self.seen:
                        self.seen = f"{value.dtype} (in {getattr(func, '_overloadpacket', func)})"
        return outputs


#: Precisions in which labels and distances may be decided.
_ENOUGH = (torch.float32, torch.float64)


def refuse_low_precision(model: Any, seen: str) -> None:
    """Refuse a model that computes in less than float32.

    Args:
        model: the model, which tells whether an engine has wrapped it.
        seen: of `LowPrecision`.

    Raises:
        InputError: if something was seen.
    """
    if not seen:
        return
    parts = model.modules() if isinstance(model, nn.Module) else []
    fix = "Take the autocast region or the casts out of its forward; copy.deepcopy(model).float() undoes half layers"
    if any(hasattr(part, "_original_forward") for part in parts):
        fix = "Take off what accelerate wrapped around it: accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
    refuse(f"the model computes in {seen}", "labels and distances are decided in float32 throughout", fix)


def parameter_dtype(model: Any) -> torch.dtype:
    """Return the dtype that a model's inputs take: float64 if all its parameters are float64, else float32.

    Raises:
        InputError: if any of its parameters or buffers has a lower precision, no values, or is of inference mode.
    """
    if not isinstance(model, nn.Module):
        return torch.float32
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta:
            refuse(
                f"the model's {name} has no values yet",
                "a model with weights is scored",
                "Load its weights; a lazy layer takes its shape from a first batch: model(torch.as_tensor(inputs[:2]))",
            )
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_inference():
            refuse(
                f"the model's {name} was made in torch.inference_mode()",
                "gradients go through it",
                "Score a copy, which has tensors of its own: copy.deepcopy(model)",
            )
    floating = [(name, value) for name, value in model.named_parameters() if value.is_floating_point()]
    buffers = [(name, value) for name, value in model.named_buffers() if value.is_floating_point()]
    for name, value in (*floating, *buffers):
        if value.dtype not in _ENOUGH:
            refuse(
                f"the model's {name} is {value.dtype}",
                "labels and distances are decided in float32",
                "Score a copy in float32: copy.deepcopy(model).float()",
            )
    double = bool(floating) and all(value.dtype == torch.float64 for _, value in floating)
    return torch.float64 if double else torch.float32
