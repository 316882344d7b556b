"""A run directory: a trained model with everything that led to it, each step resumable.

DIR/run.json                 settings, their digest, versions, digests of the data; "complete" when all is done
DIR/model.safetensors        the trained network
DIR/history.json             one entry an epoch: losses, validation figures, eps and gap of every level
DIR/predictions-SPLIT.safetensors   of test, and of val for what is fitted afterwards (temperature)
DIR/scores-SPLIT.parquet     adversarial robustness (of the reference model, for train and val of an AR-AdaLS run)
DIR/levels-SPLIT.parquet     robustness levels of train and val, for methods that have levels
DIR/reference/               run directory of the plain model whose robustness was scored (ar-adals only)
DIR/state.pt                 the unfinished training, while there is one
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robcal.artifacts import (
    decode,
    digest_of,
    digest_of_tensors,
    load_checkpoint,
    load_json,
    load_scores,
    provenance,
    save_checkpoint,
    save_json,
    save_levels,
    save_predictions,
)
from robcal.checks import IntArray, check_num_levels, check_same_length, refuse
from robcal.config import TrainSettings
from robcal.data import Dataset, load_dataset
from robcal.data.augment import pad_crop_flip, shift
from robcal.distributed import choose_device, process_group
from robcal.methods import Method, make_method
from robcal.models import Normalized, build_model
from robcal.predictors import predict
from robcal.progress import SILENT, Reporter
from robcal.robustness.levels import assign_levels
from robcal.robustness.shards import score_in_shards
from robcal.training import Augment, fit
from robcal.types import EpochRow, Levels, Scores


@dataclass(frozen=True)
class Run:
    """An existing run directory.

    Attributes:
        directory: where it is.
        settings: what it was made with.
    """

    directory: Path
    settings: TrainSettings

    @property
    def checkpoint(self) -> Path:
        """The trained network."""
        return self.directory / "model.safetensors"

    @property
    def is_complete(self) -> bool:
        """Whether training has ended."""
        return bool(load_json(self.directory / "run.json", "the run").get("complete"))

    def history(self) -> list[EpochRow]:
        """One row an epoch."""
        file = self.directory / "history.json"
        return [decode(EpochRow, row, file) for row in load_json(file, "the history")]

    def dataset(self) -> Dataset:
        """The data it was trained on, cut in the same way."""
        return load_data(self.settings)


def load_data(settings: TrainSettings) -> Dataset:
    """The data set that settings name.

    Raises:
        InputError: if it cannot be read.
    """
    return load_dataset(
        settings.data,
        val_fraction=settings.val_fraction,
        train_limit=settings.train_limit,
        test_limit=settings.test_limit,
        seed=settings.data_seed,
        image_size=settings.image_size,
    )


def open_run(directory: Path) -> Run:
    """Open a run directory.

    Raises:
        InputError: if it is none, or unreadable.
    """
    if not (directory / "run.json").exists():
        refuse(
            f"{directory} is no run directory (it has no run.json)",
            "`robcal train --out DIR` makes one",
            "Check the path",
        )
    record = load_json(directory / "run.json", "the run")
    try:
        settings = TrainSettings(**{"controller": "published", **record["settings"], "scores": ()})
    except (TypeError, KeyError) as error:
        refuse(
            f"{directory / 'run.json'} does not hold a run's settings ({error})",
            "it is written by `robcal train`",
            "Train again",
        )
    return Run(directory, settings)


def load_model(checkpoint: Path) -> tuple[Normalized, dict[str, Any]]:
    """The network of a checkpoint (or of a run directory), on the CPU in eval mode, and what is said about it.

    Raises:
        InputError: if the file is missing, truncated, of an unknown model, or its tensors do not fit that model.
    """
    file = checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint
    tensors, about = load_checkpoint(file)
    model = build_model(about["model"], input_shape=tuple(about["input_shape"]), num_classes=about["num_classes"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        refuse(
            f"{file} does not fit its model {about['model']} ({str(error).splitlines()[0]})",
            "a checkpoint holds exactly the tensors of its model",
            "Train again",
        )
    return model.eval(), about


def train_run(
    settings: TrainSettings,
    directory: Path,
    *,
    overwrite: bool = False,
    dataset: Dataset | None = None,
    reference: Path | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Make a run directory, or finish one that was stopped; a finished one is left as it is.

    For `ar-adals` this is the whole pipeline: train the reference model (METHOD 4, scores="reference-model"), score the
    robustness of its training and validation images, cut levels, train.

    Args:
        settings: what to train.
        directory: where to.
        overwrite: start again if the directory holds a run with other settings.
        dataset: the data, if it is loaded already.
        reference: run directory of a plain model by the same recipe, if there is one already.
        reporter: shows progress.

    Raises:
        InputError: on settings that do not fit the data, or a directory that holds another run.
    """
    method = make_method(settings.method, **settings.method_options())
    data = load_data(settings) if dataset is None else dataset
    for split in ("train", "val") if method.levels in ("random", "robustness") else ():
        check_num_levels(settings.levels, len(data.split(split)), split=f"the {split} split")
    model = build_model(
        settings.model,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        seed=settings.seed,
        **_normalization(data),
    )
    augment, at_hand = _augmentation(settings, data), _scores_at_hand(settings, data)
    run = Run(directory, settings)
    with process_group(choose_device(settings.device)) as group:
        group.from_main("claim", lambda: _claim(settings, directory, data, overwrite=overwrite))
        if run.is_complete:
            return run
        levels = _levels(run, method, data, at_hand, reference, reporter)
        history = fit(
            model,
            data,
            method,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            optimizer=settings.optimizer,
            augment=augment,
            seed=settings.seed,
            levels=levels,
            num_levels=settings.levels,
            precision=settings.precision,
            device=settings.device,
            state_file=directory / "state.pt",
            key=digest_of(settings.relevant()),
            reporter=reporter,
            description=f"train {method.name}, seed {settings.seed}",
        )
        group.from_main("finish", lambda: _finish(run, model, data, history))
    return run


