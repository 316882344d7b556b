"""`robcal recalibrate`: files, a run, what it says and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

import robcal
from robcal.commands.cli import main
from robcal.report.recalibration import advice, fallen_back


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Logits three times too large, their labels, and a score that says where they are: low is worst."""
    rng = np.random.default_rng(1)
    logits, scores = 2 * rng.normal(size=(4000, 3)), rng.normal(size=4000)
    probs = softmax(logits / np.where(scores < 0, 4, 1)[:, None], axis=1)
    arrays = {"logits": logits, "labels": (probs.cumsum(1) > rng.random((4000, 1))).argmax(1), "scores": scores}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return {name: tmp_path / f"{name}.npy" for name in arrays}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["recalibrate", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    return out


@pytest.mark.slow
def test_files_with_an_own_score(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--logits", files["logits"], "--labels", files["labels"], "--scores", files["scores"]]
    applied = ["--apply", files["logits"], "--apply-scores", files["scores"], "--out-probs", tmp_path / "p.npy"]
    text = run(capsys, *given, *applied, "--out", tmp_path / "r.json")
    assert "Use score-temperature" in text
    assert "which changes no label" in text
    assert "after one temperature" in text
    assert "each of the 4000 validation examples" in text
    assert all(len(line) <= 120 for line in text.splitlines() if str(tmp_path) not in line)
    loaded = robcal.load_recalibrator(tmp_path / "r.json")
    expected = loaded.predict_proba(np.load(files["logits"]), np.load(files["scores"]))
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), expected)
    np.testing.assert_array_equal(
        _told(text, logits=np.load(files["logits"]), scores=np.load(files["scores"])), expected
    )
    assert json.loads((tmp_path / "r.json").read_text())["score"] == "score"


def _told(text: str, **names: np.ndarray) -> np.ndarray:
    """Run the line of Python that the command advises."""
    (line,) = re.findall(r"in Python by (robcal\..*?\))(?:\.|,) ?(?:or|\Z|\S*/)", " ".join(text.split()))
    return np.asarray(eval(line, {"robcal": robcal, "np": np, **names}))


def test_probabilities_are_their_logarithms(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 0 too, which float32 makes of a small one."""
    probs = softmax(np.load(files["logits"]), axis=1)[:500]
    probs[0] = [1, 0, 0]
    np.save(tmp_path / "p.npy", probs)
    np.save(tmp_path / "y.npy", np.append(0, np.load(files["labels"])[1:500]))
    given = ["--probs", tmp_path / "p.npy", "--labels", tmp_path / "y.npy", "--method", "vector"]
    applied = ["--apply", tmp_path / "p.npy", "--out-probs", tmp_path / "q.npy"]
    text = run(capsys, *given, "--out", tmp_path / "r.json", *applied)
    logits = np.log(np.maximum(probs, 1e-30))
    fitted = robcal.Recalibrator("vector").fit(logits, np.load(tmp_path / "y.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "q.npy"), fitted.predict_proba(logits), rtol=1e-12)
    np.testing.assert_array_equal(_told(text, probs=probs), np.load(tmp_path / "q.npy"))
    assert "which may change labels" in text


@pytest.mark.slow
def test_a_run_is_told_on_its_test_split_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "digits", "--model", "mlp", "--method", "vanilla", "--epochs", "3", "--quiet"]
    with pytest.raises(SystemExit):
        main(["train", *options, "--out", str(tmp_path / "run")])
    capsys.readouterr()
    text = run(capsys, tmp_path / "run")
    assert "On the 719 test examples, which no choice has seen: NLL" in text
    assert (tmp_path / "run" / "recalibrator.json").exists()


@pytest.mark.slow
def test_the_words_follow_from_the_figures() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(4000, 3))
    labels = (softmax(logits, axis=1).cumsum(1) > rng.random((4000, 1))).argmax(1)
    rows = robcal.Recalibrator().fit(logits, labels).comparison
    assert fallen_back(rows) == ("score-temperature came out as one temperature: the data ask for no more.",)
    calibrated = advice(rows)
    assert calibrated[0].startswith("Leave the probabilities as they are")
    assert calibrated[2].startswith("What is left: no level has a gap that can be told from 0. The largest, at level ")
    sure = robcal.Recalibrator("none").fit(3 * logits, labels)
    assert "over-confident" in advice(sure.comparison)[2]
    assert not fallen_back(sure.comparison)
    unsure = robcal.Recalibrator("none").fit(logits / 3, labels)
    assert "under-confident" in advice(unsure.comparison)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--logits", "z.npy", "--out", "r.json"], "--labels was not given"),
        (["--out", "r.json"], "none of a run directory, --logits and --probs were given"),
        (["--logits", "z.npy", "--labels", "y.npy"], "--out was not given"),
        (["--logits", "z.npy", "--labels", "y.npy", "--out", "r.json", "--apply", "t.npy"], "--apply and --out-probs"),
        (
            ["--logits", "z.npy", "--probs", "p.npy", "--out", "r.json"],
            "several of a run directory, --logits and --probs",
        ),
        (["nothing", "--out", "r.json"], "no run directory"),
    ],
)
def test_bad_options(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["recalibrate", *arguments])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_help_of_audit_names_every_kind_of_predictions_before_its_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    text = capsys.readouterr().out
    described = text[: text.index("Arguments")]
    for option in ("--label-column", "--prob-columns", "--probs", "--confidence", "--correct", "--model"):
        assert option in described
