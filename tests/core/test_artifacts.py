import pickle

import numpy as np
import pytest
import torch

import robcal
from robcal.base.checks import InputError
from robcal.base.files import replacing
from robcal.base.npy import read_npy
from robcal.base.results import (
    Decision,
    GalleryItem,
    MethodResult,
    Missing,
    Results,
    ShiftCell,
    Stability,
    Study,
    Training,
)
from robcal.base.storage import (
    digest_of_tensors,
    load_checkpoint,
    load_levels,
    load_predictions,
    load_results,
    load_scores,
    load_state,
    save_checkpoint,
    save_json,
    save_levels,
    save_predictions,
    save_results,
    save_scores,
    save_state,
)
from robcal.base.types import EpochRow, Estimate, GroupRow, Levels, Predictions, ReliabilityBin, Scores, TrendTest


def some_scores(n=5):
    return Scores(
        distance=np.array([0.5, np.inf, 0.25, 1, 2], np.float32)[:n],
        status=np.array(["verified", "censored", "estimate", "verified", "verified"])[:n],
        prediction=np.arange(n),
        rival=np.array([1, -1, 0, 2, 2])[:n],
        margin=np.linspace(0, 1, n, dtype=np.float32),
        passes=np.full(n, 2.5, np.float32),
        method="projection",
        provenance={"model": "abc", "settings": {"num_rivals": 3}},
    )


def some_results():
    row = GroupRow("0", 7, 0.1, float("inf"), Estimate(0.5), Estimate(0.6), Estimate(0.1, 0.0, 0.2), Estimate(0.2))
    method = MethodResult(
        "vanilla",
        "Plain",
        (0, 1),
        {"ece": Estimate(0.1, None, None, (0.1, 0.2))},
        (ReliabilityBin(0.0, 0.1, 0, float("nan"), Estimate(float("nan"))),),
        (row,),
        {"my <group>": (row,)},
        (TrendTest("gap", -0.3, 0.01, 1000),),
        (ShiftCell("fog", 1, 0.1, 0.9, 0.3, 0.2),),
        (EpochRow(1, 0.5, 0.9, 0.4, 0.02, (0.0, 0.1), (0.2, -0.1)),),
        (GalleryItem(3, b"\x89PNG", "1", "7", 0.9, None, 0),),
        minus={"x": {"ece": Estimate(-0.1)}},
        scaled=MethodResult(
            "vanilla", "Plain", marks={"ece": "best"}, risk=((0.1, None),), stability=Stability(2, 0.1)
        ),
        training=Training("vanilla", settings={"epochs": 3}, runs=(("a",),), inference_seconds=(float("nan"),)),
    )
    decided = Decision("t", "ece", "a", "b", "below", 0.0, True, None, "not measured", (), (0,))
    study = Study({"seeds": [0]}, "1f", ("a",), targets=(decided,), missing=(Missing("a", 0, "all", "train", "full"),))
    return Results("A & B", {"name": "digits", "sizes": {"test": 5}}, (method,), ("n",), study=study)


def test_results_come_back_as_they_were(tmp_path):
    results = some_results()
    loaded = load_results(save_results(results, tmp_path / "results.json"))
    assert repr(loaded) == repr(results)  # repr, since NaN != NaN


def test_scores_come_back_as_they_were(tmp_path):
    scores = some_scores()
    loaded = load_scores(save_scores(scores, tmp_path / "s.parquet"))
    for name in Scores.columns():
        np.testing.assert_array_equal(getattr(loaded, name), getattr(scores, name))
        assert getattr(loaded, name).dtype.kind == getattr(scores, name).dtype.kind
    assert (loaded.method, loaded.reference, loaded.provenance) == ("projection", "prediction", scores.provenance)


def test_scores_are_public_and_take_a_path_as_text(tmp_path):
    file = str(tmp_path / "scores.parquet")
    assert robcal.save_scores(some_scores(), file) == tmp_path / "scores.parquet"
    np.testing.assert_array_equal(robcal.load_scores(file).distance, some_scores().distance)
    with pytest.raises(InputError, match="exists"):
        robcal.save_scores(some_scores(), file)
    with pytest.raises(InputError, match=r"nowhere\.parquet"):
        robcal.load_scores(str(tmp_path / "nowhere.parquet"))


