"""Weights of the user's own: reading a file of them without running code from it, and putting them into a network."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robcal.base.checks import refuse
from robcal.base.files import reading
from robcal.base.torch_files import check_torch_file
from robcal.models.file_kinds import KIND_NAMES, kind_of_file

if TYPE_CHECKING:
    from robcal.models import Normalized

Tensors = dict[str, Tensor]

#: What engines and wrappers put before the names of all tensors.
PREFIXES = ("module.", "model.", "network.", "_orig_mod.", "net.", "backbone.")

#: Under which names programs keep the weights in a file that holds more.
_INSIDE = ("state_dict", "model_state_dict", "model", "module", "net")


def read_weights(path: Path) -> Tensors:
    """Read named tensors of a safetensors or torch.save file, told by content; a checkpoint is opened (`_INSIDE`)."""
    kind = kind_of_file(path)
    if kind not in ("safetensors", "state_dict"):
        refuse(
            f"the weights {path} are {KIND_NAMES[kind]}",
            "weights are a safetensors file, or a state_dict that torch.save wrote",
            "Save them so: torch.save(model.state_dict(), 'weights.pt'); a program is named itself: --model FILE",
        )
    if kind == "safetensors":
        from safetensors.torch import load_file

        with reading(path, "the weights"):
            tensors: Tensors = load_file(path)
    else:
        tensors = _read_state_dict(path)
    check_numbers(path, tensors)
    return tensors


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN: whatever such a network says is none either."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            refuse(
                f"{name} of {path} holds NaN",
                "the weights of a network are numbers",
                "Its training diverged: train again with a lower --learning-rate, or take an earlier checkpoint",
            )


def says_its_network(path: Path) -> bool:
    """Return whether a safetensors file is a checkpoint of robcal, which names its network beside the tensors."""
    from safetensors import safe_open

    with reading(path, "the checkpoint"), safe_open(path, framework="pt") as file:
        return "robcal" in (file.metadata() or {})


def _read_state_dict(path: Path) -> Tensors:
    with (
        reading(
            path,
            "the weights",
            rule="a state_dict holds tensors and plain values",
            fix="Save the weights alone where the model is at hand: torch.save(model.state_dict(), 'weights.pt')",
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # a foreign pickle makes torch warn before it refuses
        if zipfile.is_zipfile(path):  # files of torch before 1.6 are none
            check_torch_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        for mapping in _mappings(found):
            tensors = {str(name): value.detach() for name, value in mapping.items() if isinstance(value, Tensor)}
            if mapping and len(tensors) == len(mapping):
                return tensors
        raise TypeError(f"it holds {type(found).__name__}, and no named tensors")


def _mappings(found: object) -> Iterator[Mapping[str, object]]:
    """Yield mappings that may be the weights: what was saved, and what it holds under a usual name."""
    if isinstance(found, Mapping):
        yield found
        for name in _INSIDE:
            if isinstance(inside := found.get(name), Mapping):
                yield inside


def fill(network: Normalized, tensors: Mapping[str, Tensor], path: Path) -> str:
    """Put weights into a network, those of robcal with their normalisation; return what the user should know."""
    if {"mean", "std"} <= tensors.keys():
        return load_weights(network, tensors, path)
    note = load_weights(network.network, tensors, path)
    network.mean.zero_()
    network.std.fill_(1.0)
    return f"{note} Inputs reach the network as they are: its normalisation is its own.".strip()


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> str:
    """Put the tensors of a file into a network whose tensors they are; return "" or a sentence on a prefix."""
    wanted = network.state_dict()
    variants = {
        prefix: {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} for prefix in _prefixes(tensors)
    }
    prefix = min(variants, key=lambda text: (len(wanted.keys() ^ variants[text].keys()), len(text)))
    given = {**_batch_counts(wanted), **variants[prefix]}
    if told := _differences(wanted, given):
        refuse(
            f"the weights {path} do not fit the network: {'; '.join(told)}",
            "weights have the names and shapes of the network's own tensors",
            "Name the network that they were saved from; its number of classes must be that of the data",
        )
    network.load_state_dict(given)
    return f"The prefix {prefix!r} of all names in {path} was left out." if prefix else ""


def _batch_counts(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the counts of batches of batch normalisation, which files of PyTorch before 0.4.1 do not hold."""
    return {name: tensor for name, tensor in tensors.items() if name.endswith("num_batches_tracked")}


def _prefixes(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the prefixes that all names share, from "" on: each is one more of `PREFIXES` behind the last."""
    shared = ""
    while True:
        yield shared
        more = [end for end in PREFIXES if tensors and all(name.startswith(shared + end) for name in tensors)]
        if not more:
            return
        shared += more[0]


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say in clauses what keeps given tensors from being those of a network."""
    shapes = [
        f"{name} is {tuple(given[name].shape)} in the file and {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    return [
        *_listed("the file lacks", [name for name in wanted if name not in given]),
        *_listed("the network has no", [name for name in given if name not in wanted]),
        *shapes[:3],
        *([f"and {len(shapes) - 3} more shapes differ"] if len(shapes) > 3 else []),
    ]


def _listed(words: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{words} {', '.join(names[:3])}{more}"] if names else []
