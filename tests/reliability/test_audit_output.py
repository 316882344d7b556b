"""What an audit says: verdicts in both directions, names of levels and scores, wrong examples, and how it prints."""

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, norm

import robcal
from robcal.base.checks import InputError
from robcal.base.storage import save_scores
from robcal.base.types import Scores
from robcal.calibration import level_table
from robcal.calibration.binning import summarise
from robcal.calibration.conditional import joint_confidence, reliability_bins
from robcal.calibration.intervals import gap_interval
from robcal.commands.cli import main
from robcal.report import render_html
from robcal.report.render import GLOSSARY, glossary_markdown, terms_in
from robcal.runs.audit import Audit
from robcal.runs.audit_files import read_beside

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN = Path(__file__).with_name("audit.txt")
FAST = {"resamples": 40}


def sample(n, *, shift=0.0, levels_shift=None, seed=0, classes=4):
    """Probabilities whose top label is right with probability confidence - shift, and scores that rise with it."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.45, 0.95, n)
    score = rng.permutation(n).astype(float)
    gap = np.full(n, shift) if levels_shift is None else np.interp(score, [0, n - 1], levels_shift)
    label = rng.integers(classes, size=n)
    prediction = np.where(rng.random(n) < np.clip(confidence - gap, 0, 1), label, (label + 1) % classes)
    probs = np.full((n, classes), 0.0)
    probs[:] = ((1 - confidence) / (classes - 1))[:, None]
    probs[np.arange(n), prediction] = confidence
    return probs, label, score


def made(n=1000, scored=True, **options):
    named = {key: options.pop(key) for key in ("score_name", "groups", "num_levels", "title") if key in options}
    probs, labels, score = sample(n, **options)
    return robcal.audit(probs, labels, scores=score if scored else None, **named, **FAST)


class Visible(HTMLParser):
    """The text of a page outside its style sheet and glossary, and all ids."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.ids, self.glossary, self.silent = [], [], [], 0
        self.inside = False
        self.feed(page)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.ids += [names["id"]] if "id" in names else []
        self.inside = self.inside or names.get("id") == "glossary"
        self.silent += tag == "style"

    def handle_endtag(self, tag):
        self.silent -= tag == "style"

    def handle_data(self, data):
        if not self.silent:
            (self.glossary if self.inside else self.texts).append(data)


def said(audit):
    """Everything that a reader meets: the text, the notebook's view and the page."""
    page = Visible(render_html(audit.results)).text
    notebook = " ".join(re.sub(r"<[^>]*>", " ", audit._repr_html_()).split())
    return {"text": told(audit), "page": page, "notebook": notebook}


def told(audit):
    """The text with its line breaks undone."""
    return " ".join(str(audit).split())


# Verdicts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "word", "place", "side"), [
    (-0.2, "Under-confident", "below", "below 1, which raises"),
    (0.2, "Over-confident", "above", "above 1, which lowers"),
])  # fmt: skip
def test_both_directions_are_told_over_all_and_per_level_with_the_next_step(shift, word, place, side):
    audit = made(4000, shift=shift)
    gap = audit.metrics["gap"]
    assert (gap.low > 0) == (shift > 0)
    for where, text in said(audit).items():
        assert (
            f"{word}: the stated confidence is on average {abs(100 * gap.value):.1f} percentage points {place}" in text
        ), where
        assert f"looked at together, all are {word.lower()}" in text, where
        assert side in text, where
        assert "recalibrate" in text, where
        assert "confidence that is over-" not in text


