"""Advice about models that are scored, their inputs and boxes, shards and fidelity, carried out."""

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from hint_cases import Call, Case, Steps, code_in, in_turn
from interruption import Interrupted, StopAfter
from model_samples import Calls, Forward, mlp, rows
from scipy.sparse import csr_array
from torch import nn

from robcal import score
from robcal.base.errors import InputError
from robcal.robustness.attacks import attack_batch
from robcal.robustness.box import make_bounds
from robcal.robustness.fidelity import best_of, fidelity
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.network import Network
from robcal.robustness.shards import score_in_shards

X = rows()
LABELS = np.arange(24) % 4
TOKENS = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 3))
IDS = torch.randint(0, 10, (20, 5), generator=torch.Generator().manual_seed(0))
PICTURES = np.random.default_rng(0).random((9, 8, 8, 3), dtype=np.float32)


def _score(model: Any, inputs: Any = X, box: Any = None, **options: Any) -> Any:
    found = score(model, inputs, box=box, method=FirstOrder(), **options)
    assert np.isin(found.status, ["verified", "estimate", "censored"]).all()
    return found


def _inputs(bad: Any, mend: Callable[[str], Any], model: Any = None, **options: Any) -> Callable[[Path], Steps]:
    """Inputs that are refused, and what the message makes of them."""

    def steps(folder: Path) -> Steps:
        message = yield lambda: _score(model or mlp(), bad, **options)
        yield lambda: _score(model or mlp(), mend(message), **options)

    return steps


def _coded(bad: Any, model: Any = None) -> Callable[[Path], Steps]:
    """The same, where the message holds code for arrays, for tensors, or one for each."""

    def mend(message: str) -> Any:
        for code in code_in(message):
            with contextlib.suppress(AttributeError, TypeError, InputError):
                made = eval(code, {"np": np, "inputs": bad})
                _score(model or mlp(), made)
                return made
        raise AssertionError(message)

    return _inputs(bad, mend, model)


def _pictures(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 4))


def _model(does: Forward, *mended: Forward) -> Callable[[Path], Steps]:
    """A forward that is refused, and those that the advice asks for."""
    return in_turn(lambda: _score(Calls(mlp(), does)), lambda: [_score(Calls(mlp(), way)) for way in mended])


