"""Model(s) → probabilities of a split: of one network, or the mean over the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from robcal.base import special
from robcal.base.checks import FloatArray, IntArray, refuse
from robcal.base.progress import SILENT, Reporter
from robcal.base.types import Float32Array, Predictions
from robcal.data import Split
from robcal.robustness.modes import eval_mode, float32_arithmetic
from robcal.robustness.probe import check_outputs


def softmax(logits: Float32Array) -> FloatArray:
    """Return the probabilities of (N, Z) logits, in float64."""
    return special.softmax(logits.astype(np.float64))


def predict_logits(
    model: nn.Module,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    index: IntArray | None = None,
    batch_size: int = 512,
    reporter: Reporter = SILENT,
    description: str = "predict",
) -> Float32Array:
    """Predict (M, Z) float32 logits of a split, or of its positions `index`, in eval mode; the mode stays."""
    chosen = np.arange(len(split)) if index is None else index
    if len(chosen) == 0:
        refuse("there is nothing to predict", "at least one example is needed", "Pass a split, or an index, of some")
    advance, parts = reporter.task(description, len(chosen)), []
    with eval_mode(model), torch.no_grad(), float32_arithmetic():
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            inputs = split.batch(part).to(device)
            if inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            logits = check_outputs(model(inputs), len(part))
            parts.append(logits.float().cpu().numpy())
            advance(start + len(part))
    whole = np.concatenate(parts)
    if not np.isfinite(whole).all():
        refuse(
            "the model returned NaN or infinite logits",
            "logits must be finite",
            "Replace such values of the inputs; if there are none, train again with a lower learning rate",
        )
    return whole


def mean_probs(probs: Sequence[FloatArray]) -> FloatArray:
    """Average the (N, Z) probabilities of an ensemble's members (method, section 4); one member's are its own."""
    return probs[0] if len(probs) == 1 else np.asarray(np.mean(np.stack(probs), axis=0))


def average_logits(members: Sequence[Float32Array]) -> Float32Array:
    """Return the logarithm of the mean of the members' probabilities, of shape (…, Z); of one member its own logits."""
    return members[0] if len(members) == 1 else _logs(mean_probs([softmax(logits) for logits in members]))


def _logs(probs: FloatArray) -> Float32Array:
    return np.log(np.maximum(probs, np.finfo(np.float64).tiny)).astype(np.float32)


def predict(
    models: nn.Module | Sequence[nn.Module], split: Split, *, device: torch.device | str = "cpu"
) -> Predictions:
    """Predict a split by one network or an ensemble: the mean of its members' probabilities, with their logarithms."""
    networks = [models] if isinstance(models, nn.Module) else list(models)
    if not networks:
        refuse("there is no network to predict with", "at least one is needed", "Pass a network")
    logits = [predict_logits(network, split, device=device) for network in networks]
    probs = mean_probs([softmax(values) for values in logits])
    joint = logits[0] if len(logits) == 1 else _logs(probs)
    return Predictions(probs=probs.astype(np.float32), labels=split.labels, logits=joint)
