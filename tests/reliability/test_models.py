"""What users' models do: those that can be scored are scored right, the others are refused with what to do."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Calls, Forward, mlp, rows
from torch import nn

from robcal.base.checks import InputError
from robcal.data import Split
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.scoring import score
from robcal.robustness.trial import TRIED
from robcal.training.predict import predict_logits


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
        (lambda z: z.softmax(1), r"probabilities: all 16 rows", lambda out: out.clamp_min(1e-30).log()),
        (lambda z: torch.complex(z, z.sin()), r"returns torch\.complex64; .*model\(x\)\.real", lambda out: out.real),
        (lambda z: z[:, 0], r"shape \(16,\)", lambda s: torch.stack([-s, s], 1) / 2),
        (lambda z: z[:, :, None, None], r"shape \(16, 4, 1, 1\).*flatten\(1\)", lambda out: out.flatten(1)),
        (
            lambda z: z[:, 0].sigmoid(),  # whose sign says nothing: one class would be predicted throughout
            r"Leave out the sigmoid.*the score is torch\.logit\(p\)",
            lambda p: torch.stack([-torch.logit(p), torch.logit(p)], 1) / 2,
        ),
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


@pytest.mark.parametrize("rounds", [torch.Tensor.long, lambda z: torch.quantize_per_tensor(z, 0.1, 0, torch.qint8)])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_integers_are_refused_in_place_of_logits(rounds: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"returns torch\.q?int\d+; .* before any argmax, rounding or quantisation"):
        score(Then(mlp(), rounds), rows(), box=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="logits are floating-point numbers"):
        predict_logits(Then(mlp(), torch.Tensor.long), Split(rows().numpy(), np.arange(len(rows())) % 4))


def _quantised(kind: str) -> nn.Module:
    """A network as PyTorch quantises it."""
    if kind == "dynamic":
        return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8)
    wrapped = torch.ao.quantization.QuantWrapper(mlp()).train()
    wrapped.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    torch.ao.quantization.prepare_qat(wrapped, inplace=True)(rows(200))
    return wrapped.eval() if kind == "observed" else torch.ao.quantization.convert(wrapped.eval())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dynamic", "depend on its batch.*score a dynamically quantised network as it was before"),
        ("static", "do not depend differentiably.*score a quantised network as it was before"),
        ("observed", "other logits.*observers of a network that is being quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization warns that it is deprecated
def test_quantised_networks_are_refused_and_the_hint_helps(kind: str, words: str) -> None:
    network = _quantised(kind)
    with pytest.raises(InputError, match=words):
        score(network, rows(), box=None)
    if kind == "observed":
        network.apply(torch.ao.quantization.disable_observer)
        assert (score(network, rows(), box=None).status == "verified").all()


def test_a_network_without_its_softmax_and_one_that_ends_in_log_softmax_are_scored_alike() -> None:
    ends = nn.Sequential(*mlp(), nn.Softmax(1))
    with pytest.raises(InputError, match="Leave out the softmax"):
        score(ends, rows(), box=None)
    plain = score(ends[:-1], rows(), box=None)
    np.testing.assert_allclose(
        score(nn.Sequential(*mlp(), nn.LogSoftmax(1)), rows(), box=None).distance, plain.distance, rtol=0.02
    )


# A deterministic function of each row --------------------------------------------------------------------------------


def dropped(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(nn.functional.dropout(x, 0.1))


def dropped_in_training(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(nn.functional.dropout(x, 0.1, model.training))


def noisy(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x + 0.001 * torch.randn_like(x))


def noisy_in_training(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x + 0.001 * torch.randn_like(x) if model.training else x)


def seeded(model: Calls, x: torch.Tensor) -> torch.Tensor:
    """The same noise at each call, by the place of a row in its batch."""
    return model.inner(x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


def centred(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x - x.mean(0))


def centred_alone(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("does", "words", "mended"),
    [
        (dropped, "other logits for .* of 16 inputs.*functional.dropout", dropped_in_training),
        (noisy, "other logits for .* of 16 inputs.*noise", noisy_in_training),
        (seeded, "depend on its batch", noisy_in_training),
        (centred, "depend on its batch.*within each input only", centred_alone),
    ],
)
def test_models_that_are_no_function_of_each_row_are_refused_and_the_hint_helps(
    does: Forward,
    words: str,
    mended: Forward,
) -> None:
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=words):
        score(Calls(mlp(), does), rows(), box=None)
    found = score(Calls(mlp(), mended), rows(), box=None)
    assert torch.equal(torch.get_rng_state(), before)
    if mended is not centred_alone:
        np.testing.assert_array_equal(found.distance, score(mlp(), rows(), box=None).distance)


def test_batch_norm_without_running_statistics_is_refused_and_with_them_scored() -> None:
    network = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.ReLU(), nn.Linear(16, 4)
    )
    with pytest.raises(InputError, match="batch norm its running statistics"):
        score(network, rows(), box=None)
    network[1] = nn.BatchNorm1d(16)
    with torch.no_grad():
        network.train()(rows(200))
    scores = score(network, rows(), box=None)
    assert (scores.status == "verified").all()
    np.testing.assert_allclose(score(network, rows(), box=None, batch_size=5).distance, scores.distance, rtol=1e-3)


@pytest.mark.parametrize("part", [nn.Dropout(0.5), nn.BatchNorm1d(16)])
def test_a_function_around_a_network_in_train_mode_is_refused_and_eval_helps(part: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(6, 16), part, nn.Linear(16, 4)).train()
    with pytest.raises(InputError, match=r"behind a function, call eval\(\) on the network"):
        score(lambda x: network(x), rows(), box=None)
    network.eval()
    assert (score(lambda x: network(x), rows(), box=None).status == "verified").all()


def test_what_all_logits_of_a_batch_share_is_no_fault() -> None:
    """A common offset that depends on the batch changes no label."""
    model = Calls(mlp(), lambda self, x: self.inner(x) - self.inner(x).max())
    np.testing.assert_allclose(
        score(model, rows(), box=None).distance, score(mlp(), rows(), box=None).distance, rtol=1e-3
    )


def test_a_single_input_is_scored_too() -> None:
    one = score(mlp(), rows()[:1], box=None)
    np.testing.assert_allclose(one.distance, score(mlp(), rows(), box=None).distance[:1], rtol=1e-3)


# Float32 throughout --------------------------------------------------------------------------------------------------


def autocast(model: Calls, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.inner[:2](x)  # type: ignore[index]
    return model.inner[2](hidden.float())  # type: ignore[index]


def cast_and_back(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x.half().float())


def half_constant(model: Calls, x: torch.Tensor) -> torch.Tensor:
    """Numbers of low precision that do not depend on the input are constants of the function."""
    return model.inner(x - torch.full((6,), 0.25, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", ["eager", "compiled", "exported", "traced"])
@pytest.mark.parametrize(("does", "seen"), [(autocast, "torch.bfloat16"), (cast_and_back, "torch.float16")])
def test_models_that_compute_in_less_than_float32_are_refused(does: Forward, seen: str, kind: str) -> None:
    model: nn.Module = Calls(mlp(), does).eval()
    if kind == "compiled":
        model = torch.compile(model, backend="aot_eager")  # type: ignore[assignment]
        model(rows(16))
    if kind == "exported":
        model = torch.export.export(model, (rows(4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    if kind == "traced":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.jit.trace(model, rows(4))
    with pytest.raises(InputError, match=f"computes in {seen}.*autocast region or the casts out of its forward"):
        score(model, rows(), box=None)


def test_constants_of_low_precision_are_no_fault() -> None:
    plain = Calls(mlp(), lambda self, x: self.inner(x - 0.25))
    found = score(Calls(mlp(), half_constant), rows(), box=None)
    np.testing.assert_array_equal(found.distance, score(plain, rows(), box=None).distance)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_any_parameter_or_buffer_of_low_precision_is_named_and_the_hint_helps(kind: torch.dtype) -> None:
    network = nn.Sequential(*mlp(), nn.BatchNorm1d(4))
    last = copy.deepcopy(network)
    last[2].bias.data = last[2].bias.data.to(kind)
    buffer = copy.deepcopy(network)
    buffer[3].running_var = buffer[3].running_var.to(kind)
    for model, name in ((last, "2.bias"), (buffer, "3.running_var"), (copy.deepcopy(network).to(kind), "0.weight")):
        with pytest.raises(InputError, match=rf"the model's {name} is {kind}.*copy\.deepcopy\(model\)\.float\(\)"):
            score(model, rows(), box=None)
        found = score(copy.deepcopy(model).float(), rows(), box=None)
        assert np.median(found.distance / score(network, rows(), box=None).distance) == pytest.approx(1, rel=0.02)


def test_what_an_engine_wrapped_for_bfloat16_is_refused_and_unwrapped_it_is_scored() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model = accelerator.prepare(mlp())
    with pytest.raises(InputError, match=r"accelerator\.unwrap_model\(model, keep_fp32_wrapper=False\)"):
        score(model, rows(), box=None)
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    np.testing.assert_array_equal(score(model, rows(), box=None).distance, score(mlp(), rows(), box=None).distance)
    AcceleratorState._reset_state(reset_partial_state=False)


def test_what_cannot_be_watched_is_judged_by_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise NotImplementedError("there was no rule registered")

    monkeypatch.setattr("robcal.robustness.probe.LowPrecision.__torch_dispatch__", unknown)
    assert (score(mlp(), rows(), box=None).status == "verified").all()
    with pytest.raises(InputError, match=r"bfloat16, of which all its logits are numbers"):
        score(Calls(mlp(), lambda self, x: self.inner(x).bfloat16().float()), rows(), box=None)


# Models of other kinds -----------------------------------------------------------------------------------------------


def test_models_that_normalise_in_place_are_scored_and_the_array_stays() -> None:
    def in_place(model: Calls, x: torch.Tensor) -> torch.Tensor:
        return model.inner(x.sub_(0.4).div_(0.3))

    def view_in_place(model: Calls, x: torch.Tensor) -> torch.Tensor:
        x[:, :3] -= 0.4
        x[:, 3:] -= 0.4
        return model.inner(x / 0.3)

    expected = score(Calls(mlp(), lambda self, x: self.inner((x - 0.4) / 0.3)), rows()).distance
    for inputs in (rows(), rows().numpy(), rows().requires_grad_()):
        for does in (in_place, view_in_place):
            found = score(Calls(mlp(), does), inputs)
            np.testing.assert_allclose(found.distance, expected, rtol=1e-5)
            assert np.array_equal(torch.as_tensor(inputs).detach().numpy(), rows().numpy())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["scripted", "frozen", "optimised"])
def test_scripted_models_are_scored_frozen_ones_too(kind: str) -> None:
    model = torch.jit.script(nn.Sequential(*mlp(), nn.Dropout(0.3)).eval())
    if kind == "frozen":
        model = torch.jit.freeze(model)
    if kind == "optimised":
        model = torch.jit.optimize_for_inference(model)
    found = score(model, rows(), box=None)
    np.testing.assert_allclose(found.distance, score(mlp(), rows(), box=None).distance, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 5, 16, 40])
def test_an_exported_model_with_one_size_of_batches_is_scored_in_such_batches(size: int) -> None:
    """The hints: batches of that size, the last one filled up; or an export for any size."""
    x = rows(43)
    plain = score(mlp(), x, box=None).distance
    model = torch.export.export(mlp().eval(), (x[:size],)).module()
    with pytest.raises(
        InputError, match=rf"exported for batches of {size}, batch_size is 256.*Pass batch_size={size}, "
    ):
        score(model, x, box=None)
    np.testing.assert_allclose(score(model, x, box=None, batch_size=size).distance, plain, rtol=1e-4)
    model = torch.export.export(mlp().eval(), (x[:5],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    np.testing.assert_allclose(score(model, x, box=None).distance, plain, rtol=1e-4)


def test_a_model_written_for_one_size_of_batches_is_scored_in_such_batches() -> None:
    model = Calls(mlp(), lambda self, x: self.inner(x.view(8, 6)))
    with pytest.raises(InputError, match="takes that size as batch_size"):
        score(model, rows(43), box=None)
    found = score(model, rows(43), box=None, batch_size=8)
    np.testing.assert_allclose(found.distance, score(mlp(), rows(43), box=None).distance, rtol=1e-4)


def test_a_compiled_model_is_scored_and_stays_compiled() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    model = torch.compile(mlp(), backend=counter, dynamic=True)
    found = score(model, rows(), box=None)
    np.testing.assert_allclose(found.distance, score(mlp(), rows(), box=None).distance, rtol=1e-4)
    assert counter.frame_count > 0  # not left uncompiled by being watched


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_models_without_gradients_are_refused_and_the_hint_helps(around: Callable[[], Any]) -> None:
    def without(model: Calls, x: torch.Tensor) -> torch.Tensor:
        with around():
            return model.inner(x)

    def numbers(model: Calls, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() @ np.ones((6, 3), np.float32))

    for does in (without, numbers):
        with pytest.raises(InputError, match=r"differentiably.*Remove detach\(\), no_grad, .*numpy steps"):
            score(Calls(mlp(), does), rows(), box=None)
    assert (score(Calls(mlp(), lambda self, x: self.inner(x)), rows(), box=None).status == "verified").all()


def test_a_model_without_values_is_refused_and_the_hint_helps() -> None:
    model, inputs = nn.Sequential(nn.LazyLinear(5)), rows().numpy()
    with pytest.raises(InputError, match=r"0\.weight has no values yet.*model\(torch\.as_tensor\(inputs\[:2\]\)\)"):
        score(model, inputs, box=None)
    model(torch.as_tensor(inputs[:2]))
    assert (score(model, inputs, box=None).status == "verified").all()
    with pytest.raises(InputError, match=r"0\.weight has no values yet.*Load its weights"):
        score(mlp().to("meta"), inputs, box=None)


def test_a_model_that_needs_more_than_inputs_is_refused_by_what_it_says() -> None:
    with pytest.raises(InputError, match=r"missing 1 required positional argument: 'mask'.*needs nothing beside them"):
        score(lambda x, mask: x * mask, rows(), box=None)  # type: ignore[misc, arg-type]


def test_the_trial_costs_the_same_for_data_of_any_size_and_no_passes() -> None:
    given: list[int] = []

    def counted(model: Calls, x: torch.Tensor) -> torch.Tensor:
        given.append(len(x))
        return model.inner(x)

    method = FirstOrder(num_rivals=1, secant=False)
    for count in (40, 80):
        given.clear()
        scores = score(Calls(mlp(), counted), rows(count), box=None, method=method)
        assert scores.passes.tolist() == [1.0] * count
        assert sum(given) == count + 3 * TRIED + 2
