"""Dataclasses of robcal.base.types as JSON, and back by their annotations; nothing in a file chooses what is built."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.files import refuse_changed

#: Under which name the seal of a file stands in JSON, or among what a parquet or safetensors file says of its arrays.
SEAL = "seal"


def plain(value: Any) -> Any:
    """Return a JSON-able copy: dataclasses → dicts, bytes → base64, non-finite floats → strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def sealed(value: Any) -> dict[str, Any]:
    """Return `plain` of a mapping or dataclass, with its seal (`robcal.base.seals`)."""
    made = plain(value)
    return {**made, SEAL: _digest(made)}


def unsealed(found: Any, path: Path) -> Any:
    """Return what a JSON file holds besides its seal; one without a seal is an older file, and passes."""
    if isinstance(found, dict) and SEAL in found:
        found = dict(found)
        if found.pop(SEAL) != _digest(found):
            refuse_changed(path)
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def typed(kind: Any, value: Any) -> Any:
    """Undo `plain` for the annotation `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return typed(next(item for item in arguments if item is not type(None)), value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{name: typed(hints[name], item) for name, item in _of(dict, value).items()})
    if origin is np.ndarray:
        return np.array(_of(list, value), float)
    if origin is tuple:
        items = list(value) if isinstance(value, tuple) else value  # the state of a training is not JSON
        return tuple(typed(arguments[0], item) for item in _of(list, items))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: typed(arguments[1], item) for key, item in _of(dict, value).items()}
    if kind is bytes:
        return base64.b64decode(_of(str, value), validate=True)
    if kind is float:
        return float(_of((int, float), value) if value not in ("nan", "inf", "-inf") else value)
    return _of(kind, value) if kind in (int, str, bool) else value


_hints = functools.cache(typing.get_type_hints)


def _of(kind: Any, value: Any) -> Any:
    """Return the value, or raise TypeError if it is not of that kind; true and false are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"it holds {value!r:.40} where {getattr(kind, '__name__', 'a number')} belongs")
    return value
