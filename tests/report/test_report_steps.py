"""What to do: one step a finding, with its figures and intervals, and never against what the intervals say."""

import base64
import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from report_samples import around, audit, full, levelled, method, minus

import robcal
from robcal.base.results import MethodResult, Repair, RepairedLevel, Results, WrongExample
from robcal.base.types import ROBUSTNESS, Estimate
from robcal.report import render_html
from robcal.report.flat import wrong_csv
from robcal.report.next_steps import next_steps

WORST = tuple(WrongExample(k, 0, 1, 0.99 - k / 100, float("inf") if k else 0.25, k) for k in range(12))


MENDED = Estimate(0.01, -0.02, 0.03)


def repaired(kind, after=MENDED):
    one = method("audit", "Classifier", seeds=(), epochs=0)
    row = RepairedLevel(0, 36, Estimate(0.1, 0.05, 0.15), after)
    repair = Repair(
        kind, "margin", "360 examples", (around(0.5), around(0.4)), (around(0.05), around(0.03)), (row,), ""
    )
    return Results("t", {}, (replace(one, repair=repair, worst=WORST),))


def several(*differences, ece=0.05):
    """A first method, and others with these paired differences of the ECE."""
    others = {chr(66 + k): difference for k, difference in enumerate(differences)}
    methods = [MethodResult("A", "A", metrics={"ece": around(ece)}, seeds=(0, 1, 2))]
    methods += [MethodResult(name, name, metrics={"ece": around(ece + d.value)}) for name, d in others.items()]
    return minus(Results("t", {}, tuple(methods)), {name: {"A": {"ece": d}} for name, d in others.items()})


def test_the_recalibration_that_repairs_is_named_with_what_it_changes():
    first, levels, wrong = next_steps(repaired("score-temperature"))
    assert first.do == "Recalibrate with a temperature that depends on the margin."
    for figure in ("0.5000 [0.4900, 0.5100]", "0.4000 [0.3900, 0.4100]", "0.0500 [0.0400, 0.0600] to 0.0300"):
        assert figure in first.why
    assert "No level's gap can then be told from 0." in first.why
    assert levels.do == "Do not rely on the confidence that it states in levels 0 to 8."
    assert "324 of 360 examples" in levels.why
    assert "+10.0 [+9.0, +11.0] percentage points" in levels.why
    assert wrong.do.startswith("Look at the wrong predictions")
    assert "5.0% [4.0%, 6.0%] of all, 9 of them with a confidence above 90%" in wrong.why
    assert next_steps(repaired("temperature"))[0].do == "Recalibrate with one temperature."


def test_a_level_that_is_off_by_little_is_no_reason_to_distrust_it():
    def step(gap):
        """What is said of levels of which one alone has a gap that can be told from 0."""
        found = repaired("none")
        (one,) = found.methods
        rows = tuple(replace(row, gap=Estimate(0.0, -0.1, 0.1), joint_gap=None) for row in one.levels)
        off = replace(rows[1], gap=Estimate(gap, gap / 10, gap * 4))
        one = replace(one, levels=(rows[0], off, *rows[2:]))
        return next(step for step in next_steps(replace(found, methods=(one,))) if "level 1" in step.do)

    assert step(0.011).do.startswith("Expect a small error of the confidence that it states in level 1")
    assert "+1.1 [+0.1, +4.4] percentage points" in step(0.011).why
    assert step(0.03).do.startswith("Do not rely on the confidence that it states in level 1")


def test_what_a_recalibration_leaves_is_told():
    (first, *_) = next_steps(repaired("temperature", after=Estimate(-0.02, -0.03, -0.01)))
    assert "It leaves a gap in 1 of 1 levels, the largest in level 0: −2.0 [−3.0, −1.0] percentage points." in first.why


def test_no_recalibration_is_advised_where_none_repairs():
    assert next_steps(repaired("none"))[0].do == "Do not recalibrate."


def test_a_calibrated_classifier_has_nothing_to_mend():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=1000)
    labels = np.array([rng.choice(3, p=row) for row in probs])
    found = robcal.audit(probs, labels, scores=probs.max(1), num_levels=4, resamples=40)
    first, *others = next_steps(found.results)
    assert first.do == "Nothing needs mending."
    gap = found.metrics["gap"]
    assert f"below about {50 * (gap.high - gap.low):.1f} percentage points" in first.why
    assert [step.do[:26] for step in others] == ["Look at the wrong predicti"]


