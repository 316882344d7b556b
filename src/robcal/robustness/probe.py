"""What a model must be for its outputs to mean anything: checks of what it returned, before any work starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robcal.checks import refuse

#: Probabilities of one input miss a sum of 1 by at most this many units of rounding of their dtype.
_SUM_ULPS = 16


def check_outputs(outputs: Any, num_rows: int) -> Tensor:
    """Return the outputs if they can be the logits of `num_rows` inputs: one tensor (B, Z), Z >= 2.

    Args:
        outputs: what the model's forward returned.
        num_rows: B, how many inputs it was given.

    Raises:
        InputError: for a tuple, a dictionary or another object in place of a tensor, and for other shapes.

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
            "For one score s of a binary classifier, of shape (B,), return torch.stack([-s, s], 1) / 2",
        )
    return outputs


def _entry(outputs: Any) -> str:
    """How the logits are most likely taken out of something that is no tensor."""
    if hasattr(outputs, "logits"):
        return "model(x).logits"
    if isinstance(outputs, dict):
        return f"one of model(x)[key], keys {', '.join(map(repr, outputs))}"
    return "for example model(x)[0]"


def are_probabilities(logits: Tensor) -> bool:
    """Whether all rows of (B, Z) outputs are probability vectors: values in [0, 1] whose sum is 1 up to rounding.

    Logits that are so by chance do not occur in more than a few rows; ask for two or more. Logarithms of probabilities
    are logits.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.0, 3.0]])
        >>> are_probabilities(scores), are_probabilities(scores.softmax(1)), are_probabilities(scores.log_softmax(1))
        (False, True, False)
    """
    values = logits.detach()
    within = _SUM_ULPS * torch.finfo(values.dtype).eps
    inside = bool((values >= 0).all()) and bool((values <= 1 + within).all())
    return inside and bool(((values.double().sum(1) - 1).abs() <= within).all())


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
