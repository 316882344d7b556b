"""Where the levels of a run come from (method, section 3).

"single" and "random" need no score. What ar-adals cuts is `TrainSettings.levels_from`: plain difficulty for a reference
model, its logit margin ("margin") or its loss ("loss"), one forward pass and no attack; or adversarial distance to a
reference model that was trained on the examples ("robustness", as published), to models that were not ("cross-fit"); or
the margins of the training's own passes ("running", `robcal.training.running`), which need no reference model.

Cross-fitting cuts the training split into K folds, alike in classes. K models are trained by the plain recipe, each on
the other K - 1 folds, and each scores the fold that it did not see. Distances of different models differ in scale, so
what is kept of a fold is the rank: the quantile (rank + 1/2) / n of each example within its fold. Levels are cut by it,
so every fold gives each level its share. No model saw the validation split, so all K score it, and a validation
example's place is the mean of its K quantiles [choice]. Its order is the steadier for it; the levels of the training
split rest on one model an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robcal.base.checks import FloatArray, IntArray, check_positive_int, check_same_length, refuse
from robcal.base.distributed import Group, choose_device, process_group
from robcal.base.levels import assign_levels, levels_by_thresholds
from robcal.base.progress import SILENT, Reporter
from robcal.base.special import log_softmax
from robcal.base.storage import digest_of, load_scores, save_checkpoint, save_levels
from robcal.base.types import Float32Array, Scores
from robcal.base.types import Levels as LevelsOfSplit
from robcal.calibration.recalibration.maps import margins
from robcal.data import Dataset
from robcal.methods import Method
from robcal.runs.directory import Run, load_model
from robcal.runs.scores import kept_or_scored, moved
from robcal.training.loop import fit
from robcal.training.predict import predict_logits
from robcal.training.recipe import build_networks, describe_network
from robcal.training.running import Levels, RunningLevels
from robcal.training.settings import TrainSettings

SPLITS = ("train", "val")


def levels_of(
    run: Run,
    method: Method,
    data: Dataset,
    group: Group,
    plain: Callable[[], Run],
    *,
    at_hand: Mapping[str, Scores] | None = None,
    shared: Path | None = None,
    reporter: Reporter = SILENT,
) -> Levels | RunningLevels | None:
    """Return the levels of train and val, from where the method wants them; written to the run directory.

    They may be levels that the training itself cuts, or None for a method without. The reference model's run is asked
    for only if it is needed; scores `at_hand` take its place. Models of cross-fitting are looked for in `shared` first.
    """
    settings = run.settings
    if method.levels == "none":
        return None
    if method.levels == "single":
        return {name: np.zeros(len(data.split(name)), np.int64) for name in SPLITS}
    keys: Mapping[str, Scores] | Mapping[str, FloatArray]
    if method.levels == "random":
        draws = {name: np.random.default_rng([settings.seed, number]) for number, name in enumerate(SPLITS)}
        keys = {name: draw.permutation(len(data.split(name))).astype(np.float64) for name, draw in draws.items()}
        source = "random"
    elif settings.levels_from == "running":
        return RunningLevels(settings.levels)
    elif at_hand is not None:
        keys, source = at_hand, at_hand["train"].method
    elif settings.levels_from == "cross-fit":
        keys = cross_fit_quantiles(settings, data, run.directory / "folds", group, shared=shared, reporter=reporter)
        source = f"cross-fit, {settings.folds} folds, {settings.scorer}"
    elif settings.levels_from == "robustness":
        scores = _reference_scores(plain(), settings, data, reporter, own=run.directory)
        keys, source = scores, scores["train"].method
    else:
        keys, source = difficulty(plain(), data, settings.levels_from, settings.device), settings.levels_from
    levels = {"train": assign_levels(keys["train"], settings.levels)}
    if method.levels == "robustness" and settings.cut == "train":
        levels["val"] = levels_by_thresholds(keys["train"], levels["train"], keys["val"])
    else:
        levels["val"] = assign_levels(keys["val"], settings.levels)
    group.from_main("levels", lambda: save_run_levels(run, levels, source))
    return levels


def save_run_levels(run: Run, levels: Mapping[str, IntArray], source: str) -> None:
    """Write the levels of train and val to the run directory."""
    for name in SPLITS:
        file = run.directory / f"levels-{name}.parquet"
        save_levels(LevelsOfSplit(levels[name], run.settings.levels, source), file, overwrite=True)


def difficulty(reference: Run, data: Dataset, kind: str, device: str | None = None) -> dict[str, FloatArray]:
    """Return each example's logit margin for a reference model, or its log-likelihood ("loss"): small is difficult."""
    model, _ = load_model(reference.checkpoint)
    place, found = choose_device(device), {}
    with moved(model, place):
        for name in SPLITS:
            split = data.split(name)
            logits = predict_logits(model, split, device=place)
            found[name] = margins(logits) if kind == "margin" else log_likelihood(logits, split.labels)
    return found


