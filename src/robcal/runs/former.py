"""What run.json of earlier versions says, in the words of this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Settings that never changed what a run trained.
_WITHOUT_EFFECT = ("online", "online_sample")
_ADAPTIVE = {"controller": "controller", "gain": "gain", "step_size": "step_size"}
_ATTACK = {"attack_epsilon": "epsilon", "attack_steps": "steps"}
#: Options were settings of their own: for each method the name of the setting → the option.
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "label-smoothing": {"epsilon": "epsilon"},
    **dict.fromkeys(("adals", "random-levels", "ar-adals"), _ADAPTIVE),
    "mixup": {"mixup_alpha": "alpha"},
    "focal": {"focal_gamma": "gamma"},
    "crl": {"ranking_weight": "weight"},
    "ccat": {**_ATTACK, "ccat_rho": "rho"},
    "adversarial-training": {**_ATTACK, "attack_step_size": "step_size"},
    "swag": {"swag_start": "start", "swag_rank": "rank", "samples": "samples"},
    "mc-dropout": {"samples": "samples"},
}


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that run.json holds, as `TrainSettings` takes them; those of now are returned as they are.

    >>> old = {"method": "mixup", "epochs": 3, "mixup_alpha": 0.4, "focal_gamma": None, "samples": 30}
    >>> settings_of({"settings": old})
    {'method': 'mixup', 'epochs': 3, 'options': {'alpha': 0.4}}
    """
    settings = dict(record["settings"])
    if "options" in settings:
        return settings
    own = _OPTIONS.get(settings.get("method", ""), {})
    if own is _ADAPTIVE:
        settings = {"controller": "integral", "levels_from": "robustness", **settings}  # before there were others
        settings.pop("step_size" if settings["controller"] == "stable" else "gain", None)  # the other's
    options = {option: settings[name] for name, option in own.items() if settings.get(name) is not None}
    former = {name for table in _OPTIONS.values() for name in table} | set(_WITHOUT_EFFECT)
    kept = {name: value for name, value in settings.items() if name not in former}
    return {**kept, "options": options}
