"""Training methods by name. To add one: write a file with a factory that returns a `Method`, and name it in `METHODS`.

The keyword arguments of the factory are the method's options: with their types, defaults and checks they are known to
the library, the command line (`--option NAME=VALUE`) and the files of comparisons (`options = { NAME = VALUE }`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from robcal.base.checks import check_choice
from robcal.methods.method import Batch, EpochInfo, Method, Predictors, RunInfo
from robcal.methods.options import check_option, factory_of, options_of, parse_option, resolved

__all__ = [
    "METHODS",
    "Batch",
    "EpochInfo",
    "Method",
    "Predictors",
    "RunInfo",
    "describe_methods",
    "make_method",
    "method_options",
    "parse_options",
]

#: Name on the command line → factory, which is imported when it is used.
METHODS: Mapping[str, str] = {
    "vanilla": "robcal.methods.vanilla:vanilla",
    "label-smoothing": "robcal.methods.label_smoothing:label_smoothing",
    "adals": "robcal.methods.ar_adals:adals",
    "random-levels": "robcal.methods.ar_adals:random_levels",
    "ar-adals": "robcal.methods.ar_adals:ar_adals",
    "mixup": "robcal.methods.mixup:mixup",
    "focal": "robcal.methods.focal:focal",
    "ccat": "robcal.methods.ccat:ccat",
    "crl": "robcal.methods.crl:crl",
    "adversarial-training": "robcal.methods.adversarial_training:adversarial_training",
    "swag": "robcal.methods.swag:swag",
    "mc-dropout": "robcal.methods.mc_dropout:mc_dropout",
}


def make_method(name: str, **options: Any) -> Method:
    """Make the method of that name with these options.

    Args:
        name: a key of `METHODS`.
        options: keyword arguments of its factory; others are refused.

    Raises:
        InputError: on an unknown name or option, or a value of another type or out of range.

    >>> make_method("label-smoothing", epsilon=0.1).options
    {'epsilon': 0.1}
    """
    kinds = method_options(name)
    for option in options:
        check_choice(option, kinds, f"option of {name}")
    given = {key: check_option(value, kinds[key], key) for key, value in options.items() if value is not None}
    factory = factory_of(METHODS[name])
    method = factory(**given)
    return dataclasses.replace(method, options=resolved(factory, given, method))


def method_options(name: str) -> dict[str, type]:
    """Return the options of a method, with their types.

    Raises:
        InputError: on an unknown name.

    >>> method_options("mixup")
    {'alpha': <class 'float'>}
    """
    return options_of(factory_of(METHODS[check_choice(name, METHODS, "method")]))


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
    options = (f"{key}={_shown(defaults[key])}" if key in defaults else key for key in method_options(name))
    told = ", ".join(options)
    return f"{name}: {first}" + (f" Options: {told}." if told else "")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
