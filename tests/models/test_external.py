from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from robcal.base.checks import InputError
from robcal.base.storage import save_checkpoint
from robcal.commands.cli import app
from robcal.models import admit_model, build_model, external
from robcal.runs.directory import load_model
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

SHAPE = (3, 8, 8)


def _net(classes: int, channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@pytest.fixture(autouse=True)
def _nothing_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "_admitted", {})
    monkeypatch.setenv(external.TRUSTED, "")


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the working directory that leaves a trace when it is imported."""
    (tmp_path / "own_networks.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        f"Path({str(tmp_path / 'imported')!r}).write_text('yes')\n"
        "def head(n, c): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, n))\n"
        "def named(num_classes): return head(num_classes, 3)\n"
        "def both(num_classes, input_shape): return head(num_classes, input_shape[0])\n"
        "def placed(shape, classes, /): return head(classes, shape[0])\n"
        "def free(**options): return head(options['num_classes'], 3)\n"
        "def wrong(num_classes): return head(num_classes + 1, 3)\n"
        "def pair(num_classes):\n"
        "    class Pair(nn.Module):\n"
        "        def forward(self, x): return x, x\n"
        "    return Pair()\n"
        "def text(num_classes): return 'net'\n"
        "def broken(num_classes): return nn.Linear(5, num_classes)\n"
        "class Holder:\n"
        "    @staticmethod\n"
        "    def net(num_classes): return head(num_classes, 3)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    yield tmp_path
    sys.modules.pop("own_networks", None)


@pytest.fixture
def own_run(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A run directory whose model is the user's own, and nothing admitted."""
    name, out = "own_networks:both", own_code / "run"
    settings = TrainSettings("digits", name, "vanilla", epochs=1, train_limit=60, test_limit=30, device="cpu")
    admit_model(name)
    train_run(settings, out)
    monkeypatch.setattr(external, "_admitted", {})
    monkeypatch.setenv(external.TRUSTED, "")
    return out, name


@pytest.mark.parametrize("factory", ["named", "both", "placed", "free", "Holder.net"])
def test_own_factories_by_their_signatures(factory: str, own_code: Path) -> None:
    before = list(sys.path)
    admit_model(f"own_networks:{factory}")
    model = build_model(f"own_networks:{factory}", input_shape=SHAPE, num_classes=4)
    assert model(torch.rand(5, *SHAPE)).shape == (5, 4)
    assert model.network.training
    assert sys.path == before


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("wrong", r"turns 2 inputs into \(2, 5\).*\(2, 4\)"),
        ("pair", "turns 2 inputs into tuple"),
        ("text", "made a str"),
        ("broken", r"does not take 2 inputs of shape \(3, 8, 8\)"),
    ],
)
def test_own_factories_that_make_something_else(factory: str, message: str, own_code: Path) -> None:
    admit_model(f"own_networks:{factory}")
    with pytest.raises(InputError, match=message):
        build_model(f"own_networks:{factory}", input_shape=SHAPE, num_classes=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks:absent", "Name one that it has: head, named"),
        ("own_networks:number", "is a int"),
        ("no_such_package.net:build", "ModuleNotFoundError"),
        ("own_networks:named()", "package.module:factory"),
        ("../own_networks:named", "package.module:factory"),
        (":named", "package.module:factory"),
    ],
)
def test_names_that_cannot_be_admitted(name: str, message: str, own_code: Path) -> None:
    with pytest.raises(InputError, match=message):
        admit_model(name)


def test_names_of_robcals_own_models_import_nothing() -> None:
    before = set(sys.modules)
    for name in ("mlp", "wrn-28-10", "timm:resnet18", "torchvision:resnet18"):
        admit_model(name)
    assert set(sys.modules) == before


def test_no_file_makes_robcal_import_code(own_code: Path) -> None:
    """A checkpoint names a factory: it is imported when the user names it too, and not before."""
    name = "own_networks:named"
    about = {"model": name, "input_shape": list(SHAPE), "num_classes": 4}
    state = {f"network.{key}": value for key, value in _net(4).state_dict().items()}
    state |= {"mean": torch.zeros(3), "std": torch.ones(3)}
    file = save_checkpoint(state, about, own_code / "model.safetensors")
    with pytest.raises(InputError, match=f"name it too: --factory {name} "):
        load_model(file)
    assert not (own_code / "imported").exists()
    assert "own_networks" not in sys.modules
    admit_model(name)
    model, _ = load_model(file)
    assert (own_code / "imported").exists()
    assert torch.equal(model.state_dict()["network.2.weight"], state["network.2.weight"])


