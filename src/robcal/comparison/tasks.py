"""The work of a comparison as tasks that wait for each other; each keeps what it finished on disk.

Every run has a directory named by the digest of its settings, so that runs wanted twice (a plain model that is also
AR-AdaLS's reference) are made once, and a comparison that grows makes only what is new.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robcal.artifacts import digest_of, load_json, save_json
from robcal.checks import IntArray, refuse
from robcal.comparison.plan import Plan
from robcal.config import TrainSettings
from robcal.data import Dataset, load_dataset, read_parts
from robcal.data.corruptions import BENCHMARK_KINDS
from robcal.data.splits import Parts, stratified_subset
from robcal.distributed import choose_device
from robcal.files import locked
from robcal.methods import make_method
from robcal.progress import Reporter
from robcal.runs import Run, load_model, load_networks, open_run, score_reference, score_split, shared_scores, train_run
from robcal.shift import CELLS, ShiftImages, ShiftLogits, measure_shift

#: Sources of levels that need a reference model.
_FROM_REFERENCE = ("robustness", "margin", "loss")


@dataclass(frozen=True)
class Choice:
    """Settings of a run, or several to choose from by what they reached on the validation splits of tuning runs.

    Attributes:
        candidates: the settings; one if there is nothing to choose.
        trials: for each candidate the directories of its tuning runs.
        select: the validation figure of the last epoch whose mean is to be least.
    """

    candidates: tuple[TrainSettings, ...]
    trials: tuple[tuple[Path, ...], ...] = ()
    select: str = "val_nll"

    def scores(self) -> list[list[float]]:
        """For each candidate the validation figure of its finished tuning runs."""
        return [[getattr(open_run(one).history()[-1], self.select) for one in runs] for runs in self.trials]

    def best(self) -> int:
        """Position of the chosen candidate: the least mean, the first among equals.

        Raises:
            InputError: if a tuning run is missing, or none has a finite figure.
        """
        if len(self.candidates) == 1:
            return 0
        means = [float(np.mean(one)) for one in self.scores()]
        finite = [mean if np.isfinite(mean) else np.inf for mean in means]
        if min(finite) == np.inf:
            refuse("no tuning run has a finite validation figure", "one is needed", "Change the grid or the recipe")
        return int(np.argmin(finite))

    def settings(self) -> TrainSettings:
        """The chosen settings."""
        return self.candidates[self.best()]


@dataclass(frozen=True)
class Place:
    """Where the runs and the corrupted images of comparisons are kept."""

    cache: Path

    def of(self, settings: TrainSettings) -> Path:
        """The directory of a run: METHOD-SEED-DIGEST."""
        return self.cache / "runs" / f"{settings.method}-{settings.seed}-{digest_of(settings.relevant())[:8]}"

    @property
    def corrupted(self) -> Path:
        """Where corrupted images are kept."""
        return self.cache / "corrupted"


Kind = Literal["train", "score train", "score test", "corrupt", "shift"]


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        kind: train a run; score its train and val images, or its test images; corrupt the test images; predict them.
        choice: the run.
        place: where it is.
        limit: of "score test", "corrupt" and "shift": number of test examples.
        corruption: of "corrupt".
        scoring: of "score train": settings of a run that takes levels from it.
        overwrite: replace runs that were made on other data.
    """

    kind: Kind
    choice: Choice
    place: Place
    limit: int | None = None
    corruption: str = ""
    scoring: TrainSettings | None = None
    overwrite: bool = False

    def describe(self) -> str:
        """One line for people."""
        first = self.choice.candidates[0]
        among = f" (one of {len(self.choice.candidates)} settings)" if len(self.choice.candidates) > 1 else ""
        run = f"{first.method} seed {first.seed}" + ("" if first.split_seed is None else f" split {first.split_seed}")
        if self.kind == "corrupt":
            return f"corrupt: {self.corruption}"
        where = f" in {self.place.of(first).name}" if not among else ""
        return f"{self.kind}: {run}{among}{where}"


@dataclass(frozen=True)
class Entry:
    """What is measured: one label at one seed.

    Attributes:
        label: of a method or ensemble.
        seed: evaluation seed.
        members: the runs whose probabilities are averaged; one for a method.
    """

    label: str
    seed: int
    members: tuple[Choice, ...]


