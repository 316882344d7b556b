"""What "verified" demands: a lead over the rounding of the two logits that compete alone (method, section 1)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ReluNet, linear_distance, linear_model, relu_case
from torch import nn

from robcal.base.checks import InputError
from robcal.robustness.attacks import attack_batch
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.ddn import DDN
from robcal.robustness.fidelity import fidelity
from robcal.robustness.long_projection import LongProjection
from robcal.robustness.projection import Projection
from robcal.robustness.scoring import score

#: By name, with few iterations: on linear models all are exact.
METHODS: dict[str, Any] = {
    "auto": "auto",
    "projection": "projection",
    "first-order": "first-order",
    "carlini-wagner": CarliniWagner(binary_search_steps=3, max_iterations=60, restarts=4),
    "ddn": DDN(max_iterations=40, restarts=4),
    "long-projection": LongProjection(restarts=2),
}
MASKS = (-1e4, -65504.0, -1e9, -np.inf)


def linear_case(count: int = 30) -> tuple[nn.Linear, torch.Tensor]:
    rng = np.random.default_rng(3)
    model = linear_model(rng.normal(size=(3, 8)), rng.normal(size=3) * 0.2)
    return model, torch.tensor(rng.uniform(size=(count, 8)), dtype=torch.float32)


class Masked(nn.Module):
    """The logits of a network, and those of classes that are out of reach: before, among and behind the others."""

    def __init__(self, inner: nn.Module, mask: float) -> None:
        super().__init__()
        self.inner, self.mask = inner, mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.inner(x)
        return torch.stack([z[:, 0] + self.mask, *z[:, :2].T, z[:, 1] + self.mask, *z[:, 2:].T, z[:, 1] + self.mask], 1)


class Filled(nn.Module):
    """The logits of a network, whose last ones are overwritten by a mask, as attention masks do."""

    def __init__(self, inner: nn.Module, mask: float, live: int) -> None:
        super().__init__()
        self.inner, self.mask, self.live = inner, mask, live

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.inner(x)
        return z.masked_fill(torch.arange(z.shape[1]) >= self.live, self.mask)


class Shifted(nn.Module):
    """The logits of a network and an offset that all of them share."""

    def __init__(self, inner: nn.Module, offset: float) -> None:
        super().__init__()
        self.inner, self.offset = inner, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.offset


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("method", METHODS)
def test_distances_of_linear_models_do_not_depend_on_masked_classes(method: str, box: Any, mask: float) -> None:
    """Three live classes, three masked ones: fewer live rivals than are linearised."""
    live, x = linear_case()
    exact = linear_distance(live, x, box)
    scores = score(Masked(live, mask), x, method=METHODS[method], box=box)
    assert set(scores.status.tolist()) == {"estimate" if method == "first-order" else "verified"}
    np.testing.assert_allclose(scores.distance, exact, rtol=0.02)
    np.testing.assert_array_equal(scores.prediction, np.array([1, 2, 4])[live(x).argmax(1)])
    assert np.isin(scores.rival, [1, 2, 4]).all()
    assert np.isfinite(scores.margin).all()


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
def test_a_network_with_masked_classes_is_scored_as_the_one_without(mask: float) -> None:
    net, x = relu_case(3, 4, 10)
    exact = net.distance(x, None)
    assert np.isfinite(exact).all()
    masked = score(Masked(net, mask), x, box=None, method=LongProjection(restarts=12))
    np.testing.assert_allclose(masked.distance, exact, rtol=0.02)
    wide = ReluNet(3, 6, 9, seed=4)
    narrow = nn.Sequential(
        wide.first, nn.ReLU(), linear_model(wide.last.weight.detach()[:2], wide.last.bias.detach()[:2])
    )
    for method in ("auto", "first-order"):
        found, expected = (score(m, x, box=None, method=method) for m in (Filled(wide, mask, 2), narrow))
        np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-3)
        np.testing.assert_array_equal(found.rival, expected.rival)
        assert np.isfinite(found.distance).mean() > 0.9


@pytest.mark.slow
def test_fidelity_of_a_masked_network() -> None:
    net, x = relu_case(3, 4, 24)
    of = {
        name: [score(model, x, box=None, method=METHODS[name]) for model in (net, Masked(net, -np.inf))]
        for name in ("auto", "carlini-wagner", "ddn", "long-projection")
    }
    plain, masked = (
        fidelity(
            of["auto"][k], {name: both[k] for name, both in of.items() if name != "auto"}, num_levels=4, resamples=20
        )
        for k in (0, 1)
    )
    for key in ("same_level", "ratio_median", "verified"):
        assert masked.candidate.metrics[key].value == pytest.approx(plain.candidate.metrics[key].value, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [1e4, -1e4, 1e6])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("method", METHODS)
def test_a_common_offset_costs_what_float32_loses_and_no_more(method: str, box: Any, offset: float) -> None:
    """In units of the gap, a distance is within 2% and a dozen units of the last digit that the offset leaves."""
    live, x = linear_case()
    exact = linear_distance(live, x, box)
    scores = score(Shifted(live, offset), x, method=METHODS[method], box=box)
    logits = live(x).detach().sort(1, descending=True).values
    margin = (logits[:, 0] - logits[:, 1]).numpy()
    digit = float(np.spacing(np.float32(abs(offset))))
    assert not (scores.status == "censored").any()
    apart = np.abs(scores.distance / exact - 1) * margin
    assert (apart <= 0.02 * margin + 12 * digit).all()
    if abs(offset) == 1e4:
        assert np.median(np.abs(scores.distance / exact - 1)) < 0.02


class Halves(nn.Module):
    """A binary classifier of one score: both logits are 0 at the boundary."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.inner(x)[:, 0] - self.inner(torch.full_like(x[:1], 0.5))[:, 0]
        return torch.stack([-s, s], 1) / 2


