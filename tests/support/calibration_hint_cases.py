"""Advice about seeds, recalibrators, prediction sets and thresholds, carried out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from array_hint_cases import LABELS, PROBS, TWO
from hint_cases import Call, Case, Steps, in_turn, run_code

from robcal import Recalibrator
from robcal.base.types import Estimate
from robcal.calibration.prediction_sets import audit_sets, prediction_sets
from robcal.calibration.seeds import average_over_seeds, paired_difference, seed_mean, seed_mean_interval
from robcal.calibration.threshold import selective_threshold

RNG = np.random.default_rng(0)
TRUTH = np.arange(200) % 3
LOGITS = RNG.normal(size=(200, 3)) + 2 * np.eye(3)[TRUTH]
SCORES = RNG.random(200)
TOP = PROBS.max(1)
KEEP = ("temperature", "score-temperature")
MASKED = np.where((np.arange(3) == 2) & (TRUTH != 2)[:, None], -np.inf, LOGITS)


def _coded(call: Callable[[Any], object], bad: Any, **names: Any) -> Callable[[Path], Steps]:
    """What is refused, and what the advice's code makes of it."""

    def steps(folder: Path) -> Steps:
        message = yield lambda: call(bad)
        yield lambda: call(run_code(message, names))

    return steps


def _fit(
    logits: Any = LOGITS, labels: Any = TRUTH, scores: Any = None, *, method: str = "temperature", **more: Any
) -> Any:
    return Recalibrator(method, **more).fit(logits, labels, scores)


def _unfitted(does: Callable[[Recalibrator, Path], object]) -> Callable[[Path], Steps]:
    def steps(folder: Path) -> Steps:
        made = Recalibrator("temperature")
        yield lambda: does(made, folder / "r.json")
        made.fit(LOGITS, TRUTH)
        yield lambda: does(made, folder / "r.json")

    return steps


def _without_probmetrics(folder: Path) -> Steps:
    with mock.patch("robcal.calibration.recalibration.stages.has_probmetrics", return_value=False):
        yield lambda: _fit(method="svs")
        yield lambda: _fit(method="vector")


def _one_class(folder: Path) -> Steps:
    one = np.zeros(200, int)
    yield lambda: _fit(labels=one, method="vector")
    yield lambda: [
        _fit(method="vector"),
        *(_fit(labels=one, method=way) for way in ("temperature", "score-temperature")),
    ]


def _masked(folder: Path) -> Steps:
    yield lambda: _fit(MASKED, method="vector")
    yield lambda: [_fit(MASKED, method=way) for way in KEEP]


def _impossible(folder: Path, mask: float = -np.inf) -> Steps:
    logits, labels = np.maximum(MASKED, mask), np.where(np.arange(200) == 3, 2, TRUTH)
    message = yield lambda: _fit(logits, labels)
    keep = run_code(message, {"logits": logits, "labels": labels})
    assert keep.sum() == 199
    yield lambda: _fit(logits[keep], labels[keep])


def _own_scores(folder: Path) -> Steps:
    yield lambda: _fit(scores=SCORES)
    yield lambda: [_fit(scores=SCORES, score="distance"), _fit()]


def _sets(levels: Any, new: Any, new_probs: Any = PROBS) -> Call:
    return lambda: prediction_sets(PROBS, LABELS, new_probs, levels=levels, new_levels=new)


def _lists_of_classes(folder: Path) -> Steps:
    sets = [[0], [1, 2], [], [2], [0, 1, 2], [0]] * 2
    message = yield lambda: audit_sets(sets, LABELS)
    made = run_code(message, {"sets": sets, "Z": 3}, piece=1)
    assert [np.flatnonzero(row).tolist() for row in made] == sets
    yield lambda: audit_sets(made, LABELS)


def _no_sets(folder: Path) -> Steps:
    found = prediction_sets(PROBS, LABELS, PROBS)
    yield lambda: audit_sets(PROBS, LABELS)
    yield lambda: audit_sets(found.sets, LABELS)


