"""The command line as a user meets it: every command, resumption, and refusals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robcal.base.levels import assign_levels
from robcal.base.storage import load_levels, load_results, load_scores, save_scores
from robcal.base.types import Scores
from robcal.commands.cli import main

TRAIN = ["train", "--model", "mlp", "--epochs", "2", "--batch-size", "32", "--learning-rate", "0.1", "--quiet"]
ROBUST = ["--method", "ar-adals", "--levels-from", "robustness"]


def run(*arguments, code=0):
    """Run a command in this process and check its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(part) for part in arguments])
    assert (stop.value.code or 0) == code


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A small table in an npz file."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 3
    inputs = (rng.normal(size=(400, 5)) + 1.5 * np.eye(3, 5)[labels]).astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "table.npz"
    np.savez(file, x_train=inputs[:300], y_train=labels[:300], x_test=inputs[300:], y_test=labels[300:])
    return f"npz:{file}"


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """An AR-AdaLS run on that table."""
    out = tmp_path_factory.mktemp("runs") / "ar"
    run(*TRAIN, "--data", table, *ROBUST, "--levels", "4", "--out", out)
    return out


def test_ar_adals_alone_does_the_whole_pipeline(trained):
    for name in (
        "model.safetensors",
        "history.json",
        "scores-train.parquet",
        "levels-val.parquet",
        "reference/run.json",
    ):
        assert (trained / name).exists()
    assert not (trained / "state.pt").exists()
    scores, levels = load_scores(trained / "scores-val.parquet"), load_levels(trained / "levels-val.parquet")
    np.testing.assert_array_equal(levels.level, assign_levels(scores, 4))
    assert json.loads((trained / "run.json").read_text())["complete"] is True


def test_a_finished_run_is_left_as_it_is_and_other_settings_are_refused(trained, table, capsys):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    run(*TRAIN, "--data", table, *ROBUST, "--levels", "4", "--out", trained)
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    run(*TRAIN, "--data", table, *ROBUST, "--levels", "5", "--out", trained, code=2)
    assert "--overwrite" in capsys.readouterr().err


def test_a_run_that_lost_its_model_keeps_its_scores(table, tmp_path):
    command = (*TRAIN, "--data", table, *ROBUST, "--levels", "4", "--out", tmp_path / "run")
    run(*command)
    record = tmp_path / "run/run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "complete": False}))
    whole = (tmp_path / "run/model.safetensors").read_bytes()
    (tmp_path / "run/model.safetensors").unlink()
    kept = [(tmp_path / "run" / name).stat().st_mtime_ns for name in ("scores-train.parquet", "scores-val.parquet")]
    run(*command)
    assert [(tmp_path / "run" / n).stat().st_mtime_ns for n in ("scores-train.parquet", "scores-val.parquet")] == kept
    assert (tmp_path / "run/model.safetensors").read_bytes() == whole


