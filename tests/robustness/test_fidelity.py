from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from robcal.base.checks import InputError
from robcal.base.encoding import plain
from robcal.base.levels import assign_levels
from robcal.base.types import FIDELITY_TITLES, Scores
from robcal.robustness.fidelity import best_of, fidelity, stratified_sample


def scores(distance: object, *, status: object = None, passes: float = 2.0, name: str = "some") -> Scores:
    d = np.asarray(distance, dtype=np.float32)
    integer = np.zeros(len(d), dtype=np.int64)
    found = np.where(np.isfinite(d), "verified", "censored") if status is None else np.asarray(status)
    return Scores(d, found, integer, integer, np.zeros_like(d), np.full_like(d, passes), method=name)


def value(candidate: Scores, reference: Scores, metric: str, **options: int) -> float:
    options = {"num_levels": 5, "resamples": 5} | options
    return fidelity(candidate, {"reference": reference}, **options).candidate.metrics[metric].value


def test_a_perfect_candidate_has_full_marks_and_intervals_without_width() -> None:
    d = np.random.default_rng(0).gamma(2, size=100)
    metrics = fidelity(scores(d), {"reference": scores(d, passes=900)}, resamples=50).candidate.metrics
    assert list(metrics) == list(FIDELITY_TITLES)
    for name in ("same_level", "within_one", "spearman", "kendall", "ratio_median", "ratio_mean", "near", "verified"):
        for end in (metrics[name].value, metrics[name].low, metrics[name].high):
            assert end == pytest.approx(1, abs=1e-6)
    assert metrics["passes"].value == 2


def test_a_change_of_scale_costs_no_agreement_and_shows_in_the_norm_ratio() -> None:
    d = np.random.default_rng(0).gamma(2, size=100)
    metrics = fidelity(scores(0.9 * d), {"reference": scores(d)}, resamples=20).candidate.metrics
    assert metrics["same_level"].value == 1
    assert metrics["ratio_median"].value == pytest.approx(0.9, rel=1e-5)
    assert metrics["ratio_mean"].value == pytest.approx(0.9, rel=1e-5)


def test_known_swaps_give_the_agreement_counted_by_hand() -> None:
    d = np.arange(1.0, 21)  # five levels of four
    near, far = d.copy(), d.copy()
    near[[3, 4]] = near[[4, 3]]  # the last of level 0 and the first of level 1: two of 20 wrong, by one
    far[[0, 19]] = far[[19, 0]]  # the ends: two wrong, by four
    assert value(scores(near), scores(d), "same_level") == pytest.approx(0.9)
    assert value(scores(near), scores(d), "within_one") == 1
    assert value(scores(far), scores(d), "same_level") == pytest.approx(0.9)
    assert value(scores(far), scores(d), "within_one") == pytest.approx(0.9)
    assert value(scores(near), scores(d), "spearman") == pytest.approx(1 - 6 * 2 / (20 * 399))
    assert value(scores(near), scores(d), "kendall") == pytest.approx(1 - 2 * 1 / 190)


def test_a_candidate_without_relation_agrees_by_chance_only() -> None:
    rng = np.random.default_rng(1)
    d = rng.gamma(2, size=1500)
    metrics = fidelity(scores(rng.permutation(d)), {"r": scores(d)}, num_levels=10, resamples=100).candidate.metrics
    assert metrics["same_level"].value == pytest.approx(0.1, abs=0.03)
    assert metrics["within_one"].value == pytest.approx(0.28, abs=0.05)
    low, high = metrics["spearman"].low, metrics["spearman"].high
    assert low is not None
    assert high is not None
    assert low < 0 < high