def log_likelihood(logits: Float32Array, labels: IntArray) -> FloatArray:
    """Return (N,) log probability of the true class, `z_y - log sum_k exp z_k`, at most 0."""
    return np.asarray(log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels])


def scores_at_hand(settings: TrainSettings, data: Dataset) -> dict[str, Scores] | None:
    """Return the scores that `--scores` names, by split; None without any. Each split must have some, of this data."""
    if not settings.scores:
        return None
    found: dict[str, Scores] = {}
    for file in settings.scores:
        scores = load_scores(Path(file))
        split = scores.provenance.get("split")
        if split not in SPLITS:
            fix = "Make them: robcal score --model RUN --split train --out FILE.parquet, and the same with val"
            refuse(f"{file} is of split {split!r}", "training needs scores of train and of val", fix)
        check_same_length(len(data.split(split)), len(scores), f"the {split} examples", file)
        if scores.provenance.get("data") != data.digest(split):
            refuse(
                f"{file} was made on other data",
                f"it must be scored on the {split} split of --data with the same --seed",
                f"Score it again: robcal score --model RUN --data {settings.data} --seed {settings.data_seed} "
                f"--split {split} --out {file} --overwrite",
            )
        found[split] = scores
    missing = [name for name in SPLITS if name not in found]
    if missing:
        fix = f"Make it: robcal score --model RUN --split {missing[0]} --out FILE.parquet"
        refuse(f"--scores names no file for {' and '.join(missing)}", "pass --scores twice: train and val", fix)
    return found


def shared_scores(reference: Run, settings: TrainSettings, split: str) -> Path:
    """Return where a reference model's scores are for every run that cuts as many levels by the same way of scoring."""
    return reference.directory / f"scores-{split}-{settings.scorer}-{settings.levels}.parquet"


def shared_folds(reference: Path, settings: TrainSettings) -> Path:
    """Return where models of cross-fitting, and their scores, are for every run with as many folds."""
    return reference / f"folds-{settings.folds}"


def score_reference(
    reference: Run, settings: TrainSettings, *, dataset: Dataset, reporter: Reporter = SILENT
) -> dict[str, Scores]:
    """Do once, beside a finished reference model, what all runs that take levels from it need; they find it there.

    For `levels_from` "cross-fit" these are the models and scores of the folds; for "robustness" the model's own scores,
    which are returned; for the others nothing. The settings are those of one of the runs.
    """
    if settings.levels_from == "cross-fit":
        with process_group(choose_device(settings.device)) as group:
            where = shared_folds(reference.directory, settings)
            cross_fit_quantiles(settings, dataset, where, group, reporter=reporter)
    if settings.levels_from != "robustness":
        return {}
    return _reference_scores(reference, settings, dataset, reporter)


def _reference_scores(
    plain: Run, settings: TrainSettings, data: Dataset, reporter: Reporter, own: Path | None = None
) -> dict[str, Scores]:
    """Return the reference model's scores: those that runs share, or of a run's `own` directory; kept or made."""
    files = {split: shared_scores(plain, settings, split) for split in SPLITS}
    if own is not None and not all(file.exists() for file in files.values()):
        files = {split: own / f"scores-{split}.parquet" for split in SPLITS}
    model, _ = load_model(plain.checkpoint)
    options = {"method": settings.scorer, "num_levels": settings.levels, "device": settings.device}
    return {
        split: kept_or_scored(model, data, split, [file], reporter=reporter, **options) for split, file in files.items()
    }


@dataclass(frozen=True)
class Fold:
    """One fold: what its model is trained on, and what it scores."""

    number: int  # from 0
    held_out: IntArray  # positions in the training split that its model never sees
    seen: Dataset  # the data with the other folds as its training split
    unseen: Dataset  # the data with the held-out examples as its training split


