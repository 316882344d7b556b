"""Programs in files: a TorchScript, torch.export or ONNX file as a module. Its operators run; no Python of it does."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robcal.base.checks import refuse
from robcal.base.extras import import_extra
from robcal.base.files import reading
from robcal.base.seals import digest_of_file
from robcal.models.external import check_logits
from robcal.models.file_kinds import KIND_NAMES, FileKind
from robcal.models.program_rules import ForbiddenError, check_archive, check_exported, check_script


class Program(nn.Module):
    """A program of a file as a module; the file's digest is a buffer, which tells programs without weights apart."""

    def __init__(self, run: nn.Module, digest: str) -> None:
        super().__init__()
        self.run = run
        self.register_buffer("file_digest", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Any:
        """Run the program."""
        return self.run(x)

    def train(self, mode: bool = True) -> Program:
        """Set the mode of what has one: an exported graph stays as it was exported."""
        for part in self.modules():
            if hasattr(part, "training"):
                part.training = mode
        return self


def load_program(path: Path, kind: FileKind) -> Program:
    """Load a program of kind "torchscript" or "pt2" as a module on the CPU, in eval mode."""
    name = KIND_NAMES[kind]
    with reading(path, "the model", rule=f"it must be {name}, whole", fix="Copy the file again, or export it anew"):
        check_archive(path)
        try:
            (check_script if kind == "torchscript" else check_exported)(path)
        except ForbiddenError as error:
            refuse(
                f"{path} is {name}, but {error}",
                "a file is run only if it consists of torch's operators on tensors",
                "Export the model again from its code, without example inputs of other types; "
                "or name the code: --model package.module:factory --weights FILE",
            )
        with path.open("rb") as file, quiet(), _never_unpickling():
            run: nn.Module = (
                torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
                if kind == "torchscript"
                else torch.export.load(file).module()
            )
        return Program(run, digest_of_file(path)).train(False)


class OnnxModel(nn.Module):
    """A session of onnxruntime as a module on the CPU: inputs (B, …) in input units → its first output."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session, self._input = session, session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Run the model."""
        outputs = self._session.run(None, {self._input: x.cpu().contiguous().numpy()})
        return torch.as_tensor(outputs[0])


def load_onnx(path: Path) -> OnnxModel:
    """Open an ONNX file; see `check_program` for what it must do."""
    runtime = import_extra("onnxruntime", "onnx", f"{path}, an ONNX model,")
    with reading(path, "the model", rule="it must be an ONNX model", fix="Copy the file again, or export it anew"):
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what is wrong comes as an error
        options.intra_op_num_threads = torch.get_num_threads()
        return OnnxModel(runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch logs and warns of while it reads or writes a program from the user: what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch.onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _never_unpickling() -> Iterator[None]:
    """Make torch.load take tensors and plain values only, also where torch.export asks it for any object."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def check_program(program: nn.Module, path: Path, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse a program, of a file, that does not turn batches of any size of these inputs into (B, Z)."""
    check_logits(
        program,
        str(path),
        input_shape,
        num_classes,
        sizes=(2, 3),
        inputs_fix="Export it for batches of any size, for example by torch.export.export with "
        "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), or pass the data that it was made for",
        logits_fix="Export a model that returns the logits alone, of the data's classes",
    )
