import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest

from robcal.base.checks import InputError
from robcal.base.storage import load_fidelity, load_scores, save_scores
from robcal.commands.cli import main
from robcal.robustness.fidelity import fidelity
from robcal.robustness.scoring import score
from robcal.runs import fidelity as runs_fidelity
from robcal.runs.directory import load_model
from robcal.runs.fidelity import measure_fidelity
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("trust")]

OPTIONS = {"methods": ("first-order", "projection"), "sample": 30, "num_levels": 5, "iterations": 20, "restarts": 1}


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Intervals are no matter of this file (tests/robustness/test_fidelity.py), and take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_fidelity, "fidelity", functools.partial(fidelity, resamples=20))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = TrainSettings("digits", "mlp", "vanilla", epochs=4, test_limit=60)
    return train_run(settings, tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """A folder with what `OPTIONS` measure of the run, and these rows."""
    folder = tmp_path_factory.mktemp("measured")
    model, _ = load_model(run.checkpoint)
    return folder, measure_fidelity(model, run.dataset(), "test", folder / "f.json", **OPTIONS)


@pytest.fixture
def copied(measured, tmp_path):
    """The rows of `measured`, whose files lie in `tmp_path`."""
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    return measured[1]


def scores_of(folder, name):
    return [load_scores(file) for file in (folder / "f.json.scores").glob(f"{name}-*.parquet")]


def test_candidates_ceiling_and_references(copied, tmp_path):
    rows = copied
    assert [(row.name, row.kind) for row in rows[:2]] == [("first-order", "candidate"), ("projection", "candidate")]
    assert [row.kind for row in rows[2:]] == ["ceiling", "reference", "reference", "reference"]
    assert rows[1].metrics["verified"].value == 1
    assert rows[0].metrics["verified"].value == 0
    assert rows[1].metrics["ratio_median"].value >= 1 - 1e-6
    assert rows[1].metrics["spearman"].value > 0.95
    assert load_fidelity(tmp_path / "f.json") == rows
    assert len(scores_of(tmp_path, "reference-ddn")[0]) == 30
    assert len(scores_of(tmp_path, "first-order")[0]) == 60


def test_finished_scores_are_used_again_and_those_of_other_data_are_not(run, copied, tmp_path):
    model, _ = load_model(run.checkpoint)
    out = tmp_path / "f.json"
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "f.json.scores").iterdir()}
    again = measure_fidelity(model, run.dataset(), "test", out, overwrite=True, **OPTIONS)
    assert again == copied
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "f.json.scores").iterdir()} == kept
    measure_fidelity(model, run.dataset(), "test", out, overwrite=True, **{**OPTIONS, "seed": 5})
    assert len(scores_of(tmp_path, "reference-ddn")) == 2  # another sample
    assert len(scores_of(tmp_path, "first-order")) == 1  # the same split


def test_other_settings_of_the_references_are_computed_anew(run, copied, tmp_path):
    model, _ = load_model(run.checkpoint)
    more = {**OPTIONS, "restarts": 3}
    measure_fidelity(model, run.dataset(), "test", tmp_path / "f.json", overwrite=True, **more)
    before, after = sorted(scores_of(tmp_path, "reference-ddn"), key=lambda scores: scores.passes.mean())
    assert after.passes.mean() > before.passes.mean() + 50
    assert np.median(after.distance / before.distance) <= 1 + 1e-6


def test_bad_input_is_refused_before_any_work(run, tmp_path):
    model, _ = load_model(run.checkpoint)
    data = run.dataset()
    with pytest.raises(InputError, match="Did you mean 'projection'"):
        measure_fidelity(model, data, "test", tmp_path / "f.json", methods=("projektion",))
    with pytest.raises(InputError, match="--sample"):
        measure_fidelity(model, data, "test", tmp_path / "f.json", sample=3)
    (tmp_path / "f.json").write_text("{}")
    with pytest.raises(InputError, match="--overwrite"):
        measure_fidelity(model, data, "test", tmp_path / "f.json")
    with pytest.raises(InputError, match="no rows"):
        load_fidelity(tmp_path / "f.json")
    assert [file.name for file in tmp_path.iterdir()] == ["f.json"]


