import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robcal.base.checks import InputError
from robcal.base.distributed import Group
from robcal.base.levels import assign_levels
from robcal.base.storage import load_levels, load_predictions, load_scores
from robcal.base.types import Scores
from robcal.calibration.recalibration.maps import margins
from robcal.data import Dataset, Split
from robcal.runs import level_sources
from robcal.runs import scores as split_scores
from robcal.runs.directory import load_data, load_model, load_networks, open_run
from robcal.runs.level_sources import (
    assign_folds,
    cross_fit_quantiles,
    log_likelihood,
    make_folds,
    quantiles,
    score_reference,
    shared_folds,
)
from robcal.runs.model_audit import audit_run
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

TINY = {"data": "digits", "model": "mlp", "epochs": 2, "train_limit": 200, "test_limit": 60, "device": "cpu"}


def settings(method="ar-adals", **more):
    return TrainSettings(
        **{**TINY, "method": method, "scorer": "first-order", "levels": 5, "levels_from": "robustness", **more}
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train_run(settings("vanilla"), tmp_path_factory.mktemp("plain") / "run")


def scores_of(distance):
    n = len(distance)
    zeros = np.zeros(n, np.int64)
    return Scores(
        np.asarray(distance, np.float32), np.full(n, "estimate"), zeros, zeros, np.zeros(n, np.float32),
        np.zeros(n, np.float32), method="given",
    )  # fmt: skip


# margin and loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["margin", "loss"])
def test_levels_by_difficulty_are_cuts_of_one_forward_pass(plain, tmp_path, kind):
    """The oracle: torch's own cross-entropy, and the two largest logits, one example at a time."""
    run = train_run(settings(levels_from=kind), tmp_path / "run", reference=plain.directory)
    model, _ = load_model(plain.directory)
    for name in ("train", "val"):
        split = run.dataset().split(name)
        with torch.no_grad():
            logits = model(split.batch(np.arange(len(split))))
        if kind == "loss":
            loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(split.labels), reduction="none")
            easy = -loss.numpy()
        else:
            easy = np.array([sorted(row)[-1] - sorted(row)[-2] for row in logits.double().tolist()])
        levels = load_levels(run.directory / f"levels-{name}.parquet")
        assert (levels.source, levels.num_levels) == (kind, 5)
        assert (levels.level == assign_levels(easy, 5)).mean() > 0.99  # batches may round otherwise
        assert easy[levels.level == 0].max() <= easy[levels.level == 4].min()
    assert not list(run.directory.glob("scores-*"))  # no attack


@pytest.mark.parametrize("controller", ["stable", "integral"])
def test_validation_levels_by_the_thresholds_of_training(plain, tmp_path, controller):
    """The oracle: the margins themselves. Levels are of any size then, and an empty one does not stop the training."""
    named = {"levels_from": "margin", "cut": "train", "options": {"controller": controller}, "levels": 20}
    run = train_run(settings(**named), tmp_path / "run", reference=plain.directory)
    model, _ = load_model(plain.directory)
    margin, level = {}, {}
    for name in ("train", "val"):
        split = run.dataset().split(name)
        with torch.no_grad():
            margin[name] = margins(model(split.batch(np.arange(len(split)))).numpy())
        level[name] = load_levels(run.directory / f"levels-{name}.parquet").level
    highest = [margin["train"][level["train"] == r].max() for r in range(19)]
    assert (level["train"] == assign_levels(margin["train"], 20)).mean() > 0.99
    assert (level["val"] == np.searchsorted(highest, margin["val"])).mean() > 0.98  # batches may round otherwise
    assert np.ptp(np.bincount(level["val"], minlength=20)) > 1
    assert all(np.isfinite(row.epsilon).all() for row in run.history())


