"""Advice about the smoother, its state, soft targets and the loss, and the training methods, carried out."""

import dataclasses

import numpy as np
import torch
from hint_cases import Call, Case, Steps, in_turn, run_code
from smoothed import soft_targets

from robcal import AdaptiveLabelSmoother, level_statistics, soft_cross_entropy
from robcal.methods import EpochInfo, RunInfo, make_method

CONFIDENCE, ACCURACY, COUNTS = [0.95, 0.9], [0.6, 0.8], [200, 100]


def _smoother(levels: int = 2, classes: int = 10, **options: object) -> AdaptiveLabelSmoother:
    own = {} if "controller" in options else {"num_updates": 4}
    return AdaptiveLabelSmoother(levels, classes, **{**own, **options})


def _integral(**options: object) -> AdaptiveLabelSmoother:
    return _smoother(controller="integral", step_size=0.5, **options)


def _moved(made: AdaptiveLabelSmoother, times: int = 3) -> AdaptiveLabelSmoother:
    for _ in range(times):
        made.update(CONFIDENCE[: made.num_levels], ACCURACY[: made.num_levels], COUNTS[: made.num_levels])
    return made


def _update(*figures: object) -> Call:
    return lambda: _smoother().update(*figures)


def _updates(*wrong: object) -> object:
    """Figures that are refused, and what `level_statistics` computes of the examples."""
    figures = level_statistics([0.9, 0.8, 0.9], [1, 0, 1], [0, 0, 1], 2)
    return in_turn(_update(*wrong), _update(*figures))


def _loads(saved: AdaptiveLabelSmoother, wrong: AdaptiveLabelSmoother, right: AdaptiveLabelSmoother) -> object:
    state = saved.state_dict()
    return in_turn(lambda: wrong.load_state_dict(state), lambda: right.load_state_dict(state))


def _old(made: AdaptiveLabelSmoother) -> dict[str, torch.Tensor]:
    """A state as 0.1.0 wrote it."""
    return {name: made.state_dict()[name] for name in ("true_mass", "integral", "justified_mass", "updates")}


def _checkpoint(folder: object) -> Steps:
    checkpoint = {"model": {}, "smoother": _moved(_smoother()).state_dict()}
    yield lambda: _smoother().load_state_dict(checkpoint)
    yield lambda: _smoother().load_state_dict(checkpoint["smoother"])


def _float_labels(folder: object) -> Steps:
    labels = torch.tensor([1.0, 2.0])
    hint = yield lambda: _smoother().soft_targets(labels, [0, 1])
    yield lambda: _smoother().soft_targets(run_code(hint, {"labels": labels}), [0, 1])


LOGITS, LABELS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
TARGETS = soft_targets(LABELS, 0.1, 3)


def _loss(wrong: dict, right: dict) -> object:
    arguments = {"logits": LOGITS, "targets": TARGETS}
    return in_turn(
        lambda: soft_cross_entropy(**{**arguments, **wrong}), lambda: soft_cross_entropy(**{**arguments, **right})
    )


def _counted(options: dict) -> object:
    return make_method("crl").init(RunInfo(num_classes=3, num_levels=1, epochs=2, seed=0, **options))


def _swag(epochs: int, start: float = 0.5) -> object:
    return make_method("swag", start=start).init(RunInfo(num_classes=3, num_levels=1, epochs=epochs, seed=0))


def _weights(model: torch.nn.Module | None) -> object:
    method = make_method("swag")
    state = method.init(RunInfo(num_classes=2, num_levels=1, epochs=4, seed=0))
    probs, labels = np.full((2, 2), 0.5), np.array([0, 1])
    info = EpochInfo(epoch=4, epochs=4, probs=probs, labels=labels, levels=None, num_levels=1)
    return method.after_epoch(state, dataclasses.replace(info, model=model))


