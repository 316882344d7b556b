"""A new attack is one file and one line in `ATTACKS`: the library, the command line and the references then know it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import curved_cases, linear_distance, linear_model
from torch import Tensor, nn

import robcal
from robcal.base.checks import InputError
from robcal.base.storage import load_scores, save_checkpoint
from robcal.commands.cli import main
from robcal.models import build_model
from robcal.robustness import ATTACKS, AttackEntry
from robcal.robustness.attacks import attack_batch
from robcal.robustness.reference import reference_attacks
from robcal.robustness.watched import Draws, Watched

#: The one file: steps along the gradient of the margin until the label changes, as any library of attacks may take.
FILE = '''
"""Gradient steps."""

import torch

calls = []


def points(network, x, label, rng):
    """Take Newton steps on the margin of the two largest logits."""
    calls.append(len(x))
    found = x.clone()
    for _ in range(8):
        found = found.detach().requires_grad_()
        logits = network(found)
        own = logits.gather(1, label[:, None]).squeeze(1)
        gap = own - logits.scatter(1, label[:, None], -torch.inf).amax(1)
        (slope,) = torch.autograd.grad(gap.sum(), found)
        step = (gap.clamp_min(0) / slope.square().sum(1))[:, None] * slope
        found = found - 1.01 * step
    return found
'''
Box = tuple[float, float] | None


@pytest.fixture
def newton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "own_attack.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ATTACKS, "newton", AttackEntry("own_attack:points", "a few Newton steps"))  # the one line
    yield __import__("own_attack")
    sys.modules.pop("own_attack", None)


def linear_case(count: int = 30) -> tuple[nn.Linear, Tensor]:
    rng = np.random.default_rng(0)
    return linear_model(rng.normal(size=(3, 6)), rng.normal(size=3) * 0.1), torch.tensor(
        rng.uniform(size=(count, 6)), dtype=torch.float32
    )


def test_the_library_scores_by_it(newton: Any) -> None:
    model, x = linear_case()
    model = linear_model(model.weight[:2].detach().numpy(), model.bias[:2].detach().numpy())  # its first step is exact
    scores = robcal.score(model, x, method="newton", box=None, batch_size=7)
    assert (scores.method, set(scores.status.tolist())) == ("newton", {"verified"})
    assert newton.calls == [7, 7, 7, 7, 2]
    np.testing.assert_allclose(scores.distance, linear_distance(model, x, None), rtol=2e-3)
    assert (scores.distance >= linear_distance(model, x, None) * (1 - 1e-6)).all()
    np.testing.assert_array_equal(scores.rival, 1 - scores.prediction)
    assert scores.provenance["attack"] == {"name": "newton", "seed": 0}


def test_the_command_line_scores_by_it_and_goes_on_where_it_was_stopped(
    newton: Any, tmp_path: Path, capsys: Any
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 8)).astype(np.float32), np.arange(30) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    about: dict[str, Any] = {"input_shape": (8,), "num_classes": 3}
    state = build_model("mlp", **about).state_dict()
    save_checkpoint(state, {"model": "mlp", **about}, tmp_path / "model.safetensors")
    words = ["score", "--model", str(tmp_path / "model.safetensors"), "--data", f"npz:{tmp_path / 'data.npz'}"]
    words += ["--method", "newton", "--shard-size", "5", "--device", "cpu", "--quiet"]

    def command(*more: str) -> Any:
        with pytest.raises((SystemExit, RuntimeError)) as stop:
            main([*words, *more])
        return getattr(stop.value, "code", stop.value) or 0

    assert command("--out", str(tmp_path / "whole.parquet")) == 0
    count, whole = sum(newton.calls), load_scores(tmp_path / "whole.parquet")
    assert (count, whole.method) == (len(whole), "newton")
    newton.calls.clear()
    good = newton.points

    def breaks(*arguments: Any) -> Tensor:
        if len(newton.calls) == 2:
            raise RuntimeError("stopped")
        found: Tensor = good(*arguments)
        return found

    newton.points = breaks
    assert command("--out", str(tmp_path / "s.parquet")) != 0
    newton.points = good
    assert command("--out", str(tmp_path / "s.parquet")) == 0
    assert sum(newton.calls) == count  # two shards before it was stopped, the others after
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, entry in ATTACKS.items():
        assert f"{name}: {entry.does}" in told


def test_a_class_with_as_reference_becomes_a_reference(newton: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(reference_attacks())
    assert before == {"carlini-wagner", "long-projection", "ddn"}
    ours = type("Ours", (), {"as_reference": classmethod(lambda cls, **settings: settings)})
    newton.Ours = ours
    monkeypatch.setitem(ATTACKS, "ours", AttackEntry("own_attack:Ours", "another reference"))
    found = reference_attacks(iterations=7, restarts=1, num_rivals=2)
    assert set(found) == before | {"ours"}
    assert found["ours"] == {"iterations": 7, "restarts": 1, "num_rivals": 2, "seed": 3}


def test_the_documentation_describes_every_attack() -> None:
    page = (Path(__file__).parents[2] / "docs/method.md").read_text(encoding="utf-8")
    assert {name for name in ATTACKS if f"\n- `{name}`" not in page} == set()


def no_points(network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
    return torch.full_like(x, torch.nan)


def outside(network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
    far = x + 50 * rng.normal(0)
    network.logits(far)
    return x


def unreachable(network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
    return x + 1e-9


@pytest.mark.parametrize("points", [no_points, outside, unreachable])
def test_what_an_attack_returns_is_not_believed(points: Any) -> None:
    """NaN, points outside the box and points with the same label count as not found."""
    model, x = linear_case()
    result = attack_batch(robcal_attack(points), model, x, None, (0.0, 1.0))
    assert not result.verified.any()
    assert torch.isinf(result.distance).all()
    torch.testing.assert_close(result.point, x, rtol=0, atol=0)


def robcal_attack(points: Any) -> Any:
    from robcal.robustness.attacks import make_attack

    return make_attack(points)


def test_the_best_point_of_the_way_is_kept_and_brought_to_the_boundary() -> None:
    """The attack looks at points ten times too far and at the right ones, and returns the former."""
    for model, dims in curved_cases(np.random.default_rng(0))[:1]:
        x = torch.tensor(np.random.default_rng(1).normal(size=(20, dims)), dtype=torch.float32)
        best = attack_batch(robcal_attack(robcal_ddn), model, x, None, None)

        def points(network: Watched, x: Tensor, label: Tensor, rng: Draws, near: Tensor = best.point) -> Tensor:
            network.logits(x + 1.05 * (near - x))
            return x + 10 * (near - x)

        result = attack_batch(robcal_attack(points), model, x, None, None)
        assert result.verified.all()
        np.testing.assert_allclose(result.distance, best.distance, rtol=2e-3)


def robcal_ddn(network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
    from robcal.robustness.ddn import DDN

    return DDN(max_iterations=40).points(network, x, label, rng)


class Counted(nn.Module):
    """Counts forwards and backwards of single inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.half_passes = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.half_passes += len(x)
        if x.requires_grad:
            x.register_hook(self._backward)  # type: ignore[no-untyped-call]
        out: Tensor = self.model(x)
        return out

    def _backward(self, gradient: Tensor) -> None:
        self.half_passes += len(gradient)