def _finish(run: Run, model: torch.nn.Module, data: Dataset, history: list[EpochRow]) -> None:
    """Write everything a finished run holds; "complete" last."""
    directory, settings = run.directory, run.settings
    about = {
        "model": settings.model,
        "input_shape": list(data.input_shape),
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "data": data.name,
        "method": settings.method,
        "seed": settings.seed,
    }
    save_checkpoint(model.state_dict(), about, run.checkpoint)
    save_json(history, directory / "history.json")
    for split in ("val", "test"):
        file = directory / f"predictions-{split}.safetensors"
        save_predictions(predict(model, data.split(split)), file, overwrite=True)
    record = load_json(directory / "run.json", "the run")
    save_json(
        {**record, "complete": True, "model_digest": digest_of_tensors(model.state_dict())}, directory / "run.json"
    )
    (directory / "state.pt").unlink(missing_ok=True)


def score_split(
    model: torch.nn.Module,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    method: str = "projection",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    description: str | None = None,
    **options: Any,
) -> Scores:
    """Score one split and write `out`; finished shards are kept beside it, so a stopped run resumes.

    Args:
        model: the network.
        dataset: its data.
        split: "train", "val" or "test".
        out: target, a .parquet file.
        method: of `robcal.score`.
        overwrite: replace `out`.
        reporter: shows progress.
        description: of the progress.
        options: further options of `robcal.score` (num_rivals, batch_size, seed, precision, compile, …) and of
            `score_in_shards` (shard_size); device None takes a GPU where there is one, and under torchrun "cuda" is the
            GPU of each process.

    Raises:
        InputError: on bad input; see `robcal.score`.
    """
    part = dataset.split(split)
    place = choose_device(options.pop("device", None) or _accelerator_of(model))
    with _moved(model, place), process_group(place) as group:
        digest = group.from_main("data", lambda: dataset.digest(split))  # read once, not once a process
        about = provenance(model=digest_of_tensors(model.state_dict()), data=digest, dataset=dataset.name, split=split)
        return score_in_shards(
            model,
            part.inputs,
            out=out,
            about=about,
            labels=part.labels,
            method=method,
            box=dataset.box,
            overwrite=overwrite,
            reporter=reporter,
            description=description or f"score {split}",
            **options,
        )


