"""Packages that robcal needs for one thing only, and installs on demand: an error names the extra."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

from robcal.base.errors import refuse


def import_extra(package: str, extra: str, what: str) -> Any:
    """Import a package of an extra; what needs it is told as a subject ("an ONNX model")."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        refuse_without(package, extra, what, error)


#: Packages of the extra `train`, which everything needs that reads data sets, or makes or runs a network.
TRAINING = ("torch", "accelerate", "scipy", "sklearn", "PIL", "pyarrow", "matplotlib")


def refuse_untrainable(error: ModuleNotFoundError, what: str, extra: str = "train") -> NoReturn:
    """Name the extra that brings a package of `train` which is missing; raise any other error again."""
    if error.name not in TRAINING:
        raise error
    refuse_without(error.name, extra, what, error)


def refuse_without(package: str, extra: str, what: str, error: ImportError) -> NoReturn:
    """Say which extra installs a package that cannot be imported."""
    given = f"{what} needs {package}, which cannot be imported ({error})"
    refuse(given, "robcal does not install it unless asked", f"Install it: pip install 'robcal[{extra}]'")