def test_training_from_scores_at_hand_equals_the_pipeline(trained, table, tmp_path):
    for split in ("train", "val"):
        run(
            "score",
            "--model",
            trained / "reference",
            "--split",
            split,
            "--levels",
            "4",
            "--out",
            tmp_path / f"{split}.parquet",
            "--quiet",
        )
    run(
        *TRAIN,
        "--data",
        table,
        "--method",
        "ar-adals",
        "--levels",
        "4",
        "--out",
        tmp_path / "run",
        "--scores",
        tmp_path / "train.parquet",
        "--scores",
        tmp_path / "val.parquet",
    )
    assert (tmp_path / "run/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert not (tmp_path / "run/reference").exists()


@pytest.mark.parametrize("method", ["auto", "first-order", "projection"])
def test_score(trained, table, tmp_path, method, capsys):
    out = tmp_path / "scores.parquet"
    model = trained / "model.safetensors"
    run("score", "--model", model, "--data", table, "--split", "val", "--method", method, "--out", out, "--quiet")
    scores = load_scores(out)
    assert len(scores) == 30
    assert scores.method == method
    assert set(scores.status) == ({"estimate"} if method == "first-order" else {"verified"})
    assert capsys.readouterr().out.strip().endswith(str(out))
    assert not out.with_name(out.name + ".parts").exists()
    run("score", "--model", trained, "--data", table, "--out", out, "--quiet", code=2)


def test_audit_of_a_run_and_report_of_several(trained, tmp_path, capsys):
    run("audit", trained, "--levels", "4", "--resamples", "50", "--quiet")
    out = capsys.readouterr().out
    assert out.strip().endswith("audit.html")
    assert "AR-AdaLS" in out
    page = (trained / "audit.html").read_text()
    assert "<svg" in page
    run("report", trained / "reference", trained, "--out", tmp_path / "r.html", "--quiet")
    out = capsys.readouterr().out
    assert "Plain" in out
    assert "AR-AdaLS" in out
    assert (tmp_path / "r.html").exists()
    run("report", trained, "--out", tmp_path / "r.html", "--quiet", code=2)


def test_audit_of_plain_files_needs_no_model(tmp_path, capsys):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 200)
    np.save(tmp_path / "p.npy", probs)
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 200))
    np.save(tmp_path / "s.npy", rng.random(200))
    np.save(tmp_path / "g.npy", np.array(["north <evil>", "south"] * 100))
    run(
        "audit",
        "--probs",
        tmp_path / "p.npy",
        "--labels",
        tmp_path / "y.npy",
        "--scores",
        tmp_path / "s.npy",
        "--groups",
        tmp_path / "g.npy",
        "--levels",
        "5",
        "--resamples",
        "50",
        "--out",
        tmp_path / "a.html",
        "--quiet",
    )
    out = capsys.readouterr().out
    assert "<evil>" in out
    assert "<evil>" not in (tmp_path / "a.html").read_text()


def test_audit_of_plain_files_does_not_import_torch(tmp_path):
    np.save(tmp_path / "p.npy", np.full((40, 2), 0.5))
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    code = (
        "import sys; from robcal.commands.cli import main\n"
        f"try: main(['audit', '--probs', r'{tmp_path}/p.npy', '--labels', r'{tmp_path}/y.npy'])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def files(tmp_path):
    """Files for the table of refusals: good ones, and one of each kind of bad one."""
    probs, labels = np.full((20, 2), 0.5), np.arange(20) % 2
    made = {
        "p": probs, "y": labels, "s": np.arange(20.0),
        "nan": np.where(np.eye(20, 2) > 0, np.nan, 0.5), "off": probs * 0.9, "logits": probs * 8 - 3,
        "short": probs[:5], "y9": labels + 8, "yfloat": labels.astype(float), "onehot": np.eye(2)[labels],
        "snan": np.full(20, np.nan), "sshort": np.arange(3.0), "flat": np.arange(20.0), "none": probs[:0],
    }  # fmt: skip
    for name, array in made.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "broken.npy").write_bytes((tmp_path / "p.npy").read_bytes()[:100])
    (tmp_path / "text.txt").write_text("hello")
    save_scores(
        Scores(np.arange(20, dtype=np.float32), np.array(["verified"] * 20), *[np.zeros(20, np.int64)] * 2,
               *[np.zeros(20, np.float32)] * 2), tmp_path / "s.parquet",
    )  # fmt: skip
    (tmp_path / "there.html").write_text("kept")


AUDIT_REFUSALS = [
    (["--probs", "nan.npy", "--labels", "y.npy"], "NaN"),
    (["--probs", "off.npy", "--labels", "y.npy"], "sums to 0.9"),
    (["--probs", "logits.npy", "--labels", "y.npy"], "If these are logits"),
    (["--probs", "flat.npy", "--labels", "y.npy"], "(N, Z)"),
    (["--probs", "none.npy", "--labels", "y.npy"], "empty"),
    (["--probs", "short.npy", "--labels", "y.npy"], "number 5, labels has 20"),
    (["--probs", "p.npy", "--labels", "y9.npy"], "labels holds 9"),
    (["--probs", "p.npy", "--labels", "yfloat.npy"], "dtype float64"),
    (["--probs", "p.npy", "--labels", "onehot.npy"], "np.argmax"),
    (["--probs", "missing.npy", "--labels", "y.npy"], "does not exist"),
    (["--probs", "broken.npy", "--labels", "y.npy"], "cannot be read"),
    (["--probs", "text.txt", "--labels", "y.npy"], "has no rows"),
    (["--probs", "p.npy", "--labels", "y.npy", "--scores", "snan.npy"], "scores holds nan"),
    (["--probs", "p.npy", "--labels", "y.npy", "--scores", "sshort.npy"], "scores has 3"),
    (["--probs", "p.npy", "--labels", "y.npy", "--scores", "s.npy", "--levels", "21"], "20 examples for 21 levels"),
    (["--probs", "p.npy", "--labels", "y.npy", "--scores", "s.npy", "--levels", "0"], "num_levels"),
    (["--probs", "p.npy", "--labels", "y.npy", "--scores", "s.parquet", "--column", "dist"], "no column 'dist'"),
    (["--probs", "p.npy", "--labels", "y.npy", "--scores", "text.txt"], "has no rows"),
    (["--probs", "p.npy", "--labels", "y.npy", "--bins", "0"], "bins"),
    (["--probs", "p.npy", "--labels", "y.npy", "--out", "there.html"], "--overwrite"),
    (["--probs", "p.npy"], "--labels"),
    ([], "neither"),
    (["somewhere"], "no run directory"),
]