def assign_folds(labels: IntArray, folds: int, seed: int) -> IntArray:
    """Deal (N,) labels into K folds: sizes of folds, and of each class within them, differ by at most one."""
    check_positive_int(folds, "--folds", minimum=2)
    if folds > len(labels):
        given = f"--folds is {folds} for {len(labels)} examples"
        refuse(given, "a fold holds at least one", f"Pass --folds {len(labels)} or fewer")
    order = np.random.default_rng([seed, folds]).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[by_class] = np.arange(len(labels)) % folds
    return fold


def make_folds(data: Dataset, folds: int, seed: int) -> list[Fold]:
    """Return the K folds of a data set's training split; validation and test stay as they are."""
    train = data.split("train")
    fold = assign_folds(train.labels, folds, seed)

    def only(index: IntArray) -> Dataset:
        return dataclasses.replace(data, splits={**data.splits, "train": train.subset(index)})

    return [
        Fold(k, np.flatnonzero(fold == k), only(np.flatnonzero(fold != k)), only(np.flatnonzero(fold == k)))
        for k in range(folds)
    ]


def quantiles(scores: Scores) -> FloatArray:
    """Return (N,) places among the others, (rank + 1/2) / N in (0, 1), in the order of levels (method, section 2)."""
    place = np.empty(len(scores))
    place[np.lexsort((scores.margin, scores.distance))] = np.arange(len(scores)) + 0.5
    return place / len(scores)


def cross_fit_quantiles(
    settings: TrainSettings,
    data: Dataset,
    directory: Path,
    group: Group,
    *,
    shared: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, FloatArray]:
    """Return the quantiles of train, within each fold, and of val, the mean over the K models; small is fragile.

    Models and scores are kept in the directory, so a stopped run goes on; a `shared` one that may hold them already is
    only read. The settings are those of the run that wants levels.
    """
    plain = settings.reference()
    options = {"method": settings.scorer, "num_levels": settings.levels, "device": settings.device}
    train = np.empty(len(data.split("train")))
    val: list[FloatArray] = []
    for fold in make_folds(data, settings.folds, settings.seed):
        places: list[Path] = [place for place in (shared, directory) if place is not None]
        model = _fold_model(plain, fold, places, group, reporter)
        for split, part in (("train", fold.unseen), ("val", data)):
            kind = "held-out" if split == "train" else split
            name = f"fold-{fold.number}-{kind}-{settings.scorer}-{settings.levels}.parquet"
            files, told = [place / name for place in places], f"score fold {fold.number + 1}, {split}"
            scores = kept_or_scored(model, part, split, files, reporter=reporter, description=told, **options)
            if split == "train":
                train[fold.held_out] = quantiles(scores)
            else:
                val.append(quantiles(scores))
    return {"train": train, "val": np.asarray(np.mean(val, axis=0))}


def _fold_model(
    plain: TrainSettings, fold: Fold, places: Sequence[Path], group: Group, reporter: Reporter
) -> torch.nn.Module:
    """Return the model that never saw the fold: read from the first place that has it, or trained in the last."""
    name = f"fold-{fold.number}"

    def look() -> list[str]:
        key = digest_of({"settings": plain.identity(), "seen": fold.seen.digest("train")})
        files = [place / f"{name}.safetensors" for place in places]
        return [key, *(str(file) for file in files if file.exists() and load_model(file)[1].get("key") == key)]

    key, *kept = group.from_main(f"look for {name}", look)
    if kept:
        return load_model(Path(kept[0]))[0]
    network = build_networks(plain, fold.seen)[0]
    places[-1].mkdir(parents=True, exist_ok=True)
    state = places[-1] / f"{name}.pt"
    method, told = plain.training_method(), f"train fold {fold.number + 1}, seed {plain.seed}"
    fit(network, fold.seen, method, plain, state_file=state, key=key, reporter=reporter, description=told)

    def keep() -> None:
        about = {**describe_network(plain, fold.seen), "key": key}
        save_checkpoint(network.state_dict(), about, places[-1] / f"{name}.safetensors")
        state.unlink(missing_ok=True)

    group.from_main(f"keep {name}", keep)
    return network