def _of_seeds(metric: str, runs: Any) -> object:
    return seed_mean(metric, runs, LABELS, resamples=20)


CASES = [
    Case("one number in place of a list", "a list of one number a seed",
         in_turn(lambda: seed_mean_interval(0.1), lambda: seed_mean_interval([0.1]))),
    Case("a seed without a value", "without the seeds that have none",
         in_turn(lambda: seed_mean_interval([0.1, np.nan]), lambda: seed_mean_interval([0.1]))),
    Case("a variance below 0", "leave it out where it is not known", in_turn(
        lambda: seed_mean_interval([0.1, 0.2], -1.0),
        lambda: (seed_mean_interval([0.1, 0.2], 1.0), seed_mean_interval([0.1, 0.2])),
    )),
    Case("no estimates", "Pass one estimate a seed",
         in_turn(lambda: average_over_seeds([]), lambda: average_over_seeds([Estimate(0.1)]))),
    Case("one run in place of a list", "`\\[probs_per_seed\\]`",
         _coded(lambda runs: _of_seeds("ece", runs), PROBS, probs_per_seed=PROBS)),
    Case("no runs", "Pass a list of one array a seed", in_turn(
        lambda: _of_seeds("ece", []), lambda: _of_seeds("ece", [PROBS]),
    )),
    Case("other seeds", "of the seeds that both have", in_turn(
        lambda: paired_difference("nll", [PROBS], [PROBS, PROBS], LABELS, resamples=20),
        lambda: paired_difference("nll", [PROBS], [PROBS], LABELS, resamples=20),
    )),
    Case("a recalibrator that is not fitted", "Call fit on validation data first",
         _unfitted(lambda made, file: made.predict_proba(LOGITS))),
    Case("saving a recalibrator that is not fitted", "Call fit on validation data first",
         _unfitted(lambda made, file: made.save(file))),
    Case("logits of another network", "Pass logits of the network that it was fitted on",
         in_turn(lambda: _fit().predict_proba(LOGITS[:, :2]), lambda: _fit().predict_proba(LOGITS))),
    Case("few examples to recalibrate on", "Collect more labelled examples",
         in_turn(lambda: _fit(LOGITS[:49], TRUTH[:49]), lambda: _fit(LOGITS[:50], TRUTH[:50]))),
    Case("a true class that is masked", "tells those to keep", _impossible),
    Case("a true class that is masked by a number", "tells those to keep", lambda folder: _impossible(folder, -1e9)),
    Case("a score of your own that is missing", "Pass scores=",
         in_turn(lambda: _fit(score="distance"), lambda: _fit(scores=SCORES, score="distance"))),
    Case("scores that were not asked for", "Name your score, for example", _own_scores),
    Case("a method that needs all classes", "Pass labels of all classes, or choose", _one_class),
    Case("a method that mixes classes", 'Choose "temperature" or "score-temperature"', _masked),
    Case("probabilities to recalibrate", r"Pass their logarithms, `np.log\(np.maximum\(logits, 1e-30\)\)`",
         _coded(_fit, np.eye(3)[TRUTH], logits=np.eye(3)[TRUTH])),
    Case("probmetrics is not installed", 'pip install "robcal.recalibration."; or choose', _without_probmetrics),
    Case("sets of another model", "Pass predictions of the same model",
         in_turn(_sets(None, None, TWO), _sets(None, None))),
    Case("levels of one side", "Pass levels= and new_levels=, or neither",
         in_turn(_sets(LABELS, None), lambda: [_sets(LABELS, LABELS)(), _sets(None, None)()])),
    Case("levels of the other side", "levels were given for the new examples only",
         in_turn(_sets(None, LABELS), _sets(LABELS, LABELS))),
    Case("probabilities in place of sets", r"Pass `prediction_sets\(...\).sets`", _no_sets),
    Case("lists of classes in place of sets", "np.isin", _lists_of_classes),
    Case("a threshold of percentages", "/ 100", _coded(
        lambda confidence: selective_threshold(confidence, LABELS == 0), 100 * TOP, confidence=100 * TOP
    )),
]  # fmt: skip
