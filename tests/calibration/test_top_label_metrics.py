"""Metrics of a top-label summary, and of several metrics at once, against those of one at a time."""

import numpy as np
import pytest

from robcal.base.checks import InputError
from robcal.calibration import metric_interval, overall_metrics, top_label_metrics
from robcal.calibration.intervals import TOP_LABEL_METRICS, metric_intervals


@pytest.fixture(params=[np.float32, np.float64])
def predictions(request):
    rng = np.random.default_rng(4)
    probs = rng.dirichlet(np.full(6, 0.4), 700).astype(request.param)
    labels = (probs.cumsum(1) > rng.random((700, 1))).argmax(1)
    return probs, labels


def test_a_summary_gives_what_the_probabilities_give(predictions):
    probs, labels = predictions
    whole = overall_metrics(probs, labels, resamples=60, seed=2)
    summary = top_label_metrics(probs.max(1), probs.argmax(1) == labels, resamples=60, seed=2)
    assert set(summary) == set(TOP_LABEL_METRICS)
    assert set(whole) - set(summary) == {"nll", "brier", "classwise_ece"}
    assert all(summary[name] == whole[name] for name in summary)


def test_several_at_once_are_those_of_one_at_a_time(predictions):
    probs, labels = predictions
    names = ["nll", "ece", "classwise_ece", "aurc", "brier"]
    together = metric_intervals(names, probs, labels, resamples=60)
    assert list(together) == names
    assert all(together[name] == metric_interval(name, probs, labels, resamples=60) for name in names)


@pytest.mark.parametrize(
    ("confidences", "correct", "message"),
    [
        ([0.5, 1.5], [True, False], "lies in"),
        ([0.5, float("nan")], [True, False], "confidences"),
        ([0.5, 0.6], [2, 0], "booleans"),
        ([0.5, 0.6], [True], "same examples"),
        ([], [], "empty"),
    ],
)
def test_bad_summaries_are_refused(confidences, correct, message):
    with pytest.raises(InputError, match=message):
        top_label_metrics(confidences, np.asarray(correct))
