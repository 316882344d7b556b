"""Advice about models that users bring, carried out."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from hint_cases import Case, Steps, robcal
from model_files import CODE, export, in_graph, network, onnx, rewrite, save_data, script
from network_hint_cases import code_of
from torch import nn

from robcal.calibration.recalibration import Recalibrator
from robcal.calibration.recalibration.score_temperature import ScoreTemperature
from robcal.data import load_dataset
from robcal.models import admit_model
from robcal.models.programs import load_onnx
from robcal.models.weights import read_weights
from robcal.runs.directory import open_run
from robcal.runs.export import _write_pt2 as write_pt2
from robcal.runs.export import _write_safetensors as write_safetensors
from robcal.training.recipe import build_networks
from robcal.training.settings import TrainSettings

Scored = Callable[..., Callable[[], object]]


@contextlib.contextmanager
def _own(folder: Path) -> Iterator[Scored]:
    """A folder with data and code; yields the command that scores a model there."""
    save_data(folder)
    torch.save(network().state_dict(), folder / "weights.pt")
    with code_of(folder, CODE):

        def scored(*words: object) -> Callable[[], object]:
            words = ("score", "--out", "s.parquet", *words, "--method", "first-order", "--overwrite", "--quiet")
            return robcal(*words, "--data", "npz:data.npz")

        yield scored


def _weights(wrong: Callable[[Path], object]) -> Callable[[Path], Steps]:
    """Weights that cannot be read or do not fit, and those of the network."""

    def steps(folder: Path) -> Steps:
        with _own(folder) as scored:
            wrong(folder / "wrong.pt")
            named = ("--model", "own_nets:net", "--weights")
            yield scored(*named, "wrong.pt")
            torch.save(network().state_dict(), "weights.pt")
            yield scored(*named, "weights.pt")

    return steps


def _both(folder: Path) -> Steps:
    with _own(folder) as scored:
        script(network(), folder / "model.pt")
        yield scored("--model", "model.pt", "--weights", "weights.pt")
        yield scored("--model", "model.pt")


def _no_weights(folder: Path) -> Steps:
    with _own(folder) as scored:
        hint = yield scored("--model", "own_nets:net")
        words = re.findall(r"--\S+ \S+", hint.replace("FILE.", "weights.pt"))[-2:]
        yield scored(*" ".join(words).split())


def _bare_weights(folder: Path) -> Steps:
    with _own(folder) as scored:
        hint = yield scored("--model", "weights.pt")
        words = hint.removesuffix(".").rpartition("Write ")[2].replace("package.module:factory", "own_nets:net")
        yield scored(*words.split())


def _no_data(folder: Path) -> Steps:
    with _own(folder) as scored:
        words = ("--model", "own_nets:net", "--weights", "weights.pt")
        yield robcal("score", *words, "--out", "s.parquet", "--quiet")
        yield scored(*words)


def _table_as_model(folder: Path) -> Steps:
    with _own(folder) as scored:
        np.savez(folder / "model.npz", x=np.zeros(3))
        yield scored("--model", "model.npz")
        yield scored("--model", export(network(), folder / "model.pt2"))


def _program(wrong: Callable[[Path], object], right: Callable[[Path], object]) -> Callable[[Path], Steps]:
    """A program that is refused, and one as the advice wants it."""

    def steps(folder: Path) -> Steps:
        with _own(folder) as scored:
            wrong(folder / "wrong.pt2")
            yield scored("--model", "wrong.pt2")
            right(folder / "right.pt2")
            yield scored("--model", "right.pt2")

    return steps


def _crafted(file: Path) -> None:
    export(network(), file.with_name("plain.pt2"))
    rewrite(file.with_name("plain.pt2"), file, in_graph("torch.ops.aten.relu.default", "torch.serialization.os.mkdir"))


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def _diverged(folder: Path) -> Steps:
    torch.save({"a": torch.tensor([1.0, torch.nan])}, folder / "w.pt")
    yield lambda: read_weights(folder / "w.pt")
    torch.save({"a": torch.tensor([1.0, 2.0])}, folder / "w.pt")
    yield lambda: read_weights(folder / "w.pt")


def _without_onnxruntime(folder: Path) -> Steps:
    file = onnx(network(), folder / "model.onnx")
    with mock.patch.dict(sys.modules, {"onnxruntime": None}):
        yield lambda: load_onnx(file)
    yield lambda: load_onnx(file)


def _old_onnxscript(folder: Path) -> Steps:
    """What torch raises of an onnxscript that lacks what it imports of it, and another format in its place."""
    _trained(folder)
    export_it = ("export", folder / "run", "--out", folder / "net", "--format")
    missing = ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")
    with mock.patch.object(torch.onnx, "export", side_effect=missing):
        hint = yield robcal(*export_it, "onnx")
        yield robcal(*export_it, hint.removesuffix(".").split()[-1])


def _probabilities(folder: Path) -> Steps:
    onnx(network(), folder / "model.onnx", probs=True)
    with _own(folder):
        words = ("audit", "--model", "model.onnx", "--data", "npz:data.npz", "--levels", 2, "--resamples", 20)
        hint = yield robcal(*words, "--quiet")
        yield robcal(*words, "--quiet", *hint.removesuffix(".").rpartition("Pass ")[2].split())


def _in_train_mode(part: nn.Module) -> Callable[[Path], Steps]:
    """A program that was exported in train mode, and the same in eval mode."""

    def steps(folder: Path) -> Steps:
        net = network()
        model = nn.Sequential(net[0], part, net[1], net[2])
        with _own(folder):
            for mode in (True, False):
                file = export(model.train(mode), folder / f"{mode}.pt2")
                words = ("audit", "--model", file, "--data", "npz:data.npz", "--levels", 2, "--resamples", 20)
                yield robcal(*words, "--quiet")

    return steps


def _of_a_model(folder: Path) -> Steps:
    with _own(folder):
        hint = yield robcal("audit", export(network(), folder / "model.pt2"))
        command = hint.removesuffix(".").rpartition("robcal ")[2].replace("DATA", "npz:data.npz")
        yield robcal(*command.split(), "--levels", 2, "--resamples", 20, "--quiet")


def _trained(folder: Path, *more: object) -> None:
    train = ("train", "--data", save_data(folder), "--method", "vanilla", "--epochs", 1, "--device", "cpu", "--quiet")
    robcal(*train, "--model", "mlp", "--out", folder / "run", *more)()


def _several_networks(folder: Path) -> Steps:
    _trained(folder, "--members", 2)
    export_it = ("export", folder / "run", "--out", folder / "net", "--format")
    hint = yield robcal(*export_it, "safetensors")
    yield robcal(*export_it, hint.removesuffix(".").split()[-1])


def _one_temperature(hint: str, run: Path, *export_it: object) -> Callable[[], object]:
    """Fit what a hint about a recalibration names, and export with it."""
    words = re.search(r"robcal (recalibrate .*); and pass (--recalibrator FILE)", hint)
    places = {"RUN": run, "FILE": run / "t.json", "FILE.json": run / "t.json"}
    robcal(*(places.get(word, word) for word in words[1].split()))()
    return robcal(*export_it, *(places.get(word, word) for word in words[2].split()))


def _tensors_of_a_mixture(folder: Path) -> Steps:
    _trained(folder)
    robcal("recalibrate", folder / "run", "--method", "vector")()
    export_it = ("export", folder / "run", "--out", folder / "net")
    hint = yield robcal(*export_it, "--format", "safetensors")
    yield _one_temperature(hint, folder / "run", *export_it, "--format", "safetensors")
    yield robcal(*export_it, "--overwrite", *re.search(r"Pass (--format \w+),", hint)[1].split())


def _by_own_scores(folder: Path) -> Steps:
    """A score temperature by scores of the user's own, which a program does not have."""
    _trained(folder)
    val = open_run(folder / "run").predictions("val")
    fitted = Recalibrator("temperature", score="length").fit(val.as_logits(), val.labels, np.arange(len(val.labels)))
    fitted.method = "score-temperature"
    fitted._maps = (ScoreTemperature(np.array([0.0, 9.0]), np.linspace(0, 1, 8)),)
    file = fitted.save(folder / "own.json")
    export_it = ("export", folder / "run", "--out", folder / "net")
    hint = yield robcal(*export_it, "--recalibrator", file)
    yield _one_temperature(hint, folder / "run", *export_it)


