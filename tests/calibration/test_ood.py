import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robcal.base.checks import InputError
from robcal.calibration import ood_metrics
from robcal.calibration.ood import OodRanking


@pytest.mark.parametrize("rounded", [True, False])
def test_ood_against_scikit_learn(rounded):
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(1, 1, 137), rng.normal(0, 1, 90)
    if rounded:
        inside, outside = inside.round(), outside.round()
    truth, scores = np.repeat([1, 0], [137, 90]), np.concatenate([inside, outside])
    ours = ood_metrics(inside, outside)
    assert ours.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert ours.aupr_in == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert ours.aupr_out == pytest.approx(average_precision_score(1 - truth, -scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert ours.fpr95 == pytest.approx(false[np.flatnonzero(true >= 0.95)[0]], abs=1e-12)


def test_ood_extremes():
    assert ood_metrics([0.9, 0.8], [0.1]).auroc == 1
    assert ood_metrics([0.5], [0.5, 0.5]).auroc == 0.5
    assert ood_metrics([0.9, 0.8], [0.1]).fpr95 == 0


@pytest.mark.parametrize(
    ("inside", "outside", "words"),
    [([], [0.1], "empty"), ([np.nan], [0.1], "nan"), ([0.5], [np.inf], "inf"), ([[0.5]], [0.1], "shape")],
)
def test_bad_scores_are_refused(inside, outside, words):
    with pytest.raises(InputError, match=words):
        ood_metrics(inside, outside)


@pytest.mark.parametrize("rounded", [True, False])
def test_resamples_are_scikit_learns_sample_weights(rounded):
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(1, 1, 120), rng.normal(0, 1, 70)
    if rounded:
        inside, outside = inside.round(), outside.round()
    counts_in, counts_out = rng.multinomial(120, [1 / 120] * 120), rng.multinomial(70, [1 / 70] * 70)
    ours = OodRanking(inside, outside).metrics(counts_in, counts_out)
    truth, scores = np.repeat([1, 0], [120, 70]), np.concatenate([inside, outside])
    weights = np.concatenate([counts_in, counts_out])
    assert ours.auroc == pytest.approx(roc_auc_score(truth, scores, sample_weight=weights), abs=1e-12)
    assert ours.aupr_in == pytest.approx(average_precision_score(truth, scores, sample_weight=weights), abs=1e-12)
    expected = average_precision_score(1 - truth, -scores, sample_weight=weights)
    assert ours.aupr_out == pytest.approx(expected, abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False, sample_weight=weights)
    assert ours.fpr95 == pytest.approx(false[np.flatnonzero(true >= 0.95 - 1e-9)[0]], abs=1e-12)


def test_a_resample_is_the_repeated_examples():
    rng = np.random.default_rng(3)
    inside, outside = rng.random(40), rng.random(30)
    counts_in, counts_out = rng.integers(0, 4, 40), rng.integers(0, 4, 30)
    repeated = ood_metrics(np.repeat(inside, counts_in), np.repeat(outside, counts_out))
    ours = OodRanking(inside, outside).metrics(counts_in, counts_out)
    for name in ("auroc", "aupr_in", "aupr_out", "fpr95"):
        assert getattr(ours, name) == pytest.approx(getattr(repeated, name), abs=1e-12)