def test_every_forward_and_backward_is_counted(newton: Any) -> None:
    linear, x = linear_case()
    model = Counted(nn.Sequential(linear, nn.Tanh()))
    untold = []
    for name in ("newton", "ddn", "long-projection"):
        model.half_passes = 0
        told = float(robcal.score(model, x, method=name, box=None, batch_size=30).passes.sum())
        untold.append(model.half_passes / 2 - told)
    assert len(set(untold)) == 1  # the trial of the model, which costs the same for all
    assert 0 < untold[0] < 100


def test_draws_belong_to_the_example_and_fill_the_ball() -> None:
    rng = Draws(0, torch.tensor([4, 9]), 3)
    alone = Draws(0, torch.tensor([9]), 3)
    assert torch.equal(rng.normal(2)[1:], alone.normal(2))
    assert torch.equal(rng.ball(2)[1:], alone.ball(2))
    assert torch.equal(rng.ball(2, torch.tensor([1])), alone.ball(2))
    radius = Draws(0, torch.arange(2000), 3).ball(0).norm(dim=1)
    assert radius.max() <= 1
    assert float((radius**3).mean()) == pytest.approx(0.5, abs=0.03)  # the volume within a radius is uniform


def test_a_part_of_the_rows_is_asked_for_by_position_and_no_other_way() -> None:
    model, x = linear_case(5)

    def half(network: Watched, x: Tensor, label: Tensor, rng: Draws, told: bool = True) -> Tensor:
        at = torch.tensor([1, 3])
        assert torch.equal(network.logits(x[at], at), network.logits(x)[at])
        network.logits(x[at], at if told else None)
        return x

    attack_batch(robcal_attack(half), model, x, None, None)
    untold = functools.update_wrapper(functools.partial(half, told=False), half)
    with pytest.raises(InputError, match=r"2 points of a batch of 5.*network\(points, at\)"):
        attack_batch(robcal_attack(untold), model, x, None, None)