class Work:
    """All tasks of a plan, in an order in which each comes after what it needs.

    Attributes:
        tasks: the tasks.
        needs: for each the positions of those it waits for.
        entries: what will be measured.
        plain: seed → the plain run whose robustness cuts the test split into levels.
    """

    def __init__(self, plan: Plan, place: Place, *, images: bool, overwrite: bool = False) -> None:
        self.plan, self.place, self.overwrite = plan, place, overwrite
        self.tasks: list[Task] = []
        self.needs: list[tuple[int, ...]] = []
        self.entries: list[Entry] = []
        self.plain: dict[int, Choice] = {}
        self._number: dict[Any, int] = {}
        self._corrupted: tuple[int, ...] = ()
        self._images = images and plan.shift_limit != 0
        for method in plan.methods:
            for point in method.grid if len(method.grid) > 1 else ():
                for seed in plan.tuning_seeds:
                    self._train(Choice((plan.settings(method, seed, point=point),)))
        for seed in plan.seeds:
            self._one_seed(seed)

    def _one_seed(self, seed: int) -> None:
        plan, choices = self.plan, dict[tuple[str, int], Choice]()
        for method in (method for method in plan.methods if seed in method.seeds):
            choices[method.label, 0] = choice = self._choice(method.label, seed, 0)
            self._train(choice)
            self._shift(choice)
            self.entries.append(Entry(method.label, seed, (choice,)))
        if plan.score_limit != 0:
            self.plain[seed] = plain = Choice((plan.plain(seed),))
            self._add(Task("score test", plain, self.place, limit=plan.score_limit), (self._train(plain),))
        for ensemble in (ensemble for ensemble in plan.ensembles if seed in ensemble.seeds):
            members = tuple(self._choice(ensemble.of, seed, member) for member in range(ensemble.members))
            for choice in members:
                self._train(choice)
                self._shift(choice)
            self.entries.append(Entry(ensemble.label, seed, members))

    def _choice(self, label: str, seed: int, member: int) -> Choice:
        """What the run of a method at a seed (as a member of an ensemble) is chosen from."""
        plan, method = self.plan, self.plan.method(label)
        tuned, points = plan.grid_of(method)
        for point in points:  # a method refuses its options before any work
            settings = plan.settings(method, seed, point=point)
            make_method(settings.method, **settings.method_options())
        run_seed, split_seed = (seed, None) if member == 0 else (member_seed(seed, member), seed)
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

    def _shift(self, choice: Choice) -> None:
        if self._images:
            if not self._corrupted:
                plain = Choice((self.plan.plain(self.plan.seeds[0]),))
                tasks = [Task("corrupt", plain, self.place, self.plan.shift_limit, kind) for kind in BENCHMARK_KINDS]
                self._corrupted = tuple(self._add(task, (), key=task.corruption) for task in tasks)
            task = Task("shift", choice, self.place, self.plan.shift_limit)
            self._add(task, (self._train(choice), *self._corrupted))

    def _add(self, task: Task, needs: tuple[int, ...], *, key: Any = None) -> int:
        """The number of the task; one that is there already is not added again."""
        candidates = task.choice.candidates
        run: Any = self.place.of(candidates[0]) if len(candidates) == 1 else tuple(map(self.place.of, candidates))
        identity = (task.kind, run) if key is None else (task.kind, run if task.kind != "corrupt" else "", key)
        if identity not in self._number:
            self._number[identity] = len(self.tasks)
            self.tasks.append(task)
            self.needs.append(needs)
        return self._number[identity]


def member_seed(seed: int, member: int) -> int:
    """The seed of member 1, 2, … of the ensemble of a seed: far from every seed that people write down."""
    return 1_000_000 * member + seed


def needs_reference(settings: TrainSettings) -> bool:
    """Whether a run takes its levels from a plain model of the same recipe."""
    return make_method(settings.method).levels == "robustness" and settings.levels_from in _FROM_REFERENCE


def run_task(task: Task, reporter: Reporter) -> None:
    """Do one task; what is on disk already is left as it is."""
    settings = task.choice.settings()
    directory = task.place.of(settings)
    if task.kind == "corrupt":
        _corrupt(task, settings)
        return
    with locked(directory.with_name(f".{directory.name}.lock")):
        if task.kind == "train":
            _train(task, settings, directory, reporter)
        elif task.kind == "score train":
            assert task.scoring is not None
            with _timed(directory, task.kind) if not _scored(directory, task.scoring) else contextlib.nullcontext():
                score_reference(open_run(directory), task.scoring, dataset=dataset_of(settings), reporter=reporter)
        elif task.kind == "score test":
            _score_test(task, settings, directory, reporter)
        else:
            shift_of(open_run(directory), task.limit, task.place, reporter=reporter)


