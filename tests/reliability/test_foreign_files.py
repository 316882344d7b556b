"""A file of another run, or one that was changed, is refused wherever a run or a comparison reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from robcal.base.checks import InputError
from robcal.base.storage import load_arrays, load_scores, save_json
from robcal.commands.recalibrate import recalibrate
from robcal.comparison.doing import plain_scores, scores_file
from robcal.comparison.outcomes import gather
from robcal.comparison.tasks import Choice, Entry, Place
from robcal.runs.collect import report_runs
from robcal.runs.directory import load_model, load_networks, open_run
from robcal.runs.measure import measure_inference, measure_run
from robcal.runs.model_audit import audit_run
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

LEVELS = {"num_levels": 4, "resamples": 20}


def settings(seed: int, **more) -> TrainSettings:
    return TrainSettings("digits", "mlp", "vanilla", epochs=1, test_limit=60, seed=seed, levels=4, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two finished and scored runs, a and b, and an ensemble of two."""
    root = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", 1), ("b", 2)):
        measure_run(train_run(settings(seed), root / name), shift=False)
        save_json({"rows": [], "about": {"model": open_run(root / name).model_digest}}, root / name / "fidelity.json")
    train_run(settings(1, members=2), root / "pair")
    return root


@pytest.fixture
def runs(made, tmp_path) -> Path:
    """A copy of them to damage."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def audited(run: Path) -> object:
    return audit_run(run, **LEVELS)


def older(run: Path) -> None:
    """Make it a run of version 0.1.0: no list of files, and no seals."""
    record = json.loads((run / "run.json").read_text())
    del record["files"]
    (run / "run.json").write_text(json.dumps(record))
    for file in run.glob("*.safetensors"):
        _rewrite(file, lambda metadata, arrays: metadata.update(robcal=_unsealed(metadata["robcal"])))
    for file in run.glob("*.parquet"):
        table = pq.read_table(file)
        kept = {b"robcal": _unsealed(table.schema.metadata[b"robcal"])}
        pq.write_table(table.replace_schema_metadata(kept), file)


def _unsealed(about: str | bytes) -> str:
    said = json.loads(about)
    del said["seal"]
    return json.dumps(said)


def _rewrite(file: Path, change: Callable[[dict, dict], object]) -> None:
    with safe_open(file, framework="numpy") as opened:
        metadata, arrays = dict(opened.metadata()), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(metadata, arrays)
    save_file(arrays, file, metadata=metadata)


# whole files of another run ------------------------------------------------------------------------------------------

FOREIGN = {
    "predictions-test.safetensors": audited,
    "predictions-val.safetensors": lambda run: measure_run(open_run(run), shift=False, temperature=True),
    "model.safetensors": audited,
    "history.json": audited,
    "run.json": audited,
    "scores-test.parquet": audited,
    "fidelity.json": audited,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_run_is_refused_by_name(runs, name):
    FOREIGN[name](runs / "a")
    shutil.copy(runs / "b" / name, runs / "a" / name)
    with pytest.raises(InputError, match=r"a/") as refused:
        FOREIGN[name](runs / "a")
    assert "elete " in str(refused.value)


def test_the_advice_on_foreign_scores_helps(runs):
    right = measure_run(open_run(runs / "a"), shift=False)
    shutil.copy(runs / "b/scores-test.parquet", runs / "a/scores-test.parquet")
    with pytest.raises(InputError, match=r"Delete .*a/scores-test\.parquet; the same command makes it anew"):
        report_runs([runs / "a"], shift=False)
    (runs / "a/scores-test.parquet").unlink()
    assert (measure_run(open_run(runs / "a"), shift=False).distance == right.distance).all()


def test_the_commands_on_a_run_refuse_foreign_predictions_and_networks(runs):
    for name in ("predictions-val.safetensors", "model.safetensors"):
        shutil.copy(runs / "b" / name, runs / "a" / name)
    with pytest.raises(InputError, match=r"predictions-val\.safetensors is not the file"):
        recalibrate(run=runs / "a", logits=None, labels=None, apply=None, out_probs=None, out=runs / "r.json")
    for checkpoint in (runs / "a", runs / "a/model.safetensors"):
        with pytest.raises(InputError, match=r"model\.safetensors is not the file"):
            load_model(checkpoint)


def test_members_of_an_ensemble_are_not_exchanged(runs):
    assert len(load_networks(open_run(runs / "pair"))) == 2
    shutil.copy(runs / "pair/member-0.safetensors", runs / "pair/member-1.safetensors")
    with pytest.raises(InputError, match=r"member-1\.safetensors is not the file"):
        load_networks(open_run(runs / "pair"))


def test_the_splits_of_a_run_are_not_exchanged(runs):
    shutil.copy(runs / "a/predictions-val.safetensors", runs / "a/predictions-test.safetensors")
    with pytest.raises(InputError, match="is not the file"):
        audited(runs / "a")


def test_seconds_of_another_network_are_measured_anew(runs):
    test = open_run(runs / "a").dataset().split("test")
    save_json({"model": "another", "seconds": 1e9}, runs / "a/inference.json")
    networks = load_networks(open_run(runs / "a"))
    assert measure_inference(open_run(runs / "a"), lambda: (networks, "cpu"), test)["seconds"] < 100


def test_a_comparison_refuses_what_another_seed_left_in_its_cache(runs, tmp_path):
    place = Place(tmp_path / "cache")
    for name, seed in (("a", 1), ("b", 2)):
        shutil.copytree(runs / name, place.of(settings(seed)))
    mine, other = place.of(settings(1)), place.of(settings(2))
    choice = Choice((settings(1),))
    before = plain_scores(choice, place, None)
    assert (before.distance == load_scores(runs / "a/scores-test.parquet").distance).all()
    gather(Entry("x", 1, (choice,)), place, None)
    shutil.copy(scores_file(other, None), scores_file(mine, None))
    with pytest.raises(InputError, match="the scores of another network"):
        plain_scores(choice, place, None)
    shutil.copy(other / "predictions-test.safetensors", mine / "predictions-test.safetensors")
    with pytest.raises(InputError, match="is not the file"):
        gather(Entry("x", 1, (choice,)), place, None)


# changed files -------------------------------------------------------------------------------------------------------


def test_one_changed_number_is_found(runs):
    def shift(metadata, arrays):
        arrays["probs"] = np.roll(arrays["probs"], 1, axis=0)

    _rewrite(runs / "a/predictions-test.safetensors", shift)
    with pytest.raises(InputError, match="changed after it was written"):
        load_arrays(runs / "a/predictions-test.safetensors")
    with pytest.raises(InputError, match="is not the file"):
        audited(runs / "a")


@pytest.mark.parametrize("column", ["distance", "status", "prediction", "margin"])
def test_a_changed_column_of_scores_is_found(runs, column):
    file = runs / "a/scores-test.parquet"
    table = pq.read_table(file)
    values = table.column(column).to_pylist()
    other = "estimate" if column == "status" else values[0] + 1
    changed = table.set_column(table.column_names.index(column), column, [[other, *values[1:]]])
    assert changed.schema.metadata == table.schema.metadata
    pq.write_table(changed.cast(table.schema), file)
    with pytest.raises(
        InputError, match=r"scores-test\.parquet was changed after it was written.*delete .*scores-test"
    ):
        load_scores(file)


def test_changed_words_about_scores_are_found(runs):
    file = runs / "a/scores-test.parquet"
    table = pq.read_table(file)
    about = {**json.loads(table.schema.metadata[b"robcal"]), "method": "carlini-wagner"}
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"robcal": json.dumps(about)}), file)
    with pytest.raises(InputError, match="changed after it was written"):
        load_scores(file)


def test_changed_settings_of_a_run_are_found(runs):
    record = json.loads((runs / "a/run.json").read_text())
    record["settings"]["seed"] = 3
    (runs / "a/run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json was changed: its settings are not those"):
        open_run(runs / "a")


# runs of version 0.1.0 -----------------------------------------------------------------------------------------------


def test_a_run_without_digests_is_read_as_before(runs):
    right = audited(runs / "a").to_dict()
    older(runs / "a")
    assert audited(runs / "a").to_dict() == right
    assert len(load_networks(open_run(runs / "pair"))) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "scores-test.parquet"])
def test_what_a_run_without_list_does_say_is_checked(runs, name):
    older(runs / "a")
    older(runs / "b")
    shutil.copy(runs / "b" / name, runs / "a" / name)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        audited(runs / "a")
