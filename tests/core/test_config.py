import dataclasses
import json
from pathlib import Path

import pytest

from robcal.base.checks import InputError
from robcal.base.storage import digest_of
from robcal.runs.directory import open_run, settings_of
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

STEERED = {"adals", "random-levels", "ar-adals"}
#: Names of runs; where one changes, kept runs are made anew: change `VERSION` then, and these.
NAMES = {
    "vanilla": "0b796f6f9731b68b",
    "label-smoothing": "e6789bbfd9700cfe",
    "adals": "eb8ffacd39edd015",
    "random-levels": "26fc00ddc4ccf840",
    "ar-adals": "1f0eb072ee9940e9",
}
#: run.json of the version before options, one a method, as it wrote them.
FORMER = json.loads(Path(__file__).with_name("former_runs.json").read_text())


def settings(method="ar-adals", **more):
    return TrainSettings("digits", "cnn", method, **{"epochs": 3, "levels_from": "robustness", **more})


def digest(one):
    return digest_of(one.identity())


@pytest.mark.parametrize("method", NAMES)
def test_names_of_runs_stay(method):
    assert digest(settings(method)) == NAMES[method]
    assert digest(settings(method, split_seed=0, folds=7, device="cpu")) == NAMES[method]
    assert digest_of(settings(method).relevant()) != NAMES[method]  # the version is in it


@pytest.mark.parametrize("method", sorted(STEERED))
def test_the_integral_controller_is_the_one_that_was_called_published(method):
    one, other = (settings(method, options={"controller": name}) for name in ("published", "integral"))
    assert one == other
    assert one.options == {"controller": "integral", "gain": None, "step_size": 0.05}
    assert digest(one) != digest(settings(method))


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ({"split_seed": 4}, set(NAMES)),
        ({"members": 2}, set(NAMES)),
        ({"levels_from": "margin"}, {"ar-adals"}),
        ({"levels_from": "cross-fit", "folds": 4}, {"ar-adals"}),
        ({"levels": 4}, {"random-levels", "ar-adals"}),
        ({"cut": "train"}, {"ar-adals"}),
        ({"cut": "split"}, set()),
        ({"scorer": "projection"}, {"ar-adals"}),
    ],
)
def test_a_setting_is_in_the_digest_where_it_matters(method, changed, matters):
    assert (digest(settings(method, **changed)) != NAMES[method]) == (method in matters)


def test_folds_and_scorer_matter_where_they_are_used():
    def differ(source, **changed):
        return digest(settings(levels_from=source)) != digest(settings(levels_from=source, **changed))

    assert [differ(source, folds=5) for source in ("robustness", "cross-fit", "margin", "loss")] == [
        False, True, False, False,
    ]  # fmt: skip
    assert [differ(source, scorer="projection") for source in ("robustness", "cross-fit", "margin")] == [
        True, True, False,
    ]  # fmt: skip


def test_the_split_seed_cuts_the_data_and_the_reference_is_plain():
    assert settings(seed=3).data_seed == 3
    one = settings(seed=3, split_seed=8, levels_from="loss", members=4)
    assert one.data_seed == one.reference().data_seed == 8
    assert digest(one.reference()) == digest(settings("vanilla", seed=3, split_seed=8))
    assert digest(settings(seed=3, split_seed=3)) == digest(settings(seed=3))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"members": 0}, "--members"),
        ({"folds": 1}, "--folds"),
        ({"split_seed": -1}, "--split-seed"),
        ({"options": {"controller": "other"}}, "controller is 'other'"),
        ({"options": {"gains": 2.0}}, "Did you mean 'gain'"),
        ({"levels_from": "guess"}, "--levels-from"),
        ({"cut": "test"}, "--cut"),
        ({"cut": "train", "levels_from": "running"}, "--cut train was given"),
        ({"levels_from": "loss", "scores": (__file__,)}, "--scores was given"),
    ],
)
def test_bad_settings_are_refused_by_the_name_of_the_flag(changed, words):
    with pytest.raises(InputError, match=words):
        settings(**changed)


def test_sources_of_levels_of_earlier_versions_are_read_and_not_trained():
    old = settings(levels_from="online")
    assert dataclasses.replace(old, epochs=3).levels_from == "online"
    with pytest.raises(InputError, match="--levels-from is 'online'; it must be one of robustness, cross-fit"):
        old.check_trainable()
    settings().check_trainable()