def _accelerator_of(model: torch.nn.Module) -> str | None:
    """The GPU the model is on, if it is on one."""
    parameter = next(iter(model.parameters()), None)
    return str(parameter.device) if parameter is not None and parameter.device.type != "cpu" else None


@contextmanager
def _moved(model: torch.nn.Module, place: str) -> Iterator[None]:
    """The model on that device; back where it was afterwards."""
    home = _accelerator_of(model) or "cpu"
    model.to(place)
    try:
        yield
    finally:
        model.to(home)


def _claim(settings: TrainSettings, directory: Path, data: Dataset, *, overwrite: bool) -> None:
    """Write run.json, or accept the one that is there if it is of the same run."""
    digests = {name: data.digest(name) for name in ("train", "val", "test")}
    key = digest_of({"settings": settings.relevant(), "data": digests})
    file = directory / "run.json"
    if file.exists():
        if load_json(file, "the run").get("digest") == key:
            return
        if not overwrite:
            refuse(
                f"{directory} holds a run with other settings or data",
                "a run directory holds one run",
                "Pass --overwrite to replace it, or choose another --out",
            )
        for name in (
            "model.safetensors",
            "history.json",
            "state.pt",
            "predictions-val.safetensors",
            "predictions-test.safetensors",
            "results.json",
            "measurement.safetensors",
            *(f"{kind}-{split}.parquet" for kind in ("scores", "levels") for split in digests),
        ):
            (directory / name).unlink(missing_ok=True)
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        refuse(
            f"{directory} exists and is no run directory", "--out names a new folder or a run's", "Choose another --out"
        )
    record = {
        "settings": dataclasses.asdict(settings),
        "digest": key,
        "data": digests,
        "dataset": {
            "name": data.name,
            "notes": data.notes,
            "num_classes": data.num_classes,
            "class_names": data.class_names,
            "sizes": {name: len(data.split(name)) for name in digests},
        },
        "versions": provenance(),
        "complete": False,
    }
    save_json(record, file)


def _levels(
    run: Run,
    method: Method,
    data: Dataset,
    at_hand: dict[str, Scores] | None,
    reference: Path | None,
    reporter: Reporter,
) -> Mapping[str, IntArray] | None:
    """Levels of train and val, from where the method wants them."""
    if method.levels == "none":
        return None
    splits, settings = ("train", "val"), run.settings
    if method.levels == "single":
        return {name: np.zeros(len(data.split(name)), np.int64) for name in splits}
    if method.levels == "random":
        draws = {name: np.random.default_rng([settings.seed, number]) for number, name in enumerate(splits)}
        ranks = {name: draws[name].permutation(len(data.split(name))).astype(np.float64) for name in splits}
        levels = {name: assign_levels(ranks[name], settings.levels) for name in splits}
        source = "random"
    else:
        scores = at_hand or _reference_scores(run, data, reference, reporter)
        levels = {name: assign_levels(scores[name], settings.levels) for name in splits}
        source = scores["train"].method
    for name in splits:
        save_levels(
            Levels(levels[name], settings.levels, source), run.directory / f"levels-{name}.parquet", overwrite=True
        )
    return levels


