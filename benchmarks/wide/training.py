"""The training of a group of runs, epoch by epoch: what is not on the device.

After every epoch each run's validation split is predicted and robcal's method learns from it, as in
`robcal.training.loop`: the smoothing is `AdaptiveLabelSmoother`'s, with its controller, its levels and its statistics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robcal.base.checks import refuse
from robcal.base.storage import load_state, save_state
from robcal.data import Dataset
from robcal.methods import Batch, EpochInfo, Method, RunInfo
from robcal.methods.method import State, cross_entropy
from robcal.smoothing.running import logit_margin
from robcal.training.loop import schedule
from robcal.training.predict import softmax
from wide.engine import Arithmetic, Engine
from wide.inputs import draw_epoch
from wide.levels import Levels
from wide.plan import Plan, Regime
from wide.recipes import Recipe

#: Seconds of training that a killed run may lose.
STATE_SECONDS = 30.0


class OutOfTimeError(Exception):
    """The minutes of this piece are used up; the state is saved."""


@dataclass
class Run:
    """One network in training.

    Attributes:
        recipe: how.
        seed: of initialisation, order and augmentation.
        data: its splits.
        network: untrained.
        levels: of train and val.
        method: made by the recipe.
        state: of the method.
        history: one row an epoch: train_loss, val_accuracy, and the smoothing of each level for the next epoch.
    """

    recipe: Recipe
    seed: int
    data: Dataset
    network: nn.Module
    levels: Levels
    method: Method
    state: State
    history: list[dict[str, Any]] = field(default_factory=list)


def make_run(recipe: Recipe, seed: int, data: Dataset, network: nn.Module, levels: Levels, plan: Plan,
             regime: Regime) -> Run:  # fmt: skip
    """Begin a run.

    Raises:
        InputError: if the method has a loss of its own, for which the captured step has no place.
    """
    method = recipe.method()
    if method.loss is not cross_entropy:
        refuse(f"{recipe.title} has a loss of its own", "the step on the device is the cross-entropy", "Leave it out")
    info = RunInfo(
        num_classes=data.num_classes,
        num_levels=plan.levels,
        epochs=regime.epochs,
        seed=seed,
        num_train=len(data.split("train")),
        box=data.box,
    )
    return Run(recipe, seed, data, network, levels, method, method.init(info))


@dataclass
class Trainer:
    """Runs that advance side by side on an engine.

    Attributes:
        engine: made for as many members of these sizes.
        runs: one a member.
        plan: whose.
        regime: whose.
        state_file: where an unfinished training is kept.
        out_of_time: asked after every epoch.
        log: prints.
    """

    engine: Engine
    runs: Sequence[Run]
    plan: Plan
    regime: Regime
    state_file: Path
    key: str
    out_of_time: Callable[[], bool]
    log: Callable[[str], None] = print
    epoch: int = 0
    seconds: float = 0.0

    def train(self) -> float:
        """Train what remains; returns the seconds of all pieces together.

        Raises:
            OutOfTimeError: after an epoch, when the time is over; what is done is kept.
        """
        self._begin()
        inputs = [torch.from_numpy(run.data.split("val").inputs).to(self.engine.device) for run in self.runs]
        upcoming = self._draws(self.epoch)
        started = saved = time.monotonic()
        while self.epoch < self.regime.epochs:
            self._advance(upcoming)
            if self.epoch + 1 < self.regime.epochs:
                upcoming = self._draws(self.epoch + 1)  # while the device works
            for member, run in enumerate(self.runs):
                self._learn(member, run, inputs[member])
            self.epoch += 1
            now = time.monotonic()
            if self.epoch < self.regime.epochs and (self.out_of_time() or now - saved > STATE_SECONDS):
                self._save(now - started)
                saved = now
                if self.out_of_time():
                    raise OutOfTimeError
        return self.seconds + time.monotonic() - started

    def _begin(self) -> None:
        """Load the networks, and the state of this very training if there is one."""
        saved = load_state(self.state_file) if self.state_file.exists() else {}
        if saved.get("key") != self.key:
            for member, run in enumerate(self.runs):
                self.engine.load(member, run.network.state_dict(), run.data.split("train").inputs)
            return
        self.epoch, self.seconds = saved["epoch"], saved["seconds"]
        self.log(f"goes on after {self.epoch} of {self.regime.epochs} epochs")
        for member, (run, kept) in enumerate(zip(self.runs, saved["members"], strict=True)):
            self.engine.restore(member, kept["engine"], run.data.split("train").inputs)
            run.state, run.history = kept["state"], kept["history"]
            run.levels.restore(kept["levels"])

    def _save(self, seconds: float) -> None:
        members = [
            {
                "engine": self.engine.snapshot(member),
                "state": dict(run.state),
                "levels": run.levels.state(),
                "history": run.history,
            }
            for member, run in enumerate(self.runs)
        ]
        state = {"key": self.key, "epoch": self.epoch, "seconds": self.seconds + seconds, "members": members}
        save_state(state, self.state_file)

    def _draws(self, epoch: int) -> list[Any]:
        shape = self.engine.shape
        return [
            draw_epoch(
                run.seed,
                epoch,
                shape.num_train,
                shape.batch_size,
                augment=self.regime.augment,
                alpha=run.recipe.alpha,
            )
            for run in self.runs
        ]

    def _advance(self, draws: Sequence[Any]) -> None:
        """Enqueue the steps of an epoch."""
        steps = self.engine.shape.steps
        total = steps * self.regime.epochs
        rates = [self.regime.learning_rate * schedule(self.epoch * steps + step, total) for step in range(steps)]
        targets = [self._targets(run, slot.images) for run, slot in zip(self.runs, self.engine.slots, strict=True)]
        self.engine.run_epoch(draws, targets, rates)

    def _targets(self, run: Run, images: torch.Tensor) -> torch.Tensor:
        """(N, Z) targets of the whole training split in this epoch, on the device."""
        device = self.engine.device
        labels = torch.from_numpy(run.data.split("train").labels).to(device)
        levels = None if run.method.levels == "none" else torch.from_numpy(run.levels.of["train"]).to(device)
        batch = Batch(images, labels, levels, torch.arange(len(labels), device=device))
        return run.method.targets(run.state, batch, run.data.num_classes)

    def _learn(self, member: int, run: Run, val: torch.Tensor) -> None:
        """Predict the validation split and let the method learn from it."""
        arithmetic: Arithmetic = "bf16" if self.plan.precision == "bf16" else "float32"
        logits = self.engine.predict(member, val, arithmetic)
        if run.recipe.source == "running":
            slot = self.engine.slots[member]
            shown = slot.logits  # of the training passes; those of mixtures are of no image
            if run.recipe.alpha is not None:
                shown = torch.from_numpy(self.engine.predict(member, slot.images, arithmetic))
            margins = {"train": shown, "val": torch.from_numpy(logits)}
            run.levels.see({name: logit_margin(values).cpu().double().numpy() for name, values in margins.items()})
        info = EpochInfo(
            epoch=self.epoch + 1,
            epochs=self.regime.epochs,
            probs=softmax(logits),
            labels=run.data.split("val").labels,
            levels=None if run.method.levels == "none" else run.levels.of["val"],
            num_levels=self.plan.levels,
        )
        run.state = run.method.after_epoch(run.state, info)
        loss = self.engine.train_loss(member)
        if not np.isfinite(loss):
            refuse(f"the training loss became {loss} in epoch {self.epoch + 1}", "it must be finite",
                   "Lower learning_rate of the regime in the plan")  # fmt: skip
        epsilon = list(run.method.epsilon(run.state))
        run.history.append({"train_loss": loss, "val_accuracy": float(info.correct.mean()), "epsilon": epsilon})
