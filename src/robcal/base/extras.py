"""Packages that robcal needs for one thing only, and installs on demand: an error names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from robcal.base.errors import refuse


def import_extra(package: str, extra: str, what: str) -> Any:
    """Import a package of an extra.

    Args:
        package: its name, for example "onnxruntime".
        extra: the extra of robcal that installs it.
        what: needs it, as a subject ("an ONNX model").

    Returns:
        The module.

    Raises:
        InputError: if it cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        refuse(
            f"{what} needs {package}, which cannot be imported ({error})",
            "robcal does not install it unless asked",
            f"Install it: pip install 'robcal[{extra}]'",
        )
