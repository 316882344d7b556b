"""Recalibration: score temperatures against a general optimiser, known truths, and the laws of the choice."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import robcal
from robcal.base.checks import InputError
from robcal.calibration.prob_rows import canonical_order
from robcal.calibration.recalibration import METHODS, Recalibrator, load_recalibrator
from robcal.calibration.recalibration.maps import margins
from robcal.calibration.recalibration.score_problem import Problem
from robcal.calibration.recalibration.score_temperature import ScoreScale, _saves, design_of
from robcal.calibration.recalibration.stages import fit_dirichlet, fit_isotonic, fit_structured, fit_vector

KEEPING = ("none", "temperature", "score-temperature")
PUBLISHED = Path(os.environ.get("ROBCAL_LOGITS", Path(__file__).parents[3] / "shared/data/resnet50-cifar10-logits"))


def drawn(seed: int, n: int = 3000, classes: int = 4, temperature: object = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose true temperature is known: labels are drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 4
    true = softmax(logits / np.broadcast_to(temperature, (n,))[:, None], axis=1)
    return logits, (true.cumsum(1) > rng.random((n, 1))).argmax(1)


def nll(probs: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probs[np.arange(len(labels)), labels]).mean())


def stepped(scores: np.ndarray) -> np.ndarray:
    return np.where(scores < 0, 4.0, 1.0)


def tailed(logits: np.ndarray, tail: float) -> np.ndarray:
    """What lies below the second largest, divided by τ: by sorting, unlike the code."""
    order = np.argsort(-logits, axis=1)
    ranked = np.take_along_axis(logits, order, axis=1)
    second = ranked[:, 1:2].copy()
    ranked[:, 2:] = second + (ranked[:, 2:] - second) / tail
    changed = np.empty_like(logits)
    np.put_along_axis(changed, order, ranked, axis=1)
    return changed


def test_the_fit_is_the_optimum_that_a_general_optimiser_finds() -> None:
    scores = np.random.default_rng(1).normal(size=800)
    logits, labels = drawn(0, 800, temperature=stepped(scores))
    scale = ScoreScale.of(scores, "linear")
    assert scale is not None
    knots = np.r_[[0] * 3, np.linspace(0, 1, 6), [1] * 3]
    design = BSpline.design_matrix(np.clip((scores - scale.points[0]) / np.ptp(scale.points), 0, 1), knots, 3).toarray()
    given = tailed(logits, 2.0)  # the fit has to take it back

    def objective(parameters: np.ndarray) -> float:
        scaled = tailed(given, np.exp(parameters[8])) / np.exp(design @ parameters[:8])[:, None]
        loss = -log_softmax(scaled, axis=1)[np.arange(800), labels].mean()
        return float(loss + 5 / 800 * (np.diff(parameters[:8]) ** 2).sum() + parameters[8] ** 2 / 800)

    expected = minimize(objective, np.r_[np.full(8, np.log(2)), 0], method="BFGS", options={"gtol": 1e-7})
    problem, ours = replace(Problem.of(given, labels), tail=True), design_of(scale(scores), 8)
    found = problem.solve(ours, 5.0, problem.at(np.r_[0.5, np.zeros(8)], ours), 0.5)
    parameters = np.append(np.cumsum(found.steps[:8]), found.steps[8])
    assert objective(parameters) == pytest.approx(expected.fun, abs=5e-9)
    np.testing.assert_allclose(parameters, expected.x, atol=2e-3)
    assert parameters[8] < np.log(0.7)


def test_a_tail_that_is_too_heavy_is_repaired_with_the_levels_and_no_class_changes_its_rank() -> None:
    """One temperature for both leaves the lowest levels over-confident, however many rows there are."""
    rng = np.random.default_rng(0)
    true = 3 * rng.normal(size=(16_000, 6))
    labels = (softmax(true, axis=1).cumsum(1) > rng.random((16_000, 1))).argmax(1)
    wrong = tailed(true, 4.0)
    found = Recalibrator("score-temperature").fit(wrong[:8000], labels[:8000])
    probs, best = found.predict_proba(wrong[8000:]), softmax(true[8000:], axis=1)
    assert found.maps[-1].tail == pytest.approx(0.25, rel=0.15)  # type: ignore[attr-defined]
    assert nll(probs, labels[8000:]) < nll(best, labels[8000:]) + 0.002
    assert nll(robcal.TemperatureScaling().fit(wrong[:8000], labels[:8000]).transform(wrong[8000:]), labels[8000:]) > (
        nll(best, labels[8000:]) + 0.05
    )
    assert (np.argsort(probs, axis=1) == np.argsort(wrong[8000:], axis=1)).all()


def test_a_file_of_before_has_no_tail(tmp_path: Path) -> None:
    scores = np.random.default_rng(5).normal(size=1500)
    logits, labels = drawn(6, 1500, temperature=stepped(scores))
    found = Recalibrator("score-temperature", score="own").fit(logits, labels, scores)
    stored = json.loads(found.save(tmp_path / "r.json").read_text())
    del stored["seal"], stored["maps"][0]["tail"]
    (tmp_path / "old.json").write_text(json.dumps({**stored, "version": 1}))
    course = np.exp(found.maps[0].log_temperature(scores))[:, None]  # type: ignore[attr-defined]
    old = load_recalibrator(tmp_path / "old.json").predict_proba(logits, scores)
    np.testing.assert_allclose(old, softmax(logits / course, axis=1), rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_a_score_that_says_nothing_leaves_the_plain_temperature_exactly(seed: int) -> None:
    logits, labels = drawn(seed)
    scores = np.random.default_rng(100 + seed).normal(size=len(labels))
    found = Recalibrator("score-temperature", score="noise", seed=seed).fit(logits, labels, scores)
    plain = robcal.TemperatureScaling().fit(logits, labels)
    np.testing.assert_allclose(found.predict_proba(logits, scores), plain.transform(logits), rtol=1e-12)


def test_a_saving_that_rests_on_a_few_rows_is_no_evidence() -> None:
    """Of 400 rows, each gains a little and one in a hundred loses much: the mean is 0, and few losses are seen."""
    rng = np.random.default_rng(0)
    drawn = np.where(rng.random((4000, 400)) < 0.01, -1.0, 0.0) + rng.normal(0.01, 0.003, (4000, 400))
    z = drawn.mean(axis=1) / drawn.std(axis=1, ddof=1) * 20
    assert np.mean([_saves(one) for one in drawn]) < 0.04
    assert (z > 1.645).mean() > 0.07
    assert _saves(rng.normal(0.2, 1, 400))
    assert not _saves(np.zeros(400))
    few = np.repeat([1.0, 0.0], [3, 397])
    assert few.mean() > 1.7 * few.std(ddof=1) / 20
    assert not _saves(few)


@pytest.mark.slow
def test_a_temperature_that_jumps_with_the_score_is_found_and_chosen() -> None:
    scores = np.random.default_rng(5).normal(size=12_000)
    logits, labels = drawn(6, 12_000, temperature=stepped(scores))
    fit, new = slice(0, 6000), slice(6000, None)
    found = Recalibrator(score="own").fit(logits[fit], labels[fit], scores[fit])
    assert found.method == "score-temperature"
    truth = softmax(logits[new] / stepped(scores[new])[:, None], axis=1)
    plain = robcal.TemperatureScaling().fit(logits[fit], labels[fit]).transform(logits[new])
    ours = nll(found.predict_proba(logits[new], scores[new]), labels[new]) - nll(truth, labels[new])
    assert ours < 0.15 * (nll(plain, labels[new]) - nll(truth, labels[new]))
    worst = {row.method: abs(row.worst_gap.value) for row in found.comparison}
    assert worst["score-temperature"] < 0.1 < worst["temperature"]


def test_monotone_temperatures_are_monotone_and_the_wrong_direction_leaves_one_temperature() -> None:
    scores = np.random.default_rng(5).normal(size=4000)
    logits, labels = drawn(6, 4000, temperature=stepped(scores))
    falling = Recalibrator("score-temperature", score="own", monotone="decreasing").fit(logits, labels, scores)
    grid = np.linspace(-3, 3, 200)
    course = falling._maps[-1].log_temperature(grid)  # type: ignore[union-attr]
    assert (np.diff(course) <= 1e-9).all()
    assert course[0] - course[-1] > 1
    rising = Recalibrator("score-temperature", score="own", monotone="increasing").fit(logits, labels, scores)
    assert rising._maps[-1].kind == "temperature"


def test_nothing_depends_on_the_order_of_rows_offsets_or_the_units_of_the_score() -> None:
    scores = np.random.default_rng(5).normal(size=2000)
    logits, labels = drawn(6, 2000, temperature=stepped(scores))
    base = Recalibrator("vector+score-temperature", score="own").fit(logits, labels, scores)
    probs = base.predict_proba(logits, scores)
    order = np.random.default_rng(0).permutation(2000)
    again = Recalibrator("vector+score-temperature", score="own").fit(logits[order], labels[order], scores[order])
    np.testing.assert_allclose(again.predict_proba(logits, scores), probs, atol=2e-5)
    offset = logits + np.random.default_rng(1).normal(size=(2000, 1)) * 50
    moved = Recalibrator("vector+score-temperature", score="own").fit(offset, labels, 7 * scores - 3)
    np.testing.assert_allclose(moved.predict_proba(offset, 7 * scores - 3), probs, atol=2e-5)


@pytest.mark.parametrize("method", [one for one in METHODS if "svs" not in one and "sms" not in one])
def test_every_method_gives_probabilities_keeps_what_it_says_and_survives_a_file(method: str, tmp_path: Path) -> None:
    scores = np.random.default_rng(5).normal(size=1500)
    logits, labels = drawn(6, 1500, temperature=stepped(scores))
    found = Recalibrator(method, score="own").fit(logits, labels, scores)
    probs = found.predict_proba(logits, scores)
    assert probs.shape == logits.shape
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-12)
    (row,) = found.comparison
    assert row.keeps_prediction == (method in KEEPING)
    if row.keeps_prediction:
        assert (probs.argmax(1) == logits.argmax(1)).all()
    loaded = load_recalibrator(found.save(tmp_path / "r.json"))
    assert (loaded.predict_proba(logits, scores) == probs).all()
    assert (loaded.method, loaded.comparison, loaded.notes) == (found.method, found.comparison, found.notes)
    if method != "none":
        assert nll(probs, labels) < nll(softmax(logits, axis=1), labels)


@pytest.mark.parametrize("full", [False, True])
def test_class_wise_maps_are_the_optimum_that_torch_finds(full: bool) -> None:
    torch = pytest.importorskip("torch")
    logits, labels = drawn(2, 600, 3, temperature=1.5)
    fitted = fit_dirichlet(logits, labels, 0.2) if full else fit_vector(logits, labels)
    x = torch.tensor(log_softmax(logits / fitted.temperature, axis=1))
    weight = torch.eye(3, dtype=torch.float64).requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    off = 1 - torch.eye(3, dtype=torch.float64)

    def objective():
        used = weight if full else weight * (1 - off)
        loss = torch.nn.functional.cross_entropy(x @ used.T + bias, torch.tensor(labels))
        prior = ((used.diagonal() - 1) ** 2).sum() / 0.1**2 + (bias**2).sum() / 0.3**2
        if full:
            prior = prior + ((used * off) ** 2).sum() / 0.2**2
        return loss + prior / (2 * 600)

    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = objective()
        value.backward()
        return value

    optimiser.step(closure)
    expected = weight.detach().numpy() if full else weight.detach().numpy().diagonal()
    np.testing.assert_allclose(fitted.weight, expected, atol=2e-3)
    np.testing.assert_allclose(fitted.bias, bias.detach().numpy(), atol=2e-3)


def test_isotonic_is_scikit_learns_one_against_the_rest() -> None:
    from sklearn.isotonic import IsotonicRegression

    logits, labels = drawn(2, 600, 3)
    probs = softmax(logits, axis=1)
    columns = [
        IsotonicRegression(out_of_bounds="clip").fit(probs[:, k], labels == k).predict(probs[:, k]) for k in range(3)
    ]
    raw = np.clip(np.stack(columns, axis=1), 1 / 602, 1 - 1 / 602)
    found = np.exp(fit_isotonic(logits, labels)(logits, None))
    np.testing.assert_allclose(found, raw / raw.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("name", ["svs", "sms"])
def test_structured_scaling_held_as_numbers_is_probmetrics_own(name: str) -> None:
    calibrators = pytest.importorskip("probmetrics.calibrators", exc_type=ImportError)
    logits, labels = drawn(2, 600, 5)
    theirs = {"svs": calibrators.SVSCalibrator, "sms": calibrators.SMSCalibrator}[name]()
    order = canonical_order(logits, labels)  # the order in which rows are stored has a say in it
    theirs.fit(softmax(logits[order], axis=1), labels[order])
    ours = softmax(fit_structured(name, logits, labels)(logits, None), axis=1)
    np.testing.assert_allclose(ours, theirs.predict_proba(softmax(logits, axis=1)), atol=1e-5)


def test_auto_is_the_simplest_within_a_standard_error_and_a_thousandth_of_the_best() -> None:
    logits, labels = drawn(3, 2000)
    found = Recalibrator().fit(logits, labels)
    rows = {row.method: row for row in found.comparison}
    assert [row.method for row in found.comparison if row.chosen] == [found.method]
    best = min(row.nll.value for row in rows.values())
    assert rows[found.method].nll.value <= best + 1e-3
    assert found.method == "temperature"
    assert rows["none"].nll_above_best.low > 0
    np.testing.assert_allclose(
        rows["temperature"].nll_above_best.value, rows["temperature"].nll.value - best, atol=1e-12
    )


@pytest.mark.slow
def test_cross_fitting_says_of_class_wise_maps_what_new_rows_say() -> None:
    """Only a temperature is wrong here, so a class-wise map can but fit the accidental frequencies of the sample."""
    seen, new = [], []
    for seed in range(12):
        logits, labels = drawn(seed, 20_400, 20)
        found = {m: Recalibrator(m).fit(logits[:400], labels[:400]) for m in ("temperature", "vector")}
        held = {m: one.comparison[0].nll.value for m, one in found.items()}
        true = {m: nll(one.predict_proba(logits[400:]), labels[400:]) for m, one in found.items()}
        seen.append(held["vector"] - held["temperature"])
        new.append(true["vector"] - true["temperature"])
    error = np.hypot(np.std(seen, ddof=1), np.std(new, ddof=1)) / np.sqrt(12)
    assert np.mean(new) > 0.005
    assert np.mean(seen) > np.mean(new) - 3 * error
    assert np.mean(seen) > 0.5 * np.mean(new)


@pytest.mark.parametrize("method", ["vector", "isotonic", "dirichlet", "svs", "sms"])
def test_a_class_with_one_example_or_none_is_fitted_around(method: str) -> None:
    if method in ("svs", "sms"):
        pytest.importorskip("probmetrics.calibrators", exc_type=ImportError)
    logits, labels = drawn(3, 600, 6)
    labels[labels >= 4] = 0
    labels[7] = 4  # class 4 has one example, class 5 none
    probs = Recalibrator(method).fit(logits, labels).predict_proba(logits)
    assert np.isfinite(probs).all()
    assert (probs > 0).all()


def test_a_calibrated_network_is_left_as_it_is() -> None:
    logits, labels = drawn(3, 3000, temperature=1.0)
    found = Recalibrator().fit(logits, labels)
    assert found.method == "none"
    np.testing.assert_allclose(found.predict_proba(logits), softmax(logits, axis=1), rtol=1e-12)


@pytest.mark.slow
def test_masked_classes_stay_impossible_and_change_nothing_else() -> None:
    logits, labels = drawn(4, 1000, 3)
    masked = np.hstack([logits, np.full((1000, 1), -np.inf)])
    for method in (*KEEPING, "auto"):
        plain, found = Recalibrator(method).fit(logits, labels), Recalibrator(method).fit(masked, labels)
        probs = found.predict_proba(masked)
        assert (probs[:, 3] == 0).all()
        if method != "auto":
            np.testing.assert_allclose(probs[:, :3], plain.predict_proba(logits), atol=1e-9)
    assert "masked" in found.notes[0]


def test_constant_scores_ties_and_censored_scores() -> None:
    logits, labels = drawn(4, 1000, 3)
    plain = Recalibrator("temperature").fit(logits, labels).predict_proba(logits)
    constant = Recalibrator("score-temperature", score="own").fit(logits, labels, np.ones(1000))
    np.testing.assert_allclose(constant.predict_proba(logits, np.ones(1000)), plain, rtol=1e-12)
    group = np.arange(1000) % 2 * 1.0
    logits, labels = drawn(4, 1000, 3, temperature=np.where(group, 1.0, 5.0))
    tied = Recalibrator("score-temperature", score="own").fit(logits, labels, group)
    course = np.exp(tied._maps[-1].log_temperature(np.array([0.0, 1.0])))  # type: ignore[union-attr]
    np.testing.assert_allclose(course, [5.0, 1.0], rtol=0.35)
    censored = np.where(group == 1, np.inf, group)
    some = np.where(group == 1, np.inf, np.arange(1000) / 1e3)
    infinite = Recalibrator("score-temperature", score="own").fit(logits, labels, some)
    assert np.isfinite(infinite.predict_proba(logits, censored)).all()


def test_margins_of_rows_with_one_class_left_are_infinite() -> None:
    assert margins(np.array([[1.0, -np.inf], [3.0, 1.0]])).tolist() == [np.inf, 2.0]


BAD = {
    "few": (lambda z, y: Recalibrator().fit(z[:49], y[:49]), "49 examples"),
    "one class": (lambda z, y: Recalibrator("vector").fit(z, 0 * y), "class 0 only"),
    "missing scores": (lambda z, y: Recalibrator(score="distance").fit(z, y), "not given"),
    "unwanted scores": (lambda z, y: Recalibrator().fit(z, y, z[:, 0]), "Name your score"),
    "nan scores": (lambda z, y: Recalibrator(score="s").fit(z, y, np.full(len(y), np.nan)), "nan"),
    "unknown method": (lambda z, y: Recalibrator("temprature"), "Did you mean 'temperature'"),
    "not fitted": (lambda z, y: Recalibrator().predict_proba(z), "not fitted"),
    "other classes": (lambda z, y: Recalibrator("none").fit(z, y).predict_proba(z[:, :2]), "2 classes"),
    "masked truth": (lambda z, y: Recalibrator().fit(np.where(np.eye(3)[y] == 1, -np.inf, z), y), "true class"),
    "masked mix": (lambda z, y: Recalibrator("vector").fit(np.hstack([z, z[:, :1] - np.inf]), y), "masked in row 0"),
    "nan logits": (lambda z, y: Recalibrator().fit(z * np.nan, y), "NaN"),
    "probabilities": (lambda z, y: Recalibrator().fit(softmax(z, axis=1), y), r"np\.log\(np\.maximum"),
    "bad seed": (lambda z, y: Recalibrator(seed=-1), "seed is -1"),
    "bad direction": (lambda z, y: Recalibrator(monotone="up"), "monotone is 'up'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    act, message = BAD[name]
    logits, labels = drawn(4, 100, 3)
    with pytest.raises(InputError, match=message):
        act(logits, labels)


def test_one_class_and_all_right_are_handled_by_auto() -> None:
    logits, _ = drawn(4, 200, 3)
    one = Recalibrator().fit(logits, np.zeros(200, int))
    assert one.method in KEEPING
    assert "one class" in one.notes[0]


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    logits, labels = drawn(4, 200, 3)
    file = Recalibrator("vector").fit(logits, labels).save(tmp_path / "r.json")
    with pytest.raises(InputError, match="exists"):
        Recalibrator("vector").fit(logits, labels).save(file)
    stored = json.loads(file.read_text())
    del stored["seal"]  # as in files of before
    for name, broken in {
        "cut": file.read_text()[:-40],
        "other": json.dumps({"format": "other"}),
        "kind": json.dumps({**stored, "maps": [{"kind": "os.system"}]}),
        "type": json.dumps({**stored, "maps": 3}),
        "list": "[]",
    }.items():
        (tmp_path / name).write_text(broken)
        with pytest.raises(InputError, match="Fit it again"):
            load_recalibrator(tmp_path / name)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published logits are not at hand")
@pytest.mark.parametrize(
    ("method", "most"),
    [("score-temperature", 0.183), ("sms+score-temperature", 0.183), ("dirichlet+score-temperature", 0.183)],
)
def test_published_network(method: str, most: float) -> None:
    if "sms" in method:
        pytest.importorskip("probmetrics.calibrators", exc_type=ImportError)
    data = np.load(PUBLISHED / "cross_entropy.npz")
    found = Recalibrator(method).fit(data["val_logits"], data["val_labels"])
    assert nll(found.predict_proba(data["test_logits"]), data["test_labels"]) <= most
