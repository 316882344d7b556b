"""ONNX models: predictions through onnxruntime, which runs the operators of the file and no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robcal.base.extras import import_extra
from robcal.base.files import reading


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
    """Open an ONNX file; see `robcal.models.programs.check_program` for what it must do."""
    runtime = import_extra("onnxruntime", "onnx", f"{path}, an ONNX model,")
    with reading(path, "the model", rule="it must be an ONNX model", fix="Copy the file again, or export it anew"):
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what is wrong comes as an error
        options.intra_op_num_threads = torch.get_num_threads()
        return OnnxModel(runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