@given(st.integers(0, 2**32 - 1))
def test_margin_and_likelihood_ignore_a_shift_of_the_logits(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    probs = np.exp(logits.astype(np.float64))
    probs /= probs.sum(1, keepdims=True)
    np.testing.assert_allclose(log_likelihood(logits, labels), np.log(probs[np.arange(6), labels]), atol=1e-12)
    ordered = np.sort(probs, axis=1)
    np.testing.assert_allclose(margins(logits), np.log(ordered[:, -1] / ordered[:, -2]), atol=1e-12)
    far = logits + np.float32(512)
    np.testing.assert_allclose(log_likelihood(far, labels), log_likelihood(logits, labels), atol=1e-3)
    assert np.isfinite(log_likelihood(logits * 1000, labels)).all()


# cross-fit -----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 7), st.integers(20, 60), st.integers(2, 5), st.integers(0, 1000))
def test_folds_are_alike_in_size_and_classes(folds, count, classes, seed):
    labels = np.random.default_rng(seed).integers(0, classes, count)
    fold = assign_folds(labels, folds, seed)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for c in range(classes):
        assert np.ptp(np.bincount(fold[labels == c], minlength=folds)) <= 1
    np.testing.assert_array_equal(fold, assign_folds(labels, folds, seed))


def test_folds_are_drawn_by_the_seed_and_refuse_to_be_empty():
    labels = np.zeros(40, np.int64)
    assert (assign_folds(labels, 4, 0) != assign_folds(labels, 4, 1)).any()
    with pytest.raises(InputError, match="--folds is 5"):
        assign_folds(labels[:4], 5, 0)


def test_no_example_is_scored_by_a_model_that_saw_it(monkeypatch, tmp_path):
    """Every example carries its number in its first feature; what training and scoring are handed is written down."""
    count = 50
    labels = np.arange(count) % 3
    inputs = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    inputs[:, 0] = np.arange(count)
    val = Split(np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32), np.arange(20) % 3)
    data = Dataset("t", {"train": Split(inputs, labels), "val": val, "test": val}, ("a", "b", "c"), None, "table", "t")
    trained, scored, distance = [], [], np.random.default_rng(2).random((3, count))

    def train(network, seen, method, plain, **more):
        assert method.name == "vanilla"
        trained.append(set(seen.split("train").inputs[:, 0].astype(int).tolist()))

    def score(model, part, split, out, **more):
        numbers = part.split(split).inputs[:, 0].astype(int) if split == "train" else np.arange(20)
        scored.append((split, numbers))
        return scores_of(distance[len(trained) - 1, numbers])

    monkeypatch.setattr(level_sources, "fit", train)
    monkeypatch.setattr(split_scores, "score_split", score)
    found = cross_fit_quantiles(settings(folds=3, levels_from="cross-fit"), data, tmp_path / "folds", Group())

    held_out = [numbers for split, numbers in scored if split == "train"]
    assert sorted(np.concatenate(held_out).tolist()) == list(range(count))
    assert len(trained) == len(held_out) == 3
    for k, (seen, unseen) in enumerate(zip(trained, held_out, strict=True)):
        assert not seen & set(unseen.tolist())
        assert len(seen) + len(unseen) == count
        for number in unseen:  # by hand: the share of its fold that is nearer, and half of itself
            nearer = (distance[k, unseen] < distance[k, number]).sum()
            assert found["train"][number] == pytest.approx((nearer + 0.5) / len(unseen))
    by_model = [[((row[:20] < value).sum() + 0.5) / 20 for value in row[:20]] for row in distance]
    np.testing.assert_allclose(found["val"], np.mean(by_model, 0))


def test_quantiles_do_not_depend_on_the_scale_of_a_model():
    distance = np.random.default_rng(0).random(30)
    np.testing.assert_array_equal(quantiles(scores_of(distance)), quantiles(scores_of(7 * distance)))
    assert sorted(quantiles(scores_of([0.3, np.inf, 0.1, np.inf]))) == [0.125, 0.375, 0.625, 0.875]
    np.testing.assert_array_equal(quantiles(scores_of([0.3, np.inf, 0.1, np.inf])), [0.375, 0.625, 0.125, 0.875])


