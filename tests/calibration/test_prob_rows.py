"""Probabilities in blocks of rows: the numbers of whole arrays, at any size of a block, without a copy of all rows."""

import tracemalloc

import numpy as np
import pytest

from robcal.base.checks import InputError, check_probs
from robcal.base.encoding import plain
from robcal.calibration import brier_score, negative_log_likelihood, overall_metrics, prob_rows
from robcal.calibration.binning import summarise
from robcal.calibration.metrics import class_bins
from robcal.calibration.prob_rows import ProbRows, checked
from robcal.runs.audit import audit

N, Z, BINS = 230, 4, 15


def sample(dtype=np.float64, n=N):
    rng = np.random.default_rng(2)
    logits = 2 * rng.standard_normal((n, Z))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probs.astype(dtype), rng.integers(Z, size=n), rng.gamma(2, size=n).round(1)


def numbers(value):
    """All numbers of nested results, in order."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list | tuple):
        return [number for part in value for number in numbers(part)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_figures_are_those_of_the_whole_arrays(dtype, monkeypatch):
    monkeypatch.setattr(prob_rows, "ENTRIES", 3 * Z)
    probs, labels, _ = sample(dtype)
    wide, rows = probs.astype(np.float64), np.arange(N)
    top, cells = summarise(probs, labels), class_bins(*checked(probs, labels), bins=BINS, scheme="width")
    np.testing.assert_array_equal(top.confidence, probs.max(1))
    assert top.confidence.dtype == dtype
    np.testing.assert_array_equal(top.prediction, probs.argmax(1))
    assert negative_log_likelihood(probs, labels) == pytest.approx(-np.log(wide[rows, labels]).mean(), abs=1e-12)
    assert brier_score(probs, labels) == pytest.approx(((wide - np.eye(Z)[labels]) ** 2).sum(1).mean(), abs=1e-12)
    miss = wide - np.eye(Z)[labels]
    inside = np.clip(np.ceil(wide * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.array([[miss[inside[:, z] == k, z].sum() for k in range(BINS)] for z in range(Z)])
    counts = [[(inside[:, z] == k).sum() for k in range(BINS)] for z in range(Z)]
    np.testing.assert_allclose(cells.residual, gaps, atol=1e-12)
    np.testing.assert_array_equal(cells.count, counts)
    assert cells.share.mean() == pytest.approx(np.abs(gaps).sum() / N / Z, abs=1e-12)
    share = [sum(np.sign(gaps[z, inside[i, z]]) * miss[i, z] for z in range(Z)) / Z for i in rows]
    np.testing.assert_allclose(cells.share, share, atol=1e-12)


@pytest.mark.parametrize("entries", [1, 7 * Z, 100 * Z])
@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("validated", [True, False])
def test_an_audit_does_not_depend_on_the_size_of_the_blocks(entries, scored, validated, monkeypatch, tmp_path):
    probs, labels, scores = sample(np.float32)
    np.save(tmp_path / "probs.npy", probs)
    given = {"scores": scores if scored else None, "num_levels": 3, "resamples": 30}
    if validated:
        given["validation"] = (probs[::2], labels[::2], scores[::2]) if scored else (probs[::2], labels[::2])
    monkeypatch.setattr("robcal.runs.repair.MOST_LOGITS", 200 * Z)  # a sample of the rows is drawn as well
    whole = numbers(plain(audit(probs, labels, **given).results))
    monkeypatch.setattr(prob_rows, "ENTRIES", entries)
    blocks = numbers(plain(audit(np.load(tmp_path / "probs.npy", mmap_mode="r"), labels, **given).results))
    assert len(whole) > 150
    np.testing.assert_allclose(blocks, whole, rtol=1e-12, atol=1e-12)


def test_a_row_that_is_no_distribution_is_told_as_of_all_rows(monkeypatch):
    monkeypatch.setattr(prob_rows, "ENTRIES", 3 * Z)
    for row, entry in ((N - 1, np.nan), (200, 1.5), (100, -0.1), (50, 0.9)):
        probs, labels, _ = sample()
        probs[row, 1] = entry
        with pytest.raises(InputError) as whole:
            check_probs(probs)
        with pytest.raises(InputError) as blocks:
            overall_metrics(probs, labels, resamples=20)
        assert str(blocks.value) == str(whole.value)


def test_rows_of_bfloat16_precision_are_told_by_all_rows_and_never_by_a_block(monkeypatch):
    monkeypatch.setattr(prob_rows, "ENTRIES", 2)
    coarse = np.array([[0.50390625, 0.5], [0.5, 0.5]])  # each number is one of bfloat16
    assert ProbRows(coarse).take(slice(None)).tolist() == coarse.tolist()
    with pytest.raises(InputError, match="row 0 of probs sums to"):
        ProbRows(np.vstack([coarse, [0.1, 0.9]]))


def test_entries_beyond_0_and_1_by_rounding_are_cut_off_and_the_array_stays(monkeypatch):
    monkeypatch.setattr(prob_rows, "ENTRIES", 2)
    probs = np.array([[1 + 2e-16, -1e-17], [0.5, 0.5]])
    before = probs.copy()
    rows = ProbRows(probs)
    assert [block.tolist() for _, block in rows.blocks()] == [[[1, 0]], [[0.5, 0.5]]]
    next(rows.blocks())[1][:] = 0
    np.testing.assert_array_equal(probs, before)


def test_no_copy_of_all_probabilities_is_made(monkeypatch):
    monkeypatch.setattr(prob_rows, "ENTRIES", 1 << 14)
    rng, n, classes = np.random.default_rng(0), 20_000, 100
    probs = rng.random((n, classes), dtype=np.float32)
    probs /= probs.sum(1, keepdims=True)
    labels = rng.integers(classes, size=n)
    overall_metrics(probs[:100], labels[:100], resamples=20)  # modules are loaded
    tracemalloc.start()
    overall_metrics(probs, labels, resamples=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * probs.nbytes  # in float64 they are twice as many bytes, beside what is made of them
