"""Advice about networks, their training, and what is drawn from them, carried out."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from hint_cases import Case, Steps, in_turn
from interruption import Interrupted, StopAfter
from torch import nn
from trained_networks import OPTIONS, Auxiliary, ModelOutput, Then, data, mlp

from robcal.base.storage import load_state, save_state
from robcal.data.augment import random_resized_crop
from robcal.methods import make_method
from robcal.methods.mc_dropout import dropout_networks
from robcal.methods.swag import draw_weights, swag_networks
from robcal.models import admit_model, build_model, external
from robcal.models.dropout import with_dropout
from robcal.models.resnet import large_resnet
from robcal.training.loop import fit
from robcal.training.predict import predict, predict_logits

#: What is wrong → (the network, what the error says, the network with the advice taken).
NETWORKS = {
    "auxiliary logits in train mode": (
        lambda: Then(lambda z, training: Auxiliary(z, z) if training else z),
        r"returns Auxiliary in train mode, and logits in eval mode.*isinstance\(out, torch.Tensor\) else out.logits",
        lambda bad: Then(lambda out, training: out if isinstance(out, torch.Tensor) else out.logits, bad),
    ),
    "a pair in train mode": (
        lambda: Then(lambda z, training: (z, z) if training else z),
        r"returns tuple in train mode.*aux_logits=False.*else out\[0\]",
        lambda bad: Then(lambda out, training: out if isinstance(out, torch.Tensor) else out[0], bad),
    ),
    "a dictionary in train mode": (
        lambda: Then(lambda z, training: {"out": z, "aux": z} if training else z),
        r"returns dict in train mode.*else out\[key\], keys 'out', 'aux'",
        lambda bad: Then(lambda out, training: out if isinstance(out, torch.Tensor) else out["out"], bad),
    ),
    "a pair": (
        lambda: Then(lambda z, training: (z, z)),
        r"returns tuple.*model\(x\)\[0\]",
        lambda bad: Then(lambda out, training: out[0], bad),
    ),
    "a dictionary": (
        lambda: Then(lambda z, training: {"out": z}),
        r"returns dict.*model\(x\)\[key\], keys 'out'",
        lambda bad: Then(lambda out, training: out["out"], bad),
    ),
    "a model output": (
        lambda: Then(lambda z, training: ModelOutput(logits=z)),
        r"returns ModelOutput.*model\(x\)\.logits",
        lambda bad: Then(lambda out, training: out.logits, bad),
    ),
    "probabilities": (
        lambda: nn.Sequential(mlp(), nn.Softmax(1)),
        "the model returns probabilities: .* Leave out the softmax",
        lambda bad: bad[0],
    ),
    "probabilities, and nobody can change the network": (
        lambda: nn.Sequential(mlp(), nn.Softmax(1)),
        r"wrap it in a module that returns model\(x\)\.clamp_min\(1e-30\)\.log\(\)",
        lambda bad: Then(lambda p, training: p.clamp_min(1e-30).log(), bad),
    ),
    "probabilities in eval mode": (
        lambda: Then(lambda z, training: z if training else z.softmax(1)),
        "probabilities in eval mode and logits in the other.*softmax that its forward adds in eval mode",
        lambda bad: bad.network,
    ),
    "too many classes": (
        lambda: mlp(5),
        "returns 5 logits an input; the data have 3 classes. Build it with num_classes=3",
        lambda bad: mlp(3),
    ),
    "too few classes": (lambda: mlp(2), "Build it with num_classes=3", lambda bad: mlp(3)),
    "labels": (
        lambda: Then(lambda z, training: z.argmax(1, keepdim=True).expand(-1, 3)),
        "returns torch.int64.*before any argmax",
        lambda bad: bad.network,
    ),
    "a score of one class": (
        lambda: Then(lambda z, training: z[:, 0]),
        r"returns shape \(4,\) for 4 inputs",
        lambda bad: bad.network,
    ),
    "another width": (lambda: mlp(width=7), r"does not take a batch .*given \(4, 4\)", lambda bad: mlp(width=4)),
    "frozen": (
        lambda: mlp().requires_grad_(False),
        r"no parameter that requires .*requires_grad_\(True\)",
        lambda bad: bad.requires_grad_(),
    ),
    "no parameters": (lambda: nn.Identity(), "there must be something to train", lambda bad: mlp()),
    "detached": (
        lambda: Then(lambda z, training: z.detach()),
        "no gradient reaches.*leave torch.no_grad and detach out",
        lambda bad: bad.network,
    ),
    "NaN": (
        lambda: Then(lambda z, training: z - z.max() * math.nan),
        "untrained model returns NaN or infinite logits in eval mode",
        lambda bad: bad.network,
    ),
}


def _trained(network: nn.Module, epochs: int = 8, **options: object) -> list:
    return fit(network, data(), make_method("vanilla"), **{**OPTIONS, "epochs": epochs, **options})


def _network(make: Callable[[], nn.Module], advice: Callable[[nn.Module], nn.Module]) -> Callable[[Path], Steps]:
    """A network that is refused, and the one that the advice makes of it, which learns."""

    def steps(folder: Path) -> Steps:
        bad = make()
        yield lambda: _trained(bad)

        def learns() -> None:
            assert _trained(advice(bad))[-1].val_accuracy > 0.7

        yield learns

    return steps


def _rows(value: float, row: int) -> Callable[[Path], Steps]:
    """Training inputs that are not finite: replaced by the mean of their column."""

    def steps(folder: Path) -> Steps:
        bad = data()
        inputs = bad.split("train").inputs
        inputs[row, 1] = value
        yield lambda: fit(mlp(), bad, make_method("vanilla"), **OPTIONS)
        inputs[row, 1] = np.delete(inputs[:, 1], row).mean()
        yield lambda: fit(mlp(), bad, make_method("vanilla"), **OPTIONS)

    return steps


def _masked(by: float) -> nn.Module:
    return Then(lambda z, training: z + torch.tensor([0.0, 0.0, by]))


def _stopped(folder: Path) -> Path:
    """The state of a run that was stopped in its first epoch."""
    file = folder / "state.pt"
    with contextlib.suppress(Interrupted):
        _trained(mlp(), 2, state_file=file, state_seconds=0, reporter=StopAfter(2))
    return file


def _another_run(folder: Path) -> Steps:
    file = _stopped(folder)
    yield lambda: _trained(mlp(), 3, state_file=file)
    file.unlink()
    yield lambda: _trained(mlp(), 3, state_file=file)


def _another_network(folder: Path) -> Steps:
    file = _stopped(folder)
    yield lambda: _trained(nn.Linear(4, 3), 2, state_file=file)
    yield lambda: _trained(mlp(), 2, state_file=file)


def _another_version(folder: Path) -> Steps:
    file = _stopped(folder)
    save_state({**load_state(file), "format": 1}, file)
    yield lambda: _trained(mlp(), 2, state_file=file)
    file.unlink()
    yield lambda: _trained(mlp(), 2, state_file=file)


LEVELS = {"train": np.arange(60) % 2, "val": np.arange(40) % 2}
MOMENTS = {
    "count": torch.tensor(2),
    "mean": torch.zeros(15),
    "squares": torch.ones(15),
    "deviations": torch.ones(2, 15),
}


VAL = data().split("val")


def _predicted(network: nn.Module, index: list[int]) -> object:
    return predict_logits(network, VAL, index=np.array(index, int))


def _predicted_rows(folder: Path) -> Steps:
    split = data().split("val")
    split.inputs[3, 1] = math.nan
    yield lambda: predict(mlp(), split)
    split.inputs[3, 1] = 0.0
    yield lambda: predict(mlp(), split)


def _swag(size: int) -> object:
    return swag_networks(nn.Linear(size, 3), MOMENTS, data().split("train"), count=2)


def _levels(levels: dict | None) -> object:
    return fit(mlp(), data(), make_method("ar-adals"), **OPTIONS, levels=levels, num_levels=2)


def _build(name: str, shape: tuple[int, ...] = (3, 8, 8)) -> nn.Module:
    return build_model(name, input_shape=shape, num_classes=4)


def _models(wrong: str, right: str, shape: tuple[int, ...] = (3, 8, 8)) -> Callable[[Path], Steps]:
    return in_turn(lambda: _build(wrong, shape), lambda: _build(right, shape))


def _small_picture(folder: Path) -> Steps:
    hint = yield lambda: _build("resnet-50", (3, 8, 8))
    yield lambda: _build(hint.removesuffix(".").rsplit(" ", 1)[1], (3, 8, 8))


_PAIRS = """
class net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
    def forward(self, x):
        return x, x
