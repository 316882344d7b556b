import dataclasses
from typing import get_args

import pytest

from robcal.base.checks import InputError
from robcal.base.storage import digest_of
from robcal.base.types import Scorer
from robcal.commands.train import Controller, MethodName
from robcal.methods import METHODS
from robcal.robustness.scoring import METHODS as ATTACKS
from robcal.smoothing.controllers import CONTROLLERS
from robcal.training.settings import TrainSettings

#: Digests of the release before split seeds, controllers, sources of levels and members: runs made then stay theirs.
BEFORE = {
    "vanilla": "73921de8e127f1d0",
    "label-smoothing": "228a6ca30cd73f7f",
    "adals": "a718de7fcff9303a",
    "random-levels": "3b416609b70d2d24",
    "ar-adals": "740619aefe6096d8",
}


def settings(method="ar-adals", **more):
    before = {"epochs": 3, "controller": "published", "levels_from": "robustness"}
    return TrainSettings("digits", "cnn", method, **{**before, **more})


def digest(one):
    return digest_of(one.relevant())


@pytest.mark.parametrize("method", BEFORE)
def test_digests_of_earlier_runs_stay(method):
    assert digest(settings(method)) == BEFORE[method]
    assert digest(settings(method, split_seed=0, folds=7, device="cpu")) == BEFORE[method]


@pytest.mark.parametrize("method", BEFORE)
def test_the_integral_controller_is_the_one_that_was_called_published(method):
    assert settings(method).controller == "integral"
    assert settings(method) == settings(method, controller="integral")
    assert digest(settings(method, controller="integral")) == BEFORE[method]


@pytest.mark.parametrize("method", BEFORE)
@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ({"split_seed": 4}, set(BEFORE)),
        ({"members": 2}, set(BEFORE)),
        ({"controller": "stable"}, {"adals", "random-levels", "ar-adals"}),
        ({"levels_from": "margin"}, {"ar-adals"}),
        ({"levels_from": "cross-fit", "folds": 4}, {"ar-adals"}),
        ({"levels": 4}, {"random-levels", "ar-adals"}),
        ({"scorer": "projection"}, {"ar-adals"}),
        ({"step_size": 0.7}, {"adals", "random-levels", "ar-adals"}),
        ({"epsilon": 0.7}, {"label-smoothing"}),
    ],
)
def test_a_setting_is_in_the_digest_where_it_matters(method, changed, matters):
    assert (digest(settings(method, **changed)) != BEFORE[method]) == (method in matters)


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
        ({"controller": "other"}, "--controller"),
        ({"levels_from": "guess"}, "--levels-from"),
        ({"levels_from": "loss", "scores": (__file__,)}, "--scores was given"),
    ],
)
def test_bad_settings_are_refused_by_the_name_of_the_flag(changed, words):
    with pytest.raises(InputError, match=words):
        settings(**changed)


def test_the_choices_of_the_command_line_are_those_of_the_library():
    """Types of the command line are `Literal`s, which import nothing; what they name stands where it is made."""
    assert set(get_args(MethodName)) == set(METHODS)
    assert set(get_args(Scorer)) == {"auto", *ATTACKS}
    assert set(get_args(Controller)) - {"published"} == set(CONTROLLERS)


def test_sources_of_levels_of_earlier_versions_are_read_and_not_trained():
    old = settings(levels_from="online")
    assert dataclasses.replace(old, epochs=3).levels_from == "online"
    with pytest.raises(InputError, match="--levels-from is 'online'; it must be one of robustness, cross-fit"):
        old.check_trainable()
    settings().check_trainable()


def test_settings_survive_a_round_trip():
    one = settings(split_seed=2, members=3, levels_from="margin")
    assert TrainSettings(**dataclasses.asdict(one)) == one