def tau_b(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall 1945: the sum over pairs of the products of signs, scaled by the pairs that are not tied."""
    one, other = (np.sign(values[:, None] - values[None]) for values in (a, b))
    return float((one * other).sum() / np.sqrt(np.abs(one).sum() * np.abs(other).sum()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 40), st.integers(2, 12))
def test_correlations_are_known_and_censored_examples_are_the_largest_and_tied(seed: int, n: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, kinds + 1, n).astype(float), rng.integers(1, kinds + 1, n).astype(float)
    a[rng.random(n) < 0.2] = np.inf
    b[rng.random(n) < 0.2] = np.inf
    if len(set(a)) < 2 or len(set(b)) < 2:
        return
    measured = fidelity(scores(a), {"r": scores(b)}, num_levels=3, resamples=3).candidate.metrics
    large = np.where(np.isinf(a), 1e6, a), np.where(np.isinf(b), 1e6, b)
    assert measured["spearman"].value == pytest.approx(spearmanr(*large).statistic, abs=1e-9)
    assert measured["kendall"].value == pytest.approx(tau_b(*large), abs=1e-9)


def test_each_resample_has_levels_cut_anew() -> None:
    from robcal.robustness.fidelity import _levels

    rng = np.random.default_rng(4)
    b = rng.gamma(2, size=60)
    b[:3] = np.inf
    for draw in rng.integers(60, size=(8, 60)):
        np.testing.assert_array_equal(_levels(b[draw], np.zeros(60), 7), assign_levels(b[draw], 7))


@pytest.mark.slow
def test_the_interval_of_the_agreement_covers_the_truth_about_as_often_as_it_says() -> None:
    def pair(n: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
        true = rng.gamma(2, size=n)
        return scores(true * np.exp(0.1 * rng.normal(size=n))), scores(true)

    big, reference = pair(200_000, np.random.default_rng(1))
    truth = float((assign_levels(big, 5) == assign_levels(reference, 5)).mean())
    hits = 0
    for seed in range(60):
        candidate, known = pair(150, np.random.default_rng(seed + 2))
        estimate = fidelity(candidate, {"r": known}, num_levels=5, resamples=60).candidate.metrics["same_level"]
        hits += bool(estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high)
    assert hits >= 50  # 57 expected; fewer than 50 has a chance below .001 at a coverage of .95


def test_the_best_is_the_smallest_verified_distance_and_the_ceiling_is_of_the_two_strongest() -> None:
    d = np.arange(1.0, 31)
    strong, good, weak = d.copy(), d * 1.005, d[::-1] + 30
    strong[4] = np.inf
    references = {"weak": scores(weak, passes=1), "good": scores(good, passes=10), "strong": scores(strong, passes=100)}
    best = best_of(references)
    expected = np.minimum(np.minimum(strong, good), weak).astype(np.float32)
    np.testing.assert_allclose(best.distance, expected)
    assert (best.passes == 111).all()
    assert best.provenance["nearest"] == {"weak": 0, "good": 1, "strong": 29}
    unproved = replace(references["good"], status=np.full(30, "estimate"))
    np.testing.assert_allclose(best_of({"a": unproved, "b": references["strong"]}).distance, strong)
    measured = fidelity(references["weak"], references, num_levels=5, resamples=5)
    assert measured.ceiling is not None
    assert {measured.ceiling.name, measured.ceiling.against} == {"good", "strong"}
    assert measured.ceiling.metrics["same_level"].value < 1
    assert (measured.candidate.name, measured.candidate.against) == ("some", "best")
    assert json.loads(json.dumps(plain(measured)))["candidate"]["against"] == "best"
    assert fidelity(references["weak"], {"good": references["good"]}, num_levels=5, resamples=5).ceiling is None


def test_shares_verified_and_found_by_one_only() -> None:
    d = np.arange(1.0, 11)
    candidate = d.copy()
    candidate[9] = np.inf
    measured = fidelity(scores(candidate), {"r": scores(d)}, num_levels=2, resamples=5).candidate.metrics
    assert measured["verified"].value == pytest.approx(0.9)
    assert measured["ratio_mean"].value == 1  # over what both found
    assert measured["near"].value == pytest.approx(0.9)
    estimates = scores(d, status=np.full(10, "estimate"))
    assert value(estimates, scores(d), "verified", num_levels=2) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 60), st.integers(1, 80), st.integers(1, 10), st.integers(0, 1000))
def test_a_stratified_sample_keeps_the_levels_of_the_split(size: int, n: int, num_levels: int, seed: int) -> None:
    d = np.random.default_rng(seed).integers(0, 12, size).astype(float)
    if n < num_levels:
        with pytest.raises(InputError):
            stratified_sample(d, n, num_levels=num_levels, seed=seed)
        return
    index = stratified_sample(d, n, num_levels=num_levels, seed=seed)
    assert len(index) == min(n, size)
    assert (np.diff(index) > 0).all()
    split = assign_levels(d, num_levels)
    cut_again = assign_levels(d[index], num_levels)  # which of equal scores go below a cut is drawn
    assert sorted(zip(d[index], cut_again, strict=True)) == sorted(zip(d[index], split[index], strict=True))
    counts = np.bincount(split[index], minlength=num_levels)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(index, stratified_sample(d, n, num_levels=num_levels, seed=seed))


def test_what_does_not_belong_together_is_refused() -> None:
    d = np.arange(1.0, 11)
    with pytest.raises(InputError, match="at least one is needed"):
        fidelity(scores(d), {})
    with pytest.raises(InputError):
        fidelity(scores(d), {"r": scores(d[:5])}, num_levels=2)
    other = replace(scores(d), prediction=np.ones(10, dtype=np.int64))
    with pytest.raises(InputError, match="same examples"):
        fidelity(scores(d), {"r": other}, num_levels=2)
    with pytest.raises(InputError):
        fidelity(scores(d), {"r": scores(d)}, num_levels=2, confidence=1.0)
