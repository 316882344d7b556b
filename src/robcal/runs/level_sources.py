"""Where the levels of a run come from (method, section 3).

"single" and "random" need no score. What ar-adals cuts is `TrainSettings.levels_from`: plain difficulty for a reference
model, its logit margin ("margin") or its loss ("loss"), one forward pass and no attack; or adversarial
distance to a reference model that was trained on the examples ("robustness", as published), to models that were not
("cross-fit", `robcal.runs.cross_fit`); or the margins of the training's own passes ("running",
`robcal.training.running`), which need no reference model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from robcal.base.checks import FloatArray, IntArray, check_same_length, refuse
from robcal.base.distributed import Group, choose_device, process_group
from robcal.base.levels import assign_levels, levels_by_thresholds
from robcal.base.progress import SILENT, Reporter
from robcal.base.special import log_softmax
from robcal.base.storage import load_scores, save_levels
from robcal.base.types import Float32Array, Scores
from robcal.base.types import Levels as LevelsOfSplit
from robcal.calibration.recalibration.maps import margins
from robcal.data import Dataset
from robcal.methods import Method
from robcal.runs.cross_fit import cross_fit_quantiles
from robcal.runs.directory import Run, load_model
from robcal.runs.scores import kept_or_scored, moved
from robcal.training.predict import predict_logits
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
