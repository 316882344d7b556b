"""A finished run → what it predicts: on its test split, under corruption, of other inputs; and how robust it is.

Everything measured is kept in the run directory, each part written when it is done, so measuring resumes too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from robcal.base.checks import IntArray, check_same_length, refuse
from robcal.base.files import reading
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of, digest_of_tensors, kept_arrays, load_json, save_arrays, save_json
from robcal.base.types import EpochRow, Float32Array
from robcal.calibration.temperature import TemperatureScaling
from robcal.data import Dataset, Split
from robcal.data.dataset import Inputs
from robcal.data.shifts import shift_source
from robcal.models import Average
from robcal.runs.directory import Run, load_model, load_networks, run_title
from robcal.runs.scores import score_split
from robcal.runs.shift import Shift, ShiftImages, measure_shift
from robcal.training.predict import average_logits, predict_logits, softmax
from robcal.training.settings import TrainSettings

#: Opens the networks that predict, and says which device they are on; not called where the answer is on disk.
Networks = Callable[[], tuple[Sequence[nn.Module], str]]
#: Passes over the test split are repeated until they took so many seconds, at most `MOST_PASSES` times.
ENOUGH_SECONDS = 2.0
MOST_PASSES = 3


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
    """Measure a finished run on its test split, under corruption with `shift`; what was measured before is read back.

    With `temperature` it is the run after temperature scaling, fitted on its validation split: a method of its own,
    whose predictions, and so whose distances, are the run's.
    """
    record = run.record
    if not record.get("complete"):
        given = f"the run {run.directory} is not finished"
        refuse(given, "only finished runs are measured", "Start its `robcal train` again; it goes on where it stopped")
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

    Runs whose settings differ in nothing but their seeds, which must differ, are the seeds of one method. Others are
    methods of their own, called by their titles where these differ, else by the settings that differ too.
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
            given = f"{other.directory} and {run.directory} are both {run.title} with seed {run.seed}"
            refuse(given, "every run of a method is a seed of its own", "Name each seed once")


def _label_among(own: str, groups: Mapping[str, Sequence[Measured]]) -> str:
    """Return what runs of these settings are called beside those of other settings of their method."""
    title = groups[own][0].title
    if sum(group[0].title == title for group in groups.values()) == 1:
        return title
    mine, others = json.loads(own), [json.loads(text) for text in groups]
    differing = [name for name in mine if any(other.get(name) != mine[name] for other in others)]
    differing = [name for name in differing if name != "levels_from"]  # the title says it
    return f"{title}, {', '.join(f'{name} {mine[name]}' for name in differing)}" if differing else title


def measure_outside(
    run: Run, networks: Networks, split: Split, digest: str, *, reporter: Reporter = SILENT
) -> Float32Array:
    """Predict logits (M, Z) of a run on inputs of another data set, or read back those that were computed before."""
    key = digest_of({"model": run.model_digest, "data": digest})
    file = run.directory / f"ood-{digest}.safetensors"
    if (arrays := kept_arrays(file, key, "the logits")) is not None:
        return np.asarray(arrays["logits"])
    models, device = networks()
    parts = [
        predict_logits(one, split, device=device, reporter=reporter, description=f"ood {run.settings.method}")
        for one in models
    ]
    logits = average_logits(parts)
    save_arrays({"logits": logits}, file, about={"key": key})
    return logits


def measure_inference(run: Run, networks: Networks, test: Split) -> dict[str, Any]:
    """Return the seconds that predicting the test split takes, reading and every network included; measured once.

    A first batch goes unmeasured. The least of a few passes counts: whatever else the machine does only adds.
    """
    file = run.directory / "inference.json"
    if file.exists():
        found: dict[str, Any] = load_json(file, "the seconds")
        with reading(file, "the seconds"):
            if found.get("model", run.model_digest) == run.model_digest and float(found["seconds"]) >= 0:
                return found
    models, device = networks()
    for model in models:
        predict_logits(model, test, device=device, index=np.arange(min(len(test), 512)))
    times: list[float] = []
    while len(times) < MOST_PASSES and sum(times) < ENOUGH_SECONDS:
        start = time.perf_counter()
        for model in models:
            predict_logits(model, test, device=device)
        times.append(time.perf_counter() - start)
    made = {
        "model": run.model_digest,
        "seconds": min(times),
        "examples": len(test),
        "passes": len(times),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
    }
    save_json(made, file)
    return made
