"""Doing the tasks of a comparison, and reading what they left; what is on disk already is left as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from robcal.base.checks import IntArray
from robcal.base.distributed import choose_device
from robcal.base.files import locked
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import load_json, save_json
from robcal.base.types import Float32Array, Scores
from robcal.comparison.tasks import Choice, Outside, Place, ShiftPlan, Task, needs_reference
from robcal.data import Dataset, Split, load_dataset, read_parts
from robcal.data.shifts import check_outside, shift_source
from robcal.data.splits import Parts, stratified_subset
from robcal.runs.directory import Run, load_model, load_networks, open_run
from robcal.runs.level_sources import score_reference, shared_scores
from robcal.runs.measure import measure_inference, measure_outside
from robcal.runs.scores import score_split
from robcal.runs.shift import ShiftImages, ShiftLogits, measure_shift
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings


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
            kept = (shared_scores(open_run(directory), task.scoring, split) for split in ("train", "val"))
            done = all(file.exists() for file in kept)
            with contextlib.nullcontext() if done else _timed(directory, scoring_kind(task.scoring)):
                score_reference(open_run(directory), task.scoring, dataset=dataset_of(settings), reporter=reporter)
        elif task.kind == "score test":
            _score_test(task, settings, directory, reporter)
        elif task.kind == "shift":
            assert task.shift is not None
            shift_of(open_run(directory), task.shift, task.place, reporter=reporter)
        elif task.kind == "ood":
            assert task.outside is not None
            outside_of(open_run(directory), task.outside, reporter=reporter)
        else:
            inference_of(open_run(directory))


def seconds_of(directory: Path, kind: str = "train") -> float:
    """Return the seconds that a task of a run took, over all its starts; NaN if it was not measured."""
    file = directory / "seconds.json"
    seconds = load_json(file, "the times").get(kind) if file.exists() else None
    return float("nan") if seconds is None else float(seconds)


def scoring_kind(settings: TrainSettings) -> str:
    """Name the seconds of scoring a reference model: other levels are other work."""
    return f"score train, {settings.scorer}, {settings.levels} levels"


def scored_index(settings: TrainSettings, limit: int | None) -> IntArray:
    """Return the positions of the test examples whose robustness is scored: the same for every run on this data."""
    data = dataset_of(settings)
    return stratified_subset(data.split("test").labels, limit, num_classes=data.num_classes, name="score_limit")


def scores_file(directory: Path, limit: int | None) -> Path:
    """Return where the robustness of the test examples is."""
    return directory / ("scores-test.parquet" if limit is None else f"scores-test-{limit}.parquet")


def plain_scores(plain: Choice, place: Place, limit: int | None) -> Scores:
    """Return the robustness of the test examples, for the plain model of a seed."""
    run = open_run(place.of(plain.settings()))
    return run.scores(scores_file(run.directory, limit), run.model_digest)


def dataset_of(settings: TrainSettings) -> Dataset:
    """Return the data of a run; files are read once a process, and the last cuts of them are kept."""
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
    assert task.shift is not None
    images = shift_images(settings, task.shift, task.place)
    for kind, severity in images.cells:
        if kind == task.corruption:
            images.cell(kind, severity)


def shift_of(run: Run, shift: ShiftPlan, place: Place, *, reporter: Reporter = SILENT) -> ShiftLogits:
    """Return the logits of a finished run under shift, on the inputs that all runs of the comparisons share."""
    models, device = _networks(run)
    images = shift_images(run.settings, shift, place)
    return measure_shift(run, models, images, device=device, reporter=reporter)


def shift_images(settings: TrainSettings, shift: ShiftPlan, place: Place) -> ShiftImages:
    """Return the test examples to be shifted, and what shifts them."""
    data = dataset_of(settings)
    return ShiftImages.of(
        data.split("test"),
        data.digest("test"),
        num_classes=data.num_classes,
        limit=shift.limit,
        folder=place.corrupted,
        source=shift_source(data, shift.official, test_limit=settings.test_limit),
    )


def outside_of(run: Run, outside: Outside, *, reporter: Reporter = SILENT) -> Float32Array:
    """Return the logits of a finished run on out-of-distribution inputs."""
    split, digest = outside_split(run.settings, outside)
    return measure_outside(run, lambda: _networks(run), split, digest, reporter=reporter)


def outside_split(settings: TrainSettings, outside: Outside) -> tuple[Split, str]:
    """Return the out-of-distribution inputs, the same for every run, and their digest."""
    like = dataset_of(settings)
    form = outside.spec.partition(":")[0]
    size = like.input_shape[-1] if form in ("imagenet", "folder") and like.kind == "image" else None
    split, digest = _outside(outside.spec, size, outside.limit)
    check_outside(split, like, outside.name)
    return split, digest


@functools.lru_cache(maxsize=8)
def _outside(spec: str, size: int | None, limit: int | None) -> tuple[Split, str]:
    """Return some or all of the test split of a data set, stratified, and its digest."""
    data = load_dataset(spec, image_size=size)
    test = data.split("test")
    split = test.subset(stratified_subset(test.labels, limit, num_classes=data.num_classes, name="ood_limit"))
    return split, dataclasses.replace(data, splits={"test": split}).digest("test")


def inference_of(run: Run) -> float:
    """Return the seconds in which a finished run predicts its test split."""
    test = dataset_of(run.settings).split("test")
    return float(measure_inference(run, lambda: _networks(run), test)["seconds"])


def _networks(run: Run) -> tuple[list[nn.Module], str]:
    """Return the networks that predict, on the device of the run."""
    device = choose_device(run.settings.device)
    return [network.to(device) for network in load_networks(run)], device
