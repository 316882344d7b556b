"""benchmarks/running_levels.py: clauses are decided by their intervals, and the preset has the rows they are about."""

import sys
from pathlib import Path

import numpy as np
import pytest

from robcal.base.types import Estimate
from robcal.calibration.seeds import Replicated
from robcal.comparison.outcomes import Outcome
from robcal.comparison.plan_file import load_plan
from robcal.comparison.summary import Measurements

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not in the wheel", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
import running_levels  # noqa: E402
import running_study  # noqa: E402

NAMES = ("accuracy", "ece", "ece_corrected", "nll", "aurc", "shift_ece", "shift_ece_corrected", "shift_nll")


def measured(label, raw, scaled=None):
    """Three seeds whose every figure is about `raw`, and about `scaled` after a temperature."""

    def outcome(level, seed):
        values = {name: Replicated(level + 1e-4 * seed, np.full(9, level)) for name in NAMES}
        return Outcome(values, {}, {})

    both = (raw, raw if scaled is None else scaled)
    return Measurements(label, {seed: tuple(outcome(level, seed) for level in both) for seed in range(3)})


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.5, 1.0, "met"), (1.1, 2.0, "not met"), (0.9, 1.1, "not resolved"), (None, None, "not resolved")],
)
def test_a_clause_is_decided_by_its_whole_interval(low, high, verdict):
    assert running_levels.Clause("", Estimate(1.0, low, high), 1.0, "time").verdict() == verdict


def test_clauses_say_on_which_side_the_figures_lie():
    """Every figure of ours is .3, of plain .4 (scaled .2), of mixup .35 (scaled .295): lower is said to be met."""
    label = running_levels.COMPOSED
    found = {
        label: measured(label, 0.3),
        "Plain": measured("Plain", 0.4, 0.2),
        "Mixup": measured("Mixup", 0.35, 0.295),
    }
    seconds = {"plain": [1.0, 1.0], **{name: [1.05, 1.05] for name in running_levels.TIMED.values()}}
    times = running_levels.ratios({"seconds": seconds})
    clauses = running_levels.composed_clauses(found, label, times)
    assert {one.text: one.verdict() for one in clauses} == {
        "time at most 1.1 x plain's": "met",
        "accuracy not below Plain": "not met",
        "ECE at most .02": "not met",
        "ECE shift below Plain + T": "not met",
        "NLL shift below Plain + T": "not met",
        "ECE shift below Mixup + T": "not met",
        "NLL shift below Mixup + T": "not met",
        "AURC below Plain": "met",
        "AURC below Mixup": "met",
        "NLL within 0.01 of Mixup + T": "met",
    }
    assert f"{label}: 4 met, 6 not met, 0 not resolved." in running_levels.told(label, clauses)


def test_sentences_say_what_the_intervals_decide():
    """Equal figures are not told apart, also where the interval is the point 0."""
    names = ("Running levels", "Plain", "AdaLS", "Random levels")
    found = {label: measured(label, level) for label, level in zip(names, (0.3, 0.4, 0.2, 0.3), strict=True)}
    clauses = running_levels.contest(found, "Running levels", names[1:])
    every = "NLL, AURC, ECE, ECE shift and NLL shift"
    said = running_levels.answers("Data", {"Running levels": names[1:]}, {"Running levels": clauses})
    assert said.splitlines()[2:] == [
        f"- **Running levels** compared with **Plain**: {every} are lower.",
        f"- **Running levels** compared with **AdaLS**: {every} are higher.",
        f"- **Running levels** compared with **Random levels**: no difference is seen in {every}.",
    ]


def test_the_presets_have_the_rows_that_the_page_is_about():
    for name, contests in running_levels.CONTESTS.items():
        plan = load_plan(name, recipe={"data": "digits"})
        wanted = {
            "Plain",
            "AdaLS",
            running_levels.RUNNING,
            *contests,
            *(one for some in contests.values() for one in some),
        }
        assert wanted <= set(plan.labels)
        assert set(plan.reference) <= set(plan.labels)
        assert len(plan.seeds) >= 5
    plan = load_plan("cifar10-running", recipe={"data": "digits"})
    assert running_levels.COMPOSED in plan.labels
    assert set(running_levels.HEADINGS) == set(running_levels.CONTESTS) == set(running_study.PRESETS)
