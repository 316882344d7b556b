"""Text: how near a sentence is to another label, in the space of its token embeddings.

Token ids have no distances; the vectors that they are looked up as do. A classifier that takes `inputs_embeds` is a
differentiable function of these, and `robcal.score` finds the smallest change of all vectors of a sentence together
(l2) that changes its label. No sentence need stand behind the changed vectors: the distance says how fragile the
prediction is, as for pictures, and levels are cut by it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from robcal.base.extras import refuse_untrainable

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    refuse_untrainable(error, "robcal.integrations.text")

from robcal.base.checks import refuse
from robcal.base.types import Scores
from robcal.robustness.scoring import score

__all__ = ["OnEmbeddings", "score_text"]


class OnEmbeddings(nn.Module):
    """A text classifier as a function of its token embeddings: (B, L, E) float32 → (B, Z) logits.

    Every position counts: sentences have one length, or are scored length by length (`score_text`). For `robcal.score`
    pass `box=None`.

    Args:
        model: takes `inputs_embeds` and `attention_mask` and returns an output with `logits`, as models for sequence
            classification of Hugging Face do; it has `get_input_embeddings()`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def embed(self, input_ids: Any) -> Tensor:
        """Look token ids (B, L) up: (B, L, E), without gradient, on the CPU."""
        table: Any = self.model.get_input_embeddings
        ids = torch.as_tensor(np.asarray(input_ids), dtype=torch.int64)
        weight = next(table().parameters())
        with torch.no_grad():
            vectors: Tensor = table()(ids.to(weight.device)).float().cpu()
        return vectors

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the logits."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
        logits: Tensor = self.model(inputs_embeds=embeddings, attention_mask=mask).logits
        return logits


def score_text(
    model: nn.Module, input_ids: Any, attention_mask: Any = None, *, labels: Any = None, **options: Any
) -> Scores:
    """Score how far each sentence's embeddings are from another label.

    Sentences are scored without their padding, those of one length together: a change of the embedding of padding would
    not be one of the sentence.

    Args:
        model: see `OnEmbeddings`. Its `embed` is the table of word vectors; what the model adds to them (positions,
            types, a normalisation) is part of the model.
        input_ids: (N, L) token ids, padded.
        attention_mask: (N, L), 1 for a token and 0 for padding; default: no padding.
        labels: (N,) true classes, for `reference="label"`.
        options: further arguments of `robcal.score`; `method` is "projection" by default, as "auto" spends its effort
            by levels of all sentences together.

    Returns:
        Scores, in the order of the sentences.

    Raises:
        InputError: as `robcal.score`; and where a sentence has no token, or the arrays differ in shape.
    """
    ids = np.asarray(input_ids)
    mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
    if ids.ndim != 2 or mask.shape != ids.shape or not len(ids):
        refuse(
            f"input_ids have shape {ids.shape} and attention_mask {mask.shape}",
            "both are (N, L), with at least one sentence",
            "Pass what the tokenizer returned, with padding=True",
        )
    lengths = (mask != 0).sum(axis=1)
    if (lengths == 0).any():
        refuse(
            f"the sentence at index {int(lengths.argmin())} has no token",
            "every sentence has one at least",
            "Leave it out, or let the tokenizer add its special tokens",
        )
    network, options = OnEmbeddings(model), {"method": "projection", **options}
    parts, order = [], []
    for length in np.unique(lengths):
        index = np.flatnonzero(lengths == length)
        vectors = network.embed(ids[index][mask[index] != 0].reshape(len(index), length))
        truth = None if labels is None else np.asarray(labels)[index]
        parts.append(score(network, vectors, box=None, labels=truth, first_index=index, **options))
        order.append(index)
    back = np.argsort(np.concatenate(order))
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])[back] for name in Scores.columns()
    }
    return replace(parts[0], **joined)
