"""The libraries of integrations are imported by whoever asks for them, and a missing one is named with its extra."""

import subprocess
import sys

import pytest

LIBRARIES = ("lightning", "transformers", "keras", "skorch", "onnx", "onnxruntime", "onnxscript")


#: What each module needs beside torch, and the extra that brings both.
MODULES = [
    ("lightning", "robcal.integrations.lightning", "lightning"),
    ("transformers", "robcal.integrations.transformers", "transformers"),
    ("torchmetrics", "robcal.metrics", "metrics"),
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
    """What is missing is the library, or torch, which the extra brings too."""
    code = """
import importlib, sys
from robcal.base.errors import InputError
for missing in (None, "torch"):
    for library, module, _ in MODULES:
        hidden = missing or library
        sys.modules[hidden] = None
        try:
            importlib.import_module(module)
        except InputError as error:
            print(error)
        del sys.modules[hidden]
"""
    done = subprocess.run(
        [sys.executable, "-c", f"MODULES = {MODULES}\n{code}"], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(MODULES), done.stderr
    for line, (_, module, extra) in zip(lines, [*MODULES, *MODULES], strict=True):
        assert line.startswith(f"{module} needs ")
        assert f"pip install 'robcal[{extra}]'" in line