"""


# ---- code of the user's own, and packages of networks


@contextlib.contextmanager
def code_of(folder: Path, text: str) -> Iterator[None]:
    """A module `own_nets` in the working directory, and nothing admitted."""
    (folder / "own_nets.py").write_text(text)
    here, known, trusted = Path.cwd(), dict(external._admitted), os.environ.get(external.TRUSTED)
    os.chdir(folder)
    try:
        external._admitted.clear()
        os.environ[external.TRUSTED] = ""
        sys.modules.pop("own_nets", None)
        yield
    finally:
        os.chdir(here)
        sys.modules.pop("own_nets", None)
        external._admitted.clear()
        external._admitted.update(known)
        os.environ.pop(external.TRUSTED)
        if trusted is not None:
            os.environ[external.TRUSTED] = trusted


_RIGHT = (
    "from torch import nn\n"
    "def net(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    "number = 3\n"
)


def _own(wrong: str, right: str, code: str = _RIGHT) -> Callable[[Path], Steps]:
    """A name that cannot be admitted, and the one that the advice asks for."""

    def steps(folder: Path) -> Steps:
        with code_of(folder, code):
            yield lambda: admit_model(wrong)
            yield lambda: (admit_model(right), _build(right))

    return steps


def _mended(wrong: str) -> Callable[[Path], Steps]:
    """Code that is wrong, and the right code in its place."""

    def steps(folder: Path) -> Steps:
        with code_of(folder, f"from torch import nn\n{wrong}\n"):

            def build() -> None:
                admit_model("own_nets:net")
                _build("own_nets:net")

            yield build
            (folder / "own_nets.py").write_text(_RIGHT + "# mended\n")
            sys.modules.pop("own_nets", None)
            yield build

    return steps


def _another_folder(folder: Path) -> Steps:
    (folder / "elsewhere").mkdir()
    with code_of(folder, _RIGHT):
        os.chdir("elsewhere")
        yield lambda: admit_model("own_nets:net")
        os.chdir(folder)
        yield lambda: admit_model("own_nets:net")


def _not_named(folder: Path) -> Steps:
    with code_of(folder, _RIGHT):
        yield lambda: _build("own_nets:net")
        admit_model("own_nets:net")
        yield lambda: _build("own_nets:net")


def _package(wrong: str, right: str, shape: tuple[int, ...] = (3, 8, 8)) -> Callable[[Path], Steps]:
    """Names of packages, with stand-ins that know one network."""

    def steps(folder: Path) -> Steps:
        with _stand_ins():
            yield lambda: _build(wrong, shape)
            yield lambda: _build(right, shape)

    return steps


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Modules that answer as timm and torchvision do, and know one network."""
    import types

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        if name != "resnet18":
            raise RuntimeError(f"Unknown model ({name})")
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, num_classes))

    def get_model(name: str, *, weights: object, num_classes: int) -> nn.Module:
        return create_model(name, pretrained=False, num_classes=num_classes, in_chans=3)

    names = ("timm", "torchvision", "torchvision.models")
    modules = {name: types.ModuleType(name) for name in names}
    modules["timm"].create_model = create_model  # type: ignore[attr-defined]
    modules["torchvision.models"].get_model = get_model  # type: ignore[attr-defined]
    modules["torchvision"].models = modules["torchvision.models"]  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def _not_installed(folder: Path) -> Steps:
    sys.modules["timm"] = None  # type: ignore[assignment]
    try:
        yield lambda: _build("timm:resnet18")
    finally:
        del sys.modules["timm"]
    yield lambda: _build("cnn")


