"""The core idea: soften the labels of each robustness level as far as its calibration on validation data asks for.

An example with true class y in level r is trained on `(1 - eps_r) onehot(y) + eps_r / Z` (METHOD 4). What is steered
is the mass that this leaves on the true class, `mass_r = 1 - eps_r (Z - 1) / Z`; after every epoch, on the validation
examples of level r,

    mass_r <- clip(mass_r - step_size * (confidence_r - accuracy_r), min_true_mass, 1)

so over-confidence softens the labels of that level and under-confidence hardens them (AR-AdaLS: Qin, Wang, Beutel, Chi,
"Improving Calibration through the Relationship with Adversarial Robustness", NeurIPS 2021). That is the published
update; `controllers.py` holds it, and one that is stable by construction. `methods/ar_adals.py` puts this into the
training loop; `AdaptiveLabelSmoother` puts it into yours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from robcal.checks import FloatArray, check_choice, check_fraction, check_positive_int, refuse
from robcal.controllers import (
    CONTROLLERS,
    DEFAULT_CONTROLLER,
    DEFAULT_GAIN,
    DEFAULT_START,
    justified_mass,
    published_update,
    stable_update,
    step_of_run,
)

#: Default of `min_true_mass` [choice]: eps at most .95, so that the true class always keeps the largest mass.
DEFAULT_MAX_EPSILON = 0.95


def true_mass_from_epsilon(epsilon: npt.ArrayLike, num_classes: int) -> FloatArray:
    """Mass that smoothing by `epsilon` leaves on the true class: `1 - epsilon (Z - 1) / Z` (METHOD 4).

    Args:
        epsilon: any shape, in [0, 1].
        num_classes: Z.

    Returns:
        float64 array of the same shape, in [1/Z, 1].

    >>> float(true_mass_from_epsilon(0.1, 10))
    0.91
    """
    return np.asarray(1 - np.asarray(epsilon, dtype=np.float64) * (num_classes - 1) / num_classes)


def epsilon_from_true_mass(true_mass: npt.ArrayLike, num_classes: int) -> FloatArray:
    """Inverse of `true_mass_from_epsilon`: `epsilon = (1 - mass) Z / (Z - 1)` (METHOD 4).

    Args:
        true_mass: any shape, in [1/Z, 1].
        num_classes: Z.

    Returns:
        float64 array of the same shape, in [0, 1].
    """
    return np.asarray((1 - np.asarray(true_mass, dtype=np.float64)) * num_classes / (num_classes - 1))


def soft_targets(labels: torch.Tensor, epsilon: torch.Tensor | float, num_classes: int) -> torch.Tensor:
    """Smoothed one-hot targets, `(1 - eps) onehot(y) + eps / Z` (METHOD 4; Szegedy et al. 2016 for one common eps).

    Args:
        labels: (B,) int64, true classes.
        epsilon: (B,) smoothing of each example, or one number for all, in [0, 1].
        num_classes: Z.

    Returns:
        (B, Z) float32 on the device of `labels`; rows sum to 1; `epsilon = 0` is one-hot.

    >>> soft_targets(torch.tensor([1]), 0.3, 3)
    tensor([[0.1000, 0.8000, 0.1000]])
    """
    where = labels.unsqueeze(1)
    if not isinstance(epsilon, torch.Tensor):
        eps = np.float32(epsilon)
        rest = eps / np.float32(num_classes)
        shape, true = (len(labels), num_classes), rest + (np.float32(1) - eps)
        return torch.full(shape, float(rest), device=labels.device).scatter_(1, where, float(true))
    column = epsilon.to(labels.device, torch.float32).expand(labels.shape).unsqueeze(1)
    others = column / num_classes
    return others.expand(-1, num_classes).scatter(1, where, others + (1 - column))


def level_statistics(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, levels: npt.ArrayLike, num_levels: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Mean confidence, accuracy and number of examples of every level.

    Args:
        confidence: (N,) top-label confidence of each validation example.
        correct: (N,) whether its prediction is right.
        levels: (N,) integers in 0 … num_levels - 1.
        num_levels: R.

    Returns:
        confidence (R,) float64, accuracy (R,) float64, counts (R,) int64; an empty level has 0, 0, 0 (its gap is 0, so
        an update leaves it alone).
    """
    index = np.asarray(levels, dtype=np.int64)
    counts = np.bincount(index, minlength=num_levels)
    divisor = np.maximum(counts, 1)
    mean_confidence = np.bincount(index, weights=np.asarray(confidence, np.float64), minlength=num_levels) / divisor
    accuracy = np.bincount(index, weights=np.asarray(correct, np.float64), minlength=num_levels) / divisor
    return mean_confidence, accuracy, counts


