import numpy as np
import pytest
from calibration_samples import probabilities, softmax_sample, with_confidence

from robcal.base.checks import InputError
from robcal.calibration import (
    accuracy,
    calibration_error,
    calibration_noise_floor,
    group_table,
    level_table,
    reliability_bins,
    signed_gap,
)
from robcal.calibration.intervals import jeffreys_interval


def test_rows_are_the_metrics_of_each_subset():
    logits, labels, _ = softmax_sample(0, n=300)
    probs = probabilities(logits).astype(np.float32)
    levels = np.arange(300) % 12
    scores = np.where(levels == 11, np.inf, levels + np.linspace(0, 0.5, 300))
    rows = level_table(probs, labels, levels, scores=scores, resamples=50)
    assert [row.group for row in rows] == [str(level) for level in range(12)]
    for level, row in enumerate(rows):
        part = levels == level
        assert row.n == part.sum()
        assert row.accuracy.value == pytest.approx(accuracy(probs[part], labels[part]))
        assert row.gap.value == pytest.approx(signed_gap(probs[part], labels[part]), abs=1e-12)
        assert row.ece.value == pytest.approx(calibration_error(probs[part], labels[part]), abs=1e-12)
        assert row.ece_floor == pytest.approx(calibration_noise_floor(probs[part]), abs=1e-12)
        assert row.confidence.value - row.accuracy.value == pytest.approx(row.gap.value, abs=1e-12)
        assert (row.score_low, row.score_high) == (scores[part].min(), scores[part].max())
        for estimate in (row.accuracy, row.confidence, row.gap, row.ece):
            assert estimate.low <= estimate.value <= estimate.high


def test_weighted_rows_give_the_whole():
    logits, labels, _ = softmax_sample(1, n=200)
    probs = probabilities(logits)
    groups = np.where(np.arange(200) % 3 == 0, "left", "right")
    rows = group_table(probs, labels, groups, resamples=50)
    assert [row.group for row in rows] == ["left", "right"]
    assert sum(row.n * row.gap.value for row in rows) / 200 == pytest.approx(signed_gap(probs, labels))
    assert rows[0].score_low is None


def test_small_calibrated_groups_do_not_look_miscalibrated():
    # 10 groups of 100: each plug-in ECE is near .06 or more, and almost every interval reaches 0.
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, 1000)
    probs, labels = with_confidence(confidence, rng.random(1000) < confidence)
    rows = level_table(probs, labels, np.arange(1000) % 10, resamples=200)
    assert np.mean([row.ece.value for row in rows]) > 0.05
    assert sum(row.ece.low == 0 for row in rows) >= 8


def test_reliability_bins():
    probs, labels = with_confidence([0.3, 0.32, 0.65, 0.7, 1.0, 1.0], [0, 1, 1, 1, 1, 0])
    rows = reliability_bins(probs, labels, bins=10)
    assert [row.count for row in rows] == [0, 0, 1, 1, 0, 0, 2, 0, 0, 2]
    assert [(row.lower, row.upper) for row in rows[:2]] == [(0, 0.1), (0.1, 0.2)]
    assert rows[6].confidence == pytest.approx(0.675)
    assert (rows[6].accuracy.low, rows[6].accuracy.high) == jeffreys_interval(2, 2)
    assert np.isnan(rows[0].confidence)
    assert np.isnan(rows[0].accuracy.value)
    assert rows[0].accuracy.low is None
    error = sum(row.count * abs(row.confidence - row.accuracy.value) for row in rows if row.count) / 6
    assert error == pytest.approx(calibration_error(probs, labels, bins=10))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, y: group_table(p, y, [0.5, 0.5]), "groups"),
        (lambda p, y: group_table(p, y, [0]), "same examples"),
        (lambda p, y: group_table(p, y, [0, 1], scores=[np.nan, 1]), "nan"),
        (lambda p, y: level_table(p, y, [0, -1]), "levels"),
        (lambda p, y: level_table(p, y, [0.0, 1.0]), "integers"),
        (lambda p, y: reliability_bins(p, y, bins=0), "bins"),
        (lambda p, y: level_table(p, y, [0, 1], confidence=0), "confidence"),
        (lambda p, y: level_table(p, y, [0, 1], resamples=0), "resamples"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call([[0.5, 0.5], [0.2, 0.8]], [0, 1])
