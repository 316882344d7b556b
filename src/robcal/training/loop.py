"""The one training loop: members in lockstep, one shared method state (method, sections 3 and 4).

One network is an ensemble of one. In every epoch each member trains on its own, by its own seed; then the members'
validation probabilities are averaged, and the method learns from the average. `member` is what one network does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from robcal.base.checks import FloatArray, check_num_levels, refuse
from robcal.base.encoding import plain
from robcal.base.progress import SILENT, Advance, Reporter, stop_at_boundary
from robcal.base.storage import decode, load_state, save_state
from robcal.base.types import EpochRow
from robcal.calibration.metrics import calibration_error, negative_log_likelihood
from robcal.data import Dataset
from robcal.data.augment import standard_augmentation
from robcal.methods import EpochInfo, Method, RunInfo
from robcal.methods.method import State
from robcal.smoothing.soft_labels import level_statistics
from robcal.training.member import Member, member_seed, open_engine, schedule
from robcal.training.predict import mean_probs
from robcal.training.profile import Profile
from robcal.training.running import FixedLevels, Levels, RunningLevels
from robcal.training.settings import Recipe
from robcal.training.tracking import epoch_figures
from robcal.training.trainable import TRIED, check_network

if TYPE_CHECKING:
    from robcal.training.settings import Augment

__all__ = ["Levels", "augmentation", "fit", "member_seed", "schedule"]

#: Layout of the saved state of an unfinished run; another one is refused.
_FORMAT = 5

#: What a resumed run must share of its recipe.
_OF_RECIPE = ("batch_size", "accumulate", "learning_rate", "weight_decay", "optimizer", "precision")


@dataclass
class _Progress:
    """Where a run stands: everything but what the members keep themselves."""

    state: State
    epoch: int = 0
    member: int = 0
    batch: int = 0
    history: list[EpochRow] = field(default_factory=list)


def fit(
    models: nn.Module | Sequence[nn.Module],
    dataset: Dataset,
    method: Method,
    recipe: Recipe | None = None,
    *,
    levels: Levels | RunningLevels | None = None,
    num_levels: int | None = None,
    state_file: Path | None = None,
    state_seconds: float = 30.0,
    key: str = "",
    keep_state: Callable[[State], object] | None = None,
    profile: Profile | None = None,
    track: Callable[[int, Mapping[str, float]], object] | None = None,
    reporter: Reporter = SILENT,
    description: str = "train",
    **settings: Any,
) -> list[EpochRow]:
    """Train a network, or several in lockstep, in place by one method; in several processes, under torchrun, too.

    Several networks are an ensemble (method, section 4). Averaging probabilities lowers confidence, so members that are
    each calibrated make an under-confident ensemble. Here each member trains an epoch, the validation probabilities are
    averaged, and the method's one state, which all members share (what its loss keeps is handed from member to member),
    is updated once with `conf_r` and `acc_r` of the average. History rows are of the average too.

    Args:
        models: (B, …) float32 → (B, Z) logits; left on the CPU in eval mode. Several are initialised differently.
        dataset: with a "train" and a "val" split; the latter is only ever measured, to steer the method.
        method: see `robcal.methods`.
        recipe: how they are trained; member 0 by its seed, the others by `member_seed(seed, k)`.
        levels: for methods that have levels: that of every example of "train" and "val", (N,) int64 each, or
            `RunningLevels`, which are cut anew after every epoch.
        num_levels: R; None takes one more than the largest level, or that of the running levels.
        state_file: where the unfinished run is kept; if it exists (and `key` matches) training goes on from there.
            It is written every `state_seconds`, and at once on Ctrl-C.
        state_seconds: how much work, in seconds, a killed run may lose.
        key: digest of the run's settings; a state of another run is refused.
        keep_state: is handed the method's state after the last epoch.
        profile: is told where the time goes.
        track: is called after every epoch, in the main process, with its number and its figures by name (those of
            `robcal.training.tracking.epoch_figures`); of a run that was stopped, the last ones may come again.
        reporter: shows progress in batches, over all networks.
        description: of the progress.
        settings: fields of `Recipe`, in place of `recipe` or of some of its fields.

    Returns:
        One row an epoch; `train_loss` is the mean over the networks.

    Raises:
        InputError: without a model; if the method needs levels and has none; if a network does not return logits of
            these classes in train and in eval mode; if a loss is not finite (at the step where it happens on a CPU,
            within `member.CHECK_EVERY` steps elsewhere; what was saved before is kept); if the saved state is of
            another run.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.
    """
    recipe = Recipe(**settings) if recipe is None else dataclasses.replace(recipe, **settings)
    models = [models] if isinstance(models, nn.Module) else models
    augment = augmentation(recipe, dataset)
    _check(models, dataset, method, levels)
    engine = open_engine(recipe.precision, recipe.device)
    members = [
        Member(
            model, dataset, method, recipe, engine, augment=augment, profile=profile, seed=member_seed(recipe.seed, k)
        )
        for k, model in enumerate(models)
    ]
    wanted = None if method.levels == "none" else levels
    used = wanted if isinstance(wanted, RunningLevels) else FixedLevels(wanted)
    info = RunInfo(
        num_classes=dataset.num_classes,
        num_levels=used.num_levels if num_levels is None else num_levels,
        epochs=recipe.epochs,
        seed=recipe.seed,
        num_train=len(dataset.split("train")),
        box=dataset.box,
    )
    lockstep = _Lockstep(members, method, info, used, track if engine.is_main_process else None)
    training = training_of(dataset, method, info, used, recipe, num_networks=len(models), augmented=augment is not None)
    if state_file is not None and state_file.exists():
        lockstep.restore(load_state(state_file), key, training, state_file)
    started = time.monotonic()
    _take_steps(
        lockstep,
        reporter.task(description, lockstep.num_steps),
        state_file if engine.is_main_process else None,
        state_seconds,
        {"key": key, "training": training},
    )
    if profile is not None:
        profile.total += time.monotonic() - started
    if keep_state is not None:
        keep_state(lockstep.progress.state)
    if lockstep.first.device.type != "cpu":  # it collects garbage, which takes longer than a small training
        engine.free_memory()
    for member in members:
        member.finish()
    return lockstep.progress.history


def _take_steps(
    lockstep: _Lockstep, advance: Advance, state_file: Path | None, state_seconds: float, about: Mapping[str, Any]
) -> None:
    """Take the steps that remain; where a file is named, it is written as `fit` says, with `about` in it."""
    device = lockstep.first.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), stop_at_boundary() as stop:
        saved = time.monotonic()
        with closing(lockstep.steps()) as steps:
            for done in steps:
                advance(done)
                if state_file is not None and (stop or time.monotonic() - saved >= state_seconds):
                    lockstep.check_losses(lockstep.progress.batch)  # a lost state does not replace one that is not
                    save_state({**about, **lockstep.snapshot()}, state_file)
                    saved = time.monotonic()
                stop.raise_if_set()


def augmentation(recipe: Recipe, dataset: Dataset) -> Augment | None:
    """Return what a recipe does to the inputs of a batch of these data."""
    if not isinstance(recipe.augment, str):
        return recipe.augment
    if recipe.augment == "none":
        return None
    if dataset.kind != "image":
        refuse(f"--augment {recipe.augment} with a table", "augmentation is for images", "Drop --augment")
    return standard_augmentation(dataset.name, dataset.input_shape)


def _check(
    models: Sequence[nn.Module], dataset: Dataset, method: Method, levels: Levels | RunningLevels | None
) -> None:
    if not models:
        refuse("there is no model to train", "at least one is needed", "Pass a list of networks as models")
    train = dataset.split("train")
    tried = train.batch(np.arange(min(TRIED, len(train))))
    for model in models:
        method.check(model, dataset)
        check_network(model, tried, dataset.num_classes)
    if method.levels == "none":
        return
    if isinstance(levels, RunningLevels):
        for name in ("train", "val"):
            check_num_levels(levels.num_levels, len(dataset.split(name)), split=f"the {name} split")
    elif levels is None or any(len(levels[name]) != len(dataset.split(name)) for name in ("train", "val")):
        refuse(
            f"method {method.name} has no levels for train and val",
            "it needs one an example",
            'Pass levels={"train": (N,) int64, "val": (M,) int64}, for example of robcal.assign_levels',
        )


class _Lockstep:
    """Members that advance epoch by epoch under one method state; knows nothing of files, signals or progress bars."""

    def __init__(
        self,
        members: Sequence[Member],
        method: Method,
        info: RunInfo,
        levels: FixedLevels | RunningLevels,
        track: Callable[[int, Mapping[str, float]], object] | None,
    ) -> None:
        self.members, self.method, self.info, self.levels, self.track = members, method, info, levels, track
        self.first = members[0]
        self.progress = _Progress(state=method.init(info))
        levels.begin(
            num_train=info.num_train,
            num_val=len(self.first.val),
            num_classes=info.num_classes,
            num_networks=len(members),
            device=self.first.device,
        )

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all members in all epochs."""
        return self.info.epochs * len(self.members) * self.first.num_batches

    def steps(self) -> Generator[int, None, None]:
        """Do what remains, one optimiser step at a time; yields how many are done, over all."""
        at, size = self.progress, self.first.num_batches
        while at.epoch < self.info.epochs:
            while at.member < len(self.members):
                member = self.members[at.member]
                member.start_epoch(at.epoch)
                with self.levels.watching(member.user_model):
                    while at.batch < size:
                        at.state = member.step(at.state, at.epoch, at.batch, self.levels)
                        at.batch += 1
                        yield (at.epoch * len(self.members) + at.member) * size + at.batch
                at.member, at.batch = at.member + 1, 0
            self._end_epoch()

    def snapshot(self) -> dict[str, Any]:
        """Return everything a resumed run needs, as tensors and plain values."""
        at = self.progress
        return {
            "format": _FORMAT,
            "members": [member.snapshot() for member in self.members],
            "method": dict(at.state),
            "at": [at.epoch, at.batch, at.member],
            "history": [dataclasses.asdict(row) for row in at.history],
            "levels": self.levels.snapshot(),
        }

    def check_losses(self, number: int) -> None:
        """Refuse to go on if any loss of this epoch was not finite, after so many steps of it."""
        for member in self.members:
            member.check_loss(self.progress.epoch, number)

    def restore(self, saved: Mapping[str, Any], key: str, training: Mapping[str, Any], file: Path) -> None:
        """Go on where `snapshot` was taken."""
        if saved.get("format") != _FORMAT:
            refuse(
                f"{file} was written by another version of robcal",
                "a run resumes with the version it began with",
                "Delete this file to start the training again",
            )
        check_training(saved["training"], training, file)
        check_training({"key": saved["key"]}, {"key": key}, file)
        for member, state in zip(self.members, saved["members"], strict=True):
            member.restore(state, file)
        self.levels.restore(saved["levels"])
        epoch, batch, number = saved["at"]
        history = [decode(EpochRow, row, file) for row in saved["history"]]
        self.progress = _Progress(dict(saved["method"]), epoch, number, batch, history)

    def _end_epoch(self) -> None:
        """Measure the validation split, let the method learn from it, and begin the next epoch."""
        at = self.progress
        steps = self.first.num_batches
        self.check_losses(steps)
        losses = [member.train_loss() for member in self.members]
        train_loss = float(np.mean(losses))
        if not math.isfinite(train_loss):  # that of another process was not
            self.first.refuse_loss(train_loss, at.epoch, steps)
        each = [member.validation_probs() for member in self.members]
        info = self._epoch_info(mean_probs(each))
        gap = self._gap(info)
        at.state = self.method.after_epoch(at.state, info)
        row = EpochRow(
            epoch=info.epoch,
            train_loss=train_loss,
            val_accuracy=float(info.correct.mean()),
            val_nll=negative_log_likelihood(info.probs, info.labels),
            val_ece=calibration_error(info.probs, info.labels),
            epsilon=self.method.epsilon(at.state),
            gap=gap,
        )
        at.history.append(row)
        if self.track is not None:
            rate = self.first.optimizer.param_groups[0]["lr"]
            self.track(row.epoch, epoch_figures(row, rate, losses, each, info.labels))
        at.epoch, at.member, at.batch = at.epoch + 1, 0, 0
        for member in self.members:
            member.loss_sum = 0.0

    def _epoch_info(self, probs: FloatArray) -> EpochInfo:
        """Return the validation split as the ensemble sees it: by the mean of its members' probabilities."""
        self.levels.measure(probs)
        return EpochInfo(
            epoch=self.progress.epoch + 1,
            epochs=self.info.epochs,
            probs=probs,
            labels=self.first.val.labels,
            levels=self.levels.val,
            num_levels=self.info.num_levels,
            model=self.first.user_model if len(self.members) == 1 else None,
        )

    def _gap(self, info: EpochInfo) -> tuple[float, ...]:
        """Return the signed gap of each level; empty without levels."""
        if info.levels is None:
            return ()
        count = 1 if self.method.levels == "single" else info.num_levels
        confidence, accuracy, _ = level_statistics(info.confidence, info.correct, info.levels, count)
        return tuple((confidence - accuracy).tolist())


