import copy
import dataclasses
from pathlib import Path

import pytest

from robcal.base.checks import InputError
from robcal.base.storage import save_json
from robcal.commands.cli import main
from robcal.commands.compare import _seeds
from robcal.comparison import load_plan, parse_plan, preset_names
from robcal.comparison.doing import scoring_kind
from robcal.comparison.outcomes import seconds
from robcal.comparison.study import plan_work
from robcal.comparison.tasks import Choice, Entry, Place, Work
from robcal.training.settings import TrainSettings

RAW = {
    "seeds": [0, 1],
    "recipe": {"data": "digits", "model": "mlp", "epochs": 2},
    "tuning": {"seeds": [100], "select": "val_nll"},
    "methods": [
        {"label": "Plain", "method": "vanilla"},
        {"label": "LS", "method": "label-smoothing", "grid": {"epsilon": [0.05, 0.1]}},
        {
            "label": "AR",
            "method": "ar-adals",
            "options": {"levels": 4, "controller": "published"},
            "grid": {"step_size": [0.1, 0.2]},
        },
        {
            "label": "Joint",
            "method": "ar-adals",
            "options": {"levels": 4, "members": 2, "controller": "published"},
            "tuned_as": "AR",
        },
    ],
    "ensembles": [{"label": "Deep", "of": "Plain", "members": 2, "seeds": [1]}],
    "targets": [{"name": "t", "metric": "ece", "method": "AR", "against": "Plain"}],
}


def changed(path, value):
    raw = copy.deepcopy(RAW)
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return raw


def test_every_preset_is_whole():
    assert {"digits", "cifar10-overfit", "cifar10-regularised"} <= set(preset_names())
    for name in preset_names():
        plan = load_plan(name, recipe={"data": "cifar10:somewhere"})
        assert not plan.warnings()
        assert len(plan.seeds) >= 5
        for method in plan.methods:
            for point in plan.grid_of(method)[1]:
                assert plan.settings(method, 3, point=point).seed == 3


@pytest.mark.parametrize("name", ["cifar10-overfit", "cifar10-regularised"])
def test_presets_that_leave_the_data_open_ask_for_it(name):
    with pytest.raises(InputError, match="--data"):
        load_plan(name)


def test_settings_are_the_recipe_then_the_options_then_the_grid_point():
    plan = parse_plan(RAW)
    method = plan.method("AR")
    made = plan.settings(method, 1, point={"step_size": 0.2}, split_seed=5)
    assert (made.levels, made.options["step_size"], made.epochs, made.seed, made.split_seed) == (4, 0.2, 2, 1, 5)
    assert plan.grid_of(plan.method("Joint")) == (method, ({"step_size": 0.1}, {"step_size": 0.2}))
    assert plan.grid_of(plan.method("Plain"))[1] == ({},)
    assert plan.reference == ("Plain",)
    assert plan.labels == ("Plain", "LS", "AR", "Joint", "Deep")


def test_a_grid_is_the_product_of_its_lists():
    plan = parse_plan(changed(["methods", 2, "grid"], {"step_size": [0.1, 0.2], "levels": [2, 4, 8]}))
    assert [tuple(point.values()) for point in plan.method("AR").grid] == [
        (a, r) for a in (0.1, 0.2) for r in (2, 4, 8)
    ]
    assert "LS 2, AR 6" in plan.warnings()[0]


