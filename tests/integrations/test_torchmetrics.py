"""Metrics for training loops: the numbers of `robcal.calibration`, whatever batches and processes saw."""

import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from robcal import metrics
from robcal.calibration import (
    accuracy,
    aurc,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    corrected_calibration_error,
    debiased_calibration_error,
    level_table,
    negative_log_likelihood,
    signed_gap,
)

N, Z, R = 500, 4, 3

#: Each metric with the function that it must agree with.
PAIRS = [
    (metrics.CalibrationError, calibration_error, {}),
    (metrics.CalibrationError, calibration_error, {"norm": "max", "scheme": "mass", "bins": 7}),
    (metrics.CalibrationError, calibration_error, {"edges": "torchmetrics"}),
    (metrics.CorrectedCalibrationError, corrected_calibration_error, {"bins": 10}),
    (metrics.DebiasedCalibrationError, debiased_calibration_error, {"scheme": "width"}),
    (metrics.ClasswiseCalibrationError, classwise_calibration_error, {}),
    (metrics.Accuracy, accuracy, {}),
    (metrics.SignedGap, signed_gap, {}),
    (metrics.AURC, aurc, {}),
    (metrics.NegativeLogLikelihood, negative_log_likelihood, {}),
    (metrics.BrierScore, brier_score, {}),
]


def examples(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities of which many lie on the edges of bins, labels and levels."""
    draw = torch.Generator().manual_seed(0)
    counts = torch.rand(N, Z, generator=draw).mul(12).round() + 1
    probs = (counts / counts.sum(1, keepdim=True)).to(dtype)
    return probs, torch.randint(Z, (N,), generator=draw), torch.randint(R, (N,), generator=draw)


def of_batches(metric: metrics.Metric, *arrays: torch.Tensor, batch: int = 64) -> np.ndarray:
    for parts in zip(*(array.split(batch) for array in arrays), strict=True):
        metric.update(*parts)
    return metric.compute().numpy()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "function", "options"), PAIRS)
def test_batches_give_the_number_of_all_examples(kind, function, options, dtype):
    """To the last digit: on edges of bins, in every precision, and anew after `reset` and after pickling."""
    probs, labels, _ = examples(dtype)
    metric = kind(**options)
    expected = function(probs, labels, **options)
    assert of_batches(metric, probs, labels) == pytest.approx(expected, rel=1e-15, abs=1e-16)
    metric.reset()
    assert of_batches(pickle.loads(pickle.dumps(metric)), probs[:50], labels[:50], batch=50) == pytest.approx(
        function(probs[:50], labels[:50], **options), rel=1e-15, abs=1e-16
    )


def test_gaps_of_levels_are_those_of_the_table():
    probs, labels, levels = examples()
    table = [row.gap.value for row in level_table(probs, labels, levels, resamples=20)]
    assert of_batches(metrics.LevelGaps(R + 1), probs, labels, levels) == pytest.approx([*table, np.nan], nan_ok=True)
    share = np.bincount(levels) / N
    assert of_batches(metrics.RMSLevelGap(R), probs, labels, levels) == pytest.approx(np.sqrt(share @ np.square(table)))


def test_the_debiased_gap_of_levels_has_the_right_mean():
    """Of calibrated models in many draws the mean square without noise is 0 on average; a true gap of .1 stays."""
    draw, levels = np.random.default_rng(0), np.repeat([0, 1], 20)
    confidence = draw.uniform(0.5, 1, 40)
    for true, cut_off in ((0.0, 0.005), (0.2, 0.005)):  # a mean of squares that are cut off at 0 is more than the truth
        squares, plain = [], []
        for _ in range(300):
            labels = (draw.random(40) >= confidence - true).astype(int)
            found = metrics.RMSLevelGap(2), metrics.RMSLevelGap(2, debiased=True)
            for one, kept in zip(found, (plain, squares), strict=True):
                one.update(np.stack([confidence, 1 - confidence], 1), labels, levels)
                kept.append(float(one.compute()) ** 2)
        assert abs(np.mean(squares) - true**2) < cut_off < np.mean(plain) - true**2, (np.mean(squares), np.mean(plain))


def test_other_libraries_agree_where_their_definitions_do():
    probs, labels, _ = examples()
    ece = MulticlassCalibrationError(Z, n_bins=15)
    ours = metrics.CalibrationError(edges="torchmetrics")
    share = MulticlassAccuracy(Z, average="micro")
    for one in (ece, share):
        one.update(probs, labels)
    assert of_batches(ours, probs, labels) == pytest.approx(float(ece.compute()), abs=1e-6)
    assert of_batches(metrics.Accuracy(), probs, labels) == pytest.approx(float(share.compute()))
    exact = probs.double() / probs.double().sum(1, keepdim=True)
    assert of_batches(metrics.NegativeLogLikelihood(), exact, labels) == pytest.approx(log_loss(labels, exact))
    two = torch.stack([exact[:, 0], 1 - exact[:, 0]], 1)
    halves = brier_score_loss(labels == 0, exact[:, 0])
    assert of_batches(metrics.BrierScore(), two, (labels != 0).long()) == pytest.approx(2 * halves)


def test_in_a_collection_as_torchmetrics_uses_it():
    """`forward` gives the batch's value; metrics that keep the same share it, and stay right."""
    probs, labels, _ = examples()
    parts = {"ece": metrics.CalibrationError(), "aurc": metrics.AURC(), "nll": metrics.NegativeLogLikelihood()}
    together = MetricCollection(parts)
    for batch, truth in zip(probs.split(100), labels.split(100), strict=True):
        assert float(together(batch, truth)["ece"]) == pytest.approx(calibration_error(batch, truth))
    found = together.compute()
    assert float(found["ece"]) == pytest.approx(calibration_error(probs, labels), rel=1e-14)
    assert float(found["aurc"]) == pytest.approx(aurc(probs, labels), rel=1e-14)
    assert float(found["nll"]) == pytest.approx(negative_log_likelihood(probs, labels), rel=1e-14)


def worker() -> None:
    """One process of two: the second sees no example in one of the metrics; float64, which nothing may round."""
    rank = torch.distributed.get_rank()
    probs, labels, levels = (array[: [400, None][rank]][[0, 400][rank] :] for array in examples(torch.float64))
    found = {}
    for number, (kind, _, options) in enumerate(PAIRS):
        found[str(number)] = of_batches(kind(**options), probs, labels)
    found["levels"] = of_batches(metrics.LevelGaps(R), probs, labels, levels)
    alone = metrics.ClasswiseCalibrationError()
    if rank == 0:
        alone.update(probs, labels)
    found["alone"] = alone.compute().numpy()
    np.savez(f"{os.environ['OUT']}/torchmetrics-{rank}.npz", **found)