def training_of(
    dataset: Dataset,
    method: Method,
    info: RunInfo,
    levels: FixedLevels | RunningLevels,
    recipe: Recipe,
    *,
    num_networks: int,
    augmented: bool,
) -> dict[str, Any]:
    """Return what tells a training from others, by names that an error can tell; data by their labels and shapes."""
    splits = {name: dataset.split(name) for name in ("train", "val")}
    fixed = levels.fixed
    found = {
        "method": method.name,
        **{f"{method.name} {name}": value for name, value in method.options.items()},
        "epochs": info.epochs,
        "seed": info.seed,
        "num_levels": info.num_levels,
        "number of networks": num_networks,
        **levels.settings,
        **{name: getattr(recipe, name) for name in _OF_RECIPE},
        "augmented": augmented,
        "num_classes": info.num_classes,
        "input shape": list(dataset.input_shape),
        **{f"{name} examples": len(split) for name, split in splits.items()},
        **{f"{name} labels": _digest(split.labels) for name, split in splits.items()},
        **{f"{name} levels": _digest(fixed[name]) for name in splits if fixed is not None},
    }
    return {name: plain(value) for name, value in found.items()}


def check_training(saved: Mapping[str, Any], own: Mapping[str, Any], file: Path) -> None:
    """Refuse the state of another training, naming the first setting that differs."""
    for name in dict.fromkeys((*own, *saved)):
        if saved.get(name) != own.get(name):
            refuse(
                f"{file} belongs to a run with other settings: its {name} is {saved.get(name)!r}",
                f"here it is {own.get(name)!r}, and a run resumes with the settings and data it began with",
                "Go back to these, or start again: delete this file (--overwrite), or name another (--out)",
            )


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