class _Depends(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def _no_graph(folder: Path) -> Steps:
    inputs = torch.zeros(2, 3)
    yield lambda: write_pt2([_Depends()], [], inputs, folder / "net.pt2")
    yield lambda: write_safetensors([_Depends()], [], inputs, folder / "net.safetensors")


def _changed_weights(folder: Path) -> Steps:
    data = load_dataset(save_data(folder))
    torch.save(network().state_dict(), folder / "weights.pt")
    before = (folder / "weights.pt").read_bytes()
    with code_of(folder, CODE):
        admit_model("own_nets:net")
        settings = TrainSettings(data.spec, "own_nets:net", "vanilla", epochs=1, weights="weights.pt")
        torch.save(network(1).state_dict(), folder / "weights.pt")
        yield lambda: build_networks(settings, data)
        (folder / "weights.pt").write_bytes(before)
        yield lambda: build_networks(settings, data)


CASES = [
    Case("weights that were changed", "Put the file back", _changed_weights),
    Case("an ensemble as safetensors", "Pass --format pt2", _several_networks),
    Case("tensors of a recalibration that mixes classes", "holds tensors for your own code", _tensors_of_a_mixture),
    Case("a recalibration by scores of one's own", "takes inputs alone", _by_own_scores),
    Case("a network that depends on values", "--format safetensors", _no_graph),
    Case("onnxruntime is not installed", "Install it", _without_onnxruntime),
    Case("an onnxscript older than torch", "pip install --upgrade onnxscript", _old_onnxscript),
    Case("a model that returns probabilities", "Pass --outputs probs", _probabilities),
    Case("a program that draws", "Export it in eval mode", _in_train_mode(nn.Dropout(0.2))),
    Case("a program of the batch's statistics", "Export it in eval mode", _in_train_mode(nn.BatchNorm1d(6))),
    Case("a model in place of a run", "Name it by --model", _of_a_model),
    Case("a program as weights", "torch.save.model.state_dict", _weights(lambda file: script(network(), file))),
    Case("weights that lack a layer", "Name the network that", _weights(lambda f: torch.save(_part(), f))),
    Case("weights of NaN", "take an earlier checkpoint", _diverged),
    Case("weights of a program", "leave out --weights", _both),
    Case("a network without weights", "--weights FILE", _no_weights),
    Case("weights as a model", "holds weights, and does not say of which", _bare_weights),
    Case("a model without data", "Pass --data", _no_data),
    Case("a table as a model", "or export it: torch.export.save", _table_as_model),
    Case("a program of other things", "Export the model again", _program(_crafted, lambda f: export(network(), f))),
    Case(
        "a program of one batch size",
        "dynamic_shapes",
        _program(lambda f: export(network(), f, dynamic=False), lambda f: export(network(), f)),
    ),
    Case(
        "a program of two outputs",
        "returns the logits alone",
        _program(lambda f: export(_Pair(), f), lambda f: export(network(), f)),
    ),
]


def _part() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in network().state_dict().items() if name.startswith("0.")}
