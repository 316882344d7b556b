"""Training methods by name. To add one: write a file with a factory that returns a `Method`, and name it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robcal.base.checks import check_choice
from robcal.methods.adversarial_training import adversarial_training
from robcal.methods.ar_adals import adals, ar_adals, random_levels
from robcal.methods.ccat import ccat
from robcal.methods.crl import crl
from robcal.methods.focal import focal
from robcal.methods.label_smoothing import label_smoothing
from robcal.methods.mc_dropout import mc_dropout
from robcal.methods.method import Batch, EpochInfo, Method, RunInfo
from robcal.methods.mixup import mixup
from robcal.methods.swag import swag
from robcal.methods.vanilla import vanilla

__all__ = ["METHODS", "Batch", "EpochInfo", "Method", "RunInfo", "make_method"]

#: Name on the command line → factory; its keyword arguments are the method's hyper-parameters.
METHODS: Mapping[str, Callable[..., Method]] = {
    "vanilla": vanilla,
    "label-smoothing": label_smoothing,
    "adals": adals,
    "random-levels": random_levels,
    "ar-adals": ar_adals,
    "mixup": mixup,
    "focal": focal,
    "ccat": ccat,
    "crl": crl,
    "adversarial-training": adversarial_training,
    "swag": swag,
    "mc-dropout": mc_dropout,
}


def make_method(name: str, **options: Any) -> Method:
    """The method of that name with these hyper-parameters.

    Args:
        name: a key of `METHODS`.
        options: keyword arguments of its factory; others are refused.

    Raises:
        InputError: on an unknown name or option, or a value out of range.

    >>> make_method("label-smoothing", epsilon=0.1).title
    'Label smoothing'
    """
    import inspect

    factory = METHODS[check_choice(name, METHODS, "method")]
    for option in options:
        check_choice(option, inspect.signature(factory).parameters, f"option of {name}")
    return factory(**options)
