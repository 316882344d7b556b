"""A run whose labels stayed hard is the plain model, and says so; "AR-AdaLS" always says what its levels are cut by."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from robcal.base.checks import InputError
from robcal.base.seals import digest_of_file
from robcal.base.storage import load_checkpoint
from robcal.commands.cli import app
from robcal.comparison import load_comparison, load_plan, markdown_tables, preset_names, text_tables
from robcal.report import render_html
from robcal.runs.collect import report_runs
from robcal.runs.hard_labels import REASON, remarks_on

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hard_labels")]  # its fixtures are dear: one process makes them

HARD = f"labels stayed hard: {REASON}"
TRAIN = ["train", "--model", "mlp", "--batch-size", "32", "--device", "cpu", "--quiet"]
BY_MARGIN = ["--method", "ar-adals", "--levels-from", "margin"]


def robcal(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.stdout.split())


def weights(run):
    return load_checkpoint(run / "model.safetensors")[0]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table: 60 training rows of noisy labels, which a network learns by heart if it is given the time."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "table.npz"
    labels = np.arange(300) % 3
    inputs = (rng.normal(size=(300, 8)) + 0.7 * np.eye(3, 8)[labels]).astype(np.float32)
    np.savez(file, x_train=inputs[:100], y_train=labels[:100], x_test=inputs[100:], y_test=labels[100:])
    return f"npz:{file}"


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Run directories and what training printed: hard at the first epoch, softened over forty."""
    out, made = tmp_path_factory.mktemp("runs"), {}
    for name, epochs in {"hard": 1, "soft": 40}.items():
        printed = robcal(
            *TRAIN, "--data", data, *BY_MARGIN, "--levels", 2, "--epochs", epochs, "--val-fraction", 0.3,
            "--out", out / name,
        )  # fmt: skip
        made[name] = (out / name, printed)
    return made


def test_the_weights_tell_whether_labels_stayed_hard_and_train_says_it(runs):
    hard, soft = runs["hard"], runs["soft"]
    assert same(weights(hard[0]), weights(hard[0] / "reference"))
    assert not same(weights(soft[0]), weights(soft[0] / "reference"))
    assert HARD in hard[1]
    assert "stayed hard" not in soft[1]
    assert "epochs of AR-AdaLS (margin levels): accuracy" in soft[1]


def test_audit_and_report_say_it(runs, tmp_path):
    for name, told in {"hard": True, "soft": False}.items():
        run = runs[name][0]
        printed = robcal("audit", run, "--levels", 3, "--resamples", 20, "--quiet")
        assert (f"AR-AdaLS (margin levels): {HARD}" in printed) == told
        assert (HARD in (run / "audit.html").read_text()) == told
        page = tmp_path / f"{name}.html"
        printed = robcal("report", run / "reference", run, "--no-shift", "--out", page, "--quiet")
        assert (HARD in printed) == told
        assert (HARD in page.read_text()) == told
    assert "Plain" in printed


def test_a_report_says_at_which_seeds(runs, data, tmp_path):
    other = tmp_path / "other"
    robcal(
        *TRAIN, "--data", data, *BY_MARGIN, "--levels", 2, "--epochs", 40, "--val-fraction", 0.3,
        "--split-seed", 0, "--seed", 1, "--out", other,
    )  # fmt: skip
    hard = tmp_path / "hard"
    shutil.copytree(runs["soft"][0], hard)
    history = json.loads((hard / "history.json").read_text())
    for row in history:
        row["epsilon"] = [0.0, 0.0]
    (hard / "history.json").write_text(json.dumps(history))
    record = json.loads((hard / "run.json").read_text())
    record["files"]["history.json"] = digest_of_file(hard / "history.json")
    (hard / "run.json").write_text(json.dumps(record))
    results = report_runs([hard, other], shift=False)
    (method,) = results.methods
    assert method.remarks == (f"labels stayed hard at seed 0: {REASON} there",)
    assert f"{method.title}: {method.remarks[0]}." in render_html(results)


