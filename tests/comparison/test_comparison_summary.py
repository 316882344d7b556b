"""Means, paired differences, marks and verdicts, by hand."""

import numpy as np
import pytest
from scipy.stats import norm, t

from robcal.base.metrics import CORRECTED
from robcal.base.results import MethodResult, Results
from robcal.calibration.seeds import Replicated
from robcal.comparison import parse_plan
from robcal.comparison.assemble import _level_values, _stable
from robcal.comparison.outcomes import Evidence, Outcome, outcome
from robcal.comparison.plan import Target
from robcal.comparison.summary import Measurements, decide, marks
from robcal.report.study_tables import level_means

STILL = np.zeros(50)


def measured(label, values, *, replicates=STILL, metric="ece"):
    """One label whose metric has these values, seed by seed; scaled ones are a tenth."""
    return Measurements(
        label,
        {
            seed: tuple(
                Outcome(
                    dict.fromkeys(
                        (metric, CORRECTED.get(metric, metric)),
                        Replicated(value * factor, value * factor + replicates),
                    ),
                    {},
                    {},
                )
                for factor in (1.0, 0.1)
            )
            for seed, value in values.items()
        },
    )


def test_means_and_paired_differences_by_hand():
    one = measured("a", {0: 0.30, 1: 0.34, 2: 0.38})
    two = measured("b", {0: 0.10, 1: 0.16, 2: 0.13, 9: 5.0})
    mean = one.estimate("ece", "raw")
    half = t.ppf(0.975, 2) * np.std([0.30, 0.34, 0.38], ddof=1) / np.sqrt(3)
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.34, 0.34 - half, 0.34 + half))
    difference = one.difference(two, "ece", "raw")
    gaps = [0.20, 0.18, 0.25]
    half = t.ppf(0.975, 2) * np.std(gaps, ddof=1) / np.sqrt(3)
    assert difference.per_seed == pytest.approx(gaps)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.21, 0.21 - half, 0.21 + half))
    assert one.difference(two, "ece", "scaled").value == pytest.approx(0.021)
    assert one.difference(two, "ece", "raw", weight=0.5).per_seed == pytest.approx([0.25, 0.26, 0.315])


def test_the_finite_test_split_widens_the_interval_and_what_is_shared_cancels():
    noise = np.random.default_rng(0).normal(0, 0.02, 400)
    one, two = measured("a", {0: 0.3, 1: 0.3}, replicates=noise), measured("b", {0: 0.1, 1: 0.1}, replicates=noise)
    mean = one.estimate("ece", "raw")
    assert mean.high - mean.value == pytest.approx(norm.ppf(0.975) * noise.std(ddof=1))
    difference = one.difference(two, "ece", "raw")
    assert (difference.low, difference.high) == pytest.approx((0.2, 0.2), abs=1e-12)


def test_what_was_not_measured_is_absent():
    one, two = measured("a", {0: 0.3}), measured("b", {1: 0.1})
    assert one.estimate("nll", "raw") is None
    assert one.difference(two, "ece", "raw") is None


def test_the_best_and_what_is_not_distinguishable_from_it():
    found = {
        "best": measured("best", {0: 0.10, 1: 0.12, 2: 0.11}),
        "near": measured("near", {0: 0.13, 1: 0.11, 2: 0.12}),
        "far": measured("far", {0: 0.50, 1: 0.51, 2: 0.52}),
        "one seed": measured("one seed", {0: 0.0}, replicates=np.linspace(-1, 1, 50)),
    }
    assert marks(found, "ece", "raw") == {"best": "best", "near": "tied", "far": "", "one seed": "tied"}
    accuracy = {name: measured(name, {0: v, 1: v + 0.01}, metric="accuracy") for name, v in (("x", 0.5), ("y", 0.7))}
    assert marks(accuracy, "accuracy", "raw") == {"x": "", "y": "best"}
    assert marks({"x": accuracy["x"]}, "accuracy", "raw") == {"x": ""}


