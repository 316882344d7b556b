from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Calls, mlp, rows
from torch import nn

from robcal.data import Split
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.scoring import score
from robcal.training.predict import predict_logits

NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    if NEWER:
        torch.backends.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


def newer() -> None:
    torch.backends.fp32_precision = "tf32"


def newer_for_products() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def older() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def bfloat16_products() -> None:
    torch.set_float32_matmul_precision("medium")


def state() -> dict[str, Any]:
    """What torch says of the precision of float32 products, in both ways; "mixed" where it refuses to say."""
    told: dict[str, Any] = {}
    for name, ask in {
        "products": torch.get_float32_matmul_precision,
        "convolutions": lambda: torch.backends.cudnn.allow_tf32,
        "products on a GPU": lambda: torch.backends.cuda.matmul.allow_tf32,
        **({"newer": lambda: torch.backends.cuda.matmul.fp32_precision} if NEWER else {}),
        **({"newer convolutions": lambda: torch.backends.cudnn.conv.fp32_precision} if NEWER else {}),
        **({"newer on a CPU": lambda: torch.backends.mkldnn.matmul.fp32_precision} if NEWER else {}),
    }.items():
        try:
            told[name] = ask()
        except RuntimeError:
            told[name] = "mixed"
    return told


class Asks(nn.Module):
    """A linear model that asks, in its forward, how products are computed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(64, 5)
        self.told: list[dict[str, Any]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.told.append(state())
        return self.linear(x)


@pytest.mark.parametrize(
    "setting", [older, bfloat16_products, *([newer, newer_for_products] if NEWER else [])], ids=lambda f: f.__name__
)
def test_products_are_float32_while_scoring_and_predicting_and_the_setting_is_put_back(
    setting: Callable[[], None],
) -> None:
    x = torch.rand(40, 64, generator=torch.Generator().manual_seed(0))
    split = Split(x.numpy(), np.arange(40) % 5)
    expected, logits = score(Asks(), x, box=None), predict_logits(Asks(), split)
    setting()
    before, model = state(), Asks()
    np.testing.assert_array_equal(score(model, x, box=None).distance, expected.distance)
    np.testing.assert_array_equal(predict_logits(model, split), logits)
    assert state() == before
    told = {key: {each[key] for each in model.told} for key in before}
    assert told["products"] == {"highest"}
    assert told["convolutions"] == told["products on a GPU"] == {False}
    assert not NEWER or told["newer"] == told["newer convolutions"] == told["newer on a CPU"] == {"ieee"}


def at_default(model: Calls, x: torch.Tensor) -> torch.Tensor:
    """Take the product with a tensor of the default dtype, which must be that of the network."""
    return model.inner(x) @ torch.eye(4, device=x.device)


ATTACKS = ["auto", "projection", "quick", "first-order", "ddn", "long-projection", CarliniWagner(max_iterations=10)]


@pytest.mark.parametrize("method", ATTACKS, ids=str)
def test_scores_do_not_depend_on_the_default_dtype_and_device(method: Any) -> None:
    """Users set float64 for all they do, and a GPU. The device "meta" holds no numbers: nothing can be made on it."""
    x, network = rows(8), mlp()
    expected = score(network, x, box=(0.0, 1.0), method=method).distance
    torch.set_default_device("meta")
    try:
        np.testing.assert_array_equal(score(network, x, box=(0.0, 1.0), method=method).distance, expected)
    finally:
        torch.set_default_device(None)
    double = Calls(mlp().double(), at_default)
    expected = score(double.inner, x, box=None, method=method).distance
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(score(double, x, box=None, method=method).distance, expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
