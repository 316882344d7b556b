"""No result depends on the order of the rows: one law, over every public function which takes rows."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import robcal
from robcal import calibration
from robcal.base import levels
from robcal.base.encoding import plain
from robcal.base.types import Scores
from robcal.calibration import (
    binning,
    conditional,
    corrected,
    intervals,
    metrics,
    ood,
    prediction_sets,
    prob_rows,
    recalibration,
    replicates,
    seeds,
    selective,
    temperature,
    threshold,
    trends,
    weighted,
)
from robcal.robustness import fidelity
from robcal.robustness.scoring import score
from robcal.runs.audit import Audit, audit, audit_confidence

N, Z = 160, 4


class Rows:
    """A sample of rows with many ties, sorted by class; each attribute is an array with N rows, or runs of them."""

    def __init__(self, index: np.ndarray | None = None) -> None:
        rng = np.random.default_rng(3)
        index = np.arange(N) if index is None else index
        labels = np.sort(rng.integers(Z, size=N))
        logits = rng.standard_normal((3, N, Z)).round(1) * 2 + 2 * np.eye(Z)[labels]
        probs = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
        distance = rng.integers(1, 12, size=N) / 8
        distance[rng.random(N) < 0.1] = np.inf
        self.index, self.labels, self.logits = index, labels[index], logits[0, index]
        self.runs, self.probs, self.distance = list(probs[:, index]), probs[0, index], distance[index]
        self.other = list(probs[::-1, index])
        self.levels = rng.integers(6, size=N)[index]
        self.groups = np.array(["left", "right", "above"])[rng.integers(3, size=N)][index]
        self.confidence, self.correct = self.probs.max(1), self.probs.argmax(1) == self.labels
        self.counts = rng.multinomial(N, np.full(N, 1 / N), size=30)[:, index]
        self.inputs = torch.tensor(rng.random((N, 5)), dtype=torch.float32)[index]
        self.margin = (rng.integers(-4, 9, size=N) / 2)[index]
        self.noise = rng.integers(0, 3, size=N)[index] / 16
        self.top = binning.summarise(self.probs, self.labels)

    def scores(self, more: float = 0.0) -> Scores:
        distance = (self.distance + more * self.noise).astype(np.float32)
        status = np.where(np.isfinite(distance), "verified", "censored")
        prediction = self.probs.argmax(1)
        return Scores(distance, status, prediction, (prediction + 1) % Z, self.margin.astype(np.float32), self.noise)

    def resampling(self) -> replicates.Resampling:
        return replicates.Resampling(self.counts.astype(np.float32))

    def bins(self) -> binning.BinSums:
        return binning.bin_sums(self.top)


class PerRow:
    """Marks a result with one entry a row: it must be permuted as the rows are."""

    def __init__(self, *arrays: Any) -> None:
        self.arrays = arrays


def fitted(r: Rows) -> tuple[float, PerRow]:
    scaling = temperature.TemperatureScaling().fit(r.logits, r.labels)
    by_probs = temperature.TemperatureScaling().fit_probs(r.probs, r.labels)
    rows = PerRow(scaling.transform(r.logits), by_probs.transform_probs(r.probs))
    return scaling.temperature + by_probs.temperature, rows


def recalibrated(r: Rows) -> tuple[str, PerRow]:
    made = recalibration.Recalibrator("score-temperature").fit(r.logits, r.labels)
    return made.method, PerRow(made.predict_proba(r.logits).astype(np.float32))


def sets_of_levels(r: Rows) -> prediction_sets.PredictionSets:
    given = {"levels": r.levels, "new_levels": r.levels, "coverage": 0.7}
    return prediction_sets.prediction_sets(r.probs, r.labels, r.probs, **given)


def audited(r: Rows) -> dict[str, Any]:
    options = {"num_levels": 5, "resamples": 40, "scores": r.distance, "groups": {"level": r.groups, "n": r.levels}}
    return without_places(audit(r.probs, r.labels, **options))


def audited_confidence(r: Rows) -> dict[str, Any]:
    return without_places(audit_confidence(r.confidence, r.correct, scores=r.distance, num_levels=5, resamples=40))


def without_places(found: Audit) -> dict[str, Any]:
    everything = found.to_dict()
    for row in everything["methods"][0]["worst"]:
        row.pop("index")  # of a row, so it moves with it
    return everything


#: Public function or class → what it says of a sample of rows.
LAWS: dict[str, Callable[[Rows], Any]] = {
    "binning.TopLabel": lambda r: PerRow(r.top.confidence, r.top.residual, r.top.subset(np.arange(N)).correct),
    "binning.bin_index": lambda r: [
        PerRow(binning.bin_index(r.confidence, scheme=scheme)) for scheme in binning.SCHEMES
    ],
    "binning.bin_sums": lambda r: [binning.bin_sums(r.top, scheme=scheme) for scheme in binning.SCHEMES],
    "binning.summarise": lambda r: PerRow(r.top.confidence, r.top.prediction, r.top.correct),
    "binning.top_from": lambda r: PerRow(binning.top_from(r.confidence, r.correct, name="confidence").residual),
    "binning.top_label": lambda r: PerRow(*binning.top_label(r.probs)),
    "binning.top_of": lambda r: PerRow(binning.top_of(*prob_rows.checked(r.probs, r.labels)).confidence),
    "binning.total": lambda r: binning.total(r.labels, r.confidence, Z),
    "conditional.group_table": lambda r: conditional.group_table(
        r.probs, r.labels, r.groups, scores=r.distance, resamples=40
    ),
    "conditional.level_table": lambda r: conditional.level_table(r.probs, r.labels, r.levels, resamples=40),
    "conditional.overall_metrics": lambda r: conditional.overall_metrics(r.probs, r.labels, resamples=40),
    "conditional.reliability_bins": lambda r: conditional.reliability_bins(r.probs, r.labels),
    "conditional.top_label_metrics": lambda r: conditional.top_label_metrics(r.confidence, r.correct, resamples=40),
    "corrected.calibration_noise_floor": lambda r: [
        corrected.calibration_noise_floor(r.probs, scheme=scheme) for scheme in binning.SCHEMES
    ],
    "corrected.corrected_calibration_error": lambda r: [
        corrected.corrected_calibration_error(r.probs, r.labels, scheme=scheme) for scheme in binning.SCHEMES
    ],
    "intervals.accuracy_interval": lambda r: intervals.accuracy_interval(r.top),
    "intervals.calibration_error_interval": lambda r: intervals.calibration_error_interval(
        r.probs, r.labels, resamples=40
    ),
    "intervals.classwise_interval": lambda r: intervals.classwise_interval(class_bins(r)),
    "intervals.gap_interval": lambda r: intervals.gap_interval(r.top),
    "intervals.mean_interval": lambda r: intervals.mean_interval(r.confidence),
    "intervals.metric_interval": lambda r: [
        intervals.metric_interval(metric, r.probs, r.labels, resamples=40) for metric in weighted.METRICS
    ],
    "intervals.metric_intervals": lambda r: intervals.metric_intervals(
        weighted.METRICS, r.probs, r.labels, resamples=40
    ),
    "intervals.top_label_intervals": lambda r: intervals.top_label_intervals(
        intervals.TOP_LABEL_METRICS, r.top, bins=15, confidence=0.9, resamples=40, seed=1
    ),
    "metrics.accuracy": lambda r: metrics.accuracy(r.probs, r.labels),
    "metrics.brier_decomposition": lambda r: metrics.brier_decomposition(r.probs, r.labels, scheme="mass"),
    "metrics.brier_losses": lambda r: PerRow(metrics.brier_losses(r.probs, r.labels)),
    "metrics.brier_score": lambda r: metrics.brier_score(r.probs, r.labels),
    "metrics.calibration_error": lambda r: [
        metrics.calibration_error(r.probs, r.labels, scheme=scheme, norm=norm, bins=7)
        for scheme in binning.SCHEMES
        for norm in metrics.NORMS
    ],
    "metrics.class_bins": lambda r: [class_bins(r).count, class_bins(r).residual, PerRow(class_bins(r).share)],
    "metrics.classwise_calibration_error": lambda r: [
        metrics.classwise_calibration_error(r.probs, r.labels, scheme=scheme) for scheme in binning.SCHEMES
    ],
    "metrics.debiased_calibration_error": lambda r: metrics.debiased_calibration_error(r.probs, r.labels),
    "prob_rows.checked": lambda r: PerRow(prob_rows.checked(r.probs, r.labels)[1]),
    "metrics.losses_of": lambda r: PerRow(
        *(metrics.losses_of(loss, *prob_rows.checked(r.probs, r.labels)) for loss in metrics.LOSSES)
    ),
    "metrics.log_losses": lambda r: PerRow(metrics.log_losses(r.probs, r.labels)),
    "metrics.negative_log_likelihood": lambda r: metrics.negative_log_likelihood(r.probs, r.labels),
    "metrics.refinement_losses": lambda r: PerRow(metrics.refinement_losses(r.top, scheme="mass")),
    "metrics.signed_gap": lambda r: metrics.signed_gap(r.probs, r.labels),
    "ood.OodRanking": lambda r: ood.OodRanking(r.confidence, r.noise).metrics(r.counts[0], r.counts[1]),
    "ood.ood_metrics": lambda r: ood.ood_metrics(r.confidence, r.noise),
    "replicates.Resampling": lambda r: [
        r.resampling().mean(r.correct),
        r.resampling().mean(r.correct, r.labels == 1),
        np.abs(r.resampling().bin_gaps(r.confidence, r.correct)).sum(1).astype(np.float32),
        r.resampling().errors([(r.confidence, r.correct, None), (r.confidence, r.correct, r.labels == 1)])[1].value,
    ],
    "prob_rows.ProbRows": lambda r: PerRow(prob_rows.ProbRows(r.probs).of_class(r.labels)),
    "prob_rows.check_rows": lambda r: PerRow(prob_rows.check_rows(r.probs).take(np.arange(N))),
    "prob_rows.row_keys": lambda r: PerRow(prob_rows.row_keys(r.probs).astype(float)),
    "prob_rows.canonical_order": lambda r: r.probs[prob_rows.canonical_order(r.probs, r.labels)],
    "seeds.seed_mean": lambda r: [
        seeds.seed_mean(metric, r.runs, r.labels, resamples=40) for metric in weighted.METRICS
    ],
    "seeds.paired_difference": lambda r: [
        seeds.paired_difference(metric, r.runs, r.other, r.labels, resamples=40) for metric in weighted.METRICS
    ],
    "selective.aurc": lambda r: selective.aurc(r.probs, r.labels),
    "selective.aurc_values": lambda r: PerRow(selective.aurc_values(r.top)),
    "selective.risk_coverage_curve": lambda r: selective.risk_coverage_curve(r.probs, r.labels),
    "selective.ties": lambda r: selective.ties(r.top),
    "seeds.group_means": lambda r: seeds.group_means(r.confidence, r.levels),
    "seeds.run_variance": lambda r: PerRow(seeds.run_variance([run.max(1) for run in r.runs])),
    "prediction_sets.audit_sets": lambda r: plain(
        prediction_sets.audit_sets(sets_of_levels(r).sets, r.labels, r.levels)
    ),
    "prediction_sets.prediction_sets": lambda r: PerRow(sets_of_levels(r).sets, sets_of_levels(r).thresholds),
    "recalibrator.Recalibrator": recalibrated,
    "temperature.TemperatureScaling": fitted,
    "temperature.check_possible": lambda r: [temperature.check_possible(r.logits, r.labels)],
    "temperature.optimal_temperature": lambda r: temperature.optimal_temperature(r.logits, r.labels),
    "threshold.selective_threshold": lambda r: threshold.selective_threshold(r.confidence, r.correct, risk=0.4),
    "soft_labels.level_statistics": lambda r: robcal.level_statistics(r.confidence, r.correct, r.levels, 6),
    "soft_labels.soft_cross_entropy": lambda r: [
        float(robcal.soft_cross_entropy(torch.tensor(r.logits), torch.tensor(r.probs))),
        PerRow(robcal.soft_cross_entropy(torch.tensor(r.logits), torch.tensor(r.probs), reduction="none")),
    ],
    "trends.trend_tests": lambda r: trends.trend_tests(r.confidence, r.correct, r.levels, permutations=60),
    "weighted.example_values": lambda r: PerRow(
        *(weighted.example_values(metric, r.probs, r.labels) for metric in weighted.MEAN_METRICS)
    ),
    "weighted.compared_metric": lambda r: [
        weighted.compared_metric(metric, r.probs, r.labels).value for metric in weighted.METRICS
    ],
    "weighted.run_metric": lambda r: [
        weighted.run_metric(metric, r.probs, r.labels).value for metric in weighted.METRICS
    ],
    "weighted.weighted_metric": lambda r: [
        weighted.weighted_metric(metric, r.probs, r.labels)(r.counts[0].astype(float)) for metric in weighted.METRICS
    ],
    "fidelity.best_of": lambda r: PerRow(fidelity.best_of({"a": r.scores(), "b": r.scores(1.0)}).distance),
    "fidelity.fidelity": lambda r: fidelity.fidelity(
        r.scores(), {"a": r.scores(1.0), "b": r.scores(0.5)}, num_levels=5, resamples=20
    ),
    "levels.levels_by_thresholds": lambda r: PerRow(
        levels.levels_by_thresholds(r.distance, levels.assign_levels(r.distance, 7), r.margin + 3)
    ),
    "levels.assign_levels": lambda r: [
        PerRow(levels.assign_levels(r.distance, 7, ties="share"), levels.assign_levels(r.scores(), 7, ties="share")),
        sorted(zip(r.distance, levels.assign_levels(r.distance, 7), strict=True)),
        sorted(zip(r.distance, r.margin, levels.assign_levels(r.scores(), 7, seed=5), strict=True)),
    ],
    "against.compare_models": lambda r: robcal.compare_models(r.probs, r.other[0], r.labels, resamples=40),
    "running.logit_margin": lambda r: PerRow(robcal.logit_margin(torch.tensor(r.logits)).numpy()),
    "audit.audit": audited,
    "audit.audit_confidence": audited_confidence,
    "scoring.score": lambda r: PerRow(
        *(getattr(scored(r), name) for name in Scores.columns() if name != "status"), scored(r).status == "verified"
    ),
}

#: Public functions with arguments named like rows, which hold none, or draw rows.
NO_ROWS = {
    "storage.save_scores": "a file of the rows in their order",
    "audit.Examples": "what Audit.worst lists, which audit.audit holds",
    "binning.BinSums": "sums over rows",
    "binning.check_binning": "options only",
    "binning.width_edges": "options only",
    "fidelity.Fidelity": "a result",
    "fidelity.stratified_sample": "draws rows at random, by a seed: another order gives another sample of the same law",
    "intervals.jeffreys_interval": "two numbers",
    "loop.fit": "trains: the order of the examples is drawn by their positions, by a seed",
    "metrics.debiased": "bin sums",
    "metrics.norm_of_gaps": "bin sums",
    "weighted.value_of_bins": "bin sums",
}

#: Arguments that hold one entry a row, by name.
ROW_ARGUMENTS = {
    *("probs", "logits", "labels", "scores", "levels", "level", "groups", "confidences", "confidence", "correct"),
    *("distance", "distances", "true_class", "values", "top", "probs_per_seed", "candidate", "references", "columns"),
    *("confidence_in", "confidence_out", "first", "second", "index", "inputs", "prediction", "rows", "margin"),
}
PLACES = ["robcal.runs.audit", "robcal.robustness.fidelity", "robcal.base.levels"]


def class_bins(r: Rows) -> metrics.ClassBins:
    return metrics.class_bins(*prob_rows.checked(r.probs, r.labels), bins=15, scheme="width")


def scored(r: Rows) -> Scores:
    weight = torch.tensor(np.random.default_rng(5).standard_normal((5, Z)), dtype=torch.float32)
    return score(lambda x: x @ weight, r.inputs, method="projection", first_index=r.index)


def assert_same(first: Any, second: Any, order: np.ndarray, where: str) -> None:
    """Two results are the same up to the rounding of sums; per-row ones up to the permutation too."""
    assert type(first) is type(second), where
    if isinstance(first, PerRow):
        for one, other in zip(first.arrays, second.arrays, strict=True):
            rtol = 1e-5 if np.asarray(one).dtype == np.float32 else 1e-9
            np.testing.assert_allclose(np.asarray(other, float), np.asarray(one, float)[order], rtol, err_msg=where)
    elif isinstance(first, Mapping):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], order, f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for place, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, order, f"{where}[{place}]")
    elif isinstance(first, float):
        assert math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12) or (first != first and second != second), where
    elif isinstance(first, (str, int, bool, type(None), np.integer)):
        assert first == second, where
    elif isinstance(first, np.ndarray):
        np.testing.assert_allclose(second, first, rtol=1e-6 if first.dtype == np.float32 else 1e-9, err_msg=where)
    else:
        assert_same(plain(first), plain(second), order, where)


@pytest.mark.parametrize("name", LAWS)
def test_another_order_of_the_rows_changes_nothing(name: str) -> None:
    law, rng = LAWS[name], np.random.default_rng(11)
    for order in (np.arange(N)[::-1].copy(), rng.permutation(N)):
        assert_same(law(Rows()), law(Rows(order)), order, name)


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every public function and class that is defined in the package for arrays, or exported by robcal itself."""
    inside = [f"robcal.calibration.{module.name}" for module in pkgutil.iter_modules(calibration.__path__)]
    for place in [*PLACES, *inside]:
        module = importlib.import_module(place)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "") == place
            if own and not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
                yield f"{place.rpartition('.')[2]}.{name}", value
    for name in robcal.__all__:
        value = getattr(robcal, name)
        if inspect.isfunction(value) or name == "Recalibrator":
            yield f"{value.__module__.rpartition('.')[2]}.{value.__name__}", value