def test_levels_predictions_state_and_checkpoint_come_back(tmp_path):
    levels = load_levels(save_levels(Levels(np.array([0, 1, 1]), 2, "random"), tmp_path / "l.parquet"))
    assert (levels.level.tolist(), levels.num_levels, levels.source) == ([0, 1, 1], 2, "random")
    made = Predictions(np.eye(3, dtype=np.float32), np.arange(3), provenance={"a": 1})
    loaded = load_predictions(save_predictions(made, tmp_path / "p.safetensors"))
    np.testing.assert_array_equal(loaded.probs, made.probs)
    assert loaded.logits is None
    assert loaded.provenance == {"a": 1}
    state = load_state(save_state({"a": torch.arange(3), "b": [1, "x", 2.5]}, tmp_path / "s.pt"))
    assert torch.equal(state["a"], torch.arange(3))
    assert state["b"] == [1, "x", 2.5]
    weights = {"w": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)}
    tensors, about = load_checkpoint(save_checkpoint(weights, {"model": "cnn"}, tmp_path / "m.safetensors"))
    assert torch.equal(tensors["w"], weights["w"])
    assert about == {"model": "cnn"}
    assert digest_of_tensors(tensors) == digest_of_tensors(weights)
    assert digest_of_tensors(tensors) != digest_of_tensors({"w": weights["w"] + 1})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "x.json"
    save_json({"a": 1}, file)
    with pytest.raises(UnicodeEncodeError), replacing(file) as temporary:
        temporary.write_text("half, then what cannot be written: \ud800", encoding="utf-8")
    assert file.read_text().strip() == '{\n "a": 1\n}'
    assert list(tmp_path.iterdir()) == [file]


def test_existing_outputs_are_kept_without_overwrite(tmp_path):
    file = save_scores(some_scores(), tmp_path / "s.parquet")
    before = file.read_bytes()
    with pytest.raises(InputError, match="overwrite"):
        save_scores(some_scores(3), file)
    assert file.read_bytes() == before
    save_scores(some_scores(3), file, overwrite=True)
    assert len(load_scores(file)) == 3


READERS = {
    "scores": (load_scores, lambda path: save_scores(some_scores(), path), "s.parquet"),
    "levels": (load_levels, lambda path: save_levels(Levels(np.zeros(2, int), 1), path), "l.parquet"),
    "predictions": (
        load_predictions,
        lambda path: save_predictions(Predictions(np.eye(2, dtype=np.float32), np.arange(2)), path),
        "p.safetensors",
    ),
    "checkpoint": (
        load_checkpoint,
        lambda path: save_checkpoint({"w": torch.zeros(3)}, {"model": "m"}, path),
        "m.safetensors",
    ),
    "state": (load_state, lambda path: save_state({"a": torch.zeros(100)}, path), "s.pt"),
    "results": (load_results, lambda path: save_results(some_results(), path), "r.json"),
    "array": (lambda path: read_npy(path, "x"), lambda path: np.save(path, np.arange(10)), "a.npy"),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise", "pickle"])
def test_unreadable_files_are_refused_by_name(tmp_path, kind, damage):
    read, write, name = READERS[kind]
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        made = {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "noise": bytes(range(256)) * 4,
            "pickle": pickle.dumps(_Bomb(tmp_path / "ran")),
        }
        path.write_bytes(made[damage])
    with pytest.raises(InputError, match=name):
        read(path)
    assert not (tmp_path / "ran").exists()


class _Bomb:
    """Creates a file if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_a_pickled_npy_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([_Bomb(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_npy(tmp_path / "a.npy", "probs")
    assert not (tmp_path / "ran").exists()


def test_a_scores_file_that_lacks_a_column_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"distance": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="status, prediction"):
        load_scores(tmp_path / "x.parquet")


def test_the_same_arrays_are_the_same_bytes(tmp_path):
    """safetensors writes several entries of metadata in any order: there is one."""
    written = {
        save_checkpoint({"w": torch.zeros(3)}, {"model": "m", "seed": n and 0}, tmp_path / f"{n}.st").read_bytes()
        for n in range(20)
    }
    assert len(written) == 1
