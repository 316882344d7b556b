"""A run directory: a trained model with everything that led to it, each step resumable.

DIR/run.json                 settings, their digest, versions, digests of the data; "complete" when all is done
DIR/model.safetensors        the trained network; of an ensemble DIR/member-K.safetensors, one a member; of a method
                             that draws networks of it to keep both
DIR/history.json             one entry an epoch: losses, validation figures, eps and gap of every level
DIR/predictions-SPLIT.safetensors   of test, and of val for what is fitted afterwards (temperature)
DIR/scores-SPLIT.parquet     adversarial robustness (--levels-from robustness: the reference model on train, val)
DIR/levels-SPLIT.parquet     robustness levels of train and val, for methods that have levels (running ones: the last)
DIR/reference/               run directory of the plain model that levels come from (methods whose levels come from it)
DIR/folds/                   models that never saw what they score, and their scores (--levels-from cross-fit only)
DIR/tensorboard/, DIR/wandb/ of trackers (--tracker); DIR/trackers.json holds which epochs they were told
DIR/state.pt                 the unfinished training, while there is one
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import nn

from robcal.base import storage
from robcal.base.checks import check_num_levels, refuse
from robcal.base.distributed import Group, choose_device, process_group
from robcal.base.files import remove_left_behind
from robcal.base.progress import SILENT, Reporter
from robcal.base.types import EpochRow
from robcal.data import Dataset
from robcal.runs.directory import Run, clear, list_files, load_data, load_networks, run_digest, run_title, what_differs
from robcal.runs.level_sources import SPLITS, levels_of, save_run_levels, scores_at_hand, shared_folds
from robcal.runs.scores import moved
from robcal.training.loop import augmentation, fit, member_seed
from robcal.training.predict import predict
from robcal.training.profile import Profile
from robcal.training.recipe import build_networks, describe_network
from robcal.training.running import Levels, RunningLevels
from robcal.training.settings import TrainSettings
from robcal.training.tracking import Tracking


def train_run(
    settings: TrainSettings,
    directory: Path,
    *,
    overwrite: bool = False,
    dataset: Dataset | None = None,
    reference: Path | None = None,
    notes: list[str] | None = None,
    profile: Profile | None = None,
    trackers: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> Run:
    """Make a run directory, or finish one that was stopped; a finished one is left as it is.

    For `ar-adals` this is the whole pipeline: train the reference model (method, section 3, "robustness"), score the
    robustness of its training and validation images, cut levels, train. `level_sources` has the other sources.

    Args:
        settings: what to train.
        directory: where to.
        overwrite: start again if the directory holds a run with other settings.
        dataset: the data, if it is loaded already.
        reference: run directory of a plain model by the same recipe, if there is one already; what `score_reference`
            has left in it is used.
        notes: what the user should know of the weights that training starts from is appended.
        profile: is told where the time of the training goes, not counting that of a reference model.
        trackers: "tensorboard", "wandb" or "mlflow", which are told the figures of every epoch (not of a reference
            model), by the main process; a run that goes on tells none twice.
        reporter: shows progress.

    Raises:
        InputError: on settings that do not fit the data, or a directory that holds another run.
    """
    settings.check_trainable()
    method = settings.training_method()
    data = load_data(settings) if dataset is None else dataset
    for split in SPLITS if method.levels in ("random", "robustness") else ():
        check_num_levels(settings.levels, len(data.split(split)), split=f"the {split} split")
    augmentation(settings, data)  # what does not fit the data is refused before anything is written
    networks, at_hand = build_networks(settings, data, notes=notes), scores_at_hand(settings, data)
    for network in networks:
        method.check(network, data)
    run = Run(directory, settings)
    tracking = Tracking(trackers, directory, run_title(settings), dataclasses.asdict(settings))

    def plain() -> Run:
        return train_run(settings.reference(), reference or directory / "reference", dataset=data, reporter=reporter)

    with process_group(choose_device(settings.device)) as group, closing(tracking):
        group.from_main("claim", lambda: _claim(settings, directory, data, overwrite=overwrite))
        if run.is_complete:
            return run
        shared = None if reference is None else shared_folds(reference, settings)
        levels = levels_of(run, method, data, group, plain, at_hand=at_hand, shared=shared, reporter=reporter)
        _train(run, networks, data, levels, group, profile, tracking if trackers else None, reporter)
    return run


def _train(
    run: Run,
    networks: Sequence[nn.Module],
    data: Dataset,
    levels: Levels | RunningLevels | None,
    group: Group,
    profile: Profile | None,
    track: Tracking | None,
    reporter: Reporter,
) -> None:
    """Train the networks of a run, from where it was stopped, and write what it holds."""
    settings, state = run.settings, dict[str, torch.Tensor]()
    method = settings.training_method()
    history = fit(
        networks,
        data,
        method,
        settings,
        levels=levels,
        num_levels=settings.levels,
        state_file=run.directory / "state.pt",
        key=storage.digest_of(settings.identity()),
        keep_state=state.update,
        profile=profile,
        track=track,
        reporter=reporter,
        description=f"train {method.name}, seed {settings.seed}",
    )
    if isinstance(levels, RunningLevels):
        cut = levels.by_split()
        group.from_main("levels", lambda: save_run_levels(run, cut, "running"))
    group.from_main("finish", lambda: _finish(run, networks, data, history, state))


def _finish(
    run: Run, networks: Sequence[nn.Module], data: Dataset, history: list[EpochRow], state: Mapping[str, torch.Tensor]
) -> None:
    """Write everything a finished run holds; "complete" last."""
    directory, settings = run.directory, run.settings
    networks = _save_networks(run, networks, data, state)
    storage.save_json(history, directory / "history.json")
    place = choose_device(settings.device)
    with ExitStack() as there:
        for network in networks:
            there.enter_context(moved(network, place))
        for split in ("val", "test"):
            predictions = predict(networks, data.split(split), device=place)
            storage.save_predictions(predictions, directory / f"predictions-{split}.safetensors", overwrite=True)
    digests = [storage.digest_of_tensors(network.state_dict()) for network in networks]
    made = {"complete": True, "model_digest": digests[0] if len(digests) == 1 else storage.digest_of(digests)}
    storage.save_json({**run.record, **made, "files": list_files(directory)}, directory / "run.json")
    (directory / "state.pt").unlink(missing_ok=True)


def _save_networks(
    run: Run, networks: Sequence[nn.Module], data: Dataset, state: Mapping[str, torch.Tensor]
) -> Sequence[nn.Module]:
    """Write the trained networks, and those that the method draws of one to keep; returns those that predict."""
    settings, about = run.settings, describe_network(run.settings, data)
    predictors = settings.training_method().predictors
    if predictors is not None and predictors.kept:
        storage.save_checkpoint(networks[0].state_dict(), about, run.checkpoint)
        with moved(networks[0], choose_device(settings.device)):
            networks = predictors.draw(networks[0], state, data.split("train"), settings.seed)
    for k, (network, checkpoint) in enumerate(zip(networks, run.checkpoints, strict=True)):
        more = {"seed": member_seed(settings.seed, k)} if settings.members > 1 else {}
        more |= {"member": k} if len(networks) > 1 else {}
        storage.save_checkpoint(network.state_dict(), {**about, **more}, checkpoint)
    return networks if predictors is None or predictors.kept else load_networks(run)


def _claim(settings: TrainSettings, directory: Path, data: Dataset, *, overwrite: bool) -> None:
    """Write run.json, or accept the one that is there if it is of the same run; remove what a killed run left."""
    remove_left_behind(directory)
    digests = {name: data.digest(name) for name in ("train", "val", "test")}
    key = storage.digest_of({"settings": settings.identity(), "data": digests})
    file = directory / "run.json"
    if file.exists():
        found = storage.load_json(file, "the run")
        if run_digest(found) == key:
            return
        if not overwrite:
            given = f"{directory} holds a run with other settings or data{what_differs(found, settings)}"
            refuse(given, "a run directory holds one run", "Pass --overwrite to replace it, or choose another --out")
        clear(directory)
    elif directory.exists():  # with no more in it than what a process leaves that is killed while it writes run.json
        is_unfinished = re.compile(r"\.run\.json\..*\.tmp", re.DOTALL).fullmatch
        if not directory.is_dir() or not all(is_unfinished(file.name) for file in directory.iterdir()):
            given = f"{directory} exists and is no run directory"
            refuse(given, "--out names a new folder or a run's", "Choose another --out")
    told = {name: getattr(data, name) for name in ("name", "notes", "num_classes", "class_names")}
    record = {
        "settings": dataclasses.asdict(settings),
        "digest": key,
        "data": digests,
        "dataset": {**told, "sizes": {name: len(data.split(name)) for name in digests}},
        "versions": storage.provenance(),
        "complete": False,
    }
    storage.save_json(record, file)