CASES = [
    Case(
        "integral without a step size",
        "Pass step_size, for example 0.05",
        in_turn(lambda: _smoother(controller="integral"), lambda: _smoother(controller="integral", step_size=0.05)),
    ),
    Case(
        "stable without a number of updates",
        "Pass num_updates",
        in_turn(lambda: AdaptiveLabelSmoother(2, 10), lambda: AdaptiveLabelSmoother(2, 10, num_updates=3)),
    ),
    Case("stable with a step size", "Drop it, or pass gain", in_turn(lambda: _smoother(step_size=0.1), _smoother)),
    Case(
        "labels and levels of other batches",
        "Pass the level of each example",
        in_turn(lambda: _smoother().soft_targets([1, 2], [0]), lambda: _smoother().soft_targets([1, 2], [0, 0])),
    ),
    Case(
        "levels of another smoother",
        "Make the smoother with the num_levels",
        in_turn(lambda: _smoother().soft_targets([1], [2]), lambda: _smoother(levels=3).soft_targets([1], [2])),
    ),
    Case(
        "labels to ignore",
        r"pass labels.clip\(0\) here",
        in_turn(
            lambda: _smoother().soft_targets(torch.tensor([1, -100]), [0, 0]),
            lambda: _smoother().soft_targets(torch.tensor([1, -100]).clip(0), [0, 0]),
        ),
    ),
    Case("no counts", "level_statistics returns all three", _updates(CONFIDENCE, ACCURACY)),
    Case("shares in place of counts", "Pass the number of examples", _updates(CONFIDENCE, ACCURACY, [0.7, 0.3])),
    Case("no examples", "after a validation pass", _updates(CONFIDENCE, ACCURACY, [0, 0])),
    Case(
        "a level without examples",
        "pass counts with a 0",
        in_turn(_update([0.9, np.nan], [0.8, np.nan], [200, 100]), _update([0.9, np.nan], [0.8, np.nan], [200, 0])),
    ),
    Case(
        "per cent",
        "Divide by 100",
        in_turn(_update([95.0, 90.0], ACCURACY, COUNTS), _update([0.95, 0.9], ACCURACY, COUNTS)),
    ),
    Case("figures of the examples", "level_statistics computes them", _updates([0.9, 0.8, 0.9], [1, 0, 1], [1, 1, 1])),
    Case("labels of floats", r"`labels.long\(\)`", _float_labels),
    Case("targets that are labels", "Convert targets", _loss({"targets": LABELS}, {"targets": TARGETS})),
    Case("targets of other classes", "num_classes = Z", _loss({"targets": soft_targets(LABELS, 0.1, 5)}, {})),
    Case(
        "a weight without labels", "Pass labels", _loss({"weight": [1, 2, 3]}, {"weight": [1, 2, 3], "labels": LABELS})
    ),
    Case("labels of another batch", "Pass the labels of this batch", _loss({"labels": LABELS[:2]}, {"labels": LABELS})),
    Case(
        "weights of other classes",
        "Pass one weight a class",
        _loss({"weight": [1, 2], "labels": LABELS}, {"weight": [1, 2, 3], "labels": LABELS}),
    ),
    Case(
        "labels with another sign for what to ignore",
        "as ignore_index",
        _loss({"labels": LABELS - 1}, {"labels": LABELS - 1, "ignore_index": -1}),
    ),
    Case(
        "statistics of other examples",
        "in one order",
        in_turn(
            lambda: level_statistics([0.9], [1, 0], [0, 1], 2), lambda: level_statistics([0.9, 0.8], [1, 0], [0, 1], 2)
        ),
    ),
    Case(
        "statistics of logits",
        "Pass probabilities",
        in_turn(lambda: level_statistics([9.0], [1], [0], 1), lambda: level_statistics([0.9], [1], [0], 1)),
    ),
    Case("a checkpoint in place of its state", "Pass that part of the checkpoint", _checkpoint),
    Case(
        "a state of other classes",
        "num_classes=100",
        _loads(_moved(_smoother(classes=100)), _smoother(), _smoother(classes=100)),
    ),
    Case(
        "a state of smaller masses",
        "min_true_mass of the one that was saved",
        _loads(_moved(_integral(), 5), _integral(min_true_mass=0.9), _integral()),
    ),
    Case(
        "an old state of the other controller",
        'controller="integral"',
        in_turn(
            lambda: _smoother().load_state_dict(_old(_moved(_integral()))),
            lambda: _integral().load_state_dict(_old(_moved(_integral()))),
        ),
    ),
    Case(
        "an old state of a longer run",
        "Make the smoother with the num_updates",
        in_turn(
            lambda: _smoother(num_updates=2).load_state_dict(_old(_moved(_smoother()))),
            lambda: _smoother(num_updates=4).load_state_dict(_old(_moved(_smoother()))),
        ),
    ),
    Case(
        "a gain of the integral controller",
        "Drop gain, or the controller",
        in_turn(
            lambda: make_method("adals", controller="integral", gain=2.0),
            lambda: (make_method("adals", controller="integral"), make_method("adals", gain=2.0)),
        ),
    ),
    Case(
        "crl of unknown examples", "Pass num_train", in_turn(lambda: _counted({}), lambda: _counted({"num_train": 9}))
    ),
    Case(
        "swag of too few epochs",
        "Train for more epochs, or lower start",
        in_turn(lambda: _swag(1), lambda: (_swag(4), _swag(2, start=0.1))),
    ),
    Case(
        "swag without a network",
        "Pass EpochInfo.model",
        in_turn(lambda: _weights(None), lambda: _weights(torch.nn.Linear(2, 2))),
    ),
]