class AdaptiveLabelSmoother:
    """AR-AdaLS for your own training loop: soft targets per level, and one update an epoch.

    Levels come from `robcal.assign_levels`. With `num_levels=1` it is AdaLS. The two controllers are written down in
    `robcal.controllers`.

    Args:
        num_levels: R >= 1.
        num_classes: Z >= 2.
        controller: "stable" (robcal's), or "published" (METHOD 4).
        num_updates: controller "stable": K, how often `update` will be called in the whole run.
        gain: controller "stable": the K updates together leave `exp(-gain)` of a deviation.
        start: controller "stable": the first share of the K updates, in [0, 1), in which labels stay hard.
        step_size: controller "published": alpha > 0, how far one update moves the true-class mass per unit of gap. The
            update integrates, so what matters is step_size times the number of updates; large steps wind up in the
            first epochs.
        min_true_mass: lower bound of the true-class mass, in (1/Z, 1) [choice: default leaves eps <= .95].

    Raises:
        InputError: on arguments out of range, missing for the controller, or not of it.

    >>> smoother = AdaptiveLabelSmoother(num_levels=2, num_classes=10, controller="published", step_size=0.5)
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
        controller: str = DEFAULT_CONTROLLER,
        num_updates: int | None = None,
        gain: float = DEFAULT_GAIN,
        start: float = DEFAULT_START,
        step_size: float | None = None,
        min_true_mass: float | None = None,
    ) -> None:
        self.num_levels = check_positive_int(num_levels, "num_levels")
        self.num_classes = check_positive_int(num_classes, "num_classes", minimum=2)
        self.controller = check_choice(controller, CONTROLLERS, "controller")
        published = controller == "published"
        needed, given = ("step_size", step_size) if published else ("num_updates", num_updates)
        if given is None:
            refuse(f"{needed} is missing", f'controller "{controller}" needs it', f"Pass {needed}")
        if not published and step_size is not None:
            refuse(f"step_size is {step_size}", 'controller "stable" has none', "Drop it, or pass gain")
        self.step_size = check_fraction(step_size, "step_size", high=float("inf")) if step_size is not None else None
        self.num_updates = None if num_updates is None else check_positive_int(num_updates, "num_updates")
        self.gain = check_fraction(gain, "gain", high=float("inf"))
        self.start = check_fraction(start, "start", low=-1e-300)
        default = float(true_mass_from_epsilon(DEFAULT_MAX_EPSILON, num_classes))
        self.min_true_mass = check_fraction(
            default if min_true_mass is None else min_true_mass, "min_true_mass", low=1 / num_classes
        )
        self._true_mass: FloatArray = np.ones(num_levels)
        self._integral: FloatArray = np.ones(num_levels)
        self._justified: FloatArray = np.zeros(num_levels)
        self._updates = 0

    @property
    def true_mass(self) -> FloatArray:
        """(R,) float64: mass on the true class of each level."""
        return self._true_mass.copy()

    @property
    def epsilon(self) -> FloatArray:
        """(R,) float64: label smoothing of each level."""
        return epsilon_from_true_mass(self._true_mass, self.num_classes)

    def soft_targets(self, labels: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Targets of a batch.

        Args:
            labels: (B,) int64, true classes.
            levels: (B,) int64, robustness level of each example.

        Returns:
            (B, Z) float32 on the device of `labels`.

        Raises:
            InputError: if a label or level is out of range, or the two differ in length.
        """
        if labels.shape != levels.shape or labels.ndim != 1:
            refuse(
                f"labels have shape {tuple(labels.shape)}, levels {tuple(levels.shape)}",
                "both must be (B,)",
                "Pass one level an example",
            )
        for name, values, bound in (("labels", labels, self.num_classes), ("levels", levels, self.num_levels)):
            if len(values) and (int(values.min()) < 0 or int(values.max()) >= bound):
                refuse(f"{name} hold {int(values.min())} to {int(values.max())}", f"0 to {bound - 1}", f"Check {name}")
        epsilon = torch.as_tensor(self.epsilon, dtype=torch.float32, device=labels.device)
        return soft_targets(labels, epsilon[levels], self.num_classes)

    def update(self, confidence: npt.ArrayLike, accuracy: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> None:
        """Move every level's smoothing towards calibration; call once an epoch, with validation figures.

        Args:
            confidence: (R,) mean confidence of each level on validation data, in [0, 1].
            accuracy: (R,) accuracy of each level on the same examples, in [0, 1].
            counts: (R,) number of these examples; controller "stable" needs it.

        Raises:
            InputError: on another shape, NaN, or values out of range; the state is then unchanged.
        """
        sure = self._checked(confidence, "confidence", 1.0)
        right = self._checked(accuracy, "accuracy", 1.0)
        if self.controller == "published":
            assert self.step_size is not None
            self._true_mass = published_update(
                self._true_mass, sure, right, step_size=self.step_size, min_true_mass=self.min_true_mass
            )
        else:
            if counts is None:
                refuse("counts is missing", 'controller "stable" needs it', "Pass the examples of each level")
            self._update_stably(sure, right, self._checked(counts, "counts", float("inf")))
        self._updates += 1

    def _update_stably(self, confidence: FloatArray, accuracy: FloatArray, counts: FloatArray) -> None:
        assert self.num_updates is not None
        self._justified = np.maximum(self._justified, justified_mass(accuracy, counts))
        if self._updates + 1 < self.start * self.num_updates:
            return
        self._integral, self._true_mass = stable_update(
            self._integral,
            confidence,
            accuracy,
            counts,
            step=step_of_run(self.gain, self.num_updates),
            least_mass=np.maximum(self.min_true_mass, self._justified),
        )

    def _checked(self, given: npt.ArrayLike, name: str, high: float) -> FloatArray:
        array = np.asarray(given, dtype=np.float64)
        if array.shape != (self.num_levels,) or not ((array >= 0) & (array <= high) & np.isfinite(array)).all():
            allowed = "in [0, 1]" if high == 1 else ">= 0"
            refuse(f"{name} is {array}", f"it must hold {self.num_levels} numbers {allowed}", f"Check {name}")
        return array

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The whole state, as tensors: `torch.save` and safetensors both keep it exactly."""
        return {
            "true_mass": torch.from_numpy(self._true_mass.copy()),
            "integral": torch.from_numpy(self._integral.copy()),
            "justified_mass": torch.from_numpy(self._justified.copy()),
            "updates": torch.tensor(self._updates),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            InputError: if it belongs to a smoother of another number of levels.
        """
        mass = state["true_mass"].detach().cpu().double().numpy().copy()
        if mass.shape != (self.num_levels,):
            refuse(f"the state holds {mass.shape} masses", f"this smoother has {self.num_levels} levels", "Match them")
        self._true_mass = mass
        if "updates" in state:  # states of versions that knew the published update only hold the masses alone
            self._integral = state["integral"].detach().cpu().double().numpy().copy()
            self._justified = state["justified_mass"].detach().cpu().double().numpy().copy()
            self._updates = int(state["updates"])