def seconds_of(directory: Path, kind: str = "train") -> float:
    """Seconds that a task of a run took, over all its starts; NaN if it was not measured."""
    file = directory / "seconds.json"
    seconds = load_json(file, "the times").get(kind) if file.exists() else None
    return float("nan") if seconds is None else float(seconds)


def scored_index(settings: TrainSettings, limit: int | None) -> IntArray:
    """Positions of the test examples whose robustness is scored: the same for every run on this data."""
    data = dataset_of(settings)
    return stratified_subset(data.split("test").labels, limit, num_classes=data.num_classes, name="score_limit")


def scores_file(directory: Path, limit: int | None) -> Path:
    """Where the robustness of the test examples is."""
    return directory / ("scores-test.parquet" if limit is None else f"scores-test-{limit}.parquet")


def dataset_of(settings: TrainSettings) -> Dataset:
    """The data of a run; files are read once a process, and the last cuts of them are kept."""
    key = (settings.val_fraction, settings.train_limit, settings.test_limit, settings.data_seed)
    return _dataset(settings.data, settings.image_size, *key)


@functools.lru_cache(maxsize=2)
def _dataset(
    spec: str, size: int | None, share: float | None, train: int | None, test: int | None, seed: int
) -> Dataset:
    found = _parts(spec, size)
    return load_dataset(
        spec, val_fraction=share, train_limit=train, test_limit=test, seed=seed, image_size=size, parts=found
    )


@functools.lru_cache(maxsize=1)
def _parts(spec: str, size: int | None) -> Parts:
    return read_parts(spec, image_size=size)


def _scored(directory: Path, scoring: TrainSettings) -> bool:
    """Whether a reference model's train and val images are scored."""
    return all(shared_scores(open_run(directory), scoring, split).exists() for split in ("train", "val"))


@contextlib.contextmanager
def _timed(directory: Path, kind: str) -> Iterator[None]:
    """Add the seconds that the block takes to those on disk, also where it is stopped."""
    start = time.perf_counter()
    try:
        yield
    finally:
        file = directory / "seconds.json"
        if (directory / "run.json").exists():
            before = load_json(file, "the times") if file.exists() else {}
            save_json({**before, kind: before.get(kind, 0.0) + time.perf_counter() - start}, file)


def _train(task: Task, settings: TrainSettings, directory: Path, reporter: Reporter) -> None:
    data = dataset_of(settings)
    reference = task.place.of(settings.reference()) if needs_reference(settings) else None
    finished = (directory / "run.json").exists() and open_run(directory).is_complete
    with contextlib.nullcontext() if finished else _timed(directory, task.kind):
        train_run(settings, directory, overwrite=task.overwrite, dataset=data, reference=reference, reporter=reporter)


def _score_test(task: Task, settings: TrainSettings, directory: Path, reporter: Reporter) -> None:
    out = scores_file(directory, task.limit)
    if out.exists():
        return
    data = dataset_of(settings)
    test = data.split("test")
    part = dataclasses.replace(data, splits={**data.splits, "test": test.subset(scored_index(settings, task.limit))})
    model, _ = load_model(directory)
    score_split(
        model, part, "test", out, method="auto", num_levels=settings.levels, device=settings.device,
        reporter=reporter, description=f"score test, seed {settings.seed}",
    )  # fmt: skip


def _corrupt(task: Task, settings: TrainSettings) -> None:
    images = _shift_images(settings, task.limit, task.place)
    for kind, severity in CELLS:
        if kind == task.corruption:
            images.cell(kind, severity)


def shift_of(run: Run, limit: int | None, place: Place, *, reporter: Reporter) -> ShiftLogits:
    """Logits of a finished run under shift, on the images that all runs of the comparisons share."""
    device = choose_device(run.settings.device)
    models = [network.to(device) for network in load_networks(run)]
    return measure_shift(run, models, _shift_images(run.settings, limit, place), device=device, reporter=reporter)


def _shift_images(settings: TrainSettings, limit: int | None, place: Place) -> ShiftImages:
    data = dataset_of(settings)
    return ShiftImages.of(
        data.split("test"), data.digest("test"), num_classes=data.num_classes, limit=limit, folder=place.corrupted
    )
