"""A finished run → what it predicts: on its test split, how robust each example is, and under corruption.

Everything measured is kept in the run directory, each part written when it is done, so measuring resumes too.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.artifacts import digest_of, load_arrays, load_json, load_predictions, load_scores, save_arrays
from robcal.calibration.binning import TopLabel, bin_sums
from robcal.calibration.metrics import brier_losses, log_losses, norm_of_gaps
from robcal.checks import FloatArray, IntArray, refuse
from robcal.config import TrainSettings
from robcal.data import Dataset, Split
from robcal.data.corruptions import BENCHMARK_KINDS as SHIFT_KINDS
from robcal.data.corruptions import SEVERITIES, corrupt
from robcal.methods import make_method
from robcal.models import Normalized
from robcal.predictors import predict_logits, softmax
from robcal.progress import SILENT, Reporter, stop_at_boundary
from robcal.runs import Run, load_model, score_split
from robcal.types import EpochRow, GalleryItem


@dataclass(frozen=True)
class Shift:
    """Top-label summary of the test split under C corruptions: all that metrics under shift need.

    Attributes:
        cells: C pairs (kind, severity).
        confidence: (C, N) float32.
        correct: (C, N) bool.
        nll: (C, N) float32, negative log-likelihood of each example, in nats.
        brier: (C, N) float32.
    """

    cells: tuple[tuple[str, int], ...]
    confidence: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    nll: npt.NDArray[np.float32]
    brier: npt.NDArray[np.float32]

    def per_cell(self, metric: str) -> FloatArray:
        """(C,) the metric of each cell: "ece", "accuracy", "nll" or "brier"."""
        if metric == "ece":
            pairs = zip(self.confidence, self.correct, strict=True)
            return np.array([_calibration_error(sure, right) for sure, right in pairs])
        values = {"accuracy": self.correct, "nll": self.nll, "brier": self.brier}[metric]
        return np.asarray(values.mean(1, dtype=np.float64))


@dataclass(frozen=True)
class Measured:
    """One run's predictions of its test split, and what goes with them."""

    directory: Path
    settings: TrainSettings
    dataset: Mapping[str, Any]
    probs: npt.NDArray[np.float32]
    labels: IntArray
    distance: npt.NDArray[np.float32] | None
    shift: Shift | None
    history: Sequence[EpochRow]
    images: npt.NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """The method's name."""
        return self.settings.method

    @property
    def title(self) -> str:
        """What tables call the method."""
        return make_method(self.name).title

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


def measure_run(
    run: Run, *, dataset: Dataset | None = None, shift: bool = True, scores: bool = True, reporter: Reporter = SILENT
) -> Measured:
    """Measure a finished run on its test split; what was measured before is read back.

    Args:
        run: a finished run.
        dataset: its data, if it is loaded already.
        shift: under corruption too, if the inputs are images.
        scores: the robustness of every test example too.
        reporter: shows progress.

    Raises:
        InputError: if the run is not finished.
    """
    record = load_json(run.directory / "run.json", "the run")
    if not record.get("complete"):
        refuse(
            f"the run {run.directory} is not finished",
            "only finished runs are measured",
            "Start its `robcal train` again; it goes on where it stopped",
        )
    data = run.dataset() if dataset is None else dataset
    model, _ = load_model(run.checkpoint)
    test = data.split("test")
    predictions = load_predictions(run.directory / "predictions-test.safetensors")
    distance = None
    if scores:
        file = run.directory / "scores-test.parquet"
        if not file.exists():
            score_split(model, data, "test", file, reporter=reporter, description=f"score {run.settings.method} test")
        distance = load_scores(file).distance
    image = data.kind == "image"
    return Measured(
        directory=run.directory,
        settings=run.settings,
        dataset=record["dataset"],
        probs=predictions.probs,
        labels=predictions.labels,
        distance=distance,
        shift=measure_shift(run, model, test, record["data"]["test"], reporter=reporter) if shift and image else None,
        history=run.history(),
        images=_first_images(test) if image else None,
    )