def test_other_processes_of_the_user_know_what_was_admitted(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `admit_model` notes is in the environment, which a started process inherits; here, a fresh registry."""
    names = ("own_networks:named", "own_networks:both")
    for name in (*names, names[0]):
        admit_model(name)
    assert os.environ["ROBCAL_FACTORIES"] == ",".join(names)
    monkeypatch.setattr(external, "_admitted", {})
    assert build_model(names[1], input_shape=SHAPE, num_classes=4)(torch.rand(1, *SHAPE)).shape == (1, 4)
    with pytest.raises(InputError, match="has not been named"):
        build_model("own_networks:placed", input_shape=SHAPE, num_classes=4)


@pytest.mark.slow
def test_a_factory_is_trained_from_the_command_line(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, out = "own_networks:both", own_code / "a run"
    words = ["train", "--data", "digits", "--model", name, "--method", "vanilla", "--epochs", "1", "--quiet"]
    result = CliRunner().invoke(app, [*words, "--train-limit", "60", "--test-limit", "30", "--out", str(out)])
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(external, "_admitted", {})
    monkeypatch.setenv(external.TRUSTED, "")
    with pytest.raises(InputError, match="has not been named in this command"):
        load_model(out)
    _the_printed_command_runs(result.stdout, own_code)
    monkeypatch.setenv(external.TRUSTED, name)
    assert load_model(out)[0](torch.rand(2, 1, 8, 8)).shape == (2, 10)


def _the_printed_command_runs(printed: str, folder: Path) -> None:
    """What stands behind "next:", by a shell that finds this robcal and knows nothing of what was admitted."""
    (command,) = (line.removeprefix("next: ") for line in printed.splitlines() if line.startswith("next: "))
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "robcal").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m robcal "$@"\n')
    (binaries / "robcal").chmod(0o755)
    known = {key: value for key, value in os.environ.items() if key != external.TRUSTED}
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**known, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "a run/audit.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["audit", "{run}", "--levels", "3", "--resamples", "20"],
        ["report", "{run}", "--no-shift", "--out", "{out}.html"],
        ["score", "--model", "{run}", "--method", "first-order", "--out", "{out}.parquet"],
        ["fidelity", "--model", "{run}", "--method", "first-order", "--sample", "9", "--levels", "3",
         "--iterations", "5", "--restarts", "1", "--out", "{out}.json"],
        ["compare", "{plan}", "--dry-run", "--out", "{out}"],
    ],
)  # fmt: skip
def test_every_command_that_opens_such_a_run_asks_for_its_code_by_name(
    command: list[str], own_run: tuple[Path, str], tmp_path: Path
) -> None:
    run, name = own_run
    (tmp_path / "plan.toml").write_text(
        f'title = "own"\nseeds = [0]\n[recipe]\ndata = "digits"\nmodel = "{name}"\nepochs = 1\n'
        '[[methods]]\nlabel = "Plain"\nmethod = "vanilla"\n'
    )
    places = {"run": run, "out": tmp_path / "out", "plan": tmp_path / "plan.toml"}
    words = [word.format(**places) for word in command]
    quiet = [*words, "--quiet"]
    if command[0] != "compare":  # a dry run builds nothing
        without = CliRunner().invoke(app, quiet)
        assert isinstance(without.exception, InputError), without.output
        assert f"--factory {name}" in str(without.exception)
    done = CliRunner().invoke(app, [*quiet, "--factory", name])
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.mark.parametrize("name", ["own_networks", "mlp", "timm:resnet18", "own_networks:absent"])
def test_what_is_no_factory_is_refused(name: str, own_run: tuple[Path, str]) -> None:
    refused = CliRunner().invoke(app, ["audit", str(own_run[0]), "--factory", name])
    assert isinstance(refused.exception, InputError)
    assert "package.module:factory" in str(refused.exception)


def test_a_factory_draws_from_the_seed(own_code: Path) -> None:
    admit_model("own_networks:named")
    weights = [
        build_model("own_networks:named", input_shape=SHAPE, num_classes=4, seed=seed).state_dict()["network.2.weight"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Modules that answer as timm and torchvision do, and note their calls."""
    calls: list[tuple] = []

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        calls.append((name, pretrained, num_classes, in_chans))
        if name != "tiny.a1_in1k":
            raise RuntimeError(f"Unknown model ({name})")
        return _net(num_classes, in_chans)

    def get_model(name: str, **config: object) -> nn.Module:
        calls.append((name, config))
        if name not in ("tiny", "googlenet"):
            raise ValueError(f"Unknown model {name}")
        return _net(int(str(config["num_classes"])))

    timm, vision, models = (types.ModuleType(name) for name in ("timm", "torchvision", "torchvision.models"))
    timm.create_model = create_model  # type: ignore[attr-defined]
    models.get_model = get_model  # type: ignore[attr-defined]
    vision.models = models  # type: ignore[attr-defined]
    for name, module in (("timm", timm), ("torchvision", vision), ("torchvision.models", models)):
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_packages_are_asked_for_untrained_networks(stand_ins: list[tuple]) -> None:
    assert build_model("timm:tiny.a1_in1k", input_shape=(1, 8, 8), num_classes=6)(torch.rand(2, 1, 8, 8)).shape == (
        2,
        6,
    )
    assert build_model("torchvision:tiny", input_shape=SHAPE, num_classes=6)(torch.rand(2, *SHAPE)).shape == (2, 6)
    build_model("torchvision:googlenet", input_shape=SHAPE, num_classes=6)
    assert stand_ins == [
        ("tiny.a1_in1k", False, 6, 1),
        ("tiny", {"weights": None, "num_classes": 6}),
        ("googlenet", {"weights": None, "num_classes": 6, "aux_logits": False}),
    ]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("timm:huge", SHAPE, r"timm cannot build 'huge' .*timm.list_models\(\)"),
        ("torchvision:huge", SHAPE, r"torchvision cannot build 'huge' .*torchvision.models.list_models\(\)"),
        ("torchvision:tiny", (1, 8, 8), "1 channel"),
        ("timm:hf-hub:somebody/net", SHAPE, "a plain name"),
        ("timm:local-dir:/somewhere", SHAPE, "a plain name"),
        ("timm:", SHAPE, "a plain name"),
        ("timm:tiny.a1_in1k", (4,), "images"),
    ],
)
def test_packages_refuse(name: str, shape: tuple[int, ...], message: str, stand_ins: list[tuple]) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, input_shape=shape, num_classes=6)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_packages_that_are_not_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs {package}, which cannot be imported.*Install {package}"):
        build_model(f"{package}:resnet18", input_shape=SHAPE, num_classes=6)