def _autocast(model: Calls, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model.inner(x)


def _plain(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x)


def _dropped(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(nn.functional.dropout(x, 0.1))


def _dropped_in_training(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(nn.functional.dropout(x, 0.1, model.training))


def _masked(values: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    """The logits of some classes are -inf where `values` of the inputs says so."""
    return lambda model, x: model.inner(x).masked_fill(values(x), -torch.inf)


def _all_but(count: int) -> Forward:
    return _masked(lambda x: (torch.arange(4) >= count).expand(len(x), -1))


def _one_score(model: Calls, x: torch.Tensor) -> torch.Tensor:
    return model.inner(x)[:, 0]


def _of_inference_mode(folder: Path) -> Steps:
    with torch.inference_mode():
        model = mlp()
    yield lambda: _score(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    yield lambda: _score(copy.deepcopy(model))


def _at_some(x: torch.Tensor) -> torch.Tensor:
    return (torch.arange(4) == 3) & (x[:, :1] > 0.5)


def _batch_norm(folder: Path) -> Steps:
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 4))
    yield lambda: _score(network)
    network[1] = nn.BatchNorm1d(16)
    yield lambda: _score(network)


def _train_mode(folder: Path) -> Steps:
    network = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 4)).train()
    yield lambda: _score(lambda x: network(x))
    network.eval()
    yield lambda: _score(lambda x: network(x))


def _wrapped(folder: Path) -> Steps:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        model = accelerator.prepare(mlp())
        yield lambda: _score(model)
        yield lambda: _score(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
    finally:
        AcceleratorState._reset_state(reset_partial_state=False)


def _lazy(folder: Path) -> Steps:
    model = nn.Sequential(nn.LazyLinear(5))
    yield lambda: _score(model, X.numpy())
    model(X[:2])
    yield lambda: _score(model, X.numpy())


def _loaded(model: nn.Module) -> nn.Module:
    model.load_state_dict(mlp().state_dict(), assign=True)
    return model


def _exported(folder: Path) -> Steps:
    model = torch.export.export(mlp().eval(), (X[:5],)).module()
    any_size = torch.export.export(mlp().eval(), (X[:5],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    message = yield lambda: _score(model)
    size = re.search(r"Pass batch_size=(\d+)", message)
    assert size is not None
    yield lambda: (_score(model, batch_size=int(size[1])), _score(any_size))


def _without_compiler(folder: Path) -> Steps:
    with mock.patch.object(Network, "compile", side_effect=RuntimeError("no C++ compiler")):
        yield lambda: _score(mlp(), compile=True)
        yield lambda: _score(mlp())


class _Elsewhere(nn.Sequential):
    """A network that says that it is on a GPU until it is moved."""

    moved = False

    def parameters(self, recurse: bool = True) -> Any:
        return super().parameters() if self.moved else iter([SimpleNamespace(device=torch.device("cuda"))])

    def to(self, place: Any) -> Any:
        self.moved = True
        return super().to(place)


def _device(folder: Path) -> Steps:
    model = _Elsewhere(*mlp())
    message = yield lambda: _score(model, device="cpu")
    code = re.search(r"model\.to\('\w+'\)", message)
    assert code is not None
    yield lambda: _score(eval(code[0], {"model": model}), device="cpu")


def _network(dtype: torch.dtype, precision: str, device: str = "cpu") -> Network:
    with mock.patch("torch.cuda.is_bf16_supported", return_value=False):
        return Network(
            mlp(), (6,), make_bounds(None, (6,)), torch.device(device), precision=precision, dtype=dtype, batch_size=1
        )


def _shards(folder: Path) -> Steps:
    def scored(seed: int, out: str = "s.parquet", **options: Any) -> object:
        about = {"model": str(seed)}
        return score_in_shards(
            mlp(), X.numpy(), out=folder / out, about=about, box=None, method="first-order", shard_size=8, **options
        )

    with contextlib.suppress(Interrupted):
        scored(0, reporter=StopAfter(16))
    message = yield lambda: scored(1)
    parts = re.search(r"Delete (\S+) to start again", message)
    assert parts is not None
    scored(1, "other.parquet")
    for file in Path(parts[1]).iterdir():
        file.unlink()
    yield lambda: scored(1)


def _attack(x: torch.Tensor = X, label: Any = None, box: Any = None, model: nn.Module | None = None) -> Call:
    return lambda: attack_batch(FirstOrder(), model or mlp(), x, label, box)


def _bytes(folder: Path) -> Steps:
    x = (255 * X).to(torch.uint8)
    yield _attack(x)
    yield lambda: (_attack(x.float())(), score(mlp(), x))


def _normalised(folder: Path) -> Steps:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner((x - 0.5) / 0.5)

    yield _attack((X - 0.5) / 0.5, box=(0.0, 1.0))
    yield lambda: (_attack(X, box=(0.0, 1.0), model=Normalised())(), _attack((X - 0.5) / 0.5, box=(-1.0, 1.0))())


def _outside(folder: Path) -> Steps:
    shifted = (X - 0.5) / 0.5
    yield lambda: _score(mlp(), shifted, box=(0.0, 1.0))
    yield lambda: (
        _score(mlp(), shifted, box=(-1.0, 1.0)),
        _score(mlp(), shifted, box=None),
        _score(Calls(mlp(), lambda model, x: model.inner((x - 0.5) / 0.5)), X, box=(0.0, 1.0)),
    )


def _fidelity(candidate: Any, references: Any) -> Call:
    return lambda: fidelity(candidate, references, num_levels=2, resamples=20)


def _references(folder: Path) -> Steps:
    scores = _score(mlp())
    yield _fidelity(scores, {})
    yield _fidelity(scores, {"carlini-wagner": scores})


def _best(folder: Path) -> Steps:
    yield lambda: best_of({})
    yield lambda: best_of({"carlini-wagner": _score(mlp())})


def _other_model(folder: Path) -> Steps:
    scores = _score(mlp())
    yield _fidelity(scores, {"a": dataclasses.replace(scores, prediction=(scores.prediction + 1) % 4)})
    yield _fidelity(scores, {"a": _score(mlp())})


def _half_of_a_batch(folder: Path) -> Steps:
    def points(network: Any, x: Any, label: Any, rng: Any, told: bool) -> Any:
        at = torch.arange(3)
        _ = network(x[at], at) if told else network(x[at])
        return x

    def attack(told: bool) -> Any:
        return score(mlp(), X, box=None, method=lambda *parts: points(*parts, told))

    yield lambda: attack(False)
    yield lambda: attack(True)


SWAPPED = np.where(np.arange(6) == 2, 2.0, 0.0)

CASES = [
    Case("an attack that asks about some rows", r"Pass their positions: network\(points, at\)", _half_of_a_batch),
    Case("inputs that are a list", "Convert them with numpy.asarray", in_turn(
        lambda: _score(mlp(), X.tolist()),
        lambda: (_score(mlp(), np.asarray(X.tolist())), _score(mlp(), torch.stack(list(X)))),
    )),
    Case("sparse inputs", r"Pass `inputs\.toarray\(\)`", _coded(csr_array(X.numpy()))),
    Case("a sparse tensor", r"Pass `inputs\.to_dense\(\)`", _coded(X.to_sparse())),
    Case("masked inputs", "Fill them as the model expects", _coded(np.ma.masked_array(X.numpy(), X.numpy() > 0.9))),
    Case("one input", r"inputs\[None\]", _coded(X[0])),
    Case("single numbers", r"inputs\[:, None\]", _coded(X[:, 0], mlp(1))),
    Case("no inputs", "Check the split", in_turn(lambda: _score(mlp(), X[:0]), lambda: _score(mlp()))),
    Case("whole numbers", r"Convert measurements by `inputs\.float\(\)`", _coded((X * 10).long())),
    Case("whole numbers of numpy", r"Convert measurements by `np\.asarray", _coded((X * 10).long().numpy())),
    Case("token ids", "of token ids, which have no distances, score the embeddings",
         in_turn(lambda: _score(TOKENS, IDS), lambda: _score(TOKENS[1:], TOKENS[0](IDS)))),
    Case("token ids as floats", "If they are token ids, which have no distances", in_turn(
        lambda: _score(TOKENS, IDS.float()), lambda: _score(TOKENS[1:], TOKENS[0](IDS)),
    )),
    Case("token ids that are cast", "; if its inputs are token ids, which have no distances", in_turn(
        lambda: _score(Calls(TOKENS, lambda model, x: model.inner(x.long())), IDS.float()),
        lambda: _score(TOKENS[1:], TOKENS[0](IDS)),
    )),
    Case("inputs that are not finite", "as they were filled in training, or leave these inputs out", in_turn(
        lambda: _score(mlp(), torch.where(torch.arange(24)[:, None] == 3, torch.nan, X)),
        lambda: (_score(mlp(), torch.where(torch.arange(24)[:, None] == 3, X.mean(0), X)),
                 _score(mlp(), X[torch.arange(24) != 3])),
    )),
    Case("inputs outside the box", "Pass the box of these inputs, or box=None", _outside),
    Case("channels last", r"inputs\.transpose\(0, 3, 1, 2\)` of an array", _coded(PICTURES, _pictures(3))),
    Case("channels last, tensor", r"inputs\.permute\(0, 3, 1, 2\)` of a tensor",
         _coded(torch.from_numpy(PICTURES), _pictures(3))),
    Case("channels first", r"inputs\.transpose\(0, 2, 3, 1\)` of an array",
         _coded(PICTURES.transpose(0, 3, 1, 2), nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(256, 3)))),
    Case("one picture", r"Pass `inputs\[None\]`: a single picture",
         _coded(PICTURES[0].transpose(2, 0, 1), _pictures(3))),
    Case("grey pictures", r"Pass `inputs\[:, None\]`: pictures have", _coded(PICTURES[..., 0], _pictures(1))),
    Case("pictures for a model of rows", r"inputs\.reshape\(len\(inputs\), -1\)", _coded(PICTURES[..., :1], mlp(64))),
    Case("a box that is no pair", r"Pass for example box=\(0\.0, 1\.0\)",
         in_turn(lambda: _score(mlp(), box=3.0), lambda: _score(mlp(), box=(0.0, 1.0)))),
    Case("a bound a channel", r"Reshape it, for example to \(C, 1, 1\)", in_turn(
        lambda: make_bounds((np.zeros(3), np.ones(3)), (3, 8, 8)),
        lambda: make_bounds((np.zeros((3, 1, 1)), np.ones((3, 1, 1))), (3, 8, 8)),
    )),
    Case("a box that is the wrong way round", "Swap or fix them", in_turn(
        lambda: make_bounds((SWAPPED, 1.0), (6,)), lambda: make_bounds((np.minimum(SWAPPED, 0), 1.0), (6,)),
    )),
    Case("a feature that cannot move", "drop features that cannot move", in_turn(
        lambda: make_bounds((0.0, np.arange(6.0)), (6,)), lambda: make_bounds((0.0, np.arange(1.0, 6.0)), (5,)),
    )),
    Case("a model of no two classes", "Leave at least two classes unmasked", _model(_all_but(1), _all_but(2))),
    Case("logits with axes of length 1", r"Return model\(x\)\.flatten\(1\)", _model(
        lambda model, x: model.inner(x)[:, :, None], lambda model, x: model.inner(x)[:, :, None].flatten(1))),
    Case("logits that are complex", r"of complex outputs model\(x\)\.real", _model(
        lambda model, x: torch.fft.fft(model.inner(x)), lambda model, x: torch.fft.fft(model.inner(x)).real)),
    Case("the sigmoid of one score", "Leave out the sigmoid", _model(
        lambda model, x: _one_score(model, x).sigmoid(),
        lambda model, x: torch.stack([-_one_score(model, x), _one_score(model, x)], 1) / 2)),
    Case("a model of inference mode", r"copy\.deepcopy\(model\)", _of_inference_mode),
    Case("logits that are NaN", "Check its weights", in_turn(
        lambda: _score(Calls(mlp(), lambda model, x: model.inner(x) * torch.nan)), lambda: _score(mlp()),
    )),
    Case("logits that overflow", "and the scale of its inputs", in_turn(
        lambda: _score(Calls(mlp(), lambda model, x: model.inner(x).exp().exp().exp()), X * 1e4), lambda: _score(mlp()),
    )),
    Case("a class that is masked at some inputs", r"logits\.clamp_min\(-1e4\)",
         _model(_masked(_at_some), lambda model, x: _masked(_at_some)(model, x).clamp_min(-1e4))),
    Case("autocast in the forward", "Take the autocast region or the casts out", _model(_autocast, _plain)),
    Case("half precision throughout", r"copy\.deepcopy\(model\)\.float\(\)", in_turn(
        lambda: _score(mlp().bfloat16()), lambda: _score(copy.deepcopy(mlp().bfloat16()).float()),
    )),
    Case("what accelerate wrapped", r"accelerator\.unwrap_model", _wrapped),
    Case("a lazy layer", "a lazy layer takes its shape", _lazy),
    Case("a model without weights", "Load its weights", in_turn(
        lambda: _score(mlp().to("meta")), lambda: _score(_loaded(mlp().to("meta"))),
    )),
    Case("dropout in the forward", r"functional\.dropout\(x, p, self\.training\)",
         _model(_dropped, _dropped_in_training)),
    Case("batch norm without statistics", "Give batch norm its running statistics", _batch_norm),
    Case("inputs that are compared", "normalise or compare within each input only", _model(
        lambda model, x: model.inner(x - x.mean(0)), lambda model, x: model.inner(x - x.mean(1, keepdim=True)),
    )),
    Case("a function around a network in train mode", r"behind a function, call eval\(\)", _train_mode),
    Case("no gradients", r"Remove detach\(\), no_grad", _model(
        lambda model, x: model.inner(x.detach()), lambda model, x: model.inner(x),
    )),
    Case("a constant model", "Check for a constant, saturated or quantised model",
         _model(lambda model, x: 0 * model.inner(x) + torch.arange(4.0), lambda model, x: model.inner(x))),
    Case("a model of two inputs", "needs nothing beside them", in_turn(
        lambda: _score(lambda x, mask: x * mask), lambda: _score(lambda x: mlp()(x * 2)),
    )),
    Case("a model for one size of batches", "takes that size as batch_size", in_turn(
        lambda: _score(Calls(mlp(), lambda model, x: model.inner(x.view(8, 6)))),
        lambda: _score(Calls(mlp(), lambda model, x: model.inner(x.view(8, 6))), batch_size=8),
    )),
    Case("a model exported for one size of batches", "or export it with dynamic_shapes", _exported),
    Case("a model that cannot be compiled", "Score without compile", _without_compiler),
    Case("a model that is a name", "Pass the module", in_turn(lambda: _score("mlp"), lambda: _score(mlp()))),
    Case("a model on another device", r"Call model\.to\('cpu'\) first", _device),
    Case("bf16 of a float64 model", r'Pass precision="float32"',
         in_turn(lambda: _network(torch.float64, "bf16"), lambda: _network(torch.float64, "float32"))),
    Case("bf16 of an old GPU", r'Pass precision="float32"', in_turn(
        lambda: _network(torch.float32, "bf16", "cuda"), lambda: _network(torch.float32, "float32", "cuda"),
    )),
    Case("indices that come twice", "Drop the repetitions", in_turn(
        lambda: _score(mlp(), first_index=LABELS), lambda: _score(mlp(), X[:4], first_index=np.unique(LABELS)),
    )),
    Case("labels that are missing", "Pass labels=", in_turn(
        lambda: _score(mlp(), reference="label"), lambda: _score(mlp(), reference="label", labels=LABELS),
    )),
    Case("shards of other settings", "to start again, or choose another --out", _shards),
    Case("an attack on bytes", "Convert it, or use robcal.score", _bytes),
    Case("an attack on normalised inputs", "Normalise inside the model", _normalised),
    Case("an attack with labels from 1", "Number the classes from 0", in_turn(
        _attack(label=torch.from_numpy(LABELS) + 1), _attack(label=torch.from_numpy(LABELS)),
    )),
    Case("fidelity without references", "Pass references=", _references),
    Case("the best of no references", "Pass references=", _best),
    Case("fidelity to another model", "Score the same inputs with both", _other_model),
]  # fmt: skip
