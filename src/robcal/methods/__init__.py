"""Training methods by name. To add one: write a file with a factory that returns a `Method`, and name it in `METHODS`.

The keyword arguments of the factory are the method's options: with their types, defaults and checks they are known to
the library, the command line (`--option NAME=VALUE`) and the files of comparisons (`options = { NAME = VALUE }`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from robcal.base.checks import check_choice, refuse
from robcal.base.names import METHODS
from robcal.methods.compose import compose, joined_options
from robcal.methods.method import Batch, EpochInfo, Method, Predictors, RunInfo
from robcal.methods.options import check_option, factory_of, options_of, parse_option, resolved

__all__ = [
    "METHODS",
    "Batch",
    "EpochInfo",
    "Method",
    "Predictors",
    "RunInfo",
    "compose",
    "describe_methods",
    "make_method",
    "method_options",
    "parse_options",
]


def make_method(name: str, **options: Any) -> Method:
    """Make the method of that name with these options.

    Args:
        name: a key of `METHODS`, or several joined by "+", which are composed.
        options: keyword arguments of its factory; of one of several, "PART.OPTION" if two have an option of that name.

    Raises:
        InputError: on an unknown name or option, a value of another type or out of range, or methods that do not
            compose.

    >>> make_method("label-smoothing", epsilon=0.1).options
    {'epsilon': 0.1}
    >>> make_method("ar-adals+mixup", gain=8.0, **{"mixup.alpha": 0.4}).options
    {'controller': 'stable', 'gain': 8.0, 'step_size': None, 'alpha': 0.4}
    """
    known, given = _spellings(name), {part: dict[str, Any]() for part in _parts(name)}
    for spelled, value in options.items():
        part, option, kind = known[check_choice(spelled, known, f"option of {name}")]
        if option in given[part]:
            refuse(f"option {option} of {part} is given twice", "it has one value", f"Drop {spelled} or the other")
        if value is not None:
            given[part][option] = check_option(value, kind, spelled)
    return compose(*(_make(part, own) for part, own in given.items()))


def _make(name: str, options: Mapping[str, Any]) -> Method:
    factory = factory_of(METHODS[name])
    method = factory(**options)
    return dataclasses.replace(method, options=resolved(factory, options, method))


def _parts(name: str) -> list[str]:
    parts = [check_choice(part.strip(), METHODS, "method") for part in name.split("+")]
    for part in parts:
        if parts.count(part) > 1:
            refuse(f"method {name} names {part} twice", "each of its parts is another", f"Drop one {part}")
    return parts


def _spellings(name: str) -> dict[str, tuple[str, str, type]]:
    """Return what each way of writing an option means: part, option of the part, type."""
    kinds = {part: options_of(factory_of(METHODS[part])) for part in _parts(name)}
    found = {part: {option: (part, option, kind) for option, kind in own.items()} for part, own in kinds.items()}
    whole = {f"{part}.{option}": place for part, own in found.items() for option, place in own.items()}
    return {**joined_options(found), **whole}


def method_options(name: str, *, whole: bool = True) -> dict[str, type]:
    """Return the options of a method, or of several joined by "+", with their types.

    Args:
        name: see `make_method`.
        whole: also by their whole names, "PART.OPTION".

    Raises:
        InputError: on an unknown name.

    >>> method_options("mixup")
    {'alpha': <class 'float'>, 'mixup.alpha': <class 'float'>}
    """
    return {
        option: kind for option, (part, own, kind) in _spellings(name).items() if whole or option != f"{part}.{own}"
    }


def parse_options(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Return the options that "NAME=VALUE" texts give to a method.

    Raises:
        InputError: if one is no option of the method, or its value is of another type.

    >>> parse_options("ccat", ["steps=10", "rho=2.5"])
    {'steps': 10, 'rho': 2.5}
    """
    kinds = method_options(name)
    return dict(parse_option(text, kinds, name) for text in texts)


def describe_methods() -> str:
    """Return a paragraph a method: its name, what it does, and its options with their defaults."""
    return "\n\n".join(map(_describe, METHODS))


def _describe(name: str) -> str:
    first = (factory_of(METHODS[name]).__doc__ or "").strip().partition("\n")[0]
    defaults = make_method(name).options
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in defaults.items()}
    told = ", ".join(key if value is None else f"{key}={value}" for key, value in shown.items())
    return f"{name}: {first}" + (f" Options: {told}." if told else "")