def test_runs_of_one_method_by_other_settings_are_no_seeds_of_it(runs, data, tmp_path):
    """Margin and robustness levels were averaged as two seeds of "AR-AdaLS", with an interval over them."""
    words = [*TRAIN, "--data", data, *BY_MARGIN, "--epochs", 2, "--val-fraction", 0.3]
    robcal(*words, "--levels", 2, "--out", tmp_path / "margin")
    robcal(*words, "--levels", 3, "--out", tmp_path / "three")
    robcal(*words, "--levels", 2, "--levels-from", "loss", "--out", tmp_path / "loss")
    robcal(*words, "--levels", 2, "--seed", 1, "--split-seed", 0, "--out", tmp_path / "seed")
    several = report_runs([tmp_path / name for name in ("margin", "loss", "three", "seed")], shift=False)
    assert {method.title: method.seeds for method in several.methods} == {
        "AR-AdaLS (margin levels), levels 2": (0, 1),
        "AR-AdaLS (loss levels)": (0,),
        "AR-AdaLS (margin levels), levels 3": (0,),
    }
    two = report_runs([tmp_path / "margin", tmp_path / "loss"], shift=False)
    assert [method.title for method in two.methods] == ["AR-AdaLS (margin levels)", "AR-AdaLS (loss levels)"]
    one = report_runs([tmp_path / "margin", tmp_path / "seed"], shift=False, temperature=True)
    assert {method.name: method.seeds for method in one.methods} == {
        "ar-adals": (0, 1),
        "AR-AdaLS (margin levels) + temperature": (0, 1),
    }
    with pytest.raises(InputError, match=r"are both AR-AdaLS .margin levels. with seed 0.*Name each seed once"):
        report_runs([tmp_path / "margin", tmp_path / "margin"], shift=False)


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """A comparison whose runs are too short to soften a label, with levels of three sources."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "plan.toml").write_text(
        f'''
title = "Short"
seeds = [0, 1]
reference = ["Plain"]
shift_limit = 0
[recipe]
data = "{data}"
model = "mlp"
epochs = 1
levels = 2
[[methods]]
label = "Plain"
method = "vanilla"
[[methods]]
label = "Ours"
method = "ar-adals"
options = {{ levels_from = "margin" }}
[[methods]]
label = "Theirs"
method = "ar-adals"
options = {{ levels_from = "robustness", scorer = "first-order" }}
[[methods]]
label = "AdaLS"
method = "adals"
[[ensembles]]
label = "Ensemble"
of = "Ours"
members = 2
'''
    )
    printed = robcal("compare", folder / "plan.toml", "--out", folder / "out", "--jobs", 1, "--quiet")
    return folder / "out", printed


def test_a_comparison_marks_it_and_says_what_levels_are_cut_by(compared):
    out, printed = compared
    for label in ("Ours", "Theirs", "AdaLS", "Ensemble"):
        assert f"# {label}: labels stayed hard: {REASON}." in printed
        assert re.search(rf"{label} #", printed)
    assert not re.search("Plain #", printed)
    sources = "Training levels by logit margin of the plain model: Ours, Ensemble; by adversarial distance to the plain"
    assert sources in printed
    assert "‡ Ours: labels stayed hard" in (out / "report.html").read_text()
    assert sources in (out / "report.html").read_text()
    assert "‡ Ours: labels stayed hard" in (out / "table.md").read_text()


def test_some_seeds_are_named(compared):
    results = load_comparison(compared[0] / "results.json")
    assert [bool(method.remarks) for method in results.methods] == [False, True, True, True, True]
    (remark,) = remarks_on([1], (0, 1))
    methods = (dataclasses.replace(one, remarks=(remark,) * (one.name == "Ours")) for one in results.methods)
    some = dataclasses.replace(results, methods=tuple(methods))
    text = " ".join(text_tables(some).split())
    assert f"# Ours: labels stayed hard at seed 1: {REASON} there." in text
    assert text.count("stayed hard") == 1
    assert "\u2021 Ours: labels stayed hard at seed 1" in markdown_tables(some)


@pytest.mark.parametrize("preset", preset_names())
def test_ar_adals_is_cut_by_adversarial_distance_in_every_preset(preset):
    """One meaning: a label that says AR-AdaLS and no source is the published one; others name theirs."""
    for method in load_plan(preset, recipe={"data": "digits"}).methods:
        source = method.options.get("levels_from")
        if method.method == "ar-adals":
            assert source is not None, method.label
            assert "AR-AdaLS" not in method.label or source == "robustness" or source in method.label