def takes_rows(value: Any) -> bool:
    """Whether it is a function with an argument that holds rows, or a class with a method that has one."""
    if inspect.isclass(value):
        return any(takes_rows(method) for name, method in vars(value).items() if inspect.isfunction(method))
    arguments = inspect.signature(value).parameters.values()
    return any(one.name in ROW_ARGUMENTS and one.annotation not in ("float", "int", "str") for one in arguments)


def test_every_public_function_that_takes_rows_is_in_the_law() -> None:
    found = {name for name, value in public_functions() if takes_rows(value)}
    assert found - set(LAWS) - set(NO_ROWS) == set(), "say in LAWS what they say of rows, or in NO_ROWS why not"
    everything = {name for name, _ in public_functions()}
    assert set(LAWS) | set(NO_ROWS) <= everything, "these are gone"


def test_a_constant_score_of_rows_sorted_by_class_has_one_level_and_no_trend() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(2, size=400))
    sure = np.where(labels == 0, 0.9, 0.7)  # over-confident on one class, so every cut by order shows a trend
    right = rng.random(400) < 0.75
    probs = np.where((np.arange(2) == labels[:, None]) == right[:, None], sure[:, None], 1 - sure[:, None])
    found = audit(probs, labels, scores=np.full(400, 0.25), resamples=20)
    assert [row.n for row in found.levels] == [400]
    assert found.trends == ()
    assert any("share one level" in note and "no trend" in note for note in found.results.notes)
    wrong = trends.trend_tests(probs.max(1), right, np.arange(400) // 40)
    assert min(test.p_value for test in wrong) < 0.01  # what a cut by the order of the rows would claim


def test_few_distinct_scores_give_few_levels_and_the_page_says_so(tmp_path) -> None:
    r = Rows()
    found = audit(r.probs, r.labels, scores=np.repeat([1.0, 2.0, 3.0], [100, 50, 10]), resamples=20)
    assert [row.n for row in found.levels] == [100, 50, 10]
    assert [row.score_low for row in found.levels] == [1.0, 2.0, 3.0]
    note = next(note for note in found.results.notes if "3 levels of 10 to 100 examples" in note)
    assert "10 of equal size were asked for" in note
    assert "3 levels of 10 to 100" in found.to_html(tmp_path / "audit.html").read_text(encoding="utf-8")


def test_levels_shared_by_ties_are_those_of_the_middle_one_of_them() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        n = int(rng.integers(1, 40))
        values, r = rng.integers(0, 8, size=n).astype(float), int(rng.integers(1, n + 1))
        alone = np.concatenate([np.full(len(part), k) for k, part in enumerate(np.array_split(np.arange(n), r))])
        ordered = np.sort(values)
        expected = [alone[(np.flatnonzero(ordered == v)[0] + np.flatnonzero(ordered == v)[-1]) // 2] for v in values]
        assert levels.assign_levels(values, r, ties="share").tolist() == expected


def test_split_ties_are_drawn_independently_of_a_sorted_label() -> None:
    labels = np.repeat([0, 1], 500)
    shares = [labels[levels.assign_levels(np.zeros(1000), 10, seed=seed) == 0].mean() for seed in range(40)]
    assert abs(np.mean(shares) - 0.5) < 0.03  # the standard error is .008; by row order it would be 0
    assert np.ptp(shares) > 0.05
    one = levels.assign_levels(np.zeros(1000), 10, seed=3)
    np.testing.assert_array_equal(one, levels.assign_levels(np.zeros(1000), 10, seed=3))