class Squares(nn.Module):
    """Logits -‖x - c‖², computed as x·x - 2 x·c + c·c: large terms that cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.rand(10, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x * x).sum(1, keepdim=True) - 2 * x @ self.centres.T + (self.centres**2).sum(1))


def stack(*widths: int, between: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), between()]
    return nn.Sequential(*layers[:-1])


def centred(network: nn.Sequential) -> nn.Sequential:
    """The network with a last bias by which its logits are 0 on average: new ones often prefer one class everywhere."""
    network[-1].bias -= network(torch.rand(500, 64)).mean(0)
    return network


NETWORKS = {
    "linear": lambda: nn.Linear(3072, 10),
    "narrow": lambda: stack(6, 16, 4),
    "deep": lambda: centred(stack(64, 128, 128, 128, 10)),
    "wide": lambda: stack(64, 1024, 10),
    "tanh": lambda: stack(64, 256, 256, 10, between=nn.Tanh),
    "binary": lambda: Halves(stack(64, 128, 128, 1)),
    "squares": Squares,
    "log-softmax": lambda: nn.Sequential(stack(64, 128, 10), nn.LogSoftmax(1)),
    "offset": lambda: Shifted(stack(64, 128, 10), 1e4),
    "masked": lambda: Filled(stack(64, 128, 10), -1e9, 7),
    "convolutions": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 10)),
    ),
}  # fmt: skip


def near_and_far(model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Random inputs, and inputs next to a boundary of the model, by bisection: there a lead matters most."""
    a, b = torch.rand(2, 200, *shape, generator=torch.Generator().manual_seed(0))
    label = model(a).argmax(1)
    apart = label != model(b).argmax(1)
    a, b, label = a[apart][:40], b[apart][:40], label[apart][:40]
    low, high = torch.zeros(2, len(a), *([1] * len(shape)))
    for _ in range(18):
        middle = (low + high) / 2
        inside = (model(a + middle * (b - a)).argmax(1) == label).reshape(low.shape)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.cat([a, a + low * (b - a)])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_verified_points_verify_again_in_batches_of_any_size(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETWORKS[name]().eval()
    shape = {"linear": (3072,), "narrow": (6,), "convolutions": (3, 8, 8)}.get(name, (64,))
    x = near_and_far(model, shape)
    assert len(x) >= 20
    found = attack_batch(Projection(tolerance=1e-7, max_searches=40), model, x, None, None, 16)
    assert found.verified.float().mean() > 0.8
    for size in (1, 7, 64):
        labels = torch.cat([model(part).argmax(1) for part in found.point.split(size)])
        assert (labels != found.prediction)[found.verified].all(), f"batches of {size}"


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (lambda z: z.masked_fill(z > z.amax(), torch.nan) + torch.tensor([0.0, torch.nan, 0.0]), "NaN or infinite"),
        (lambda z: z + torch.tensor([0.0, torch.inf, 0.0]), "NaN or infinite"),
        (lambda z: z + torch.tensor([0.0, -torch.inf, -torch.inf]), "-inf for 2 of 3 classes"),
    ],
)
def test_other_unfinite_logits_stay_refused(then: Any, words: str) -> None:
    live, x = linear_case()
    with pytest.raises(InputError, match=words):
        score(lambda rows: then(live(rows)), x, box=None)


def test_a_class_that_is_masked_at_some_inputs_only_is_refused_and_the_hint_helps() -> None:
    live, x = linear_case()

    def model(rows: torch.Tensor) -> torch.Tensor:
        z = live(rows)
        return torch.cat([z, torch.where(rows[:, :1] > 0.5, -torch.inf, -9.0).expand(-1, 1)], 1)

    with pytest.raises(InputError, match=r"class 3 is -inf at some inputs.*clamp_min\(-1e4\)"):
        score(model, x, box=None)
    found = score(lambda rows: model(rows).clamp_min(-1e4), x, box=None)
    np.testing.assert_allclose(found.distance, linear_distance(live, x, None), rtol=0.02)