@pytest.mark.slow
def test_a_cross_fitted_run_keeps_its_folds_and_shares_those_of_its_reference(plain, tmp_path, monkeypatch):
    wanted = settings(levels_from="cross-fit", folds=2)
    one = train_run(wanted, tmp_path / "one")
    folds = one.directory / "folds"
    names = {f"fold-{k}.safetensors" for k in range(2)}
    names |= {f"fold-{k}-{part}-first-order-5.parquet" for k in range(2) for part in ("held-out", "val")}
    assert {file.name for file in folds.iterdir()} == names
    assert not (one.directory / "reference").exists()
    data = load_data(wanted)
    for fold in make_folds(data, 2, wanted.seed):
        kept = load_scores(folds / f"fold-{fold.number}-held-out-first-order-5.parquet")
        levels = load_levels(one.directory / "levels-train.parquet").level[fold.held_out]
        np.testing.assert_array_equal(levels, assign_levels(kept, 5))  # folds of 100 examples: levels of 20 each
    assert np.bincount(load_levels(one.directory / "levels-val.parquet").level).tolist() == [65, 65, 65, 64, 64]

    score_reference(plain, wanted, dataset=data)
    assert {file.name for file in shared_folds(plain.directory, wanted).iterdir()} == names
    monkeypatch.setattr(level_sources, "fit", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(split_scores, "score_split", lambda *a, **k: pytest.fail("scored again"))
    two = train_run(wanted, tmp_path / "two", reference=plain.directory)
    for name in ("train", "val"):
        np.testing.assert_array_equal(
            load_levels(two.directory / f"levels-{name}.parquet").level,
            load_levels(one.directory / f"levels-{name}.parquet").level,
        )
    assert not (two.directory / "folds").exists()


def test_a_cross_fitted_run_that_was_killed_goes_on(tmp_path, monkeypatch):
    wanted = settings(levels_from="cross-fit", folds=2)
    real = split_scores.score_split

    def fail(model, part, split, out, **more):
        if "fold-1-held-out" in out.name:
            raise KeyboardInterrupt
        return real(model, part, split, out, **more)

    monkeypatch.setattr(split_scores, "score_split", fail)
    with pytest.raises(KeyboardInterrupt):
        train_run(wanted, tmp_path / "run")
    monkeypatch.setattr(split_scores, "score_split", real)
    monkeypatch.setattr(level_sources, "fit", lambda *a, **k: pytest.fail("trained again"))
    run = train_run(wanted, tmp_path / "run")
    assert run.is_complete
    assert not list((run.directory / "folds").glob("*.pt"))


def test_folds_of_other_settings_are_not_taken(tmp_path):
    data = load_data(settings())
    first = settings(levels_from="cross-fit", folds=2)
    one = cross_fit_quantiles(first, data, tmp_path, Group())
    other = cross_fit_quantiles(settings(levels_from="cross-fit", folds=2, learning_rate=0.02), data, tmp_path, Group())
    assert (one["val"] != other["val"]).any()


# runs of earlier versions --------------------------------------------------------------------------------------------


def test_a_run_with_settings_of_earlier_versions_opens_without_them(plain):
    """`--online` never changed what was trained, so its settings are dropped; the rest is as it was."""
    file = plain.directory / "run.json"
    whole = file.read_text()
    record = json.loads(whole)
    former = {name: value for name, value in record["settings"].items() if name != "options"}
    record["settings"] = {**former, "online": "linear", "online_sample": 200}
    try:
        file.write_text(json.dumps(record))
        assert open_run(plain.directory).settings == plain.settings
        record["settings"]["onlin"] = 1
        file.write_text(json.dumps(record))
        with pytest.raises(InputError, match="does not hold a run's settings"):
            open_run(plain.directory)
    finally:
        file.write_text(whole)


def test_a_run_whose_levels_followed_the_training_is_read_and_measured_and_no_new_one_is_trained(plain, tmp_path):
    run = train_run(settings(levels_from="margin"), tmp_path / "old", reference=plain.directory)
    record = json.loads((run.directory / "run.json").read_text())
    former = {name: value for name, value in record["settings"].items() if name != "options"}
    record["settings"] = {**former, "controller": "stable", "levels_from": "online", "online": None}
    del record["files"]  # there was no such list
    (run.directory / "run.json").write_text(json.dumps(record))
    old = open_run(run.directory)
    assert old.settings.levels_from == "online"
    assert audit_run(run.directory, num_levels=5, resamples=20).results.methods[0].title == "AR-AdaLS (online levels)"
    with pytest.raises(InputError, match="--levels-from is 'online'"):
        train_run(old.settings, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ensembles, predictions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vanilla", "adals", "ar-adals"])
def test_an_ensemble_s_run_directory(plain, tmp_path, method):
    run = train_run(settings(method, members=2), tmp_path / "run", reference=plain.directory)
    assert {file.name for file in run.directory.glob("*.safetensors")} == {
        "member-0.safetensors", "member-1.safetensors", "predictions-val.safetensors", "predictions-test.safetensors",
    }  # fmt: skip
    networks = load_networks(open_run(run.directory))
    assert len(networks) == 2
    data = run.dataset()
    for name in ("val", "test"):
        split, kept = data.split(name), load_predictions(run.directory / f"predictions-{name}.safetensors")
        with torch.no_grad():
            probs = [network(split.batch(np.arange(len(split)))).double().softmax(1).numpy() for network in networks]
        np.testing.assert_allclose(kept.probs, (probs[0] + probs[1]) / 2, atol=1e-6)
        np.testing.assert_allclose(np.exp(kept.logits), kept.probs, atol=1e-6)
        np.testing.assert_array_equal(kept.labels, split.labels)
    assert np.abs(probs[0] - probs[1]).max() > 0.01
    with pytest.raises(InputError, match="holds 2 networks"):
        load_model(run.directory)
    with pytest.raises(InputError, match="holds 2 networks"):
        load_model(run.checkpoint)
    assert load_model(run.checkpoints[1])[1]["member"] == 1
    again = train_run(settings("vanilla", epochs=1), run.directory, overwrite=True)
    assert len(load_networks(again)) == 1
    assert not list(run.directory.glob("member-*"))


def test_a_run_keeps_predictions_of_validation_with_its_logits(plain):
    kept = load_predictions(plain.directory / "predictions-val.safetensors")
    val = plain.dataset().split("val")
    with torch.no_grad():
        logits = load_networks(plain)[0](val.batch(np.arange(len(val))))
    np.testing.assert_allclose(kept.logits, logits.numpy(), atol=1e-5)
    np.testing.assert_array_equal(kept.labels, val.labels)


def test_a_split_seed_gives_runs_of_other_seeds_the_same_data(plain, tmp_path):
    one = settings("vanilla", seed=4, split_seed=0)
    assert load_data(one).digest("train") == plain.dataset().digest("train")
    assert load_data(one).digest("val") == plain.dataset().digest("val")
    assert load_data(settings("vanilla", seed=4)).digest("train") != plain.dataset().digest("train")
    run = train_run(one, tmp_path / "run")
    weights = [load_networks(each)[0].state_dict() for each in (run, plain)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


@pytest.mark.parametrize("members", [1, 2])
def test_running_levels_need_no_reference_and_stand_in_the_run(tmp_path, members):
    wanted = settings(levels_from="running", members=members)
    assert wanted.identity() != settings(levels_from="margin", members=members).identity()
    run = train_run(wanted, tmp_path / "run")
    assert not (run.directory / "reference").exists()
    for split in ("train", "val"):
        levels = load_levels(run.directory / f"levels-{split}.parquet")
        assert levels.source == "running"
        assert np.ptp(np.bincount(levels.level, minlength=5)) <= 1
    assert len(open_run(run.directory).history()[-1].gap) == 5
