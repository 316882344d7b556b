"""Any model of the user: a run or checkpoint of robcal, weights of a network that is named, or a program in a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robcal.base.checks import check_readable, is_there, refuse
from robcal.data import Dataset
from robcal.models import MODEL_NAMES, admit_model, build_model
from robcal.models.external import is_external
from robcal.models.file_kinds import KIND_NAMES, kind_of_file
from robcal.models.programs import check_program, load_onnx, load_program
from robcal.models.weights import fill, read_weights, says_its_network
from robcal.runs.directory import load_data, load_model, open_run
from robcal.training.settings import TrainSettings

#: How a network and a file of its weights are named.
BY_NAME = "--model package.module:factory --weights FILE"


@dataclass(frozen=True)
class Opened:
    """A model that the user named, on the CPU in eval mode, and its data; notes say how the model was read."""

    network: nn.Module
    dataset: Dataset
    notes: tuple[str, ...] = ()


def open_any(
    model: str,
    *,
    weights: Path | None = None,
    data: str | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    gradients: bool = True,
) -> Opened:
    """Open a model by what the user wrote behind --model; the other arguments are options of the same names.

    Call it with what a person wrote, never with text out of a file: a factory that it names is imported. ONNX models
    are refused where `gradients` will be taken.
    """
    named = not is_there(Path(model)) and (weights is not None or is_external(model) or model in MODEL_NAMES)
    if weights is not None and not named:
        given = f"--model {model} is a file or folder, and --weights was given"
        refuse(given, "weights belong to a network that is named", f"Write {BY_NAME}, or leave out --weights")
    if named and weights is None:
        given = f"--model {model} names a network, which has no weights yet"
        refuse(given, "a network that is named takes them from a file", f"Write --model {model} --weights FILE")
    if weights is not None:
        admit_model(model)
        tensors = read_weights(weights)
        dataset = load_data(_settings(data, seed, image_size))
        network = build_model(model, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
        note = fill(network, tensors, weights)
        return Opened(network.eval(), dataset, (*dataset.notes, note) if note else dataset.notes)
    return _open_file(Path(model), data, seed, image_size, gradients=gradients)


def _settings(data: str | None, seed: int | None, image_size: int | None) -> TrainSettings:
    """Return settings that say what data a model goes with that robcal did not train."""
    if data is None:
        given = "--data was not given"
        refuse(given, "a model outside its run directory does not say its data", "Pass --data, as in training")
    return TrainSettings(data=data, model="mlp", method="vanilla", epochs=1, seed=seed or 0, image_size=image_size)


def _open_file(model: Path, data: str | None, seed: int | None, image_size: int | None, *, gradients: bool) -> Opened:
    """Open a run directory, a checkpoint of robcal, or a program."""
    if model.is_dir() or model.name == "model.safetensors":
        return _open_checkpoint(model, data, seed, image_size)
    check_readable(model, "the model")
    kind = kind_of_file(model)
    if kind == "safetensors" and says_its_network(model):
        return _open_checkpoint(model, data, seed, image_size)
    if kind in ("safetensors", "state_dict"):
        given = f"{model} is {KIND_NAMES[kind]}: it holds weights, and does not say of which network"
        fix = f"Write --model package.module:factory --weights {model}"
        refuse(given, "weights go with the name of the code that builds their network", fix)
    if kind not in ("torchscript", "pt2", *([] if gradients else ["onnx"])):
        kinds = "a run or checkpoint of robcal, a network by name, TorchScript or torch.export"
        refuse(
            f"{model} is {KIND_NAMES[kind]}",
            f"gradients are taken, which these have: {kinds}" if gradients else f"a model is {kinds}, or ONNX",
            f"Write {BY_NAME}; or export it: torch.export.save(torch.export.export(model, (x,), "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), 'model.pt2')",
        )
    program = load_onnx(model) if kind == "onnx" else load_program(model, kind)
    dataset = load_data(_settings(data, seed, image_size))
    check_program(program, model, dataset.input_shape, dataset.num_classes)
    return Opened(program, dataset, dataset.notes)


def _open_checkpoint(model: Path, data: str | None, seed: int | None, image_size: int | None) -> Opened:
    """Open a run directory or a checkpoint of robcal, with the data of its training unless others are named."""
    network, about = load_model(model)
    directory = model if model.is_dir() else model.parent
    if (directory / "run.json").exists():
        settings = open_run(directory).settings
    else:
        settings = dataclasses.replace(_settings(data, seed, image_size), model=about["model"])
    changed: dict[str, object] = {"data": data or settings.data}
    changed |= {} if seed is None else {"seed": seed, "split_seed": seed}
    changed |= {} if image_size is None else {"image_size": image_size}
    dataset = load_data(dataclasses.replace(settings, **changed))  # type: ignore[arg-type]
    return Opened(network, dataset, dataset.notes if data else ())
