"""Settings of a training run: a frozen dataclass, checked across fields; messages name the flag.

Only the command line and the run directories know this module; library functions take plain arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from robcal.base.checks import check_choice, check_fraction, check_positive_int, check_seed, refuse
from robcal.base.types import Precision, Scorer
from robcal.smoothing.controllers import (
    CONTROLLERS,
    DEFAULT_CONTROLLER,
    DEFAULT_GAIN,
    DEFAULT_STEP_SIZE,
    controller_name,
)

Optimizer = Literal["sgd", "adamw"]
Augmentation = Literal["none", "standard"]
#: Where the levels of ar-adals come from: the paper's adversarial robustness two ways, plain difficulty two ways.
LevelsFrom = Literal["robustness", "cross-fit", "margin", "loss"]
#: Sources of earlier versions: runs that have them are read, and no new ones are trained.
FORMER_LEVELS_FROM = ("online",)
#: Settings of earlier versions that never changed what a run trained; they are left out when a run is read.
FORMER_SETTINGS = ("online", "online_sample")
#: The cheapest that no other was seen to beat (docs/evidence.md): one forward pass an image.
DEFAULT_LEVELS_FROM: LevelsFrom = "margin"
ADAPTIVE = ("adals", "random-levels", "ar-adals")
#: Most networks of an ensemble, and most draws of swag and mc-dropout.
MOST_NETWORKS = 1000
#: Methods whose one trained network stands for several drawn from it (see `robcal.training.sampling`).
SAMPLED = ("swag", "mc-dropout")
#: Options of single methods: field of the settings → keyword of the factory. None takes the factory's default.
METHOD_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "mixup": {"mixup_alpha": "alpha"},
    "focal": {"focal_gamma": "gamma"},
    "crl": {"ranking_weight": "weight"},
    "ccat": {"attack_epsilon": "epsilon", "attack_steps": "steps", "ccat_rho": "rho"},
    "adversarial-training": {
        "attack_epsilon": "epsilon",
        "attack_step_size": "step_size",
        "attack_steps": "steps",
    },
    "swag": {"swag_start": "start", "swag_rank": "rank"},
}


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a training run computes; its digest names the run.

    Attributes:
        data: the `--data` text.
        model: name of a reference network.
        method: key of `robcal.methods.METHODS`.
        epochs: number of epochs.
        batch_size: examples a step, over all processes together.
        learning_rate: peak of the schedule (5% linear warm-up, then cosine to 0).
        weight_decay: of the optimiser.
        optimizer: "sgd" (Nesterov momentum .9) or "adamw".
        augment: "none", or "standard": pad-crop and flip for 32x32 images, shifts of a pixel for digits.
        seed: of the initialisation, order and augmentation; of the cut of the data too, unless `split_seed` is given.
        levels: number of robustness levels R.
        step_size: alpha of the adaptive methods with controller "integral".
        gain: of the adaptive methods with controller "stable": all updates together leave exp(-gain) of a gap.
        epsilon: of label smoothing.
        scorer: how the reference model's robustness is scored.
        scores: files of scores at hand (one for train, one for val), empty to score a reference model.
        val_fraction: part of the training data held out for validation, None for the data set's default.
        train_limit: use this many training examples only (stratified).
        test_limit: measure on this many test examples only.
        image_size: side that images of a folder are resized to.
        precision: "float32" or "bf16" (autocast in training; measurements are float32).
        device: "cpu", "cuda", …; None takes what there is.
        split_seed: of the validation cut and the train_limit subset; None takes `seed`. Runs that share it, such as the
            members of an ensemble, share their data.
        controller: which update steers the smoothing of the adaptive methods.
        levels_from: what ar-adals cuts levels by: adversarial distance to a reference model that saw the examples
            ("robustness", which scores at hand need), to models that did not ("cross-fit"), or plain
            difficulty for the reference model: its logit margin ("margin") or its loss ("loss").
        folds: number of models of "cross-fit".
        members: number of networks trained in lockstep as one ensemble (method, section 4).
        mixup_alpha: of mixup's Beta distribution.
        focal_gamma: exponent of the focal loss.
        ranking_weight: of crl's ranking term.
        attack_epsilon: radius of the attacks of ccat and adversarial-training, in input units.
        attack_step_size: of adversarial-training's attack, in input units.
        attack_steps: of the attacks of ccat and adversarial-training.
        ccat_rho: how fast ccat's targets fade with the distance.
        swag_start: share of the epochs after which swag takes weights.
        swag_rank: of swag's low-rank part.
        samples: number of networks that swag and mc-dropout draw and average.
    """

    data: str
    model: str
    method: str
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    augment: str = "none"
    seed: int = 0
    levels: int = 10
    step_size: float = DEFAULT_STEP_SIZE
    gain: float = DEFAULT_GAIN
    epsilon: float = 0.05
    scorer: str = "auto"
    scores: tuple[str, ...] = ()
    val_fraction: float | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    precision: str = "float32"
    device: str | None = None
    split_seed: int | None = None
    controller: str = DEFAULT_CONTROLLER
    levels_from: str = DEFAULT_LEVELS_FROM
    folds: int = 3
    members: int = 1
    mixup_alpha: float | None = None
    focal_gamma: float | None = None
    ranking_weight: float | None = None
    attack_epsilon: float | None = None
    attack_step_size: float | None = None
    attack_steps: int | None = None
    ccat_rho: float | None = None
    swag_start: float | None = None
    swag_rank: int | None = None
    samples: int = 30

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run.

        Raises:
            InputError: naming the flag.
        """
        object.__setattr__(self, "controller", controller_name(self.controller))
        self._check_numbers()
        self._check_choices()
        self._check_scores()

    def _check_numbers(self) -> None:
        for name, flag in (
            ("epochs", "--epochs"),
            ("batch_size", "--batch-size"),
            ("levels", "--levels"),
            ("members", "--members"),
        ):
            check_positive_int(getattr(self, name), flag)
        check_positive_int(self.samples, "--option samples", minimum=2)
        for flag, count in (("--members", self.members), ("--option samples", self.samples)):
            if count > MOST_NETWORKS:
                refuse(f"{flag} is {count:,}", f"it may be {MOST_NETWORKS:,}", f"Choose fewer networks with {flag}")
        check_positive_int(self.folds, "--folds", minimum=2)
        check_seed(self.seed, "--seed")
        if self.split_seed is not None:
            check_seed(self.split_seed, "--split-seed")
        for name, flag in (("train_limit", "--train-limit"), ("test_limit", "--test-limit")):
            if getattr(self, name) is not None:
                check_positive_int(getattr(self, name), flag)
        infinity = float("inf")
        check_fraction(self.learning_rate, "--learning-rate", high=infinity)
        check_fraction(self.weight_decay, "--weight-decay", low=-1e-300, high=infinity)
        check_fraction(self.step_size, "--step-size", high=infinity)
        check_fraction(self.gain, "--gain", high=infinity)
        check_fraction(self.epsilon, "--epsilon")

    def _check_choices(self) -> None:
        check_choice(self.optimizer, get_args(Optimizer), "--optimizer")
        check_choice(self.augment, get_args(Augmentation), "--augment")
        check_choice(self.precision, get_args(Precision), "--precision")
        check_choice(self.scorer, get_args(Scorer), "--scorer")
        check_choice(self.controller, CONTROLLERS, "--controller")
        foreign = ("gain", DEFAULT_GAIN) if self.controller == "integral" else ("step_size", DEFAULT_STEP_SIZE)
        if self.method in ADAPTIVE and getattr(self, foreign[0]) != foreign[1]:
            flag = f"--{foreign[0].replace('_', '-')}"
            refuse(
                f"{flag} was given with --controller {self.controller}",
                f"{flag} belongs to the other controller",
                f"Drop it, or pass --controller {'stable' if self.controller == 'integral' else 'integral'}",
            )
        if self.levels_from not in FORMER_LEVELS_FROM:
            check_choice(self.levels_from, get_args(LevelsFrom), "--levels-from")
        if self.method in SAMPLED and self.members > 1:
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
        if self.scores and self.method != "ar-adals":
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

    @property
    def data_seed(self) -> int:
        """The seed that cuts the data: of the validation split and of the train_limit subset."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def num_networks(self) -> int:
        """How many networks a finished run keeps."""
        return self.samples if self.method == "swag" else self.members

    @property
    def network(self) -> str:
        """Name of the network that is trained: that of mc-dropout has dropout."""
        return f"{self.model.removesuffix('+dropout')}+dropout" if self.method == "mc-dropout" else self.model

    def method_options(self) -> dict[str, Any]:
        """The hyper-parameters of the method, as keyword arguments of its factory."""
        if self.method == "label-smoothing":
            return {"epsilon": self.epsilon}
        if self.method not in ADAPTIVE:
            named = METHOD_OPTIONS.get(self.method, {})
            return {keyword: value for name, keyword in named.items() if (value := getattr(self, name)) is not None}
        own = {"step_size": self.step_size} if self.controller == "integral" else {"gain": self.gain}
        return {"controller": self.controller, **own}

    def relevant(self) -> dict[str, Any]:
        """The settings that this run's outcome depends on, JSON-able: what its digest is taken of.

        Options of other methods are left out, so that two plain runs that differ in `--step-size` are one run.
        Options that came later are left out where they say what was done before there were any: digests stay.
        """
        values = dataclasses.asdict(self)
        if self.method in ADAPTIVE:
            values.update(self.method_options())
        for name in self._irrelevant():
            del values[name]
        return values

    def _irrelevant(self) -> set[str]:
        """Names of the settings that this run does not depend on."""
        options, by_scores = self.method_options(), self.method == "ar-adals"
        source = self.levels_from if by_scores else None
        needed = {
            "step_size": "step_size" in options and self.method in ADAPTIVE,
            "gain": "gain" in options,
            "epsilon": self.method == "label-smoothing",
            "controller": options.get("controller", "integral") != "integral",
            "levels": by_scores or self.method == "random-levels",
            "scores": by_scores,
            "scorer": source in ("robustness", "cross-fit"),
            "levels_from": source not in (None, "robustness"),
            "folds": source == "cross-fit",
            "split_seed": self.data_seed != self.seed,
            "members": self.members > 1,
            "samples": self.method in SAMPLED,
            "device": False,
        }
        own = METHOD_OPTIONS.get(self.method, {})
        for name in {field for table in METHOD_OPTIONS.values() for field in table}:
            needed[name] = name in own and getattr(self, name) is not None
        return {name for name, is_needed in needed.items() if not is_needed}

    def reference(self) -> TrainSettings:
        """Settings of the plain model, trained by the same recipe, whose robustness is scored (method, section 3)."""
        return dataclasses.replace(self, method="vanilla", scores=(), levels_from="robustness", members=1)


def parse_method_options(method: str, texts: Sequence[str]) -> dict[str, int | float]:
    """Fields of the settings out of `--option NAME=VALUE`, given any number of times.

    Args:
        method: whose options they are.
        texts: "NAME=VALUE" each.

    Raises:
        InputError: if one is no option of the method, or its value no number.

    >>> parse_method_options("ccat", ["attack_steps=10", "ccat_rho=2.5"])
    {'attack_steps': 10, 'ccat_rho': 2.5}
    """
    allowed = [*METHOD_OPTIONS.get(method, ()), *(("samples",) if method in SAMPLED else ())]
    found: dict[str, int | float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not allowed:
            refuse(f"--option {text} was given with --method {method}", "it has no such options", "Drop it")
        check_choice(name, allowed, f"--option of {method}")
        whole = name in ("attack_steps", "swag_rank", "samples")
        try:
            found[name] = int(value) if whole else float(value)
        except ValueError:
            kind, example = ("an integer", f"{name}=20") if whole else ("a number", f"{name}=0.5")
            refuse(f"--option is {text!r}", f"{name} is {kind}", f"Write for example --option {example}")
    return found
