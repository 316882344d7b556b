"""The work of a comparison as tasks that wait for each other; each keeps what it finished on disk.

Every run has a directory named by the digest of its settings, so that runs wanted twice (a plain model that is also
AR-AdaLS's reference) are made once, and a comparison that grows makes only what is new.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robcal.base.storage import digest_of
from robcal.comparison.plan import Plan
from robcal.runs.directory import open_run
from robcal.training.settings import TrainSettings

#: Sources of levels that need a reference model.
_FROM_REFERENCE = ("robustness", "margin", "loss")


@dataclass(frozen=True)
class Choice:
    """Settings of a run, or several to choose from by what they reached on the validation splits of tuning runs."""

    candidates: tuple[TrainSettings, ...]  #: the settings; one if there is nothing to choose
    trials: tuple[tuple[Path, ...], ...] = ()  #: for each candidate the directories of its tuning runs
    select: str = "val_nll"  #: the validation figure of the last epoch whose mean is to be least

    def scores(self) -> list[list[float]]:
        """Return for each candidate the validation figure of its finished tuning runs."""
        return [[getattr(open_run(one).history()[-1], self.select) for one in runs] for runs in self.trials]

    def best(self) -> int:
        """Return the position of the chosen candidate: the least mean, the first among equals."""
        if len(self.candidates) == 1:
            return 0
        means = [float(np.mean(one)) for one in self.scores()]
        finite = [mean if np.isfinite(mean) else np.inf for mean in means]
        return int(np.argmin(finite))

    def settings(self) -> TrainSettings:
        """Return the chosen settings."""
        return self.candidates[self.best()]


@dataclass(frozen=True)
class Place:
    """Where the runs and the corrupted images of comparisons are kept."""

    cache: Path

    def of(self, settings: TrainSettings) -> Path:
        """Return the directory of a run: METHOD-SEED-DIGEST."""
        return self.cache / "runs" / f"{settings.method}-{settings.seed}-{digest_of(settings.identity())[:8]}"

    @property
    def corrupted(self) -> Path:
        """Where corrupted images are kept."""
        return self.cache / "corrupted"


@dataclass(frozen=True)
class ShiftPlan:
    """Which shift is measured: of how many test examples, and by which published files (None: what robcal makes)."""

    limit: int | None = None
    official: str | None = None


@dataclass(frozen=True)
class Outside:
    """A set of out-of-distribution inputs: its name, its `--data` text, and how many are taken (None: all)."""

    name: str
    spec: str
    limit: int | None = None


Kind = Literal["train", "score train", "score test", "corrupt", "shift", "ood", "inference"]


@dataclass(frozen=True)
class Task:
    """One piece of work."""

    # train a run; score its train and val images, or its test images; corrupt the test images; predict them ("shift");
    # predict out-of-distribution inputs; time its predictions
    kind: Kind
    choice: Choice  # the run
    place: Place  # where it is
    limit: int | None = None  # of "score test": number of test examples
    shift: ShiftPlan | None = None  # of "corrupt" and "shift"
    corruption: str = ""  # of "corrupt"
    outside: Outside | None = None  # of "ood"
    scoring: TrainSettings | None = None  # of "score train": settings of a run that takes levels from it
    overwrite: bool = False  # replace runs that were made on other data

    def describe(self) -> str:
        """Return one line for people."""
        first = self.choice.candidates[0]
        among = f" (one of {len(self.choice.candidates)} settings)" if len(self.choice.candidates) > 1 else ""
        run = f"{first.method} seed {first.seed}" + ("" if first.split_seed is None else f" split {first.split_seed}")
        if self.kind == "corrupt":
            return f"corrupt: {self.corruption}"
        run += f" on {self.outside.name}" if self.outside is not None else ""
        where = f" in {self.place.of(first).name}" if not among else ""
        return f"{self.kind}: {run}{among}{where}"


@dataclass(frozen=True)
class Entry:
    """What is measured: one label at one seed, by its runs; the probabilities of several are averaged."""

    label: str
    seed: int
    members: tuple[Choice, ...]


@dataclass(frozen=True)
class Job:
    """Everything that the outcomes of an entry are computed from; picklable."""

    entry: Entry
    place: Place
    plain: Choice | None  #: the plain run whose robustness cuts the levels; None without levels
    shift: ShiftPlan | None
    score_limit: int | None
    outside: tuple[Outside, ...] = ()


class Work:
    """All tasks of a plan, in an order in which each comes after what it needs."""

    def __init__(self, plan: Plan, place: Place, *, kinds: tuple[str, ...], overwrite: bool = False) -> None:
        """Lay out the tasks; `kinds` are those of the shift that is to be made and kept before runs predict it."""
        self.plan, self.place, self.overwrite = plan, place, overwrite
        self.tasks: list[Task] = []
        self.needs: list[tuple[int, ...]] = []  # for each task the positions of those it waits for
        self.entries: list[Entry] = []  # what will be measured
        self.plain: dict[int, Choice] = {}  # seed → the plain run whose robustness cuts the test split into levels
        # (label, seed) → what is measured of it → positions of the tasks that this takes
        self.parts: dict[tuple[str, int], dict[str, tuple[int, ...]]] = {}
        self._number: dict[Any, int] = {}
        self._corrupted: tuple[int, ...] = ()
        self.shift = None if plan.shift_limit == 0 else ShiftPlan(plan.shift_limit, plan.shift)
        self.outside = tuple(Outside(name, spec, plan.ood_limit) for name, spec in plan.ood.items())
        self._kinds = kinds
        for method in plan.methods:
            for point in method.grid if len(method.grid) > 1 else ():
                for seed in plan.tuning_seeds:
                    self._train(Choice((plan.settings(method, seed, point=point),)))
        for seed in plan.seeds:
            self._one_seed(seed)

    def job(self, entry: Entry, lost: Container[str] = ()) -> Job:
        """Return what the outcomes of an entry are computed from, without the parts that are lost."""
        plain = None if "levels" in lost else self.plain.get(entry.seed)
        shift = None if "shift" in lost else self.shift
        return Job(entry, self.place, plain, shift, self.plan.score_limit, () if "ood" in lost else self.outside)

    def _one_seed(self, seed: int) -> None:
        plan, choices = self.plan, dict[tuple[str, int], Choice]()
        for method in (method for method in plan.methods if seed in method.seeds):
            choices[method.label, 0] = choice = self._choice(method.label, seed, 0)
            self._enter(Entry(method.label, seed, (choice,)))
        if plan.score_limit != 0:
            self.plain[seed] = plain = Choice((plan.plain(seed),))
            scored = self._add(Task("score test", plain, self.place, limit=plan.score_limit), (self._train(plain),))
        for ensemble in (ensemble for ensemble in plan.ensembles if seed in ensemble.seeds):
            members = tuple(self._choice(ensemble.of, seed, member) for member in range(ensemble.members))
            self._enter(Entry(ensemble.label, seed, members))
        if plan.score_limit != 0:
            for entry in (entry for entry in self.entries if entry.seed == seed):
                self.parts[entry.label, seed]["levels"] = (scored,)

    def _enter(self, entry: Entry) -> None:
        """Add an entry and all that is measured of it."""
        parts: dict[str, tuple[int, ...]] = {}
        for choice in entry.members:
            for part, number in self._evaluate(choice):
                parts[part] = (*parts.get(part, ()), number)
        self.entries.append(entry)
        self.parts[entry.label, entry.seed] = parts

    def _choice(self, label: str, seed: int, member: int) -> Choice:
        """Return what the run of a method at a seed (as a member of an ensemble) is chosen from."""
        plan, method = self.plan, self.plan.method(label)
        tuned, points = plan.grid_of(method)
        run_seed, split_seed = (seed, None) if member == 0 else (seed_of_run(seed, member), seed)
        candidates = tuple(plan.settings(method, run_seed, point=point, split_seed=split_seed) for point in points)
        trials = [[self.place.of(plan.settings(tuned, one, point=p)) for one in plan.tuning_seeds] for p in points]
        return Choice(candidates, tuple(map(tuple, trials)) if len(points) > 1 else (), plan.select)

    def _train(self, choice: Choice) -> int:
        """Add the training of a run and of what it needs; the number of its task."""
        first, needs = choice.candidates[0], []
        if needs_reference(first):
            reference = Choice((first.reference(),))
            needs.append(self._train(reference))
            if first.levels_from == "robustness":
                task = Task("score train", reference, self.place, scoring=first)
                needs.append(self._add(task, (needs[0],), key=(first.scorer, first.levels)))
        needs += [self._number["train", directory] for runs in choice.trials for directory in runs]
        return self._add(Task("train", choice, self.place, overwrite=self.overwrite), tuple(needs))

    def _evaluate(self, choice: Choice) -> list[tuple[str, int]]:
        """Add the training of a run that is measured, and everything that is measured of it: parts and their tasks."""
        trained = self._train(choice)
        made = [("all", trained), ("inference", self._add(Task("inference", choice, self.place), (trained,)))]
        for one in self.outside:
            made.append(("ood", self._add(Task("ood", choice, self.place, outside=one), (trained,), key=one.name)))
        if self.shift is not None:
            if not self._corrupted:
                plain = Choice((self.plan.plain(self.plan.seeds[0]),))
                cells = [Task("corrupt", plain, self.place, shift=self.shift, corruption=kind) for kind in self._kinds]
                self._corrupted = tuple(self._add(task, (), key=task.corruption) for task in cells)
            task = Task("shift", choice, self.place, shift=self.shift)
            made.append(("shift", self._add(task, (trained, *self._corrupted))))
        return made

    def _add(self, task: Task, needs: tuple[int, ...], *, key: Any = None) -> int:
        """Return the number of the task; one that is there already is not added again."""
        directories = tuple(map(self.place.of, task.choice.candidates))
        run: Any = directories[0] if len(directories) == 1 else (directories, task.choice.trials)
        identity = (task.kind, run) if key is None else (task.kind, run if task.kind != "corrupt" else "", key)
        if identity not in self._number:
            self._number[identity] = len(self.tasks)
            self.tasks.append(task)
            self.needs.append(needs)
        return self._number[identity]


def seed_of_run(seed: int, member: int) -> int:
    """Return the seed of the run that is member 1, 2, … of a deep ensemble, far from seeds that people write."""
    return 1_000_000 * member + seed


def needs_reference(settings: TrainSettings) -> bool:
    """Return whether a run takes its levels from a plain model of the same recipe."""
    return settings.takes_scores and settings.levels_from in _FROM_REFERENCE
