"""What users' models do: those that can be scored are scored right, the others are refused with what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from robcal.base.checks import InputError
from robcal.robustness.scoring import score


def mlp(inputs: int = 6, classes: int = 4, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes))


def rows(count: int = 24, width: int = 6) -> torch.Tensor:
    return torch.rand(count, width, generator=torch.Generator().manual_seed(1))


class Then(nn.Module):
    """A network, and something done to what it returns."""

    def __init__(self, inner: nn.Module, then: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.inner, self.then = inner, then

    def forward(self, x: torch.Tensor) -> object:
        return self.then(self.inner(x))


@pytest.mark.parametrize(
    ("then", "words", "mended"),
    [
        (lambda z: (z, z.sum()), r"returns tuple; .*model\(x\)\[0\]", lambda out: out[0]),
        (lambda z: {"out": z}, r"returns dict; .*keys 'out'", lambda out: out["out"]),
        (lambda z: z.softmax(1), r"probabilities: all 24 rows", lambda out: out.clamp_min(1e-30).log()),
        (lambda z: z[:, 0], r"shape \(24,\)", lambda s: torch.stack([-s, s], 1) / 2),
    ],
)
def test_models_that_return_something_else_than_logits(
    then: Callable[[torch.Tensor], object], words: str, mended: Callable[[object], torch.Tensor]
) -> None:
    """The hint of the refusal, carried out, gives the distances of the network that returns its logits."""
    inner, x = mlp(), rows()
    model = Then(inner, then)
    with pytest.raises(InputError, match=re.compile(words, re.DOTALL)):
        score(model, x, box=None)  # type: ignore[arg-type]
    single = Then(inner, lambda z: torch.stack([-z[:, 0], z[:, 0]], 1))
    plain = single if getattr(then(inner(x)), "ndim", 2) == 1 else inner
    expected = score(plain, x, box=None, method="projection")  # type: ignore[arg-type]
    found = score(Then(model, mended), x, box=None, method="projection")  # type: ignore[arg-type]
    np.testing.assert_allclose(found.distance, expected.distance, rtol=0.02)
    np.testing.assert_array_equal(found.prediction, expected.prediction)


def test_a_network_without_its_softmax_and_one_that_ends_in_log_softmax_are_scored_alike() -> None:
    ends = nn.Sequential(*mlp(), nn.Softmax(1))
    with pytest.raises(InputError, match="Leave out the softmax"):
        score(ends, rows(), box=None)
    plain = score(ends[:-1], rows(), box=None)
    np.testing.assert_allclose(
        score(nn.Sequential(*mlp(), nn.LogSoftmax(1)), rows(), box=None).distance, plain.distance, rtol=0.02
    )