def test_settings_survive_a_round_trip():
    one = settings(split_seed=2, members=3, levels_from="margin")
    assert TrainSettings(**dataclasses.asdict(one)) == one
    assert hash(one) == hash(TrainSettings(**dataclasses.asdict(one)))


def test_runs_by_the_former_default_of_levels_are_read_and_do_not_mix_with_those_by_the_present_one(tmp_path):
    """Its record says "margin"; the same command now means other levels, is told so, and has another name."""
    wanted = TrainSettings(**{**SMALL, "epochs": 1}, method="ar-adals", levels=3)
    former = dataclasses.replace(wanted, levels_from="margin")
    assert (wanted.levels_from, digest(wanted) == digest(former)) == ("running", False)
    run = train_run(former, tmp_path / "run")
    assert open_run(run.directory).settings == former
    with pytest.raises(InputError, match=r"other settings or data \(levels_from: margin there, running here\)"):
        train_run(wanted, run.directory)
    assert train_run(former, run.directory).is_complete


# runs of earlier versions --------------------------------------------------------------------------------------------

SMALL = {
    "data": "digits", "model": "mlp", "epochs": 4, "train_limit": 150, "test_limit": 60, "device": "cpu",
    "batch_size": 32,
}  # fmt: skip
#: What each record says, in the words of now.
MEANT = {
    "vanilla": {"seed": 3},
    "label-smoothing": {"options": {"epsilon": 0.1}},
    "adals": {"options": {"controller": "integral", "step_size": 0.15}},
    "random-levels": {"levels": 5, "options": {"controller": "stable", "gain": 4.0}},
    "ar-adals": {
        "levels_from": "cross-fit", "folds": 4, "scorer": "projection", "split_seed": 2, "members": 2,
        "options": {"gain": 8.0},
    },
    "mixup": {"options": {"alpha": 0.2}},
    "focal": {"options": {"gamma": 2.0}},
    "crl": {"options": {"weight": 0.5}},
    "ccat": {"options": {"epsilon": 0.02, "steps": 7, "rho": 5.0}},
    "adversarial-training": {"options": {"epsilon": 0.0157, "step_size": 0.0078, "steps": 3}},
    "swag": {"options": {"start": 0.5, "rank": 5, "samples": 8}},
    "mc-dropout": {"options": {"samples": 8}},
}  # fmt: skip


@pytest.mark.parametrize("method", MEANT)
def test_runs_of_the_version_before_options_open(method, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(FORMER[method]))
    meant = {"levels_from": "margin", **MEANT[method]}  # which was the default
    assert open_run(tmp_path).settings == TrainSettings(**SMALL, method=method, **meant)
    assert set(MEANT) == set(FORMER)


def test_the_oldest_runs_had_levels_by_robustness_and_the_published_update():
    old = FORMER["ar-adals"]["settings"]
    later = ("controller", "gain", "levels_from", "folds", "members", "split_seed")
    first = settings_of({"settings": {name: value for name, value in old.items() if name not in later}})
    assert (first["levels_from"], first["options"]) == ("robustness", {"controller": "integral", "step_size": 0.05})


@pytest.mark.slow
def test_a_finished_run_of_the_version_before_options_is_found_by_the_same_command(tmp_path):
    """Its record stays as it is; other settings are refused, and a comparison keeps its runs under other names."""
    wanted, former = TrainSettings(**SMALL, method="vanilla", seed=3), FORMER["vanilla"]
    run = train_run(wanted, tmp_path / "run")
    now = json.loads((run.directory / "run.json").read_text())
    assert now["data"] == former["data"]
    kept = json.dumps({**now, "settings": former["settings"], "digest": former["digest"]})
    (run.directory / "run.json").write_text(kept)
    weights = (run.directory / "model.safetensors").stat().st_mtime_ns
    assert train_run(wanted, run.directory).is_complete
    assert (run.directory / "run.json").read_text() == kept
    assert (run.directory / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(InputError, match=r"holds a run with other settings or data \(epochs: 4 there, 5 here\)"):
        train_run(dataclasses.replace(wanted, epochs=5), run.directory)