def plan_with(**target):
    methods = [{"label": label, "method": "vanilla", "options": {"epochs": n + 1}} for n, label in enumerate("ab")]
    recipe = {"data": "digits", "model": "mlp", "epochs": 1}
    made = parse_plan({"seeds": [0, 1, 2], "recipe": recipe, "methods": methods})
    return made.__class__(**{**made.__dict__, "targets": (Target(name="t", method="a", against=("b",), **target),)})


@pytest.mark.parametrize(
    ("ours", "theirs", "target", "verdict"),
    [
        ((0.1, 0.11, 0.12), (0.3, 0.31, 0.33), {"metric": "ece"}, "met"),
        ((0.3, 0.31, 0.33), (0.1, 0.11, 0.12), {"metric": "ece"}, "not met"),
        ((0.1, 0.3, 0.2), (0.2, 0.2, 0.19), {"metric": "ece"}, "not distinguishable"),
        ((0.1, 0.11, 0.12), (0.3, 0.31, 0.33), {"metric": "ece", "margin": 0.3}, "not met"),
        ((0.1, 0.11, 0.12), (0.3, 0.31, 0.33), {"metric": "ece", "kind": "half"}, "met"),
        ((0.2, 0.21, 0.22), (0.3, 0.31, 0.33), {"metric": "ece", "kind": "half"}, "not met"),
        ((0.70, 0.71, 0.72), (0.702, 0.712, 0.723), {"metric": "accuracy", "kind": "within", "margin": 0.01}, "met"),
        ((0.90, 0.91, 0.92), (0.702, 0.712, 0.723), {"metric": "accuracy", "kind": "within", "margin": 0.01}, "met"),
        ((0.60, 0.61, 0.62), (0.70, 0.711, 0.72), {"metric": "accuracy", "kind": "within", "margin": 0.01}, "not met"),
        ((1.0, 1.1, 1.2), (1.01, 1.1, 1.21), {"metric": "nll", "kind": "within", "margin": 0.1}, "met"),
        ((1.4, 1.5, 1.6), (1.01, 1.1, 1.21), {"metric": "nll", "kind": "within", "margin": 0.1}, "not met"),
        ((0.1, 0.11, 0.12), (0.3, 0.31, 0.33), {"metric": "ece", "scaled": True, "margin": 0.1}, "not met"),
    ],
)
def test_targets_are_decided_by_the_paired_interval(ours, theirs, target, verdict):
    found = {
        label: measured(label, dict(enumerate(values)), metric=target["metric"])
        for label, values in (("a", ours), ("b", theirs))
    }
    (decision,) = decide(plan_with(**target), found)
    assert decision.verdict == verdict


def test_a_target_that_was_not_measured_says_so():
    found = {label: measured(label, {0: 0.1, 1: 0.2}) for label in "ab"}
    assert decide(plan_with(metric="shift_ece"), found)[0].verdict == "not measured"


def test_levels_that_equal_distances_leave_empty_are_left_out_of_every_mean():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((60, 3)).astype(np.float32), rng.integers(3, size=60)
    evidence = Evidence(logits, labels, logits, labels, None)
    cuts = {0: np.repeat([0, 2], 30), 1: np.repeat([0, 1, 2, 3], 15)}
    found = {seed: outcome(evidence, 1.0, levels=cut, index=np.arange(60)) for seed, cut in cuts.items()}
    first = found[0].levels["ece"]
    assert np.isnan(first[1])
    assert found[0].metrics["level_ece"].value == pytest.approx((first[0] + first[2]) / 2)
    one = Measurements("a", {seed: (made, made) for seed, made in found.items()})
    values = _level_values([made for made, _ in one.by_seed.values()])
    rows = values["ece"]
    assert [value is None for value in rows[0]] == [False, True, False, True]
    results = Results("t", {}, (MethodResult("a", "a", (0, 1), level_values=values),))
    ((_, means),) = level_means(results, "raw", "ece")
    assert means[1] == rows[1][1]
    assert means[0] == pytest.approx((rows[0][0] + rows[1][0]) / 2)
    still = _stable(one, "raw", {seed: (cut, np.arange(60)) for seed, cut in cuts.items()})
    assert still.levels == (0.0,) * 4  # both runs predict the same
