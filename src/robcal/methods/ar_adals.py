"""AR-AdaLS and its controls: one smoother, three sources of levels (method, section 3; Qin et al. 2021).

    targets      (1 - eps_r) onehot(y) + eps_r / Z            for an example of level r
    after_epoch  one update of every mass_r = 1 - eps_r (Z - 1) / Z by confidence and accuracy of the validation
                 examples of level r, by the integral update or by the stable controller

The mathematics is in `robcal.smoothing`. AR-AdaLS takes the levels of adversarial robustness; AdaLS has one level for
all; random levels are the same update on R groups drawn at random: what they gain is not robustness' doing.
"""

from __future__ import annotations

import torch

from robcal.base.checks import check_choice, refuse
from robcal.methods.method import Batch, EpochInfo, LevelSource, Method, RunInfo, State
from robcal.smoothing.controllers import (
    CONTROLLERS,
    DEFAULT_CONTROLLER,
    DEFAULT_GAIN,
    DEFAULT_STEP_SIZE,
    controller_name,
)
from robcal.smoothing.smoother import AdaptiveLabelSmoother
from robcal.smoothing.soft_labels import level_statistics, targets_of_levels


def ar_adals(
    controller: str = DEFAULT_CONTROLLER, *, gain: float | None = None, step_size: float | None = None
) -> Method:
    """Smooth labels adaptively per level of adversarial robustness, margin or loss."""
    return _adaptive("ar-adals", "AR-AdaLS", "robustness", controller, gain, step_size)


def adals(controller: str = DEFAULT_CONTROLLER, *, gain: float | None = None, step_size: float | None = None) -> Method:
    """Smooth labels adaptively, with one level for all examples (R = 1)."""
    return _adaptive("adals", "AdaLS", "single", controller, gain, step_size)


def random_levels(
    controller: str = DEFAULT_CONTROLLER, *, gain: float | None = None, step_size: float | None = None
) -> Method:
    """Smooth labels adaptively on R levels drawn at random: the control of AR-AdaLS."""
    return _adaptive("random-levels", "Random levels", "random", controller, gain, step_size)


def _adaptive(
    name: str, title: str, source: LevelSource, controller: str, gain: float | None, step_size: float | None
) -> Method:
    controller = check_choice(controller_name(controller), CONTROLLERS, "controller")
    integral = controller == "integral"
    foreign, given = ("gain", gain) if integral else ("step_size", step_size)
    if given is not None:
        refuse(f"{foreign} is {given}", f'controller "{controller}" has none', f"Drop {foreign}, or the controller")
    options: dict[str, float] = (
        {"step_size": DEFAULT_STEP_SIZE if step_size is None else step_size}
        if integral
        else {"gain": DEFAULT_GAIN if gain is None else gain}
    )

    def smoother_of(num_levels: int, num_classes: int, epochs: int) -> AdaptiveLabelSmoother:
        updates = None if integral else epochs
        return AdaptiveLabelSmoother(num_levels, num_classes, controller=controller, num_updates=updates, **options)

    def state_of(smoother: AdaptiveLabelSmoother) -> State:
        return {**smoother.state_dict(), "epsilon": torch.from_numpy(smoother.epsilon).float()}

    def init(info: RunInfo) -> State:
        return state_of(smoother_of(1 if source == "single" else info.num_levels, info.num_classes, info.epochs))

    def targets(state: State, batch: Batch, num_classes: int) -> torch.Tensor:
        assert batch.levels is not None, "the loop hands levels to every method that names a source of them"
        return targets_of_levels(batch.labels, batch.levels, tuple(state["epsilon"].tolist()), num_classes)

    def after_epoch(state: State, info: EpochInfo) -> State:
        assert info.levels is not None, "the loop hands levels to every method that names a source of them"
        smoother = smoother_of(len(state["true_mass"]), info.probs.shape[1], info.epochs)
        smoother.load_state_dict(state)
        smoother.update(*level_statistics(info.confidence, info.correct, info.levels, smoother.num_levels))
        return state_of(smoother)

    return Method(
        name=name,
        title=title,
        init=init,
        targets=targets,
        after_epoch=after_epoch,
        epsilon=lambda state: tuple(state["epsilon"].tolist()),
        levels=source,
        options={"controller": controller, **options},
    )
