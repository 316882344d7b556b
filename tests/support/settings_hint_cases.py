"""Advice about the settings of a run and the file of a comparison, carried out."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hint_cases import Call, Case, Steps, in_turn

from robcal.comparison.plan_file import load_plan, parse_plan
from robcal.data import load_dataset
from robcal.methods import parse_options
from robcal.training.loop import augmentation
from robcal.training.settings import TrainSettings
from robcal.training.tracking import Tracking


def _settings(**options: Any) -> TrainSettings:
    return TrainSettings(**{"data": "digits", "model": "mlp", "method": "ar-adals", "epochs": 1, **options})


def _barred_tracker(folder: Path) -> Steps:
    (folder / "tensorboard").touch()
    yield lambda: Tracking(("tensorboard",), folder, "run", {})(1, {"val/nll": 1.0})
    yield lambda: Tracking((), folder, "run", {})(1, {"val/nll": 1.0})


def _trackers(*names: str) -> Call:
    return lambda: Tracking(names, Path(), "run", {})


def _both(wrong: dict[str, Any], *right: dict[str, Any]) -> Callable[[Path], Steps]:
    """Settings that are refused, and all the ways out that the advice names."""
    return in_turn(lambda: _settings(**wrong), lambda: [_settings(**options) for options in right])


def _scores(**options: Any) -> Callable[[Path], Steps]:
    def steps(folder: Path) -> Steps:
        file = folder / "scores.parquet"
        file.touch()
        named = {**options, "scores": (str(file),)}
        yield lambda: _settings(**named)
        yield lambda: (
            _settings(**options),
            _settings(method="ar-adals", levels_from="robustness", scores=(str(file),)),
        )

    return steps


def _absent_scores(folder: Path) -> Steps:
    file = folder / "scores.parquet"
    yield lambda: _settings(levels_from="robustness", scores=(str(file),))
    file.touch()
    yield lambda: _settings(levels_from="robustness", scores=(str(file),))


def _value(folder: Path) -> Steps:
    hint = yield lambda: parse_options("swag", ["rank=many"])
    found = re.search(r"--option (\S+)\.$", hint)
    assert found is not None
    yield lambda: parse_options("swag", [found[1]])


def _table(folder: Path) -> Steps:
    rng, y = np.random.default_rng(0), np.arange(40) % 2
    np.savez(folder / "t.npz", x_train=rng.normal(size=(40, 3)), y_train=y, x_test=rng.normal(size=(40, 3)), y_test=y)
    data = load_dataset(f"npz:{folder / 't.npz'}")
    yield lambda: augmentation(_settings(augment="standard"), data)
    yield lambda: augmentation(_settings(), data)


PLAN: dict[str, Any] = {
    "seeds": [0, 1],
    "recipe": {"data": "digits", "model": "mlp", "epochs": 1},
    "tuning": {"seeds": [100]},
    "methods": [
        {"label": "Plain", "method": "vanilla"},
        {"label": "Ours", "method": "ar-adals", "grid": {"gain": [2.0, 4.0]}},
    ],
    "ensembles": [{"label": "Deep", "of": "Plain", "members": 2}],
    "targets": [{"name": "better", "metric": "ece", "method": "Ours", "against": "Plain"}],
}


def _plan(*places: tuple[str, Any]) -> dict[str, Any]:
    """The plan with other values at some places ("methods.1.grid"); None takes the key away."""
    made: dict[str, Any] = copy.deepcopy(PLAN)
    for place, value in places:
        *inside, key = [int(part) if part.isdigit() else part for part in place.split(".")]
        table: Any = made
        for part in inside:
            table = table[part]
        if value is None:
            del table[key]
        else:
            table[key] = value
    return made


GRID = {"epsilon": [0.05, 0.1]}


def _tuned(**more: Any) -> dict[str, Any]:
    """A plan of one method that is tuned, and another that takes more."""
    first = {"label": "A", "method": "label-smoothing", "grid": GRID}
    return {
        **_plan(("ensembles", None), ("targets", None)),
        "methods": [first, {**first, "label": "B", "grid": {}, **more}],
    }


def _file(name: str, message: str, wrong: tuple[str, Any], *right: tuple[str, Any] | None) -> Case:
    """A plan with a wrong value, and all the ways out that the advice names; None is the plan as it was."""
    good = [_plan() if way is None else _plan(way) for way in right]
    return Case(name, message, in_turn(lambda: parse_plan(_plan(wrong)), lambda: [parse_plan(plan) for plan in good]))


def _no_toml(folder: Path) -> Steps:
    file = folder / "plan.toml"
    recipe = '[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
    rest = f'seeds = [0]\n{recipe}[[methods]]\nlabel = "a"\nmethod = "vanilla"\n'
    file.write_text("title = Mine\n" + rest)
    hint = yield lambda: load_plan(str(file))
    assert "line 1" in hint
    file.write_text('title = "Mine"\n' + rest)
    yield lambda: load_plan(str(file))


METHOD = '[[methods]]\nlabel = "a"\nmethod = "vanilla"\n'


def _raw(wrong: str, right: str) -> Callable[[Path], Steps]:
    """The end of a file, wrong and right."""

    def steps(folder: Path) -> Steps:
        file, start = folder / "plan.toml", 'seeds = [0]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
        file.write_text(start + wrong)
        yield lambda: load_plan(str(file))
        file.write_text(start + right)
        yield lambda: load_plan(str(file))

    return steps


def _other_seeds(folder: Path) -> Steps:
    """Seeds that leave a method none of its own: one of them is added, or the method loses its own, or goes."""

    def load(seeds: list[int], methods: str) -> object:
        file = folder / "plan.toml"
        file.write_text('seeds = [0, 1]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n' + methods)
        return load_plan(str(file), seeds=seeds)

    plain, own = (f'[[methods]]\nlabel = "{label}"\nmethod = "vanilla"\n' for label in ("a", "b"))
    yield lambda: load([0], f"{plain}{own}seeds = [1]\n")
    yield lambda: (load([0, 1], f"{plain}{own}seeds = [1]\n"), load([0], plain + own), load([0], plain))


CASES = [
    Case("a file without its methods", r"plan\.toml: methods is missing", _raw("", METHOD)),
    Case("a tracker that cannot write", "MLFLOW_TRACKING_URI=.*, or leave it out", _barred_tracker),
    Case("a tracker twice", "Name it once", in_turn(_trackers("tensorboard", "tensorboard"), _trackers("tensorboard"))),
    Case("a step size of the stable controller", "Drop step_size, or the controller", _both(
        {"options": {"controller": "stable", "step_size": 0.3}}, {"options": {"controller": "stable"}},
    )),
    Case("thresholds of levels that the training cuts", "Drop --cut, or pass --levels-from margin", _both(
        {"levels_from": "running", "cut": "train"},
        {"levels_from": "running"}, {"levels_from": "margin", "cut": "train"},
    )),
    Case("too many networks", "Choose fewer networks with --members", _both({"members": 10**6}, {"members": 2})),
    Case("members of swag", "--option samples=N", _both(
        {"method": "swag", "members": 3}, {"method": "swag", "options": {"samples": 3}},
    )),
    Case("more micro-batches than examples", "Pass --accumulate 4 or less", _both(
        {"batch_size": 4, "accumulate": 5}, {"batch_size": 4, "accumulate": 4},
    )),
    Case("scores of a method without levels", "pass --method ar-adals", _scores(method="vanilla")),
    Case("scores and levels by margin", "pass --levels-from robustness", _scores(levels_from="margin")),
    Case("scores that are not there", "or make it: robcal score", _absent_scores),
    Case("an option of a method that has none", "Drop it", in_turn(
        lambda: parse_options("vanilla", ["gamma=2"]), lambda: parse_options("vanilla", []),
    )),
    Case("an option that is no number", "Write for example --option", _value),
    Case("augmentation of a table", "Drop --augment", _table),
    Case("a plan that is no TOML", "Correct it there; texts stand in quotes", _no_toml),
    _file("no OOD inputs", "Leave it out for all inputs", ("ood_limit", 0), None),
    _file("OOD inputs that are no text", 'Write svhn = "SPEC"', ("ood", {"svhn": 3}), ("ood", {"svhn": "svhn:folder"})),
    _file("no data", r'Write data = "digits" below \[recipe\]', ("recipe.data", None), None),
    _file("a grid of one number", r"Write gain = \[ … \]", ("methods.1.grid", {"gain": 2.0}), None),
    Case("a grid of too many points", "Name fewer values", in_turn(
        lambda: parse_plan(_plan(("methods.1.grid", {"gain": [0.1 * (n + 1) for n in range(10**5)]}))),
        lambda: parse_plan(_plan(("methods.1.grid", {"gain": [2.0, 4.0]}))),
    )),
    Case("settings of a method that do not fit", "method 'Plain': .*--option samples=N", in_turn(
        lambda: parse_plan(_plan(("methods.0", {"label": "Plain", "method": "swag", "options": {"members": 3}}))),
        lambda: parse_plan(_plan(("methods.0", {"label": "Plain", "method": "swag", "options": {"samples": 3}}))),
    )),
    Case("a list that is a table", r"Write \[\[methods\]\] above each of them", _raw(
        '[methods]\nlabel = "a"\nmethod = "vanilla"\n', '[[methods]]\nlabel = "a"\nmethod = "vanilla"\n',
    )),
    Case("a table that is a list", r"Write \[ood\] above its settings", _raw(
        f'{METHOD}[[ood]]\nsvhn = "svhn:PATH"\n', f'{METHOD}[ood]\nsvhn = "svhn:PATH"\n',
    )),
    Case("a grid and another's choice", "Drop one of them", in_turn(
        lambda: parse_plan(_tuned(tuned_as="A", grid=GRID)),
        lambda: (parse_plan(_tuned(grid=GRID)), parse_plan(_tuned(tuned_as="A"))),
    )),
    _file("an ensemble of nobody", "Write members = 2", ("ensembles.0.members", 0), None),
    Case("a margin that is missing", "Write for example margin = 0.01", in_turn(
        lambda: parse_plan(_plan(("targets.0.kind", "within"))),
        lambda: parse_plan(_plan(("targets.0.kind", "within"), ("targets.0.margin", 0.01))),
    )),
    _file("tuning on seeds of the evaluation", "such as 100", ("tuning.seeds", [1]), ("tuning.seeds", [100])),
    Case("a grid that changes the reference model", r"Write it below \[recipe\]", in_turn(
        lambda: parse_plan(_plan(("methods.1.grid", {"weight_decay": [0.1, 0.2]}))),
        lambda: parse_plan(_plan(("recipe.weight_decay", 0.1))),
    )),
    Case("a seed of one method", "Add it to the seeds, or drop it here", in_turn(
        lambda: parse_plan(_plan(("ensembles", None), ("methods.0.seeds", [0, 7]))),
        lambda: (
            parse_plan(_plan(("ensembles", None), ("methods.0.seeds", [0, 7]), ("seeds", [0, 1, 7]))),
            parse_plan(_plan(("ensembles", None), ("methods.0.seeds", [0]))),
        ),
    )),
    Case("seeds that a method does not have", "Add one of its seeds to --seeds, or take", _other_seeds),
    _file("a seed in the recipe", "Drop it", ("recipe.seed", 3), None),
    _file("a seed twice", "Drop what stands there twice", ("seeds", [0, 1, 1]), None),
    _file("no seeds", "Name at least one", ("seeds", []), None),
    _file("a label twice", "Drop what stands there twice", ("methods.1.label", "Plain"), None),
    _file("a recipe that is a number", r"Write it as \{ name = value \}", ("recipe", 3), None),
    _file("methods that are texts", r"Write it as \{ name = value \}", ("methods.0", "vanilla"), None),
    _file("a method without its label", "Write label = …", ("methods.0.label", None), None),
    _file("one seed in place of a list", r"Write \[3\]", ("seeds", 3), ("seeds", [3])),
    _file("a text in place of a whole number", "Write it as 3", ("shift_limit", "3"), ("shift_limit", 3)),
    _file("a number in place of a text", 'Write it as "text"', ("title", 3), ("title", "text")),
    _file("a text in place of a number", "Write it as 0.5", ("targets.0.margin", "a"), ("targets.0.margin", 0.5)),
    _file("a text in place of true", "Write it as true", ("targets.0.scaled", "yes"), ("targets.0.scaled", True)),
    _file("a limit below 0", "Write 0 or more, or leave the key out", ("score_limit", -1), ("score_limit", 0), None),
]  # fmt: skip
