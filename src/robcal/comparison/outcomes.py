"""What was measured of one run or ensemble → numbers, each with bootstrap replicates over the shared test examples.

Every method's replicates use the same resamples of the same examples, so the difference of two is paired.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from robcal.base.checks import FloatArray, IntArray
from robcal.base.levels import assign_levels
from robcal.base.metrics import CORRECTED, OOD_METRICS
from robcal.base.progress import SILENT, Reporter
from robcal.base.types import Float32Array
from robcal.calibration.corrected import calibration_noise_floor
from robcal.calibration.ood import OodRanking
from robcal.calibration.replicates import Diagram, Resampling
from robcal.calibration.seeds import Replicated
from robcal.calibration.selective import risk_coverage_curve
from robcal.calibration.temperature import TemperatureScaling
from robcal.calibration.weighted import weighted_metric
from robcal.comparison import doing
from robcal.comparison.doing import outside_of, plain_scores, scored_index, shift_of
from robcal.comparison.tasks import Choice, Entry, Job, Outside, Place, ShiftPlan, needs_reference
from robcal.runs.directory import open_run
from robcal.runs.shift import ShiftLogits
from robcal.training.predict import average_logits, softmax

#: Metrics of the test split as a whole.
_OVERALL = ("accuracy", "nll", "brier", "aurc", "gap")
_LEVEL = ("ece", "gap", "accuracy")
#: Shares of the test examples at which the risk-coverage curve is kept.
COVERAGES = tuple(number / 20 for number in range(1, 21))
#: Outcome → field of OodMetrics; out-of-distribution inputs are the positives of the precision and recall.
OOD = dict(zip(OOD_METRICS, ("auroc", "aupr_out", "fpr95"), strict=True))


@dataclass(frozen=True)
class Evidence:
    """What one entry predicts; log-probabilities where several runs are averaged."""

    val: Float32Array  # (M, Z) logits of the validation split
    val_labels: IntArray  # (M,)
    test: Float32Array  # (N, Z) logits of the test split
    test_labels: IntArray  # (N,)
    shift: ShiftLogits | None  # logits under corruption, or None
    # name → (M, Z) logits of out-of-distribution inputs
    outside: Mapping[str, Float32Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Numbers of one entry, raw or after temperature scaling."""

    # outcome → value and replicates: `OUTCOMES`, "gap", and "ood_auroc:NAME" … of each OOD set
    metrics: Mapping[str, Replicated]
    levels: Mapping[str, FloatArray]  # metric → (R,) per robustness level; empty without levels
    cells: Mapping[str, FloatArray]  # metric → (C,) per corruption and severity; empty without shift
    temperature: float = 1.0  # T; 1 where raw
    # (N,) probability of the true class of each test example
    true_class: FloatArray = field(default_factory=lambda: np.empty(0))
    # error rate of the most confident share of the test examples, for each of `COVERAGES`
    risk: FloatArray = field(default_factory=lambda: np.empty(0))


def gather(entry: Entry, place: Place, plan: ShiftPlan | None, outside: Sequence[Outside] = ()) -> Evidence:
    """Read the predictions of an entry's runs, and average their probabilities."""
    runs = [open_run(place.of(choice.settings())) for choice in entry.members]
    kept = {split: [run.predictions(split) for run in runs] for split in ("val", "test")}
    shift = None
    if plan is not None:
        parts = [shift_of(run, plan, place) for run in runs]
        shift = replace(parts[0], logits=average_logits([part.logits for part in parts]))
    other = {one.name: average_logits([outside_of(run, one) for run in runs]) for one in outside}
    val, test = (average_logits([one.as_logits().astype(np.float32) for one in kept[split]]) for split in kept)
    return Evidence(val, kept["val"][0].labels, test, kept["test"][0].labels, shift, other)


def outcomes_of(job: Job, reporter: Reporter = SILENT) -> tuple[Outcome, Outcome]:
    """Return the outcomes of an entry, raw and after temperature scaling fitted on its validation split."""
    evidence = gather(job.entry, job.place, job.shift, job.outside)
    temperature = TemperatureScaling().fit(evidence.val, evidence.val_labels).temperature
    levels, index = levels_of(job)
    raw, scaled = (outcome(evidence, one, levels=levels, index=index) for one in (1.0, temperature))
    return raw, scaled


def levels_of(job: Job) -> tuple[IntArray | None, IntArray | None]:
    """Return robustness levels, for the plain model of the same seed, of the test examples scored, and which."""
    if job.plain is None:
        return None, None
    settings = job.plain.settings()
    scores = plain_scores(job.plain, job.place, job.score_limit)
    return assign_levels(scores, settings.levels, ties="share"), scored_index(settings, job.score_limit)


