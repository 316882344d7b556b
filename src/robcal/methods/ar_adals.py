"""AR-AdaLS and its controls: one smoother, three sources of levels (METHOD 4; Qin et al. 2021).

    targets      (1 - eps_r) onehot(y) + eps_r / Z            for an example of level r
    after_epoch  one update of every mass_r = 1 - eps_r (Z - 1) / Z by confidence and accuracy of the validation
                 examples of level r, as published or by the stable controller

The mathematics is in `robcal.smoothing` and `robcal.controllers`. AR-AdaLS takes the levels of adversarial robustness;
AdaLS has one level for all; random levels are the same update on R groups drawn at random: what they gain is not
robustness' doing.
"""

from __future__ import annotations

import torch

from robcal.checks import check_choice
from robcal.controllers import CONTROLLERS
from robcal.methods.method import Batch, EpochInfo, LevelSource, Method, RunInfo, State
from robcal.smoothing import DEFAULT_GAIN, AdaptiveLabelSmoother, level_statistics, soft_targets

#: Default step size [choice]: over 18 to 40 epochs larger ones wind up while the model is still untrained.
DEFAULT_STEP_SIZE = 0.05

#: Which update steers unless another is named.
DEFAULT_CONTROLLER = "published"


def ar_adals(
    step_size: float = DEFAULT_STEP_SIZE, *, controller: str = DEFAULT_CONTROLLER, gain: float = DEFAULT_GAIN
) -> Method:
    """Adaptive label smoothing per level of adversarial robustness; arguments as of `AdaptiveLabelSmoother`."""
    return _adaptive("ar-adals", "AR-AdaLS", "robustness", step_size, controller, gain)


def adals(
    step_size: float = DEFAULT_STEP_SIZE, *, controller: str = DEFAULT_CONTROLLER, gain: float = DEFAULT_GAIN
) -> Method:
    """The same update with one level for all examples (R = 1)."""
    return _adaptive("adals", "AdaLS", "single", step_size, controller, gain)


def random_levels(
    step_size: float = DEFAULT_STEP_SIZE, *, controller: str = DEFAULT_CONTROLLER, gain: float = DEFAULT_GAIN
) -> Method:
    """The same update on R levels drawn at random: the control of AR-AdaLS."""
    return _adaptive("random-levels", "Random levels", "random", step_size, controller, gain)


def _adaptive(name: str, title: str, source: LevelSource, step_size: float, controller: str, gain: float) -> Method:
    published = check_choice(controller, CONTROLLERS, "controller") == "published"

    def smoother_of(num_levels: int, num_classes: int, epochs: int) -> AdaptiveLabelSmoother:
        if published:
            return AdaptiveLabelSmoother(num_levels, num_classes, step_size, controller=controller)
        return AdaptiveLabelSmoother(num_levels, num_classes, controller=controller, num_updates=epochs, gain=gain)

    def state_of(smoother: AdaptiveLabelSmoother) -> State:
        return {**smoother.state_dict(), "epsilon": torch.from_numpy(smoother.epsilon).float()}

    def init(info: RunInfo) -> State:
        return state_of(smoother_of(1 if source == "single" else info.num_levels, info.num_classes, info.epochs))

    def targets(state: State, batch: Batch, num_classes: int) -> torch.Tensor:
        assert batch.levels is not None, "the loop hands levels to every method that names a source of them"
        return soft_targets(batch.labels, state["epsilon"].to(batch.labels.device)[batch.levels], num_classes)

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
        options={"step_size": step_size} if published else {"controller": controller, "gain": gain},
    )
