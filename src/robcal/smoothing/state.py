"""The state of an `AdaptiveLabelSmoother` as tensors, and the checks that it belongs to the smoother that loads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robcal.base.checks import FloatArray, refuse
from robcal.smoothing.controllers import controller_name

#: Masses are compared with their bounds up to this much: they are sums of rounded steps.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Course:
    """How far the smoothing of each level has come."""

    true_mass: FloatArray  # (R,) mass on the true class
    integral: FloatArray  # (R,) what the updates of controller "stable" add up to; 1 for "integral"
    justified: FloatArray  # (R,) mass below which controller "stable" softens no level; 0 for "integral"
    updates: int = 0  # number of updates so far

    @staticmethod
    def start(num_levels: int) -> Course:
        """Return the course of hard labels."""
        return Course(np.ones(num_levels), np.ones(num_levels), np.zeros(num_levels))

    def moved(self, **arrays: FloatArray) -> Course:
        """Return the course after one more update, which changed these arrays."""
        return dataclasses.replace(self, **arrays, updates=self.updates + 1)


@dataclass(frozen=True)
class Fingerprint:
    """What tells the smoothers apart whose states must not be mixed up; the last bounds what the state may hold."""

    num_levels: int  # R
    num_classes: int  # Z
    controller: str  # "stable" or "integral"
    num_updates: int | None  # K, None where it was not given
    min_true_mass: float  # lower bound of the masses


def write_state(course: Course, fingerprint: Fingerprint) -> dict[str, torch.Tensor]:
    """Return the state as tensors; the name of the controller is kept as its UTF-8 bytes."""
    return {
        "true_mass": torch.from_numpy(course.true_mass.copy()),
        "integral": torch.from_numpy(course.integral.copy()),
        "justified_mass": torch.from_numpy(course.justified.copy()),
        "updates": torch.tensor(course.updates),
        "num_levels": torch.tensor(fingerprint.num_levels),
        "num_classes": torch.tensor(fingerprint.num_classes),
        "num_updates": torch.tensor(fingerprint.num_updates or 0),
        "controller": torch.tensor(list(fingerprint.controller.encode()), dtype=torch.uint8),
    }


def read_state(state: Mapping[str, Any], fingerprint: Fingerprint) -> Course:
    """Return the course of a state of a smoother like this one; one of robcal 0.1.0 is checked as far as it tells."""
    for name in ("true_mass", "integral", "justified_mass", "updates"):
        if name not in state:
            refuse(
                f"the state has no {name!r}, only {', '.join(map(repr, state)) or 'nothing'}",
                "it is what AdaptiveLabelSmoother.state_dict returned",
                "Pass that part of the checkpoint",
            )
    _check_names(state, fingerprint)
    least = fingerprint.min_true_mass
    course = Course(
        _masses(state, "true_mass", fingerprint, least),
        _masses(state, "integral", fingerprint, least),
        _masses(state, "justified_mass", fingerprint, 0.0),
        int(state["updates"]),
    )
    _check_controller(course, fingerprint)
    _check_updates(course, fingerprint, told="num_updates" in state)
    return course


def _check_names(state: Mapping[str, Any], fingerprint: Fingerprint) -> None:
    held: dict[str, Any] = {}
    if "controller" in state:
        name = bytes(_array(state["controller"]).astype(np.uint8)).decode(errors="replace")
        held["controller"] = controller_name(name)
    held["num_levels"] = int(np.size(_array(state["true_mass"])))
    held |= {name: int(state[name]) for name in ("num_levels", "num_classes") if name in state}
    if "num_updates" in state:
        held["num_updates"] = int(state["num_updates"]) or None
    for name, value in held.items():
        if value != getattr(fingerprint, name):
            refuse(
                f"the state is of a smoother with {name}={value!r}",
                f"this one has {name}={getattr(fingerprint, name)!r}",
                f"Make the smoother with {name}={value!r}, as the one that was saved",
            )


def _masses(state: Mapping[str, Any], name: str, fingerprint: Fingerprint, least: float) -> FloatArray:
    """Return one array of the state, each number in its bounds."""
    array = _array(state[name]).astype(np.float64)
    inside = (array >= least - _ROUNDING) & (array <= 1 + _ROUNDING)  # false for NaN
    if array.shape != (fingerprint.num_levels,) or not inside.all():
        refuse(
            f"{name} of the state is {array}",
            f"it holds {fingerprint.num_levels} masses from {least:g} to 1, so that the true class keeps the largest",
            "Make the smoother with the num_levels, num_classes and min_true_mass of the one that was saved, or start "
            "anew if the file is damaged",
        )
    return array


def _check_controller(course: Course, fingerprint: Fingerprint) -> None:
    """Refuse numbers that the controller cannot reach: in "stable" a mass falls below 1 only with its integral."""
    if fingerprint.controller == "integral":
        other, reached = "stable", (course.integral == 1).all() and (course.justified == 0).all()
    else:
        other, reached = "integral", (course.integral < 1)[course.true_mass < 1].all()
    if not reached:
        refuse(
            f'the masses of the state are not those of controller "{fingerprint.controller}"',
            "a state goes on with the controller that made it",
            f'Make the smoother with controller="{other}"',
        )


def _check_updates(course: Course, fingerprint: Fingerprint, *, told: bool) -> None:
    """Refuse a number of updates that this run cannot have made, unless the state tells that it is of this run."""
    most = fingerprint.num_updates
    if course.updates < 0 or (most is not None and course.updates > most and not told):
        refuse(
            f"the state has made {course.updates} updates",
            f"this smoother is of a run of num_updates={most}",
            "Make the smoother with the num_updates of the run that was saved",
        )


def _array(values: Any) -> npt.NDArray[Any]:
    """Return a tensor or array of the state on the host."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
