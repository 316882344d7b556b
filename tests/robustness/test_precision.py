from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from oracles import linear_distance, linear_model
from torch import nn

from robcal.base.checks import InputError
from robcal.robustness.attacks import attack_batch, probed
from robcal.robustness.box import make_bounds
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.projection import Projection
from robcal.robustness.scoring import score

METHODS = ("first-order", "projection")


def linear_case(count: int = 40) -> tuple[nn.Linear, torch.Tensor]:
    rng = np.random.default_rng(8)
    model = linear_model(rng.normal(size=(5, 12)), rng.normal(size=5) * 0.2)
    return model, torch.tensor(rng.uniform(size=(count, 12)), dtype=torch.float32)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_distances_of_bf16_are_upper_bounds_of_the_exact_ones_and_near(box: Any) -> None:
    model, x = linear_case()
    exact = linear_distance(model, x, box)
    scores = score(model, x, box=box, precision="bf16")
    assert (scores.status == "verified").all()
    assert (scores.distance >= exact * (1 - 1e-6)).all()
    assert np.median(scores.distance / exact) < 1.01
    assert (scores.distance <= exact * 1.05).all()
    estimate = score(model, x, box=box, precision="bf16", method="first-order")
    np.testing.assert_allclose(estimate.distance, exact, rtol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_labels_and_margins_of_bf16_are_those_of_float32(method: str) -> None:
    model, x = linear_case(400)
    weight = model.weight.detach()
    with torch.no_grad():  # classes 0 and 1 all but tied at every input: bf16 logits cannot tell them apart
        model.weight[1] = weight[0] + 1e-4 * weight[1]
        model.bias[1] = model.bias[0]
        low = torch.nn.functional.linear(x.bfloat16(), model.weight.bfloat16(), model.bias.bfloat16()).argmax(1)
    full, half = (score(model, x, method=method, precision=p) for p in ("float32", "bf16"))
    assert (low.numpy() != full.prediction).any()
    np.testing.assert_array_equal(half.prediction, full.prediction)
    np.testing.assert_array_equal(half.margin, full.margin)
    np.testing.assert_array_equal(half.prediction, model(x).argmax(1))


def test_passes_of_bf16_count_the_float32_forwards(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, _ = digits
    kinds: list[torch.dtype] = []
    handle = model[0].register_forward_hook(lambda *call: kinds.extend([call[2].dtype] * len(call[1][0])))
    method = FirstOrder(num_rivals=2, secant=False)
    half = score(model, x[:20], precision="bf16", method=method)
    handle.remove()
    assert half.passes.tolist() == [2.0] * 20  # bf16 forward, two backwards, float32 forward
    assert kinds.count(torch.bfloat16) == 20
    assert kinds.count(torch.float32) == 20 + 3 * 16 + 2  # the trial too: 16 inputs three times, two of them alone
    full = score(model, x[:20], method=method)
    assert full.passes.tolist() == [1.5] * 20
    np.testing.assert_allclose(half.distance, full.distance, rtol=0.05)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_all_that_is_called_verified_verifies_again(
    digits: tuple[nn.Module, torch.Tensor, torch.Tensor], precision: str
) -> None:
    """Through the engine's own rows: the points that `score` judged, evaluated one by one in float32."""
    from robcal.robustness.engine import TensorSource, run
    from robcal.robustness.projection import Projection

    model, x, _ = digits
    flat, reference = x.flatten(1), torch.full((len(x),), -1)
    rows: list[dict[str, torch.Tensor]] = []
    with probed(
        model,
        flat[:4],
        tuple(x.shape[1:]),
        make_bounds((0.0, 1.0), tuple(x.shape[1:])),
        batch_size=16,
        precision=precision,
    ) as network:  # type: ignore[arg-type]
        run(Projection(), network, TensorSource(flat, reference), batch_size=16, emit=rows.append)
    found = {key: torch.cat([part[key] for part in rows]) for key in ("index", "point", "verified", "distance")}
    scores = score(model, x, method="projection", precision=precision, batch_size=16)  # type: ignore[arg-type]
    order = found["index"].argsort()
    np.testing.assert_array_equal(found["distance"][order].numpy(), scores.distance)
    assert found["verified"].all()
    assert (scores.status == "verified").all()
    model.eval()
    with torch.no_grad():
        for index, point in zip(found["index"].tolist(), found["point"], strict=True):
            assert int(model(point.reshape(1, *x.shape[1:])).argmax()) != scores.prediction[index]
            assert float(point.min()) >= 0
            assert float(point.max()) <= 1
            away = float((point.double() - flat[index].double()).norm())
            assert away == pytest.approx(float(scores.distance[index]), rel=1e-6)


def test_attack_points_verify_again_in_any_batch(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, _ = digits
    result = attack_batch(Projection(), model, x)
    assert result.verified.all()
    for size in (1, 7, len(x)):
        labels = torch.cat([model.eval()(part).argmax(1) for part in result.point.split(size)])
        assert (labels != result.prediction).all()


def test_bf16_is_for_float32_models() -> None:
    model, x = linear_case(4)
    with pytest.raises(InputError, match=r"bf16 with a model in torch\.float64"):
        score(model.double(), x, precision="bf16")
    with pytest.raises(InputError, match="Did you mean 'bf16'"):
        score(model, x, precision="bf61")  # type: ignore[arg-type]


# torch.compile -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without code generation: traced graphs, forward and backward, run as they are."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_compiled_scores_are_those_of_the_model_in_batches_of_one_shape(precision: str) -> None:
    shapes = set()

    class Noting(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling():
                shapes.add(len(x))
            return self.inner(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))
    x = linear_case(21)[1]
    for method in METHODS:
        plain = score(model, x, method=method, batch_size=8, precision=precision)  # type: ignore[arg-type]
        made = score(Noting(model), x, method=method, batch_size=8, precision=precision, compile=True)  # type: ignore[arg-type]
        np.testing.assert_allclose(made.distance, plain.distance, rtol=1e-4 if precision == "float32" else 2e-2)
        np.testing.assert_array_equal(made.prediction, plain.prediction)
        assert made.provenance["compile"] is True
    assert shapes == {8, 1}  # the trial before compiling, of 8 inputs and of one; compiled calls are no Python


@pytest.mark.usefixtures("quick_compiler")
def test_the_model_is_left_as_it_was_by_compiling() -> None:
    model, x = linear_case(5)
    model.train()
    before = dict(vars(model))
    score(model, x, compile=True, batch_size=4)
    assert model.training
    assert vars(model) == before
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_a_model_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler found\nand more lines")

    monkeypatch.setattr(torch, "compile", broken)
    model, x = linear_case(5)
    with pytest.raises(InputError, match=r"cannot run this model \(RuntimeError: no compiler found\).*without compile"):
        score(model, x, compile=True)
