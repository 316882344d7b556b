"""Training methods by name. To add one: write a file with a factory that returns a `Method`, and name it in `METHODS`.

The keyword arguments of the factory are the method's options: with their types, defaults and checks they are known to
the library, the command line (`--option NAME=VALUE`) and the files of comparisons (`options = { NAME = VALUE }`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from robcal.base.checks import check_choice, refuse
from robcal.base.names import METHODS
from robcal.methods.compose import compose, joined_options
from robcal.methods.method import Batch, EpochInfo, Method, Predictors, RunInfo

__all__ = [
    "METHODS", "Batch", "EpochInfo", "Method", "Predictors", "RunInfo", "compose", "describe_methods", "make_method",
    "method_options", "parse_options",
]  # fmt: skip


#: Types that an option may have → what they are called, and an example.
_KINDS: Mapping[type, tuple[str, str]] = {
    bool: ("true or false", "true"),
    int: ("an integer", "20"),
    float: ("a number", "0.5"),
    str: ("a text", "name"),
}


#: Signatures of factories; reading one anew takes a tenth of a millisecond, and settings ask for it hundreds of times.
_signature = functools.cache(functools.partial(inspect.signature, eval_str=True))


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
