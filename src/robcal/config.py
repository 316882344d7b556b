"""Settings of a training run: a frozen dataclass, checked across fields; messages name the flag.

Only the command line and the run directories know this module; library functions take plain arguments.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robcal.checks import check_choice, check_fraction, check_positive_int, refuse

PRECISIONS = ("float32", "bf16")
OPTIMIZERS = ("sgd", "adamw")
AUGMENTATIONS = ("none", "standard")
SCORERS = ("auto", "first-order", "projection", "carlini-wagner")


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
        seed: of the validation cut, the initialisation, the order and the augmentation.
        levels: number of robustness levels R.
        step_size: alpha of the adaptive methods.
        epsilon: of label smoothing.
        scorer: how the reference model's robustness is scored.
        scores: files of scores at hand (one for train, one for val), empty to score a reference model.
        val_fraction: part of the training data held out for validation, None for the data set's default.
        train_limit: use this many training examples only (stratified).
        test_limit: measure on this many test examples only.
        image_size: side that images of a folder are resized to.
        precision: "float32" or "bf16" (autocast in training; measurements are float32).
        device: "cpu", "cuda", …; None takes what there is.
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
    step_size: float = 0.05
    epsilon: float = 0.05
    scorer: str = "auto"
    scores: tuple[str, ...] = ()
    val_fraction: float | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    precision: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run.

        Raises:
            InputError: naming the flag.
        """
        for name, flag in (("epochs", "--epochs"), ("batch_size", "--batch-size"), ("levels", "--levels")):
            check_positive_int(getattr(self, name), flag)
        check_positive_int(self.seed, "--seed", minimum=0)
        for name, flag in (("train_limit", "--train-limit"), ("test_limit", "--test-limit")):
            if getattr(self, name) is not None:
                check_positive_int(getattr(self, name), flag)
        infinity = float("inf")
        check_fraction(self.learning_rate, "--learning-rate", high=infinity)
        check_fraction(self.weight_decay, "--weight-decay", low=-1e-300, high=infinity)
        check_fraction(self.step_size, "--step-size", high=infinity)
        check_fraction(self.epsilon, "--epsilon")
        check_choice(self.optimizer, OPTIMIZERS, "--optimizer")
        check_choice(self.augment, AUGMENTATIONS, "--augment")
        check_choice(self.precision, PRECISIONS, "--precision")
        check_choice(self.scorer, SCORERS, "--scorer")
        if self.scores and self.method != "ar-adals":
            refuse(
                f"--scores was given with --method {self.method}",
                "only ar-adals takes scores",
                "Drop --scores, or pass --method ar-adals",
            )
        for file in self.scores:
            if not Path(file).exists():
                refuse(f"--scores {file} does not exist", "it must name a scores file", "Make it with `robcal score`")

    def method_options(self) -> dict[str, Any]:
        """The hyper-parameters of the method, as keyword arguments of its factory."""
        if self.method == "label-smoothing":
            return {"epsilon": self.epsilon}
        return {"step_size": self.step_size} if self.method in ("adals", "random-levels", "ar-adals") else {}

    def relevant(self) -> dict[str, Any]:
        """The settings that this run's outcome depends on, JSON-able: what its digest is taken of.

        Options of other methods are left out, so that two plain runs that differ in `--step-size` are one run.
        """
        values = dataclasses.asdict(self)
        options = self.method_options()
        for name in ("step_size", "epsilon"):
            if name not in options:
                del values[name]
        if self.method != "ar-adals":
            for name in ("scorer", "scores"):
                del values[name]
            if self.method != "random-levels":
                del values["levels"]
        del values["device"]
        return values

    def reference(self) -> TrainSettings:
        """Settings of the plain model, trained by the same recipe, whose robustness is scored (METHOD 4)."""
        return dataclasses.replace(self, method="vanilla", scores=())