def measure_shift(run: Run, model: Normalized, test: Split, digest: str, *, reporter: Reporter = SILENT) -> Shift:
    """The test split under 15 corruptions x 5 severities; one file a corruption until all are done.

    Args:
        run: where the files go.
        model: the network, on the CPU in eval mode.
        test: images.
        digest: of the test split; with the checkpoint it names the files.
        reporter: shows progress in cells.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the running severity; finished corruptions are kept.
    """
    model_digest = load_json(run.directory / "run.json", "the run").get("model_digest")
    key = digest_of({"model": model_digest, "data": digest, "kinds": SHIFT_KINDS})
    whole, parts = run.directory / "shift-test.safetensors", run.directory / "shift-test.parts"
    if whole.exists():
        arrays, about = load_arrays(whole, "the shift")
        if about.get("key") == key:
            return _shift(arrays)
    advance = reporter.task(
        f"shift {run.settings.method}, seed {run.settings.seed}", len(SHIFT_KINDS) * len(SEVERITIES)
    )
    images = test.batch(np.arange(len(test))).numpy()
    pieces = []
    with stop_at_boundary() as stop:
        for n, kind in enumerate(SHIFT_KINDS):
            file = parts / f"{kind}.safetensors"
            arrays, about = load_arrays(file, "the shift") if file.exists() else ({}, {})
            if about.get("key") != key:
                rows = []
                for done, severity in enumerate(SEVERITIES):
                    advance(n * len(SEVERITIES) + done)
                    shifted = corrupt(images, kind, severity, seed=0)
                    rows.append(_summary(model, Split(shifted, test.labels)))
                    if done + 1 < len(SEVERITIES):
                        stop.raise_if_set()
                arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
                save_arrays(arrays, file, about={"key": key})
            pieces.append(arrays)
            advance((n + 1) * len(SEVERITIES))
            stop.raise_if_set()
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    save_arrays(joined, whole, about={"key": key})
    shutil.rmtree(parts, ignore_errors=True)
    return _shift(joined)


def gallery(run: Measured, levels: IntArray, *, count: int = 12) -> tuple[GalleryItem, ...]:
    """The most over-confident images of the least robust fifth: wrong, and sure of it.

    Args:
        run: a measured run; without images the gallery is empty.
        levels: (N,) robustness level of each test example.
        count: at most so many.
    """
    if run.images is None:
        return ()
    fragile = levels <= max(0, (int(levels.max()) + 1) // 5 - 1)
    excess = np.where(fragile & ~run.correct, run.confidence, -1.0)
    chosen = [int(index) for index in np.argsort(-excess, kind="stable")[:count] if excess[index] > 0]
    names = run.dataset["class_names"]
    return tuple(
        GalleryItem(
            index=index,
            image_png=_png(run.images[index]),
            label=names[run.labels[index]],
            prediction=names[int(run.probs[index].argmax())],
            confidence=float(run.confidence[index]),
            distance=None if run.distance is None else float(run.distance[index]),
            level=int(levels[index]),
        )
        for index in chosen
    )


def _summary(model: Normalized, split: Split) -> dict[str, npt.NDArray[Any]]:
    probs = softmax(predict_logits(model, split))
    return {
        "confidence": probs.max(1).astype(np.float32),
        "correct": probs.argmax(1) == split.labels,
        "nll": log_losses(probs, split.labels).astype(np.float32),
        "brier": brier_losses(probs, split.labels).astype(np.float32),
    }


def _calibration_error(confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]) -> float:
    """ECE, 15 equal-width bins, of a top-label summary."""
    top = TopLabel(confidence, np.zeros(len(correct), np.int64), correct.astype(np.float64))
    return norm_of_gaps(bin_sums(top, bins=15), "l1")


def _shift(arrays: Mapping[str, npt.NDArray[Any]]) -> Shift:
    cells = tuple((kind, severity) for kind in SHIFT_KINDS for severity in SEVERITIES)
    return Shift(cells, arrays["confidence"], arrays["correct"], arrays["nll"], arrays["brier"])


def _first_images(test: Split) -> npt.NDArray[np.float32]:
    return test.batch(np.arange(len(test))).numpy()


def _png(image: npt.NDArray[np.float32]) -> bytes:
    """(C, H, W) in [0, 1] → PNG bytes."""
    from PIL import Image

    pixels = (image * 255).round().clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels[:3].transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