def test_a_worse_or_equal_method_is_never_advised():
    lower, unclear, higher = Estimate(-0.03, -0.04, -0.02), Estimate(-0.01, -0.03, 0.01), Estimate(0.03, 0.02, 0.04)
    assert next_steps(several(lower, unclear))[0].do == "Use B."
    assert "better in ECE by 0.0300 [0.0200, 0.0400]" in next_steps(several(lower, unclear))[0].why
    kept = next_steps(several(unclear, higher))[0]
    assert kept.do == "Keep A."
    assert "(−0.0100 [−0.0300, +0.0100])" in kept.why
    assert "There are 3 seeds" in kept.why
    worse = next_steps(several(higher))[0]
    assert worse.do == "Keep A."
    assert "worse in ECE by 0.0300 [0.0200, 0.0400]" in worse.why


def test_two_better_methods_that_cannot_be_told_apart_are_both_named():
    step = next_steps(several(Estimate(-0.030, -0.04, -0.02), Estimate(-0.029, -0.04, -0.02)))[0]
    assert step.do == "Use B."
    assert step.why.endswith("C cannot be told from it in ECE.")


def test_without_intervals_nothing_is_chosen():
    plain = tuple(
        MethodResult(name, name, metrics={"ece": Estimate(value)}) for name, value in (("A", 0.5), ("B", 0.1))
    )
    assert [step.do for step in next_steps(Results("t", {}, plain))] == ["Do not choose by these figures alone."]


@pytest.mark.parametrize("results", [full(2), audit(), levelled(), repaired("none")], ids=lambda one: one.title)
def test_the_page_begins_with_what_to_do(results):
    page = render_html(results)
    assert re.findall(r'<section id="(\w+)"', page)[:2] == ["do", "found"]
    text = page[: page.index('id="found"')]
    for step in next_steps(results):
        assert f"<strong>{step.do.replace(chr(39), '&#39;')}</strong>" in text
    assert text.index("<h1>") < text.index("What to do") < text.index("<li>")


def rows_of(page):
    (data,) = re.findall(r'href="data:text/csv;base64,([^"]*)"', page)
    return base64.b64decode(data).decode()


def test_the_page_holds_the_wrong_predictions_as_csv():
    results = repaired("none")
    text = rows_of(render_html(results))
    assert text == wrong_csv({"": WORST}, results.score_name)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["index", "label", "prediction", "confidence", "distance", "level"]
    assert [float(row["confidence"]) for row in rows] == [row.confidence for row in WORST]
    assert [row["distance"] for row in rows[:2]] == ["0.25", "inf"]
    own = wrong_csv({"": WORST}, "entropy")
    assert own.splitlines()[0].split(",")[4] == "score"
    assert own.splitlines()[1:] == text.splitlines()[1:]


def test_the_csv_of_several_methods_names_them():
    results = full(2)
    methods = tuple(replace(one, worst=WORST[: 1 + k]) for k, one in enumerate(results.methods))
    rows = list(csv.reader(io.StringIO(rows_of(render_html(replace(results, methods=methods))))))
    assert rows[0] == ["method", "index", "label", "prediction", "confidence", "distance", "level"]
    assert [row[0] for row in rows[1:]] == ["Plain", "AR-AdaLS", "AR-AdaLS"]


def test_page_and_command_line_list_the_same_bytes(tmp_path, capsys):
    from robcal.commands.cli import main

    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(3), size=300)
    np.save(tmp_path / "p.npy", probs)
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 300))
    np.save(tmp_path / "s.npy", rng.random(300))
    files = ["--probs", tmp_path / "p.npy", "--labels", tmp_path / "y.npy", "--scores", tmp_path / "s.npy"]
    options = [
        "--score-name",
        ROBUSTNESS,
        "--resamples",
        40,
        "--worst",
        tmp_path / "w.csv",
        "--out",
        tmp_path / "a.html",
    ]
    with pytest.raises(SystemExit) as stop:
        main([str(part) for part in ("audit", *files, *options)])
    assert not stop.value.code, capsys.readouterr().err
    written = (tmp_path / "w.csv").read_bytes()
    assert written.startswith(b"index,label,prediction,confidence,distance,level\n")
    assert written.decode() == rows_of((tmp_path / "a.html").read_text(encoding="utf-8"))