def _scores_at_hand(settings: TrainSettings, data: Dataset) -> dict[str, Scores] | None:
    """The scores that `--scores` names, by split; each must belong to this data."""
    if not settings.scores:
        return None
    found: dict[str, Scores] = {}
    for file in settings.scores:
        scores = load_scores(Path(file))
        split = scores.provenance.get("split")
        if split not in ("train", "val"):
            refuse(f"{file} is of split {split!r}", "training needs scores of train and of val", "Score these splits")
        check_same_length(len(data.split(split)), len(scores), f"the {split} examples", file)
        if scores.provenance.get("data") != data.digest(split):
            refuse(
                f"{file} was made on other data",
                f"it must be scored on the {split} split of --data with the same --seed",
                "Score it again with `robcal score`",
            )
        found[split] = scores
    missing = [name for name in ("train", "val") if name not in found]
    if missing:
        refuse(
            f"--scores names no file for {' and '.join(missing)}",
            "pass --scores twice: train and val",
            f"Make it with `robcal score --split {missing[0]}`",
        )
    return found


def _reference_scores(run: Run, data: Dataset, reference: Path | None, reporter: Reporter) -> dict[str, Scores]:
    """Train the reference model if there is none, and score its train and val images."""
    where = reference or run.directory / "reference"
    plain = train_run(run.settings.reference(), where, dataset=data, reporter=reporter)
    shared = {split: shared_scores(plain, run.settings, split) for split in ("train", "val")}
    if all(file.exists() for file in shared.values()):
        return _score_reference(plain, run.settings, data, shared, reporter)
    own = {split: run.directory / f"scores-{split}.parquet" for split in shared}
    return _score_reference(plain, run.settings, data, own, reporter)


def shared_scores(reference: Run, settings: TrainSettings, split: str) -> Path:
    """Where a reference model's scores are for every run that cuts as many levels by the same way of scoring."""
    return reference.directory / f"scores-{split}-{settings.scorer}-{settings.levels}.parquet"


def score_reference(
    reference: Run, settings: TrainSettings, *, dataset: Dataset, reporter: Reporter = SILENT
) -> dict[str, Scores]:
    """Score a finished reference model once for all runs that will take levels from it; they find the scores there.

    Args:
        reference: the plain model's run.
        settings: of one of the runs: its scorer and number of levels.
        dataset: its data.
        reporter: shows progress.
    """
    files = {split: shared_scores(reference, settings, split) for split in ("train", "val")}
    return _score_reference(reference, settings, dataset, files, reporter)


def _score_reference(
    plain: Run, settings: TrainSettings, data: Dataset, files: Mapping[str, Path], reporter: Reporter
) -> dict[str, Scores]:
    """Scores of the reference model's train and val images; those on disk are kept if they are of this model."""
    model, _ = load_model(plain.checkpoint)
    scores, made_by = {}, digest_of_tensors(model.state_dict())
    for split, file in files.items():
        if file.exists() and (kept := load_scores(file)).provenance.get("model") == made_by:
            scores[split] = kept
            continue
        scores[split] = score_split(
            model,
            data,
            split,
            file,
            method=settings.scorer,
            num_levels=settings.levels,
            overwrite=True,
            reporter=reporter,
            device=settings.device,
        )
    return scores


def _normalization(data: Dataset) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of the training inputs, a channel or feature each."""
    part = data.split("train")
    index = np.linspace(0, len(part) - 1, min(len(part), 5000)).astype(np.int64)
    inputs = part.batch(index)
    axes = [0, *range(2, inputs.ndim)]
    if inputs.ndim == 2:
        return {"mean": inputs.mean(0), "std": inputs.std(0).clamp_min(1e-6)}
    return {"mean": inputs.mean(axes), "std": inputs.std(axes).clamp_min(1e-6)}


def _augmentation(settings: TrainSettings, data: Dataset) -> Augment | None:
    if settings.augment == "none":
        return None
    if data.kind != "image":
        refuse(f"--augment {settings.augment} with a table", "augmentation is for images", "Drop --augment")
    if data.name == "digits":
        return lambda inputs, generator: shift(inputs, 1, generator)
    return lambda inputs, generator: pad_crop_flip(inputs, generator=generator)
