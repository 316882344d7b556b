"""Does a plan: group after group, each trained, measured and kept, within the minutes of one piece."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robcal.base.checks import IntArray
from robcal.base.storage import digest_of, load_arrays, save_arrays
from robcal.calibration.recalibration.maps import margins
from robcal.data import Dataset, load_dataset
from robcal.data.splits import Parts
from robcal.training.recipe import build_networks
from robcal.training.settings import TrainSettings
from wide.engine import Engine, Shape
from wide.inputs import steps_of
from wide.levels import make_levels
from wide.measure import CorruptedTest, distances, predictions
from wide.noise import NoisyLabels, noise_of_levels
from wide.plan import Group, Plan, Regime, groups
from wide.recipes import RECIPES, Recipe
from wide.store import Results
from wide.training import OutOfTimeError, Run, Trainer, make_run


@dataclass
class Worker:
    """Everything that the groups of a plan share.

    Attributes:
        plan: what to do.
        spec: names the data, as for `robcal.data.load_dataset`.
        parts: what its files hold.
        results: where finished runs are kept.
        state: folder of the unfinished training, of scores by plain networks and of corrupted images.
        device: where networks train.
        shifted: corrupted test images.
        seconds_left: of this piece.
        log: prints.
        noisy: labels of people, for regimes that train on them.
        taken: regime → the longest seconds that one of its groups took.
    """

    plan: Plan
    spec: str
    parts: Parts
    results: Results
    state: Path
    device: torch.device
    shifted: CorruptedTest
    seconds_left: Callable[[], float]
    log: Callable[[str], None]
    noisy: NoisyLabels | None = None
    taken: dict[str, float] = field(default_factory=dict)
    engines: dict[tuple[str, int], Engine] = field(default_factory=dict)
    cut: dict[tuple[str, int], Dataset] = field(default_factory=dict)
    clean: dict[tuple[str, int], IntArray] = field(default_factory=dict)

    def do(self) -> bool:
        """Do what is not done yet; returns whether everything is.

        A group that will not be finished in what is left of the piece is put off, others go before it.
        """
        piece, complete = self.seconds_left(), True
        for group in groups(self.plan):
            if all(name in self.results for name in group.names):
                continue
            if self.regime(group).noise is not None and self.noisy is None:
                self.log(f"{', '.join(group.names)} left out: --noisy names the folder of their labels")
                complete = False
                continue
            expected = self.taken.get(group.regime, 0.0) * len(group.seeds) / self.plan.members
            if not self._possible(group) or self.seconds_left() < min(expected, piece):
                complete = False
                continue
            try:
                self._group(group)
            except OutOfTimeError:
                return False
            except Exception as error:  # one recipe that fails costs no other its minutes, nor its memory
                self.engines.clear()
                torch.cuda.empty_cache()
                self.log(f"{', '.join(group.names)} failed: {error}\n{traceback.format_exc()}")
                complete = False
        return complete

    def regime(self, group: Group) -> Regime:
        """The regime of a group."""
        return next(regime for regime in self.plan.regimes if regime.name == group.regime)

    def _possible(self, group: Group) -> bool:
        """Whether the plain networks that give the levels are trained."""
        if not RECIPES[group.recipe].reference:
            return self.seconds_left() > 0
        return all(f"{group.regime}/plain/{seed}" in self.results for seed in group.seeds) and self.seconds_left() > 0

    def _group(self, group: Group) -> None:
        """Train, measure and keep a group, and remember how long that took."""
        regime, recipe = self.regime(group), RECIPES[group.recipe]
        runs = [self._run(regime, recipe, seed) for seed in group.seeds]
        engine = self._engine(regime, runs)
        started = time.monotonic()
        file = self.state / f"training-{'-'.join(map(str, (group.regime, group.recipe, *group.seeds)))}.pt"
        key = digest_of([self.results.key, group.names])
        trainer = Trainer(engine, runs, self.plan, regime, file, key, lambda: self.seconds_left() <= 0, self.log)
        seconds = trainer.train() / len(runs)
        for member, (name, run) in enumerate(zip(group.names, runs, strict=True)):
            self._keep(group, name, run, engine, member, seconds)
        file.unlink(missing_ok=True)
        self.taken[group.regime] = max(self.taken.get(group.regime, 0.0), time.monotonic() - started)

    def _run(self, regime: Regime, recipe: Recipe, seed: int) -> Run:
        data = self.data(regime, seed)
        reference = functools.partial(self._reference, regime, seed)
        levels = make_levels(recipe, seed, data, reference, self.plan.levels)
        return make_run(recipe, seed, data, self._network(regime, seed, data), levels, self.plan, regime)

    def data(self, regime: Regime, seed: int) -> Dataset:
        """The splits of a seed, which cuts validation and the limited training split."""
        if (regime.name, seed) not in self.cut:
            options: dict[str, Any] = {"seed": seed, "train_limit": regime.train_limit}
            data = load_dataset(self.spec, parts=self.parts, test_limit=self.plan.test_images, **options)
            if regime.noise is not None and self.noisy is not None:
                self.clean[regime.name, seed] = data.split("train").labels
                data = self.noisy.train_on(regime.noise, data, self.parts, **options)
            self.cut[regime.name, seed] = data
        return self.cut[regime.name, seed]

    def _network(self, regime: Regime, seed: int, data: Dataset) -> torch.nn.Module:
        settings = TrainSettings(self.spec, self.plan.model, "vanilla", epochs=regime.epochs, seed=seed)
        return build_networks(settings, data)[0]

    def _engine(self, regime: Regime, runs: list[Run]) -> Engine:
        """The engine of a regime for so many members, made once."""
        if (regime.name, len(runs)) not in self.engines:
            started, data = time.monotonic(), runs[0].data
            count = len(data.split("train"))
            size = self.plan.batch_size
            shape = Shape(count, data.input_shape, data.num_classes, size, steps_of(count, size))
            self.engines[regime.name, len(runs)] = Engine(
                runs[0].network,
                shape,
                members=len(runs),
                device=self.device,
                weight_decay=self.plan.weight_decay,
                precision=self.plan.precision,
                augmented=regime.augment,
                compiled=self.plan.compiled and self.device.type == "cuda",
                captured=self.plan.captured and self.device.type == "cuda",
            )
            self.log(f"{regime.name}: steps of {len(runs)} x {size} images made in {time.monotonic() - started:.1f} s")
        return self.engines[regime.name, len(runs)]

    def _keep(self, group: Group, name: str, run: Run, engine: Engine, member: int, seconds: float) -> None:
        """Measure a trained network and keep what was found."""
        started = time.monotonic()
        shifted = [] if group.referee else self.shifted.on(self.device)
        arrays = predictions(engine, member, run.data, shifted, self.plan.kept_val)
        facts: dict[str, Any] = {"seconds": seconds, "history": run.history}
        if run.recipe.source == "none" and run.recipe.alpha is None and group.recipe == "plain":
            self._keep_reference(group, run, engine, member)
        if group.referee:
            network = engine.slots[member].network
            found = distances(network, run.data, "test", self.plan.scored_images, self.plan.levels)
            facts["scoring_seconds"] = found.pop("seconds")
            arrays |= found
        if (group.regime, run.seed) in self.clean and run.recipe.source not in ("none", "single"):
            given, true = run.data.split("train").labels, self.clean[group.regime, run.seed]
            facts["noise"] = noise_of_levels(given, true, run.levels.of["train"], self.plan.levels)
        facts["measuring_seconds"] = time.monotonic() - started
        self.results.add(name, arrays, facts)
        right = float((arrays["test"].argmax(1) == arrays["test_labels"]).mean())
        speed = engine.shape.num_train * len(run.history) / seconds
        self.log(
            f"{name}: accuracy {right:.4f}, trained in {seconds:.1f} s ({speed:,.0f} images/s with all around the "
            f"steps), measured in {facts['measuring_seconds']:.1f} s"
        )

    def _keep_reference(self, group: Group, run: Run, engine: Engine, member: int) -> None:
        """Keep what a plain network says of train and val, by which other recipes cut their levels."""
        wanted = {RECIPES[name].source for name in self.regime(group).recipes} & {"margin", "distance"}
        found: dict[str, Any] = {}
        for split in ("train", "val") if wanted and not group.referee else ():
            part = run.data.split(split)
            if "margin" in wanted:
                logits = engine.predict(member, torch.from_numpy(part.inputs).to(self.device), "float32")
                found[f"margin-{split}"] = margins(logits)
            if "distance" in wanted:
                network = engine.slots[member].network
                found[f"distance-{split}"] = distances(network, run.data, split, None, self.plan.levels)["distance"]
        if found:
            save_arrays(found, self._reference_file(group.regime, run.seed), about={"key": self.results.key})

    def _reference(self, regime: Regime, seed: int, source: str) -> dict[str, np.ndarray]:
        """Scores of train and val by the plain network of a seed."""
        arrays, _ = load_arrays(self._reference_file(regime.name, seed), "the scores of the plain network")
        return {split: arrays[f"{source}-{split}"] for split in ("train", "val")}

    def _reference_file(self, regime: str, seed: int) -> Path:
        return self.state / f"reference-{regime}-{seed}.safetensors"
