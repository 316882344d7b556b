"""The demo's regime shows what it is made to show: plain training over-fits, and softened labels answer that."""

import dataclasses

import numpy as np
import pytest

from robcal.base.storage import load_predictions
from robcal.calibration.metrics import negative_log_likelihood
from robcal.comparison.demo import SETTINGS
from robcal.runs.directory import load_data
from robcal.runs.train import train_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]  # its fixtures are dear: one process makes them


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """(plain, AR-AdaLS) of two seeds on the test digits."""
    folder, made = tmp_path_factory.mktemp("demo"), []
    for seed in (0, 1):
        plain = dataclasses.replace(SETTINGS, seed=seed)
        ours = dataclasses.replace(plain, method="ar-adals", levels_from="robustness")
        data, reference = load_data(plain), folder / f"plain-{seed}"
        runs = (
            train_run(plain, reference, dataset=data),
            train_run(ours, folder / f"ours-{seed}", dataset=data, reference=reference),
        )
        made.append([load_predictions(run.directory / "predictions-test.safetensors") for run in runs])
    return made


def accuracy(one):
    return (one.probs.argmax(1) == one.labels).mean()


def gap(one):
    return one.probs.max(1).mean() - accuracy(one)


def nll(one):
    return negative_log_likelihood(one.probs, one.labels)


def means(metric, predictions):
    """The mean over seeds for plain and for AR-AdaLS."""
    return np.mean([[metric(one) for one in pair] for pair in predictions], axis=0)


def test_plain_training_is_over_confident_and_ar_adals_is_less_so(predictions):
    """With all 755 training digits the two differ by .002, which no number of seeds would show."""
    plain, ours = means(gap, predictions)
    assert plain > 0.03
    assert ours < plain / 2


def test_its_likelihood_is_better_and_its_accuracy_no_worse(predictions):
    plain, ours = means(nll, predictions)
    assert ours < plain - 0.02
    plain, ours = means(accuracy, predictions)
    assert ours > plain - 0.01