def test_the_command_writes_into_the_run_and_the_audit_shows_it(run, capsys):
    arguments = ["fidelity", "--model", str(run.directory), "--method", "projection", "--sample", "20", "--levels", "4"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--iterations", "20", "--restarts", "1", "--quiet"])
    assert not stop.value.code
    assert "projection" in capsys.readouterr().out
    assert json.loads((run.directory / "fidelity.json").read_text())["about"]["sample"] == 20
    with pytest.raises(SystemExit):
        main(["audit", str(run.directory), "--levels", "4", "--resamples", "50", "--quiet"])
    assert "Can the robustness scores be trusted?" in (run.directory / "audit.html").read_text()


# scores at hand -------------------------------------------------------------------------------------------------------


def test_scores_at_hand_are_measured_as_the_way_that_made_them(run, tmp_path):
    model, _ = load_model(run.checkpoint)
    made = score(model, run.dataset().split("test").inputs, method="projection", num_levels=5)
    options = {**OPTIONS, "methods": ("projection", "first-order")}
    known = measure_fidelity(model, run.dataset(), "test", tmp_path / "f.json", **options)
    options |= {"methods": ("first-order",), "at_hand": {"mine": made}, "overwrite": True}  # the references are kept
    rows = measure_fidelity(model, run.dataset(), "test", tmp_path / "f.json", **options)
    assert [(row.name, row.kind) for row in rows[:2]] == [("mine", "candidate"), ("first-order", "candidate")]
    assert rows[0].metrics == known[0].metrics
    assert rows[1:] == known[1:]
    assert len(scores_of(tmp_path, "first-order")[0]) == 30  # of the sample only: the scores at hand stratify it


def test_scores_at_hand_that_are_of_something_else_are_refused(run, tmp_path):
    model, _ = load_model(run.checkpoint)
    made = score(model, run.dataset().split("test").inputs, method="first-order")

    def measure(name, scores, **options):
        measure_fidelity(
            model, run.dataset(), "test", tmp_path / "f.json", at_hand={name: scores}, **{**OPTIONS, **options}
        )

    with pytest.raises(InputError, match="59"):
        measure("mine", made.subset(np.arange(59)))
    with pytest.raises(InputError, match="both called projection"):
        measure("projection", made)
    with pytest.raises(InputError, match="true class is lost"):
        measure("mine", dataclasses.replace(made, reference="label"))
    with pytest.raises(InputError, match="agree on the prediction"):
        measure("mine", dataclasses.replace(made, prediction=(made.prediction + 1) % 10), methods=())
    with pytest.raises(InputError, match="--method or --scores"):
        measure_fidelity(model, run.dataset(), "test", tmp_path / "f.json", methods=())
    assert not (tmp_path / "f.json").exists()


def test_the_command_measures_files_and_writes_beside_them(run, tmp_path, capsys):
    made = score(load_model(run.checkpoint)[0], run.dataset().split("test").inputs, method="first-order")
    file = save_scores(made, tmp_path / "mine.parquet")
    command = ["fidelity", "--model", str(run.directory), "--scores", str(file), "--sample", "20", "--levels", "4"]
    command += ["--iterations", "20", "--restarts", "1", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert not stop.value.code
    printed = capsys.readouterr().out
    rows = load_fidelity(tmp_path / "mine.fidelity.json")
    assert [row.name for row in rows if row.kind == "candidate"] == ["mine"]
    assert f"{rows[0].metrics['same_level'].value:.3f}".removeprefix("0") in printed
    (tmp_path / "other").mkdir()
    save_scores(made, tmp_path / "other/mine.parquet")
    with pytest.raises(SystemExit) as stop:
        main([*command, "--scores", str(tmp_path / "other/mine.parquet")])
    assert stop.value.code == 2
    assert "files of one name" in capsys.readouterr().err
