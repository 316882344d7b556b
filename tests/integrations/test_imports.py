"""The libraries of integrations are imported by whoever asks for them, and a missing one is named with its extra."""

import subprocess
import sys

import pytest

LIBRARIES = ("lightning", "transformers", "keras", "skorch", "onnx", "onnxruntime", "onnxscript")


#: A library that is missing, the module that needs it, and the extra that brings it; torch, which no process can import
#: twice, is missing last.
MISSING = [
    ("lightning", "robcal.integrations.lightning", "lightning"),
    ("transformers", "robcal.integrations.transformers", "transformers"),
    ("torchmetrics", "robcal.metrics", "metrics"),
    ("evaluate", "robcal.integrations.robcal_calibration", "evaluate"),
    ("torch", "robcal.integrations.lightning", "lightning"),
    ("torch", "robcal.integrations.transformers", "transformers"),
    ("torch", "robcal.metrics", "metrics"),
    ("torch", "robcal.integrations.sklearn", "train"),
    ("torch", "robcal.integrations.text", "train"),
]


@pytest.mark.slow
def test_robcal_imports_none_of_them() -> None:
    """Every public name, the command line and what opens and writes models."""
    code = (
        "import sys, robcal, robcal.commands.cli, robcal.runs.any_model, robcal.integrations\n"
        "[getattr(robcal, name) for name in robcal.__all__]\n"
        f"print(sorted(set({LIBRARIES!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow
def test_an_error_names_the_extra() -> None:
    code = """
import importlib, sys
from robcal.base.errors import InputError
for missing, module, _ in MISSING:
    sys.modules[missing] = None
    try:
        importlib.import_module(module)
    except InputError as error:
        print(error)
    del sys.modules[missing]
"""
    done = subprocess.run(
        [sys.executable, "-c", f"MISSING = {MISSING}\n{code}"], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(MISSING), done.stderr
    for line, (missing, module, extra) in zip(lines, MISSING, strict=True):
        assert line.startswith(f"{module} needs {missing}")
        assert f"pip install 'robcal[{extra}]'" in line
