"""Cross-fitting: the robustness of every training example, by a model that never saw it (method, section 3).

The training split is cut into K folds, alike in classes. K models are trained by the plain recipe, each on the other
K - 1 folds, and each scores the fold that it did not see. Distances of different models differ in scale, so what is
kept of a fold is the rank: the quantile (rank + 1/2) / n of each example within its fold. Levels are cut by it, so
every fold gives each level its share.

No model saw the validation split, so all K score it, and a validation example's place is the mean of its K quantiles
[choice]. Its order is the steadier for it; the levels of the training split rest on one model an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robcal.base.checks import FloatArray, IntArray, check_positive_int, refuse
from robcal.base.distributed import Group
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of, save_checkpoint
from robcal.base.types import Scores
from robcal.data import Dataset
from robcal.runs.directory import load_model
from robcal.runs.scores import kept_or_scored
from robcal.training.loop import fit
from robcal.training.recipe import build_networks, describe_network
from robcal.training.settings import TrainSettings


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
