"""The core idea: soften the labels of each robustness level as far as its calibration on validation data asks for.

An example with true class y in level r is trained on `(1 - eps_r) onehot(y) + eps_r / Z` (method, section 3). What is
steered is the mass that this leaves on the true class, `mass_r = 1 - eps_r (Z - 1) / Z`: over-confidence softens the
labels of that level and under-confidence hardens them, as `controllers.py` says (AR-AdaLS: Qin, Wang, Beutel, Chi,
"Improving Calibration through the Relationship with Adversarial Robustness", NeurIPS 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from robcal.base.checks import FloatArray, as_numbers, check_choice, check_fraction, check_positive_int, refuse
from robcal.smoothing import controllers
from robcal.smoothing.soft_labels import (
    FIX_LABELS,
    ROUNDING,
    Bounded,
    check_ranges,
    class_index,
    epsilon_from_true_mass,
    like,
    mix_with_uniform,
    true_mass_from_epsilon,
)
from robcal.smoothing.state import Course, Fingerprint, read_state, write_state

#: Default of `min_true_mass` [choice]: eps at most .95, so that the true class always keeps the largest mass.
DEFAULT_MAX_EPSILON = 0.95


class AdaptiveLabelSmoother:
    """AR-AdaLS for your own training loop: soft targets per level, and one update an epoch.

    Levels come from `robcal.assign_levels`. With `num_levels=1` it is AdaLS. The two controllers are written down in
    `robcal.smoothing.controllers`.

    Args:
        num_levels: R >= 1.
        num_classes: Z >= 2.
        controller: "stable" (robcal's), or "integral" (method, section 3), which was called "published".
        num_updates: controller "stable": K, how often `update` will be called in the whole run. Later updates go on
            with the same step, and are warned of.
        gain: controller "stable": the K updates together leave `exp(-gain)` of a deviation.
        start: controller "stable": the first share of the K updates, in [0, 1), in which labels stay hard.
        step_size: controller "integral": alpha > 0, how far one update moves the true-class mass per unit of gap. The
            update integrates, so what matters is step_size times the number of updates; large steps wind up in the
            first epochs.
        min_true_mass: lower bound of the true-class mass, in (1/Z, 1) [choice: default leaves eps <= .95].

    Raises:
        InputError: on arguments out of range, missing for the controller, or not of it.

    >>> smoother = AdaptiveLabelSmoother(num_levels=2, num_classes=10, controller="integral", step_size=0.5)
    >>> smoother.soft_targets(torch.tensor([3]), torch.tensor([0])).argmax().item()  # hard labels at the start
    3
    >>> smoother.update(confidence=[0.9, 0.8], accuracy=[0.7, 0.8])  # after an epoch, on validation data
    >>> smoother.epsilon.round(4)
    array([0.1111, 0.    ])
    """

    def __init__(
        self,
        num_levels: int,
        num_classes: int,
        *,
        controller: str = controllers.DEFAULT_CONTROLLER,
        num_updates: int | None = None,
        gain: float = controllers.DEFAULT_GAIN,
        start: float = controllers.DEFAULT_START,
        step_size: float | None = None,
        min_true_mass: float | None = None,
    ) -> None:
        self.num_levels = check_positive_int(num_levels, "num_levels")
        self.num_classes = check_positive_int(num_classes, "num_classes", minimum=2)
        self.controller = check_choice(controllers.controller_name(controller), controllers.CONTROLLERS, "controller")
        integral = self.controller == "integral"
        if integral and step_size is None:
            refuse("step_size is missing", 'controller "integral" needs it', "Pass step_size, for example 0.05")
        if not integral and num_updates is None:
            refuse(
                "num_updates is missing",
                'controller "stable" needs it',
                "Pass num_updates, the epochs of the whole run",
            )
        if not integral and step_size is not None:
            refuse(f"step_size is {step_size}", 'controller "stable" has none', "Drop it, or pass gain")
        self.step_size = check_fraction(step_size, "step_size", high=float("inf")) if step_size is not None else None
        self.num_updates = None if num_updates is None else check_positive_int(num_updates, "num_updates")
        self.gain = check_fraction(gain, "gain", high=float("inf"))
        self.start = check_fraction(start, "start", low=-1e-300)
        default = float(true_mass_from_epsilon(DEFAULT_MAX_EPSILON, num_classes))
        self.min_true_mass = check_fraction(
            default if min_true_mass is None else min_true_mass, "min_true_mass", low=1 / num_classes
        )
        self._course = Course.start(self.num_levels)

    @property
    def true_mass(self) -> FloatArray:
        """(R,) float64: mass on the true class of each level."""
        return self._course.true_mass.copy()

    @property
    def epsilon(self) -> FloatArray:
        """(R,) float64: label smoothing of each level."""
        return epsilon_from_true_mass(self._course.true_mass, self.num_classes)

    @overload
    def soft_targets(self, labels: torch.Tensor, levels: Any) -> torch.Tensor: ...
    @overload
    def soft_targets(self, labels: npt.ArrayLike, levels: Any) -> npt.NDArray[np.float32]: ...
    def soft_targets(self, labels: Any, levels: Any) -> Any:
        """Return the targets of a batch.

        Args:
            labels: (B,) true classes, integers of any width: a tensor, an array or a list.
            levels: (B,) robustness level of each example, likewise; on any device.

        Returns:
            (B, Z) float32, a tensor on the device of `labels` if these are a tensor, else an array. The values of both
            arguments are checked in one transfer from the device.

        Raises:
            InputError: if a label or level is no integer or out of range, or the two differ in length.
        """
        index, level = class_index(labels, "labels"), class_index(levels, "levels")
        if index.shape != level.shape:
            refuse(
                f"labels have shape {tuple(index.shape)}, levels {tuple(level.shape)}",
                "both must be (B,)",
                "Pass the level of each example of the batch",
            )
        level = level.to(index.device)
        check_ranges(
            Bounded("labels", index, self.num_classes - 1, FIX_LABELS),
            Bounded("levels", level, self.num_levels - 1, "Make the smoother with the num_levels they were cut with"),
        )
        epsilon = torch.as_tensor(self.epsilon, dtype=torch.float32, device=index.device)
        return like(labels, mix_with_uniform(index, epsilon[level], self.num_classes))

    def update(self, confidence: npt.ArrayLike, accuracy: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> None:
        """Move every level's smoothing towards calibration; call once an epoch, with validation figures.

        Args:
            confidence: (R,) mean confidence of each level on validation data, in [0, 1]: a tensor, an array or a list.
            accuracy: (R,) accuracy of each level on the same examples, in [0, 1].
            counts: (R,) number of these examples; controller "stable" needs it. A level with a count of 0 may have any
                confidence and accuracy, NaN too; controller "integral" leaves it as it is.

        Raises:
            InputError: on another shape, NaN, or values out of range; the state is then unchanged.

        Warns:
            UserWarning: if `num_updates` were made before.
        """
        if counts is None and self.controller == "stable":
            refuse(
                "counts is missing",
                'controller "stable" needs the number of validation examples of each level',
                "Pass it: robcal.level_statistics returns all three",
            )
        weighed = np.ones(self.num_levels) if counts is None else self._counts(counts)
        sure, right = self._shares(confidence, "confidence", weighed), self._shares(accuracy, "accuracy", weighed)
        self._warn_if_over()
        move = self._move_by_integral if self.controller == "integral" else self._move_stably
        self._course = move(sure, right, weighed)

    def _move_by_integral(self, confidence: FloatArray, accuracy: FloatArray, counts: FloatArray) -> Course:
        assert self.step_size is not None
        mass = controllers.integral_update(
            self._course.true_mass, confidence, accuracy, step_size=self.step_size, min_true_mass=self.min_true_mass
        )
        return self._course.moved(true_mass=mass)

    def _move_stably(self, confidence: FloatArray, accuracy: FloatArray, counts: FloatArray) -> Course:
        assert self.num_updates is not None
        before = self._course
        justified = np.maximum(before.justified, controllers.justified_mass(accuracy, counts))
        if before.updates + 1 < self.start * self.num_updates:
            return before.moved(justified=justified)
        integral, mass = controllers.stable_update(
            before.integral,
            confidence,
            accuracy,
            counts,
            step=controllers.step_of_run(self.gain, self.num_updates),
            least_mass=np.maximum(self.min_true_mass, justified),
        )
        return before.moved(justified=justified, integral=integral, true_mass=mass)

    def _warn_if_over(self) -> None:
        """Tell a loop that runs longer than it said."""
        if self.num_updates is not None and self._course.updates >= self.num_updates:
            warnings.warn(
                f"the smoother was made for num_updates={self.num_updates} (the epochs of ARAdaLS) and is updated more "
                "often: its step is that of the shorter run. Pass the number of updates of the whole run",
                UserWarning,
                stacklevel=3,
            )

    def _counts(self, given: npt.ArrayLike) -> FloatArray:
        array = self._one_a_level(given, "counts")
        if not (np.isfinite(array).all() and (array >= 0).all() and (array == np.floor(array)).all()):
            refuse(f"counts is {array}", "it holds whole numbers, at least 0", "Pass the number of examples, no shares")
        if not array.any():
            refuse(
                "counts is 0 for every level",
                "an update measures validation examples",
                "Call update after a validation pass, with the counts of its examples",
            )
        return array

    def _shares(self, given: npt.ArrayLike, name: str, counts: FloatArray) -> FloatArray:
        """Return the checked confidences or accuracies, 0 for levels without examples."""
        array = np.where(counts > 0, self._one_a_level(given, name), 0.0)
        if np.isnan(array).any():
            refuse(
                f"{name} is {array}",
                f"it holds {self.num_levels} numbers in [0, 1]",
                "For a level without validation examples pass counts with a 0; otherwise look for NaN in the outputs",
            )
        if array.min() < 0 or array.max() > 1 + ROUNDING:
            refuse(
                f"{name} is {array}", f"it holds {self.num_levels} numbers in [0, 1]", "Divide by 100 if it is per cent"
            )
        return np.minimum(array, 1.0)

    def _one_a_level(self, given: npt.ArrayLike, name: str) -> FloatArray:
        array = as_numbers(given, name)
        if array.shape != (self.num_levels,):
            refuse(
                f"{name} has shape {array.shape}",
                f"it must be ({self.num_levels},), one number a level",
                "Pass one number a level; robcal.level_statistics computes them from the examples",
            )
        return array

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the whole state, as tensors: `torch.save` and safetensors both keep it exactly."""
        return write_state(self._course, self._fingerprint)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            InputError: if it belongs to a smoother of other levels, classes, controller or number of updates, or holds
                what no smoother can reach; this one is then unchanged.
        """
        self._course = read_state(state, self._fingerprint)

    @property
    def _fingerprint(self) -> Fingerprint:
        num_updates = None if self.controller == "integral" else self.num_updates
        return Fingerprint(self.num_levels, self.num_classes, self.controller, num_updates, self.min_true_mass)
