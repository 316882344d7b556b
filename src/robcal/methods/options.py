"""The options of a method are the keyword arguments of its factory: read from its signature, checked by their types."""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from robcal.base.checks import check_choice, refuse
from robcal.methods.method import Method

#: Types that an option may have → what they are called, and an example.
_KINDS: Mapping[type, tuple[str, str]] = {
    bool: ("true or false", "true"),
    int: ("an integer", "20"),
    float: ("a number", "0.5"),
    str: ("a text", "name"),
}


#: Signatures of factories; reading one anew takes a tenth of a millisecond, and settings ask for it hundreds of times.
_signature = functools.cache(functools.partial(inspect.signature, eval_str=True))


def factory_of(path: str) -> Callable[..., Method]:
    """Return the function that "package.module:function" names."""
    module, _, name = path.partition(":")
    found: Callable[..., Method] = getattr(importlib.import_module(module), name)
    return found


def options_of(factory: Callable[..., Method]) -> dict[str, type]:
    """Return the options of a method, by name, with their types; `T | None` has the type T."""
    found = {}
    for name, parameter in _signature(factory).parameters.items():
        parts = typing.get_args(parameter.annotation) or (parameter.annotation,)  # of a union, or the one type it is
        kinds = [kind for kind in parts if kind in _KINDS]
        if len(kinds) != 1:
            refuse(
                f"option {name} of {factory.__name__} has the type {parameter.annotation}",
                f"it must be one of {', '.join(kind.__name__ for kind in _KINDS)}, or that or None",
                f"Annotate {name} so",
            )
        found[name] = kinds[0]
    return found


def check_option(value: Any, kind: type, name: str) -> Any:
    """Return the value of an option in its type, or refuse one of another; an integer is a number too."""
    taken = {int: (int, np.integer), float: (int, float, np.integer, np.floating)}.get(kind, (kind,))
    if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
        text, example = _KINDS[kind]
        refuse(f"{name} is {value!r}", f"it must be {text}", f"Pass for example {name}={example}")
    return kind(value)


def parse_option(text: str, kinds: Mapping[str, type], method: str) -> tuple[str, Any]:
    """Return name and value of "NAME=VALUE", of the options that a method has, with their types.

    >>> parse_option("alpha=.4", {"alpha": float}, "mixup")
    ('alpha', 0.4)
    """
    name, _, value = text.partition("=")
    if not kinds:
        refuse(f"--option {text} was given with --method {method}", "it has no such options", "Drop it")
    kind = kinds[check_choice(name, kinds, f"--option of {method}")]
    try:
        return name, {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        called, example = _KINDS[kind]
        refuse(f"--option is {text!r}", f"{name} is {called}", f"Write for example --option {name}={example}")


def resolved(factory: Callable[..., Method], given: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Return all options of a method that was made, defaults too; what it says of them goes first, else None."""
    bound = _signature(factory).bind(**given)
    bound.apply_defaults()
    said = {name: method.options.get(name) for name in bound.arguments} if method.options else {}
    return {**bound.arguments, **said}
