"""Robustness in embedding space: exact distances of a linear model on mean embeddings, and a small Transformer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import robcal
from robcal.base.checks import InputError
from robcal.integrations.text import OnEmbeddings, score_text

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("transformers"),
    pytest.mark.filterwarnings("ignore"),  # the library warns of its own use of others
]


class MeanOfWords(nn.Module):
    """A linear classifier of the mean of the word vectors, which knows its mask."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 8), nn.Linear(8, classes)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        weight = attention_mask.unsqueeze(2) / attention_mask.sum(1)[:, None, None]
        return SimpleNamespace(logits=self.head((inputs_embeds * weight).sum(1)))


def sentences(count: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and masks of sentences of several lengths; padding holds the id 0."""
    draw = np.random.default_rng(0)
    mask = (np.arange(longest) < draw.integers(2, longest + 1, count)[:, None]).astype(np.int64)
    return draw.integers(1, 40, (count, longest)) * mask, mask


def test_distances_of_a_linear_model_are_exact() -> None:
    """Of L words, the mean moves by the mean of the changes: d = min_j (z_y - z_j) sqrt(L) / |w_y - w_j|."""
    torch.manual_seed(0)
    model = MeanOfWords(3).eval()
    ids, mask = sentences(40, 7)
    found = score_text(model, ids, mask)
    with torch.no_grad():
        logits = model(model.words(torch.from_numpy(ids)), torch.from_numpy(mask)).logits.double().numpy()
    weights = model.head.weight.detach().double().numpy()
    best = logits.argmax(1)
    gaps = logits[np.arange(40), best][:, None] - logits
    norms = np.linalg.norm(weights[best][:, None] - weights[None], axis=2)
    ratios = np.where(norms > 0, gaps / np.where(norms > 0, norms, 1), np.inf)
    assert (found.prediction == best).all()
    assert (found.status == "verified").all()
    exact = ratios.min(1) * np.sqrt(mask.sum(1))
    assert (found.distance >= exact * (1 - 1e-5)).all()
    assert (found.distance <= exact * 1.01).all()
    np.testing.assert_allclose(score_text(model, ids, mask, method="first-order").distance, exact, rtol=1e-4)


def test_padding_is_no_part_of_a_sentence() -> None:
    """A Transformer from a configuration: more padding changes nothing, nor does the order of the sentences."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    ids, mask = sentences(12, 5)
    found = score_text(model, ids, mask)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    assert (found.prediction == logits.argmax(1).numpy()).all()
    assert (found.status == "verified").all()
    order = np.random.default_rng(1).permutation(12)
    wider = [np.pad(array, ((0, 0), (0, 3)))[order] for array in (ids, mask)]
    np.testing.assert_allclose(score_text(model, *wider).distance, found.distance[order], rtol=1e-3)
    alone = robcal.score(
        wrapped := OnEmbeddings(model), wrapped.embed(ids[:1, : mask[0].sum()]), box=None, method="projection"
    )
    np.testing.assert_allclose(alone.distance, found.distance[:1], rtol=1e-3)


def test_what_is_no_sentence_is_refused() -> None:
    model = MeanOfWords(2).eval()
    with pytest.raises(InputError, match=r"input_ids have shape \(3,\)"):
        score_text(model, [1, 2, 3])
    with pytest.raises(InputError, match="the sentence at index 1 has no token"):
        score_text(model, [[1, 2], [0, 0]], [[1, 1], [0, 0]])
    labels = np.array([0, 1])
    found = score_text(model, [[1, 2], [3, 0]], [[1, 1], [1, 0]], reference="label", labels=labels)
    assert found.reference == "label"
    assert len(found) == 2