def test_seeds_of_the_command_line_cut_those_of_the_file(tmp_path):
    import json

    text = "\n".join(
        [
            "seeds = [0, 1, 2]",
            '[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 2',
            '[[methods]]\nlabel = "Plain"\nmethod = "vanilla"',
            f'[[ensembles]]\nlabel = "Deep"\nof = "Plain"\nmembers = 2\nseeds = {json.dumps([0, 2])}',
        ]
    )
    (tmp_path / "file.toml").write_text("\ufeff" + text.replace("\n", "\r\n"))  # as Windows saves it
    plan = load_plan(str(tmp_path / "file.toml"), seeds=[1, 2], recipe={"epochs": 3})
    assert plan.seeds == (1, 2)
    assert plan.ensembles[0].seeds == (2,)
    assert plan.recipe["epochs"] == 3
    with pytest.raises(InputError, match=r"--seeds 1 leaves 'Deep' no seed: its own are 0, 2"):
        load_plan(str(tmp_path / "file.toml"), seeds=[1])  # it ran on 1, which the file does not give it


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["seed"], [0], r"a key of the file is 'seed'.*Did you mean 'seeds'"),
        (["seeds"], [], "at least one"),
        (["seeds"], [0, 0], "none twice"),
        (["seeds"], 3, "seeds is 3; it must be a list"),
        (["seeds"], [True], r"seeds\[0\] is True; it must be a whole number"),
        (["shift_limit"], -1, "shift_limit is -1"),
        (["recipe", "epoch"], 3, "a key of recipe is 'epoch'.*Did you mean 'epochs'"),
        (["recipe", "seed"], 3, "recipe.seed is given"),
        (["recipe", "epochs"], "ten", "'Plain': --epochs is 'ten'"),
        (["recipe", "epochs"], 0, "'Plain': --epochs is 0"),
        (["tuning", "select"], "val_acc", "tuning.select is 'val_acc'"),
        (["tuning", "seeds"], [1], "tuning.seeds holds 1"),
        (["methods", 0, "method"], "vanila", "Did you mean 'vanilla'"),
        (["methods", 0, "lable"], "x", "Did you mean 'label'"),
        (["methods", 1, "grid"], {"epsilom": [0.1]}, r"methods\[1\].grid.*Did you mean 'epsilon'"),
        (["methods", 1, "grid"], {"epsilon": 0.1}, "must be a list of values"),
        (["methods", 1, "grid"], {"epsilon": [1.5]}, "'LS': epsilon is 1.5"),
        (["methods", 1, "label"], "Plain", "none twice"),
        (["methods", 2, "grid"], {"epochs": [2, 3]}, "changes its reference model"),
        (["methods", 3, "tuned_as"], "Plain", r"methods\[3\].tuned_as is 'Plain'"),
        (["methods", 0, "seeds"], [7], r"methods\[0\].seeds holds 7"),
        (["ensembles", 0, "of"], "Plane", r"ensembles\[0\].of is 'Plane'.*Did you mean 'Plain'"),
        (["ensembles", 0, "members"], 0, "members is 0"),
        (["reference"], ["Plain", "Nobody"], "reference is 'Nobody'"),
        (["targets", 0, "metric"], "ecee", r"targets\[0\].metric.*Did you mean 'ece'"),
        (["targets", 0, "kind"], "within", "needs a margin"),
        (["targets", 0, "margin"], -0.1, "margin is -0.1; it must be at least 0"),
        (["targets", 0, "margin"], float("nan"), "margin is nan; it must be at least 0"),
        (["targets", 0, "against"], "Plan", "Did you mean 'Plain'"),
        (["methods"], "all", "methods is 'all'; it must be a list"),
        (["recipe"], 3, "recipe is 3; it must be a table"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(path, value, message):
    with pytest.raises(InputError, match=message):
        parse_plan(changed(path, value))


@pytest.mark.parametrize("key", ["seeds", "recipe", "methods"])
def test_missing_keys_are_named(key):
    with pytest.raises(InputError, match=f"{key} is missing"):
        parse_plan({name: value for name, value in RAW.items() if name != key})


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'digits'"):
        load_plan("digit")
    with pytest.raises(InputError, match="does not exist"):
        load_plan(str(tmp_path / "no.toml"))
    (tmp_path / "bad.toml").write_text("seeds = [")
    with pytest.raises(InputError, match="a comparison is a TOML file"):
        load_plan(str(tmp_path / "bad.toml"))
    (tmp_path / "bad.toml").write_text("seeds = [0]", encoding="utf-16")
    with pytest.raises(InputError, match="the file is saved in UTF-8"):
        load_plan(str(tmp_path / "bad.toml"))


def test_the_digest_ignores_what_no_number_depends_on():
    plan = parse_plan(RAW)
    same = parse_plan({**changed(["recipe", "device"], "cpu"), "title": "Another", "reference": ["AR"], "targets": []})
    assert same.digest() == plan.digest()
    assert parse_plan(changed(["recipe", "epochs"], 3)).digest() != plan.digest()


def test_a_plan_without_a_source_of_levels_is_another_one_than_under_the_former_default(tmp_path):
    """Runs of the former default, "robustness", are not found as those of now, and results are not replaced unasked."""
    plan, former = parse_plan(RAW), parse_plan(changed(["recipe", "levels_from"], "robustness"))
    now, then = (one.settings(one.method("AR"), 0) for one in (plan, former))
    assert (now.levels_from, then.levels_from) == ("running", "robustness")
    assert Place(tmp_path).of(now) != Place(tmp_path).of(then)
    save_json({"plan_digest": "8730806f9dcd3cdb"}, tmp_path / "results.json")  # as it was written under that default
    with pytest.raises(InputError, match="another comparison"):
        plan_work(plan, tmp_path)
    assert parse_plan(changed(["recipe", "levels_from"], "margin")).digest() == "8fac7d10f5cdc0b1"  # as before


def test_scores_for_other_levels_are_timed_on_their_own(tmp_path):
    """One reference model scored for 3 and for 5 levels: each method pays for its own scores."""
    settings = TrainSettings("digits", "mlp", "ar-adals", epochs=1, levels=3, levels_from="robustness")
    other = dataclasses.replace(settings, levels=5)
    place = Place(tmp_path)
    reference, runs = place.of(settings.reference()), (place.of(settings), place.of(other))
    assert place.of(other.reference()) == reference
    scoring = {scoring_kind(settings): 4.0, scoring_kind(other): 8.0}
    for directory in (reference, *runs):
        directory.mkdir(parents=True)
        save_json({"train": 1.0, **(scoring if directory == reference else {})}, directory / "seconds.json")
    costs = [seconds(Entry("AR-AdaLS", 0, (Choice((one,)),)), place) for one in (settings, other)]
    assert costs == [1.0 + 1.0 + 4.0, 1.0 + 1.0 + 8.0]


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "empty.toml"
    file.write_text("")
    with pytest.raises(InputError, match=r"empty\.toml: seeds is missing"):
        load_plan(str(file))


def test_rows_of_equal_settings_that_choose_by_other_runs_are_trained_each(tmp_path):
    """One takes the point that label smoothing alone chose, the other one of its own: they may differ in it."""
    both, grid = {"method": "label-smoothing+mixup"}, {"epsilon": [0.05, 0.1]}
    rows = [{"label": "Taken", **both, "tuned_as": "LS"}, {"label": "Own", **both, "grid": grid}]
    work = Work(parse_plan({**RAW, "methods": [*RAW["methods"], *rows]}), Place(tmp_path), kinds=())
    trained = {work.parts[label, 0]["all"] for label in ("Taken", "Own")}
    assert len(trained) == 2
    for entry in (entry for entry in work.entries if len(entry.members) == 1):
        (number,) = work.parts[entry.label, entry.seed]["all"]
        assert work.tasks[number].choice == entry.members[0]


@pytest.mark.parametrize("text", ["", "1,", "a", "4-0", "0-9999999999", "²", "-1"])
def test_seeds_that_are_none_are_refused_before_any_is_listed(text):
    with pytest.raises(InputError, match="seeds are whole numbers or ranges that rise"):
        _seeds(text)


def test_seeds_are_listed_one_by_one_and_by_ranges():
    assert _seeds("3, 5-7,0") == [3, 5, 6, 7, 0]


@pytest.mark.parametrize("option", [["--dry-run"], ["--seeds", "0-1"], ["--data", "digits"], ["--jobs", "1"]])
def test_results_take_no_options_of_runs(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "results.json"), "--out", str(tmp_path / "out"), *option])
    assert f"results.json and {option[0]} were given" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
