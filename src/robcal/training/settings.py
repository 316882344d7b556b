"""Settings of a training run: frozen dataclasses, checked across fields, for library, command line and files alike.

`Recipe` is how a network is trained; `TrainSettings` adds on what data, which network, by which method. What belongs to
one method stands in `options`, the keyword arguments of its factory, and is named nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from robcal.base.checks import (
    MOST_NETWORKS,
    check_choice,
    check_file,
    check_fraction,
    check_positive_int,
    check_seed,
    refuse,
)
from robcal.base.levels import Cut
from robcal.base.seals import digest_of_file
from robcal.base.types import Precision
from robcal.robustness import ATTACKS

if TYPE_CHECKING:
    import torch

    from robcal.methods import Method

    #: Inputs of a batch and the batch's generator → augmented inputs.
    Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

Optimizer = Literal["sgd", "adamw"]
Augmentation = Literal["none", "standard"]
#: Where the levels of ar-adals come from: the paper's adversarial robustness two ways, plain difficulty two ways, the
#: margins of the training's own passes.
LevelsFrom = Literal["robustness", "cross-fit", "margin", "loss", "running"]
#: Sources of earlier versions: runs that have them are read, and no new ones are trained.
FORMER_LEVELS_FROM = ("online",)
#: The cheapest that no other was seen to beat (docs/evidence.md): no pass but those of the training itself.
DEFAULT_LEVELS_FROM: LevelsFrom = "running"
#: What a run is named by has this version: where it changes, kept runs are made anew and not mixed with others.
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained, by whatever method and on whatever data.

    Attributes:
        epochs: number of passes over the training split.
        batch_size: examples a step over all processes; an epoch has ceil(N / batch_size) nearly equal batches.
        accumulate: micro-batches that a batch is cut into where it does not fit on the device. Their gradients are
            summed, so a step is that of the whole batch, but for what looks at several examples at once: batch
            normalisation sees a micro-batch, and mixup and the ranking of crl pair its examples.
        learning_rate: peak of the schedule: linear warm-up over the first 5% of the steps, then cosine to 0.
        weight_decay: of the optimiser, on all parameters.
        optimizer: "sgd" (Nesterov momentum .9) or "adamw".
        augment: "none"; "standard": pad-crop and flip for 32x32 images, shifts of a pixel for digits; or a function of
            the inputs of a batch and its generator.
        seed: of the initialisation, the order of the examples, augmentation and dropout.
        precision: "float32" or "bf16" (autocast of the forward pass; measurements are in float32).
        device: "cpu", "cuda", …; None takes what there is.

    Raises:
        InputError: if a setting is out of range.
    """

    epochs: int
    batch_size: int = 128
    accumulate: int = 1
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    augment: str | Augment = "none"
    seed: int = 0
    precision: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        """Check the settings, and hold plain numbers, which a saved state may hold."""
        named, infinity = self._named, float("inf")
        checked = {
            "epochs": check_positive_int(self.epochs, named("epochs")),
            "batch_size": check_positive_int(self.batch_size, named("batch_size")),
            "accumulate": check_positive_int(self.accumulate, named("accumulate")),
            "learning_rate": check_fraction(self.learning_rate, named("learning_rate"), high=infinity),
            "weight_decay": check_fraction(self.weight_decay, named("weight_decay"), low=-1e-300, high=infinity),
            "optimizer": check_choice(self.optimizer, get_args(Optimizer), named("optimizer")),
            "precision": check_choice(self.precision, get_args(Precision), named("precision")),
            "seed": check_seed(self.seed, named("seed")),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.accumulate > self.batch_size:
            refuse(
                f"{named('accumulate')} is {self.accumulate} for batches of {self.batch_size}",
                "a micro-batch holds at least one example",
                f"Pass {named('accumulate')} {self.batch_size} or less",
            )
        if isinstance(self.augment, str):
            check_choice(self.augment, get_args(Augmentation), named("augment"))

    @staticmethod
    def _named(name: str) -> str:
        """Return what an error calls a setting."""
        return name


@dataclass(frozen=True)
class TrainSettings(Recipe):
    """Everything that decides what a training run computes; its digest names the run.

    Attributes:
        data: the `--data` text.
        model: name of a reference network.
        method: key of `robcal.methods.METHODS`, or several joined by "+"; in one order, whatever it was given in.
        options: keyword arguments of the method's factory; those left out are filled in.
        levels: number of robustness levels R.
        scorer: how the reference model's robustness is scored.
        scores: files of scores at hand (one for train, one for val), empty to score a reference model.
        val_fraction: part of the training data held out for validation, None for the data set's default.
        train_limit: use this many training examples only (stratified).
        test_limit: measure on this many test examples only.
        image_size: side that images of a folder are resized to.
        split_seed: of the validation cut and the train_limit subset; None takes `seed`. Runs that share it, such as the
            members of an ensemble, share their data.
        levels_from: what levels are cut by, for methods that take them from scores: adversarial distance to a reference
            model that saw the examples ("robustness", which scores at hand need), to models that did not ("cross-fit");
            plain difficulty for the reference model: its logit margin ("margin") or its loss ("loss"); or the margins
            that the passes of this training show ("running", without a reference model).
        cut: what the levels of the validation split are cut by: its own scores ("split"), or the thresholds between the
            levels of the training split ("train"), which leave levels of any size.
        folds: number of models of "cross-fit".
        members: number of networks trained in lockstep as one ensemble (method, section 4).
        weights: file of weights that training starts from; None for a random start.
        weights_digest: SHA-256 of that file, filled in: the run depends on it, and not on where the file lies.

    Raises:
        InputError: on settings that cannot be run; it names the flag.
    """

    data: str
    model: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    levels: int = 10
    scorer: str = "auto"
    scores: tuple[str, ...] = ()
    val_fraction: float | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    split_seed: int | None = None
    levels_from: str = DEFAULT_LEVELS_FROM
    cut: str = "split"
    folds: int = 3
    members: int = 1
    weights: str | None = None
    weights_digest: str | None = None

    def __post_init__(self) -> None:
        """Check the settings, and fill in the options of the method."""
        super().__post_init__()
        method = self.training_method()
        object.__setattr__(self, "method", method.name)
        object.__setattr__(self, "options", dict(method.options))
        for name, least in (("levels", 1), ("members", 1), ("folds", 2)):
            check_positive_int(getattr(self, name), self._named(name), minimum=least)
        for name in ("train_limit", "test_limit"):
            if getattr(self, name) is not None:
                check_positive_int(getattr(self, name), self._named(name))
        if self.split_seed is not None:
            check_seed(self.split_seed, "--split-seed")
        check_choice(self.scorer, ATTACKS, "--scorer")
        if self.levels_from not in FORMER_LEVELS_FROM:
            check_choice(self.levels_from, get_args(LevelsFrom), "--levels-from")
        check_choice(self.cut, get_args(Cut), "--cut")
        if self.cut == "train" and self.levels_from == "running" and self.takes_scores:
            refuse(
                "--cut train was given with --levels-from running",
                "levels that the training itself cuts have no thresholds of the training split",
                "Drop --cut, or pass --levels-from margin",
            )
        self._check_members()
        self._check_scores()
        if self.weights is not None and self.weights_digest is None:
            file = check_file(Path(self.weights), "--weights")
            object.__setattr__(self, "weights_digest", digest_of_file(file))

    @staticmethod
    def _named(name: str) -> str:
        return f"--{name.replace('_', '-')}"

    def _check_members(self) -> None:
        if self.members > MOST_NETWORKS:
            refuse(
                f"--members is {self.members:,}", f"it may be {MOST_NETWORKS:,}", "Choose fewer networks with --members"
            )
        if self.members > 1 and self.training_method().predictors is not None:
            refuse(
                f"--members {self.members} was given with --method {self.method}",
                f"{self.method} draws its networks from one that is trained",
                "Drop --members; --option samples=N says how many are drawn",
            )

    def check_trainable(self) -> None:
        """Refuse what only earlier versions could train.

        Raises:
            InputError: if levels come from where they no longer do.
        """
        check_choice(self.levels_from, get_args(LevelsFrom), "--levels-from")

    def _check_scores(self) -> None:
        if self.scores and not self.takes_scores:
            refuse(
                f"--scores was given with --method {self.method}",
                "only ar-adals takes scores",
                "Drop --scores, or pass --method ar-adals",
            )
        if self.scores and self.levels_from != "robustness":
            refuse(
                f"--scores was given with --levels-from {self.levels_from}",
                "scores at hand take the place of the reference model's distances",
                "Drop --scores, or pass --levels-from robustness",
            )
        for file in self.scores:
            if not Path(file).exists():
                refuse(
                    f"--scores {file} does not exist",
                    "it must name a scores file",
                    "Correct the path, or make it: robcal score --model RUN --split train --out FILE.parquet",
                )

    def training_method(self) -> Method:
        """Return the method with these options."""
        from robcal.methods import make_method

        return make_method(self.method, **self.options)

    @property
    def takes_scores(self) -> bool:
        """Whether the method cuts levels by a score of the examples, so that `levels_from` matters."""
        return self.training_method().levels == "robustness"

    @property
    def data_seed(self) -> int:
        """The seed that cuts the data: of the validation split and of the train_limit subset."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def num_networks(self) -> int:
        """How many networks a finished run keeps."""
        predictors = self.training_method().predictors
        return self.members if predictors is None or not predictors.kept else predictors.count

    @property
    def network(self) -> str:
        """Name of the network that is trained: a method may change the one that was asked for."""
        return self.training_method().network(self.model)

    def relevant(self) -> dict[str, Any]:
        """Return the settings that this run's outcome depends on, JSON-able; options stand beside the others.

        What does not matter is left out, so that two plain runs that differ in `--levels` are one run.
        """
        by_score = self.takes_scores
        needed = {
            "levels": by_score or self.training_method().levels == "random",
            "levels_from": by_score,
            "cut": by_score and self.cut != "split",
            "scores": by_score,
            "scorer": by_score and self.levels_from in ("robustness", "cross-fit"),
            "folds": by_score and self.levels_from == "cross-fit",
            "members": self.members > 1,
            "weights": False,
            "weights_digest": self.weights is not None,
            "accumulate": self.accumulate > 1,
            "device": False,
            "options": False,
        }
        values = {**dataclasses.asdict(self), "split_seed": self.data_seed, **self.options}
        return {name: value for name, value in values.items() if needed.get(name, True)}

    def identity(self) -> dict[str, Any]:
        """Return what the digest that names a run is taken of: `relevant` and the version of what is named so."""
        return {"version": VERSION, **self.relevant()}

    def reference(self) -> TrainSettings:
        """Settings of the plain model, trained by the same recipe, whose robustness is scored (method, section 3)."""
        return dataclasses.replace(self, method="vanilla", options={}, scores=(), levels_from="robustness", members=1)
