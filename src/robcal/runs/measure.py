"""A finished run → what it predicts: on its test split, how robust each example is, and under corruption.

Everything measured is kept in the run directory, each part written when it is done, so measuring resumes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from robcal.base.checks import IntArray, check_same_length, refuse
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of_tensors
from robcal.base.types import EpochRow
from robcal.calibration.temperature import TemperatureScaling
from robcal.data import Dataset, Split
from robcal.data.dataset import Inputs
from robcal.data.shifts import shift_source
from robcal.models.average import Average
from robcal.runs.directory import Run, load_model, load_networks, run_title
from robcal.runs.scores import score_split
from robcal.runs.shift import Shift, ShiftImages, measure_shift
from robcal.training.predict import softmax
from robcal.training.settings import TrainSettings


@dataclass(frozen=True)
class Measured:
    """One run's predictions of its test split, and what goes with them."""

    directory: Path  # of the run
    settings: TrainSettings  # of the run
    dataset: Mapping[str, Any]  # what run.json says of the data
    probs: npt.NDArray[np.float32]  # (N, Z) probabilities of the test split
    labels: IntArray  # (N,) true classes
    distance: npt.NDArray[np.float32] | None  # (M,) adversarial distance of the examples `scored`, or None
    shift: Shift | None  # under corruption, or None; it may be of a part of the test split
    history: Sequence[EpochRow]  # one row an epoch
    # (N, C, H, W) test images, float32 in [0, 1] or uint8, which may be decoded on access; or None
    images: Inputs | None
    label: str | None = None  # what tables call it, where that is not the method's title
    scored: IntArray | None = None  # (M,) positions of the examples that `distance` is of; None: all
    temperature: float | None = None  # T by which all logits were divided; None where they are as the run gives them
    # run directories of the networks that predict; of several the probabilities are averaged
    networks: tuple[Path, ...] = ()
    test_digest: str = ""  # what tells the inputs and labels of the test split from others; "" where it is not known

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """The label, or the method's name."""
        return self.label or self.settings.method

    @property
    def title(self) -> str:
        """What tables call the method, with what its levels are cut by."""
        return self.label or run_title(self.settings)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings.seed

    @property
    def num_levels(self) -> int:
        """R."""
        return self.settings.levels

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """(N,) probability of the top label."""
        return np.asarray(self.probs.max(1))

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the top label is the true class."""
        return np.asarray(self.probs.argmax(1) == self.labels)

    def on_scored(self) -> Measured:
        """Keep only the examples whose robustness was scored, without shift."""
        if self.scored is None:
            return self
        images = None if self.images is None else Split(self.images, self.labels).subset(self.scored).inputs
        return replace(
            self, probs=self.probs[self.scored], labels=self.labels[self.scored], images=images, shift=None, scored=None
        )


def measure_run(
    run: Run,
    *,
    dataset: Dataset | None = None,
    shift: bool = True,
    scores: bool = True,
    temperature: bool = False,
    reporter: Reporter = SILENT,
) -> Measured:
    """Measure a finished run on its test split; what was measured before is read back.

    It is measured under corruption too with `shift`, and the robustness of every test example with `scores`. With
    `temperature` it is the run after temperature scaling, fitted on its validation split: a method of its own, whose
    predictions, and so whose distances, are the run's.
    """
    record = run.record
    if not record.get("complete"):
        refuse(
            f"the run {run.directory} is not finished",
            "only finished runs are measured",
            "Start its `robcal train` again; it goes on where it stopped",
        )
    data = run.dataset() if dataset is None else dataset
    networks = load_networks(run)
    test = data.split("test")
    predictions = run.predictions("test")
    scale = None
    if temperature:
        val = run.predictions("val")
        scale = TemperatureScaling().fit(val.logits, val.labels).temperature
    distance = _distance(run, networks, data, reporter) if scores else None
    shifted = None
    if shift:
        source = shift_source(data)
        corrupted = ShiftImages.of(test, record["data"]["test"], num_classes=data.num_classes, source=source)
        shifted = measure_shift(run, networks, corrupted, reporter=reporter).summary(scale or 1.0)
    assert predictions.logits is not None, "a run's predictions hold logits"
    probs = predictions.probs if scale is None else softmax(predictions.logits / scale).astype(np.float32)
    measured = Measured(
        directory=run.directory,
        settings=run.settings,
        dataset=record["dataset"],
        probs=probs,
        labels=predictions.labels,
        distance=distance,
        shift=shifted,
        history=run.history(),
        images=test.inputs if data.kind == "image" else None,
        temperature=scale,
        networks=(run.directory,),
        test_digest=record["data"]["test"],
    )
    return measured if scale is None else replace(measured, label=f"{measured.title} + temperature", history=())


def _distance(run: Run, networks: Sequence[nn.Module], data: Dataset, reporter: Reporter) -> npt.NDArray[np.float32]:
    """Return (N,) adversarial distances of the test split, kept or made."""
    file = run.directory / "scores-test.parquet"
    model = load_model(run.checkpoint)[0] if len(run.checkpoints) == 1 else Average(networks).eval()
    if not file.exists():
        score_split(model, data, "test", file, reporter=reporter, description=f"score {run.settings.method} test")
    distance = run.scores(file, digest_of_tensors(model.state_dict())).distance
    check_same_length(len(distance), len(data.split("test")), f"the scores of {file}", "the test split")
    return distance


def told_apart(runs: Sequence[Measured]) -> list[Measured]:
    """Return the runs with a label where runs of one method were trained by different settings.

    Runs whose settings differ in nothing but their seeds are the seeds of one method. Others are methods of their own,
    called by their titles where these differ, else by the settings that differ too.

    Raises:
        InputError: if two runs of one method have the same seed.
    """
    kinds: dict[str, dict[str, list[Measured]]] = {}
    for run in runs:
        settings = {
            name: value for name, value in run.settings.relevant().items() if name not in ("seed", "split_seed")
        }
        kinds.setdefault(run.name, {}).setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(run)
    labels: dict[int, str] = {}
    for groups in kinds.values():
        for settings_text, group in groups.items():
            _check_seeds(group)
            if len(groups) > 1:
                labels |= dict.fromkeys(map(id, group), _label_among(settings_text, groups))
    return [replace(run, label=labels.get(id(run), run.label)) for run in runs]


def _check_seeds(runs: Sequence[Measured]) -> None:
    """Refuse two runs that would count as two seeds and are one."""
    by_seed: dict[int, Measured] = {}
    for run in runs:
        if (other := by_seed.setdefault(run.seed, run)) is not run:
            refuse(
                f"{other.directory} and {run.directory} are both {run.title} with seed {run.seed}",
                "every run of a method is a seed of its own",
                "Name each seed once",
            )


def _label_among(own: str, groups: Mapping[str, Sequence[Measured]]) -> str:
    """Return what runs of these settings are called beside those of other settings of their method."""
    title = groups[own][0].title
    if sum(group[0].title == title for group in groups.values()) == 1:
        return title
    mine, others = json.loads(own), [json.loads(text) for text in groups]
    differing = [name for name in mine if any(other.get(name) != mine[name] for other in others)]
    differing = [name for name in differing if name != "levels_from"]  # the title says it
    return f"{title}, {', '.join(f'{name} {mine[name]}' for name in differing)}" if differing else title