@pytest.mark.parametrize(("arguments", "message"), AUDIT_REFUSALS)
def test_audit_refuses_bad_input_with_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    run("audit", *arguments, "--quiet", code=2)
    error = capsys.readouterr().err
    assert message in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


OTHER_REFUSALS = [
    (["train", "--data", "digit", "--out", "o"], "digits"),
    (["train", "--data", "npz:missing.npz", "--out", "o"], "missing.npz"),
    (["train", "--data", "digits", "--out", "o", "--epochs", "0"], "--epochs"),
    (["train", "--data", "digits", "--out", "o", "--learning-rate", "-1"], "--learning-rate"),
    (["train", "--data", "digits", "--out", "o", "--levels", "400"], "323 examples for 400 levels"),
    (["train", "--data", "digits", "--out", "o", "--model", "resnet-9000"], "wrn-DEPTH-WIDTH"),
    (["train", "--data", "digits", "--out", "o", "--method", "vanilla", "--scores", "s.parquet"], "only ar-adals"),
    (["train", "--data", "digits", "--out", "o", "--scores", "missing.parquet"], "missing.parquet"),
    (["train", "--data", "digits", "--out", "o", "--scores", "s.parquet"], "split None"),
    (["train", "--data", "digits", "--out", "."], "is no run directory"),
    (["score", "--model", "missing.safetensors", "--data", "digits", "--out", "o.parquet"], "missing.safetensors"),
    (["score", "--model", "broken.npy", "--data", "digits", "--out", "o.parquet"], "broken.npy"),
    (["score", "--model", "x", "--data", "digits", "--out", "there.html"], "--overwrite"),
    (["score", "--model", "x", "--data", "digits", "--out", "o.csv"], ".parquet"),
    (["report", "nowhere", "--out", "o.html"], "no run directory"),
    (["report", ".", "--out", "o.html"], "results.json"),
    (["demo", "--seeds", "1", "--out", "o"], "--seeds"),
]


@pytest.mark.parametrize(("arguments", "message"), OTHER_REFUSALS)
def test_other_commands_refuse_bad_input_with_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    run(*arguments, "--quiet", code=2)
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_levels_are_by_running_margins_unless_scores_or_a_scorer_say_robustness(table, tmp_path):
    for name, more in {"running": (), "robustness": ("--scorer", "first-order")}.items():
        run(*TRAIN, "--data", table, "--method", "ar-adals", "--levels", "4", *more, "--out", tmp_path / name)
        assert json.loads((tmp_path / name / "run.json").read_text())["settings"]["levels_from"] == name
        assert (tmp_path / name / "scores-train.parquet").exists() == (name == "robustness")
        assert (tmp_path / name / "reference").exists() == (name == "robustness")