def test_a_forest_that_is_much_too_unsure_does_not_read_as_all_clear():
    """The case of a badly under-confident random forest."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    inputs, labels = load_digits(return_X_y=True)
    forest = RandomForestClassifier(30, max_features=2, random_state=0).fit(inputs[:600], labels[:600])
    probs = forest.predict_proba(inputs[600:1200])
    top = np.sort(probs, 1)
    audit = robcal.audit(probs, labels[600:1200], scores=top[:, -1] - top[:, -2], score_name="margin", **FAST)
    assert audit.metrics["gap"].value < -0.25
    text = str(audit)
    assert "Under-confident" in text
    assert "over-confiden" not in text.lower().replace("over- or under-confident", "")
    verdicts = [row["verdict"] for row in audit.rows()]
    assert set(verdicts) <= {"under-confident", ""}
    assert verdicts.count("under-confident") >= 9


def test_a_model_without_a_visible_gap_is_told_what_so_few_examples_could_not_show():
    audit = made(2000, seed=3, num_levels=5)
    gap = audit.metrics["gap"]
    assert gap.low < 0 < gap.high
    text = told(audit)
    assert "Calibrated as far as 2,000 examples can tell" in text
    assert "Nothing needs mending" in text
    assert "four times as many labelled examples make the intervals half as wide" in text
    overall, levels = (
        float(found) for found in re.findall(r"a gap of less than about ([\d.]+) percentage points", text)
    )
    array, labels, score = sample(2000, seed=3)
    residual = array.max(1) - (array.argmax(1) == labels)
    assert overall == pytest.approx(100 * norm.ppf(0.975) * residual.std() / math.sqrt(2000), rel=0.05)
    spread = np.median([residual[score.argsort()[400 * k : 400 * (k + 1)]].std() for k in range(5)])
    assert levels == pytest.approx(100 * norm.ppf(1 - 0.025 / 5) * spread / math.sqrt(400), rel=0.05)


def test_groups_of_very_different_sizes_are_told_what_the_largest_and_the_smallest_could_not_show():
    """The median of such sizes, and of their intervals, is of no group."""
    array, labels, _ = sample(600, seed=3)
    groups = np.where(np.arange(600) < 20, "few", "many")
    audit = robcal.audit(array, labels, groups=groups, **FAST)
    found = re.search(
        r"in the largest, of 580 examples, a gap of less than about ([\d.]+) percentage points would show less than "
        r"half of the time, in the smallest, of 20, one of less than about ([\d.]+) percentage points",
        told(audit),
    )
    assert found
    residual = array.max(1) - (array.argmax(1) == labels)
    for number, inside in zip(found.groups(), (groups == "many", groups == "few"), strict=True):
        expected = 100 * norm.ppf(1 - 0.025 / 2) * residual[inside].std(ddof=1) / math.sqrt(inside.sum())
        assert float(number) == pytest.approx(expected, rel=0.25)  # of 20 the interval is no normal one


@pytest.mark.parametrize("count", [1, 20])
def test_very_few_examples_are_never_enough_to_say_that_nothing_needs_mending(count):
    array, labels, _ = sample(count, seed=3)
    text = told(robcal.audit(array, labels, **FAST))
    assert "Nothing needs mending" not in text
    assert "Label more examples: so few cannot tell whether it needs mending." in text
    assert "1 examples can tell" not in text
    assert "the 1 ranges" not in text


def test_no_interval_of_a_likelihood_that_a_repair_leaves_ends_below_zero():
    logits = 1.5 * np.random.default_rng(0).normal(size=(600, 4))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    audit = robcal.audit(probs, probs.argmax(1), **FAST)  # all right: after a repair the NLL is nearly 0
    before, after = audit.results.methods[0].repair.nll
    assert 0 <= after.low <= after.value < before.value / 50


def test_gaps_of_both_signs_are_told_and_no_single_temperature_is_advised():
    audit = made(4000, levels_shift=(0.3, -0.3))
    text = told(audit)
    over = re.search(r"levels 0 to (\d) are over-confident and levels (\d) to 9 are under-confident", text)
    assert over
    assert int(over[1]) < int(over[2])
    assert "Most over-confident is level 0 of 0-9, the lowest score" in text
    assert "Most under-confident is level 9 of 0-9, the highest score" in text
    assert "One temperature cannot mend gaps of both signs" in text
    assert "Recalibrate with a temperature that depends on the score." in text


def test_errors_that_cancel_on_average_are_no_calibration():
    rng = np.random.default_rng(0)
    confidence = np.repeat([0.6, 0.9], 1000)
    right = rng.random(2000) < np.repeat([0.75, 0.75], 1000)
    probs = np.stack([1 - confidence, confidence], 1)
    audit = robcal.audit(probs, right.astype(int), **FAST)
    assert audit.metrics["gap"].low < 0 < audit.metrics["gap"].high
    text = told(audit)
    assert "it cancels on average" in text
    assert "Calibrated" not in text
    assert "over-confident where it states 87% to 93%" in text
    assert "under-confident where it states 53% to 60%" in text


def test_group_verdicts_have_both_directions():
    probs, labels, score = sample(3000, levels_shift=(0.3, -0.3))
    group = np.where(score < 1500, "night", "day")
    text = told(robcal.audit(probs, labels, groups={"time": group}, **FAST))
    assert (
        'Of the 2 groups by "time", looked at together, group "night" is over-confident and group "day" is under-'
        in text
    )


# Ten levels at once --------------------------------------------------------------------------------------------------


def test_verdicts_on_levels_take_intervals_that_hold_for_all_at_once():
    probs, labels, _ = sample(500)
    levels = np.arange(500) % 10
    for row in level_table(probs, labels, levels, **FAST):
        part = levels == int(row.group)
        wide = gap_interval(summarise(probs[part], labels[part]), 1 - 0.05 / 10)
        assert row.joint_gap == wide
        assert row.joint_gap.low < row.gap.low < row.gap.high < row.joint_gap.high
    filled = [one for one in reliability_bins(probs, labels) if one.count]
    for one in filled:
        right, tail = one.accuracy.value * one.count, 0.025 / len(filled)
        if 0 < right < one.count:
            ends = beta.ppf([tail, 1 - tail], right + 0.5, one.count - right + 0.5)
            assert (one.joint.low, one.joint.high) == pytest.approx(tuple(ends))
    assert joint_confidence(0.9, 4) == pytest.approx(0.975)


def test_a_calibrated_model_is_rarely_accused_of_a_level():
    """Single intervals accuse some level of ten in a third of tables and more; those for all at once in few."""
    single = joint = 0
    for seed in range(80):
        probs, labels, _ = sample(300, seed=100 + seed)
        rows = level_table(probs, labels, np.arange(300) % 10, resamples=20, bins=1)
        single += any(row.gap.low > 0 or row.gap.high < 0 for row in rows)
        joint += any(row.joint_gap.low > 0 or row.joint_gap.high < 0 for row in rows)
    assert single >= 20
    assert joint <= 10


def test_the_reader_is_told_of_the_joint_intervals():
    for where, text in said(made()).items():
        assert "looked at together" in text, where
        assert "at once" in text, where
    assert "Bonferroni" in str(made())


# Names of levels and scores ------------------------------------------------------------------------------------------


def test_a_level_has_one_name_everywhere():
    """The second level is level 1 of 0-9, in tables and in sentences."""
    audit = made(4000, levels_shift=(0.3, 0.0))
    (level,) = [row for row in audit.levels if row.gap.value == max(row.gap.value for row in audit.levels)]
    for where, text in said(audit).items():
        dash = "-" if where == "text" else "–"
        assert f"Most over-confident is level {level.group} of 0{dash}9" in text, where
        assert "(of 10" not in text
        assert "tenth" not in text
    assert audit.rows()[1]["group"] == "0"


@pytest.mark.parametrize("name", [None, "predictive entropy"])
def test_a_score_of_the_users_own_is_not_called_robustness(name):
    audit = made(groups=np.arange(1000) % 2, score_name=name)
    called = name or "score"
    for where, text in said(audit).items():
        assert "robust" not in text.lower(), where
        assert "adversarial" not in text.lower(), where
        assert f"levels of {called}" in text, where
        assert f"lowest {called}" in text or where == "notebook", where
    assert audit.rows()[1]["grouping"] == called
    assert f"10 levels of {called}" in repr(audit)


def scores_of(distance):
    n, zeros = len(distance), np.zeros(len(distance), np.float32)
    index = np.zeros(n, np.int64)
    return Scores(distance.astype(np.float32), np.array(["verified"] * n), index, index, zeros, zeros)


def test_robcals_own_scores_are_called_robustness_from_arrays_and_from_files(tmp_path):
    probs, labels, score = sample(300)
    scores = scores_of(score)
    save_scores(scores, tmp_path / "s.parquet")
    mine = robcal.audit(probs, labels, scores=scores, **FAST)
    for audit in (mine, robcal.audit(probs, labels, **read_beside(tmp_path / "s.parquet"), **FAST)):
        assert "robustness levels" in str(audit)
        assert "the least robust" in told(audit)
    other = robcal.audit(probs, labels, **read_beside(tmp_path / "s.parquet", "margin"), **FAST)
    assert "robust" not in str(other)
    assert other.results.score_name == "margin"
    named = robcal.audit(probs, labels, **read_beside(tmp_path / "s.parquet", None, "distance to the boundary"), **FAST)
    assert "robust" not in str(named)
    assert "distance to the boundary" in str(named)


def test_a_parquet_column_gives_its_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    probs, labels, score = sample(300)
    pq.write_table(pa.table({"entropy": score}), tmp_path / "s.parquet")
    audit = robcal.audit(probs, labels, **read_beside(tmp_path / "s.parquet"), **FAST)
    assert "Levels of entropy:" in str(audit)


def test_the_lowest_score_is_level_0_and_the_page_says_so():
    audit = made(score_name="density")
    low = [row["score_low"] for row in audit.rows() if row["table"] == "level"]
    assert low == sorted(low)
    assert "level 0 holds the lowest density" in said(audit)["page"]


def test_a_grouping_called_level_hides_nothing():
    audit = made(groups={"level": np.arange(1000) % 3, "overall": np.arange(1000) % 2})
    assert len(audit.levels) == 10
    text = str(audit)
    assert "Levels of score:" in text
    assert "Groups by level:" in text
    page = Visible(render_html(audit.results))
    assert len(page.ids) == len(set(page.ids))
    assert "Groups by level" in page.text
    tables = [(row["table"], row["grouping"]) for row in audit.rows()]
    assert [tables.count(one) for one in (("level", "score"), ("group", "level"), ("group", "overall"))] == [10, 3, 2]


# Wrong and sure ------------------------------------------------------------------------------------------------------


def test_worst_lists_the_wrong_examples_by_confidence_then_score():
    probs, labels, score = sample(400, shift=0.1)
    probs = probs.round(2)
    probs[:, 0] += 1 - probs.sum(1)
    audit = robcal.audit(probs, labels, scores=score, num_levels=4, **FAST)
    wrong = [k for k in range(400) if probs[k].argmax() != labels[k]]
    wrong.sort(key=lambda k: (-probs[k].max(), score[k], k))
    assert len(wrong) > 40
    rows = audit.worst(40)
    assert [row.index for row in rows] == wrong[:40]
    assert len({row.confidence for row in rows}) < 40  # ties are among them
    order = np.sort(score)
    for row in rows:
        assert (row.label, row.prediction) == (labels[row.index], probs[row.index].argmax())
        assert row.confidence == probs[row.index].max()
        assert row.score == score[row.index]
        assert row.level == np.searchsorted(order, row.score) // 100
    assert audit.worst() == rows[:20]
    assert len(audit.worst(10_000)) == len(wrong)
    shown = said(audit)
    for row in rows[:5]:
        for where, text in shown.items():
            assert f" {row.index} {row.label} {row.prediction} " in text, where
    assert [row["index"] for row in audit.to_dict()["methods"][0]["worst"]] == wrong


def test_worst_without_scores_without_errors_and_without_examples():
    audit = made(scored=False)
    assert {(row.score, row.level) for row in audit.worst(5)} == {(None, None)}
    perfect = robcal.audit(np.full((30, 2), 0.5), np.zeros(30, int), **FAST)
    assert perfect.worst() == ()
    assert "most sure of" not in str(perfect)
    with pytest.raises(InputError, match="results alone"):
        Audit(audit.results).worst()
    with pytest.raises(InputError, match="count"):
        audit.worst(0)


def test_the_audit_does_not_change_when_its_arrays_do():
    probs, labels, score = sample(200)
    audit = robcal.audit(probs, labels, scores=score, **FAST)
    before = audit.worst()
    probs[:], labels[:], score[:] = 0.25, 0, 0
    assert audit.worst() == before


# As what it prints ---------------------------------------------------------------------------------------------------


def test_print_gives_plain_text_of_at_most_a_hundred_columns():
    audit = made(500, title="An audit", levels_shift=(0.4, -0.1), num_levels=5, groups={"half": np.arange(500) % 2})
    text = str(audit)
    assert text == audit.to_text() == f"{audit}"
    assert text + "\n" == GOLDEN.read_text(encoding="utf-8"), (
        "python tests/reliability/test_audit_output.py writes it anew"
    )
    assert max(map(len, text.splitlines())) <= 100
    assert max(map(len, audit.to_text(80).splitlines())) <= 80
    assert set(text) <= set(map(chr, range(32, 127))) | {"\n"}
    assert len(text) < 5600
    assert repr(audit) == (
        f"<Audit: An audit, 500 examples, ECE {audit.metrics['ece'].value:.4f}, over-confident, 5 levels of score, 2 "
        "groups by half>"
    )
    assert repr(dataclasses.replace(audit)) == repr(audit)


def test_a_narrow_terminal_cuts_no_number():
    audit = made(20_000, num_levels=4, title="x" * 200, groups={"a name of some length": np.arange(20_000) % 3})
    for width in (20, 40, 50, 55, 60, 65, 70, 75):
        text = audit.to_text(width)
        assert "…" not in text
        assert "Accuracy" in text
        for row in audit.levels:
            assert f"[{row.gap.low:+.3f}, {row.gap.high:+.3f}]".replace("0.", ".") in text


def test_rows_are_flat_and_alike():
    audit = made(groups={"a": np.arange(1000) % 2})
    rows = audit.rows()
    assert [row["table"] for row in rows] == ["overall"] + ["level"] * 10 + ["group"] * 2
    assert len({tuple(row) for row in rows}) == 1
    assert all(isinstance(value, str | int | float | None) for row in rows for value in row.values())
    for row, one in zip(rows[1:], (*audit.levels, *audit.groups["a"]), strict=True):
        for name in ("accuracy", "confidence", "gap", "ece", "joint_gap"):
            found = getattr(one, name)
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (found.value, found.low, found.high)
        assert (row["group"], row["n"], row["score_low"]) == (one.group, one.n, one.score_low)
    overall = rows[0]
    assert (overall["n"], overall["gap"]) == (1000, audit.metrics["gap"].value)
    json.dumps(rows, allow_nan=False)


EVIL = ("<script>alert(1)</script>", "<b onmouseover=x>", "\x1b[31m\u202e", "{{ 7*7 }}", "$x$ 日本語")


@pytest.mark.slow
@pytest.mark.parametrize("evil", EVIL)
def test_names_are_text_everywhere(evil):
    audit = made(200, groups={evil: np.where(np.arange(200) % 2, evil, "b")}, score_name=evil, title=evil, num_levels=2)
    for markup in (audit._repr_html_(), render_html(audit.results)):
        assert "<script>" not in markup
        assert "<b onmouseover" not in markup
        assert "49" not in re.findall(r"<p[^>]*><strong>(.*?)</strong>", markup)
    for text in (str(audit), repr(audit), audit._repr_html_()):
        assert "\x1b" not in text
        assert "\u202e" not in text


# The command line ----------------------------------------------------------------------------------------------------


def run(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(part) for part in arguments])
    printed = capsys.readouterr()
    assert (stop.value.code or 0) == code, printed.err
    return printed


@pytest.fixture
def files(tmp_path):
    probs, labels, score = sample(600, shift=-0.2)
    for name, array in {"p": probs, "y": labels, "s": score}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return ["audit", "--probs", tmp_path / "p.npy", "--labels", tmp_path / "y.npy", "--resamples", 40], tmp_path


def test_the_command_tells_verdict_next_step_and_names(files, capsys):
    command, folder = files
    options = [
        "--scores",
        folder / "s.npy",
        "--score-name",
        "entropy",
        "--worst",
        folder / "w.csv",
        "--out",
        folder / "a.html",
    ]
    printed = run(capsys, *command, *options).out
    lines = printed.splitlines()
    assert lines[-2:] == [str(folder / "w.csv"), str(folder / "a.html")]
    assert max(len(line) for line in lines if str(folder) not in line) <= 120
    for part in ("Under-confident", "Next:", "below 1, which raises", "Levels of entropy:", "--worst FILE.csv"):
        assert part in " ".join(printed.split())
    assert "robust" not in printed
    probs, labels, score = (np.load(folder / f"{name}.npy") for name in "pys")
    rows = list(csv.DictReader(io.StringIO((folder / "w.csv").read_text())))
    assert list(rows[0]) == ["index", "label", "prediction", "confidence", "score", "level"]
    assert len(rows) == (probs.argmax(1) != labels).sum()
    expected = robcal.audit(probs, labels, scores=score, **FAST).worst(10_000)
    assert [tuple(map(float, row.values())) for row in rows] == [dataclasses.astuple(row) for row in expected]


def test_worst_of_no_errors_is_a_header_and_without_scores_cells_are_empty(tmp_path, capsys):
    np.save(tmp_path / "p.npy", np.tile([0.3, 0.7], (40, 1)))
    for name, labels in {"none": np.ones(40, int), "one": np.r_[0, np.ones(39, int)]}.items():
        np.save(tmp_path / "y.npy", labels)
        command = ["audit", "--probs", tmp_path / "p.npy", "--labels", tmp_path / "y.npy", "--resamples", 40]
        run(capsys, *command, "--worst", tmp_path / f"{name}.csv")
    assert (tmp_path / "none.csv").read_text() == "index,label,prediction,confidence,score,level\n"
    assert (tmp_path / "one.csv").read_text().splitlines()[1:] == ["0,0,1,0.7,,"]


def test_refusals_of_the_new_options_say_what_to_do_and_destroy_nothing(files, capsys):
    command, folder = files
    kept = folder / "there.csv"
    kept.write_text("kept")
    assert "--overwrite" in run(capsys, *command, "--worst", kept, code=2).err
    assert kept.read_text() == "kept"
    assert ".csv" in run(capsys, *command, "--worst", "20", code=2).err
    assert not Path("20").exists()
    for option in ("--scores", "--groups", "--labels"):
        error = run(capsys, "audit", folder, option, folder / "s.npy", code=2).err
        assert option in error
        assert "--probs" in error
    assert "--score-name" in run(capsys, "audit", folder, "--score-name", "x", code=2).err


@pytest.mark.parametrize("command", ["audit", "report"])
def test_help_sentences_stand_alone(command, capsys):
    printed = run(capsys, command, "--help").out
    for fragment in ("Of the bootstrap", "small is fragile"):
        assert fragment not in printed


# The glossary --------------------------------------------------------------------------------------------------------

ASKED = (
    "AURC", "gap", "gain", "controller", "rival", "censored", "pass", "noise ceiling", "cross-fit", "lockstep", "level",
    "ECE", "NLL", "Brier", "temperature", "margin", "verified",
)  # fmt: skip


def test_the_glossary_has_the_words_and_the_document_is_made_of_it():
    names = [term.name for term in GLOSSARY]
    assert set(ASKED) <= set(names)
    assert len(names) == len(set(names)) == glossary_markdown().count("\n- **")
    assert names == sorted(names, key=str.lower)
    assert (DOCS / "glossary.md").read_text(encoding="utf-8") == glossary_markdown()
    assert "docs/glossary.md" in (DOCS.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "words"), [
    ("the signed gaps of Levels", ["gap", "level"]), ("a level-headed passage", []), ("ECE", ["ECE"]),
    ("aurc, 2 passes", ["pass"]), ("Classwise ECE", ["classwise ECE", "ECE"]), ("cross-fitted", ["cross-fit"]),
])  # fmt: skip
def test_words_are_found_as_whole_words(text, words):
    assert [term.name for term in terms_in(text)] == words


def test_a_page_explains_the_words_that_it_uses_and_no_others():
    page = Visible(render_html(made().results))
    shown = {term.name for term in GLOSSARY if term.name in page.glossary}
    assert shown == {term.name for term in terms_in(page.text)}
    assert {"ECE", "gap", "level", "NLL", "Bonferroni"} <= shown
    assert not shown & {"lockstep", "controller", "censored", "noise ceiling", "FPR95"}


if __name__ == "__main__":
    audit = made(500, title="An audit", levels_shift=(0.4, -0.1), num_levels=5, groups={"half": np.arange(500) % 2})
    GOLDEN.write_text(f"{audit}\n", encoding="utf-8")
