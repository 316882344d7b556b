"""The libraries of integrations are imported by whoever asks for them, and a missing one is named with its extra."""

import subprocess
import sys

import pytest

LIBRARIES = ("lightning", "transformers", "keras", "skorch", "onnx", "onnxruntime", "onnxscript")


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
@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_an_error_names_the_extra(name: str) -> None:
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        "from robcal.base.errors import InputError\n"
        f"try:\n    import robcal.integrations.{name}\nexcept InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'robcal[{name}]'" in done.stdout, done.stderr
