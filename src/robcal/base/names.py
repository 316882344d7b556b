"""Names that the command line completes and checks without importing what they name: methods and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

#: Name on the command line → factory, which is imported when it is used.
METHODS: Mapping[str, str] = {
    "vanilla": "robcal.methods.vanilla:vanilla",
    "label-smoothing": "robcal.methods.label_smoothing:label_smoothing",
    "adals": "robcal.methods.ar_adals:adals",
    "random-levels": "robcal.methods.ar_adals:random_levels",
    "ar-adals": "robcal.methods.ar_adals:ar_adals",
    "mixup": "robcal.methods.mixup:mixup",
    "augmix": "robcal.methods.augmix:augmix",
    "focal": "robcal.methods.focal:focal",
    "flsd-53": "robcal.methods.focal:flsd53",
    "mbls": "robcal.methods.mbls:mbls",
    "ccat": "robcal.methods.ccat:ccat",
    "crl": "robcal.methods.crl:crl",
    "adversarial-training": "robcal.methods.adversarial_training:adversarial_training",
    "swag": "robcal.methods.swag:swag",
    "mc-dropout": "robcal.methods.mc_dropout:mc_dropout",
    "batch-ensemble": "robcal.methods.batch_ensemble:batch_ensemble",
}


def preset_names() -> tuple[str, ...]:
    """Return the names of the comparisons that come with robcal."""
    found = (item.name for item in files("robcal").joinpath("comparison", "presets").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))