def test_train_takes_an_ensemble_its_split_and_a_source_of_levels(table, tmp_path, capsys):
    out = tmp_path / "run"
    run(*TRAIN, "--data", table, "--method", "ar-adals", "--levels", "4", "--controller", "published", "--members", 2,
        "--split-seed", 7, "--levels-from", "margin", "--folds", 5, "--out", out)  # fmt: skip
    settings = json.loads((out / "run.json").read_text())["settings"]
    wanted = {"members": 2, "split_seed": 7, "levels_from": "margin", "folds": 5, "seed": 0}
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["options"]["controller"] == "integral"
    assert load_levels(out / "levels-train.parquet").source == "margin"
    printed = capsys.readouterr().out.split()
    assert printed[-2:] == [str(out / f"member-{k}.safetensors") for k in range(2)]
    run("score", "--model", out, "--out", tmp_path / "s.parquet", "--quiet", code=2)
    assert "holds 2 networks" in capsys.readouterr().err


def test_unknown_choices_and_help(capsys):
    run("train", "--method", "magic", "--data", "digits", "--out", "o", code=2)
    assert "ar-adals" in capsys.readouterr().err
    for command in ("demo", "train", "score", "audit", "report"):
        run(command, "--help")
        assert "--quiet" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_exits_130_keeps_the_state_and_the_run_goes_on(table, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "robcal", *TRAIN[:1], "--data", table, "--method", "vanilla", "--model", "mlp",
               "--epochs", "250", "--batch-size", "8", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stderr is not None
    assert any("train vanilla" in line for line in iter(process.stderr.readline, ""))  # it is under way
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130, error
    assert "goes on from there" in error
    assert (out / "state.pt").exists()
    assert not list(out.glob("*.tmp"))
    from robcal.base.storage import load_state

    epoch, batch, _ = load_state(out / "state.pt")["at"]
    assert epoch + batch > 0
    run(*command[3:])
    assert not (out / "state.pt").exists()
    assert len(json.loads((out / "history.json").read_text())) == 250


@pytest.mark.slow
def test_demo_in_small(tmp_path, capsys, monkeypatch):
    """The demo's whole path with short runs: table, what was found, report; and again, from what is there."""
    import dataclasses

    from robcal.comparison import demo
    from robcal.report.findings import comparison
    from robcal.report.formatting import ascii_numbers

    monkeypatch.setattr(demo, "SETTINGS", dataclasses.replace(demo.SETTINGS, epochs=2, test_limit=100))
    run("demo", "--seeds", "2", "--jobs", "1", "--out", tmp_path / "d", "--quiet")
    out = capsys.readouterr().out
    assert "Plain" in out
    assert out.splitlines()[-1] == str(tmp_path / "d/report.html")
    results = load_results(tmp_path / "d/results.json")
    plain, ours, scaled = results.methods
    assert (plain.name, ours.name, plain.seeds) == ("vanilla", "ar-adals", (0, 1))
    assert scaled.title == "Plain + temperature"
    said = " ".join(out.split())
    for pair in (("ar-adals", "vanilla"), ("ar-adals", scaled.name)):
        assert ascii_numbers(comparison(results, *pair)) in said
    assert len(out.splitlines()) <= 34
    assert results.notes[0] == demo.REGIME
    assert scaled.metrics["accuracy"] == plain.metrics["accuracy"]
    assert scaled.metrics["nll"].value < plain.metrics["nll"].value
    assert len(scaled.shift) == len(plain.shift) == 75
    assert len(scaled.levels) == len(plain.levels) == 5
    assert {"ece", "shift_ece", "nll", "brier", "accuracy"} <= set(ours.minus["vanilla"])
    run("report", tmp_path / "d", "--out", tmp_path / "again.html", "--quiet")
    assert (tmp_path / "again.html").read_text() == (tmp_path / "d/report.html").read_text()
    page = (tmp_path / "again.html").read_text()
    assert page.count("Plain + temperature") > 15
    pair, scaled_too = (tmp_path / "d/plain-0", tmp_path / "d/ar-adals-0"), tmp_path / "scaled.html"
    run("report", *pair, "--temperature", "--out", scaled_too, "--quiet")
    assert "AR-AdaLS (robustness levels) + temperature" in scaled_too.read_text()
    capsys.readouterr()
    before = (tmp_path / "d/plain-0/model.safetensors").stat().st_mtime_ns
    run("demo", "--seeds", "2", "--jobs", "1", "--out", tmp_path / "d", "--quiet")
    assert (tmp_path / "d/plain-0/model.safetensors").stat().st_mtime_ns == before
    assert Path(tmp_path / "d/report.html").exists()
