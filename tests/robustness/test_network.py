from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from robcal.base.checks import InputError
from robcal.robustness.box import make_bounds
from robcal.robustness.modes import scoring_mode
from robcal.robustness.network import Network, signed_margin
from robcal.robustness.scoring import score
from robcal.robustness.trial import try_model


def small_model() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    model.train()
    model[1].eval()  # a frozen batch norm inside a model in train mode
    model[0].bias.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    return model


def state_of(model: nn.Module) -> list[object]:
    return [
        [part.training for part in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.clone().tolist() for p in model.parameters()],
        {name: value.clone().tolist() for name, value in model.state_dict().items()},
        torch.get_rng_state().tolist(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],  # noqa: NPY002
        random.getstate(),
    ]


@pytest.mark.parametrize("method", ["first-order", "projection"])
def test_scoring_leaves_model_and_random_state_as_found(method: str) -> None:
    model = small_model()
    before = state_of(model)
    score(model, torch.rand(10, 4), method=method, box=None)
    after = state_of(model)
    after[4] = before[4] = None  # torch.rand above
    assert after == before


def test_an_error_leaves_model_and_random_state_as_found() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = small_model(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(1)
            np.random.rand()  # noqa: NPY002
            random.random()
            self.calls += 1
            if self.calls == 3:
                raise KeyError("no more")
            return self.inner(x)

    model, x = Breaks(), torch.linspace(0, 1, 40).reshape(10, 4)
    before = state_of(model)
    with pytest.raises(KeyError, match="no more"):
        score(model, x)
    assert state_of(model) == before
    assert model.calls == 3


def test_dropout_and_batch_norm_are_scored_in_eval_mode() -> None:
    model, x = small_model(), torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    trained = score(model, x, box=None)
    np.testing.assert_array_equal(trained.distance, score(model.eval(), x, box=None).distance)


def test_scoring_works_inside_no_grad_and_autocast() -> None:
    model, x = small_model(), torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    plain = score(model, x, box=None).distance
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(score(model, x, box=None).distance, plain)


def test_gradients_are_those_of_the_logit_differences() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    with scoring_mode(model):
        network = Network(model, (4,), make_bounds(None, (4,)), torch.device("cpu"), dtype=torch.float64, batch_size=3)
        try_model(network, x)
        linear = network.linearise(x, torch.full((3,), -1), 9)
    assert network.num_classes == 5
    assert linear.rivals.shape == (3, 4)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0], x[row].double())
        y = int(linear.logits[row].argmax())
        for k, j in enumerate(linear.rivals[row].tolist()):
            np.testing.assert_allclose(linear.normal[row, k], (jacobian[y] - jacobian[j]).float(), rtol=1e-5, atol=1e-7)
    assert (linear.gap.diff(dim=1) >= 0).all()


def test_margin_of_negative_logits() -> None:
    logits = torch.tensor([[-5.0, -2.0, -9.0], [-1.0, -2.0, -3.0]])
    assert signed_margin(logits, torch.tensor([1, 2])).tolist() == [3.0, -2.0]


class Views(nn.Module):
    """Calls .view on a feature map, which refuses channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x).view(len(x), -1))


def test_models_that_need_contiguous_images_are_given_them() -> None:
    torch.manual_seed(0)
    model, x = Views(), torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    distance = score(model, x).distance
    flat = nn.Sequential(model.conv, nn.Flatten(), model.last)
    np.testing.assert_allclose(score(flat, x).distance, distance, rtol=1e-4)


def constant(x: torch.Tensor) -> torch.Tensor:
    return 0 * x[:, :3] + torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: x.sum(1), r"shape \(2,\)"),
        (lambda x: x[:, :1], "at least two classes"),
        (lambda x: x[:1], "for 2 inputs"),
        (lambda x: (x, x), "returns tuple"),
        (lambda x: x / 0, "NaN or infinite logits"),
        (lambda x: x.detach(), "differentiably"),
        (constant, "zero at all 2 examples"),
        (nn.Linear(4, 3).half(), "float16"),
        ("model.pt", "model is a str"),
    ],
)
def test_models_that_cannot_be_scored_are_refused(model: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        score(model, torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.9, 0.1, 0.2, 0.4]]))  # type: ignore[arg-type]