def outcome(
    evidence: Evidence, temperature: float, *, levels: IntArray | None = None, index: IntArray | None = None
) -> Outcome:
    """Return every number of one entry at a temperature, and per level where the (M,) examples `index` have levels."""
    probs, labels = softmax(evidence.test / temperature), evidence.test_labels
    metrics, right = {name: _resampled(name, probs, labels) for name in _OVERALL}, probs.argmax(1) == labels
    metrics |= _errors("ece", [(probs.max(1), right, None)])
    by_level: dict[str, FloatArray] = {}
    if levels is not None and index is not None:
        by_level = _levels(probs[index], labels[index], levels)
        masks = [levels == level for level in np.unique(levels)]
        metrics |= _errors("level_ece", [(probs[index].max(1), right[index], mask) for mask in masks])
    by_cell: dict[str, FloatArray] = {}
    if evidence.shift is not None:
        summary = evidence.shift.summary(temperature)
        by_cell = summary.by_cell()
        metrics |= summary.metrics(_resampling(summary.correct.shape[1]))
    outside = {
        name: _outside(probs.max(1), softmax(logits / temperature).max(1)) for name, logits in evidence.outside.items()
    }
    metrics |= {f"{key}:{name}": one for name, found in outside.items() for key, one in found.items()}
    for key in OOD if outside else ():
        values, drawn = zip(*((found[key].value, found[key].replicates) for found in outside.values()), strict=True)
        metrics[key] = Replicated(float(np.mean(values)), np.mean(drawn, axis=0))
    true_class = probs[np.arange(len(labels)), labels]
    return Outcome(metrics, by_level, by_cell, temperature, true_class, _risk(probs, labels))


def _resampled(name: str, probs: FloatArray, labels: IntArray) -> Replicated:
    """Return a metric of the test split as a whole."""
    metric, counts = weighted_metric(name, probs, labels), _resampling(len(labels)).counts.astype(np.float64)
    return Replicated(metric(np.ones(len(labels))), np.array([metric(one) for one in counts]))


def _errors(name: str, diagrams: Sequence[Diagram]) -> dict[str, Replicated]:
    """Return a calibration error, mean over reliability diagrams, as measured and corrected."""
    measured, corrected = _resampling(len(diagrams[0][0])).errors(diagrams)
    return {name: measured, CORRECTED[name]: corrected}


def _risk(probs: FloatArray, labels: IntArray) -> FloatArray:
    """Return the risk-coverage curve at `COVERAGES`."""
    _, risk = risk_coverage_curve(probs, labels)
    return risk[[max(math.ceil(share * len(risk) - 1e-9), 1) - 1 for share in COVERAGES]]


def seconds(entry: Entry, place: Place) -> float:
    """Return the seconds of everything behind an entry's predictions: its runs, reference models and their scores."""
    return float(sum(_seconds(choice, place) for choice in entry.members))


def inference_seconds(entry: Entry, place: Place) -> float:
    """Return the seconds in which an entry predicts the test split, one member after the other."""
    return float(sum(doing.inference_of(open_run(place.of(choice.settings()))) for choice in entry.members))


def _seconds(choice: Choice, place: Place) -> float:
    settings = choice.settings()
    total = doing.seconds_of(place.of(settings))
    if needs_reference(settings):
        reference = place.of(settings.reference())
        total += doing.seconds_of(reference)
        if settings.levels_from == "robustness":
            total += doing.seconds_of(reference, doing.scoring_kind(settings))
    return total


def _levels(probs: FloatArray, labels: IntArray, levels: IntArray) -> dict[str, FloatArray]:
    """Return the metrics of each level, NaN where it has no examples, and the noise floor of its ECE."""
    by_level = {name: np.full(int(levels.max()) + 1, np.nan) for name in (*_LEVEL, "ece_floor")}
    for level in np.unique(levels):
        mask = levels == level
        for name in _LEVEL:
            by_level[name][level] = weighted_metric(name, probs[mask], labels[mask])(np.ones(int(mask.sum())))
        by_level["ece_floor"][level] = calibration_noise_floor(probs[mask])
    return by_level


def _outside(inside: FloatArray, outside: FloatArray) -> dict[str, Replicated]:
    """Measure OOD detection, with replicates over test examples and foreign inputs, each resampled on its own."""
    ranking = OodRanking(inside, outside)
    counts = zip(_resampling(len(inside)).counts, _resampling(len(outside), seed=1).counts, strict=True)
    drawn, found = [ranking.metrics(*pair) for pair in counts], ranking.metrics()
    return {
        metric: Replicated(getattr(found, name), np.array([getattr(one, name) for one in drawn]))
        for metric, name in OOD.items()
    }


@functools.lru_cache(maxsize=8)
def _resampling(n: int, seed: int = 0) -> Resampling:
    return Resampling.draw(n, seed=seed)
