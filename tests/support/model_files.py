"""Files of models, made in a test: weights and programs of one small network, right and crafted."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

#: A module of a user's own, as text.
CODE = """
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, num_classes))
"""


def network(seed: int = 0) -> nn.Module:
    """The network that `CODE` makes, with weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def save_data(folder: Path, classes: int = 3, features: int = 4) -> str:
    """A table in a file, as `--data` names it."""
    draw = np.random.default_rng(0)
    arrays = {
        f"{array}_{split}": value
        for split, n in (("train", 60), ("val", 60), ("test", 30))
        for array, value in (
            ("x", draw.normal(size=(n, features)).astype(np.float32)),
            ("y", np.arange(n) % classes),
        )
    }
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def export(model: nn.Module, file: Path, *, dynamic: bool = True, features: int = 4) -> Path:
    """A torch.export program."""
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(model, (torch.zeros(2, features),), dynamic_shapes=shapes), file)
    return file


def script(model: nn.Module, file: Path) -> Path:
    """A TorchScript program."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated
        torch.jit.script(model).save(str(file))
    return file


def onnx(model: nn.Module, file: Path, *, probs: bool = False, batch: int | str = "batch") -> Path:
    """An ONNX model of a network of linear layers and ReLU, written by hand."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, weights, last = [], [], "x"
    for k, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            for name, tensor in layer.named_parameters():
                weights.append(numpy_helper.from_array(tensor.detach().numpy(), f"{name}{k}"))
            nodes.append(helper.make_node("Gemm", [last, f"weight{k}", f"bias{k}"], [f"h{k}"], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [last], [f"h{k}"]))
        last = f"h{k}"
    nodes.append(helper.make_node("Softmax" if probs else "Identity", [last], ["out"]))
    inputs, outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size])
        for name, size in (("x", model[0].in_features), ("out", model[-1].out_features))
    )
    graph = helper.make_graph(nodes, "net", [inputs], [outputs], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return file


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes], *, packed: bool = False) -> Path:
    """A copy of an archive whose members are changed: (name, content) → content."""
    packing = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", packing) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def in_graph(old: str, new: str) -> Callable[[str, bytes], bytes]:
    """Replace a text in the graph of an exported program, once."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(("models/model.json", "serialized_exported_program.json")):
            return content
        text = content.decode()
        assert old in text
        return text.replace(old, new, 1).encode()

    return change


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def saved(value: object) -> bytes:
    """What torch.save makes of a value."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