CASES = [
    *(Case(name, message, _network(make, advice)) for name, (make, message, advice) in NETWORKS.items()),
    Case("inputs of NaN at once", "training inputs hold NaN .*mean of their column", _rows(math.nan, 0)),
    Case("inputs of infinity later", "1 training inputs hold NaN or inf.*mean of their column", _rows(math.inf, 50)),
    Case(
        "too long steps",
        "Lower the learning rate, now 1e.30",
        in_turn(lambda: _trained(mlp(), 2, learning_rate=1e30), lambda: _trained(mlp(), 2)),
    ),
    Case(
        "a masked class",
        r"mask them by -1e4",
        in_turn(lambda: _trained(_masked(-math.inf), 2), lambda: _trained(_masked(-1e4), 2)),
    ),
    Case("a state of another run", "delete this file", _another_run),
    Case("a state of another network", "Pass that network", _another_network),
    Case("a state of another version", "Delete this file to start", _another_version),
    Case(
        "no networks",
        "Pass a list of networks",
        in_turn(
            lambda: fit([], data(), make_method("vanilla"), **OPTIONS),
            lambda: fit([mlp()], data(), make_method("vanilla"), **OPTIONS),
        ),
    ),
    Case("no levels", r'Pass levels={"train"', in_turn(lambda: _levels(None), lambda: _levels(LEVELS))),
    Case(
        "levels of other data",
        r'Pass levels={"train"',
        in_turn(lambda: _levels({**LEVELS, "val": LEVELS["train"]}), lambda: _levels(LEVELS)),
    ),
    Case(
        "nothing to predict",
        "Pass a split, or an index, of some",
        in_turn(lambda: _predicted(mlp(), index=[]), lambda: _predicted(mlp(), index=[3])),
    ),
    Case(
        "no network to predict with", "Pass a network", in_turn(lambda: predict([], VAL), lambda: predict([mlp()], VAL))
    ),
    Case("inputs of NaN to predict", "Replace such values of the inputs", _predicted_rows),
    Case(
        "swag of one epoch",
        "Train for more epochs",
        in_turn(
            lambda: draw_weights({**MOMENTS, "count": torch.tensor(1)}, torch.Generator()),
            lambda: draw_weights(MOMENTS, torch.Generator()),
        ),
    ),
    Case("swag of another network", "Pass the network that was trained", in_turn(lambda: _swag(7), lambda: _swag(4))),
    Case(
        "no dropout to draw",
        "with_dropout",
        in_turn(
            lambda: dropout_networks(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))),
            lambda: dropout_networks(with_dropout(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), 0.1)),
        ),
    ),
    Case(
        "nowhere to put dropout",
        "such as mlp",
        in_turn(lambda: with_dropout(nn.Linear(4, 3), 0.1), lambda: _build("mlp+dropout")),
    ),
    Case("a model's name with a typing error", "Did you mean 'resnet-small'", _models("resnet_smal", "resnet-small")),
    Case("a model that nobody knows", "Pass --model mlp", _models("??", "mlp")),
    Case(
        "a pre-activation ResNet of no such depth", "preact-resnet-20", _models("preact-resnet-21", "preact-resnet-20")
    ),
    Case(
        "a large ResNet of no such depth",
        "such as --model resnet-50",
        in_turn(
            lambda: large_resnet((3, 64, 64), 4, depth=34),
            lambda: large_resnet((3, 64, 64), 4, depth=50),
        ),
    ),
    Case("a Wide ResNet of no such depth", "Try wrn-28-10", _models("wrn-29-1", "wrn-28-10")),
    Case("a Wide ResNet that is too wide", "Try wrn-28-10", _models("wrn-28-1000", "wrn-28-10")),
    Case("a model's name of 301 letters", "Write for example --model mlp", _models("m" * 301, "mlp")),
    Case(
        "cropping a table",
        "Leave the augmentation out",
        in_turn(
            lambda: random_resized_crop(torch.ones(4, 3), generator=torch.Generator()),
            lambda: _trained(mlp(), 1, augment=None),
        ),
    ),
    Case("cnn of a table", "Use --model mlp", _models("cnn", "mlp", (4,))),
    Case("cnn-fast of a table", "Use --model mlp", _models("cnn-fast", "mlp", (4,))),
    Case("resnet-small of a table", "Use --model mlp", _models("resnet-small", "mlp", (4,))),
    Case("resnet-50 of a table", "Use --model mlp", _models("resnet-50", "mlp", (4,))),
    Case("resnet-50 of small pictures", "such as preact-resnet-29", _small_picture),
    Case("a factory with brackets", "Leave out paths and brackets", _own("own_nets:net()", "own_nets:net")),
    Case("a factory by its path", "Leave out paths and brackets", _own("./own_nets.py:net", "own_nets:net")),
    Case("a factory that is not there", "Name one that it has: net", _own("own_nets:nett", "own_nets:net")),
    Case("a factory that is a number", "Name a function or a class", _own("own_nets:number", "own_nets:net")),
    Case("code in another folder", "run in the folder that holds it", _another_folder),
    Case("code that fails", "Correct the code", _mended("1 / 0")),
    Case("code that nobody named", "--factory own_nets:net", _not_named),
    Case("a factory of text", "Return the network itself", _mended("def net(num_classes): return 'net'")),
    Case(
        "a factory of pairs",
        "Return the logits alone",
        _mended(_PAIRS),
    ),
    Case(
        "a factory of other classes",
        "give its last layer num_classes outputs",
        _mended("def net(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))"),
    ),
    Case("a factory of other inputs", "mlp takes any", _mended("def net(num_classes): return nn.Linear(5, 4)")),
    Case("timm of a table", "Use --model mlp", _package("timm:resnet18", "mlp", (4,))),
    Case("a place to load from", "Write for example timm:resnet18", _package("timm:hf-hub:some/net", "timm:resnet18")),
    Case("timm's unknown name", r"timm.list_models\(\)", _package("timm:huge", "timm:resnet18")),
    Case(
        "torchvision's unknown name",
        r"torchvision.models.list_models\(\)",
        _package("torchvision:huge", "torchvision:resnet18"),
    ),
    Case("grey pictures", "Use a timm: model", _package("torchvision:resnet18", "timm:resnet18", (1, 8, 8))),
    Case("timm is not installed", "choose a model of robcal's own", _not_installed),
]
