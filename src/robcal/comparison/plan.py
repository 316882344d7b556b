"""What is compared with what: a TOML file, checked whole before any work; messages name the key.

title = "…"; seeds = [0, 1, 2]; reference = ["Plain", "AR-AdaLS"]; shift_limit = 1000; score_limit = 2000
[recipe]       settings that all methods share: data, model, epochs, …
[tuning]       seeds = [100]; select = "val_nll" | "val_ece"
[[methods]]    label, method, options = {…}, grid = {option = [values]}, tuned_as = "another label", seeds
[[ensembles]]  label, of = "a method's label", members = 4, seeds
[[targets]]    name, metric, method, against, kind = "below" | "half" | "within", margin, scaled
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from robcal.artifacts import digest_of
from robcal.checks import InputError, check_choice, check_readable, refuse
from robcal.config import TrainSettings
from robcal.methods import METHODS

SELECT = ("val_nll", "val_ece")
TARGET_KINDS = ("below", "half", "within")
#: Outcomes that targets may name and tables show: key → (heading, whether lower is better, explanation).
OUTCOMES: Mapping[str, tuple[str, bool, str]] = {
    "accuracy": ("Accuracy", False, "share of test examples whose most probable class is the true one"),
    "nll": ("NLL", True, "mean negative log-likelihood of the true class, in nats"),
    "brier": ("Brier", True, "mean squared distance of the probability vector from the one-hot label"),
    "aurc": ("AURC", True, "area under the risk-coverage curve of the confidence"),
    "ece": ("ECE", True, "expected calibration error of the top label, 15 equal-width bins"),
    "ece_debiased": ("ECE deb.", True, "root of the debiased squared calibration error (Kumar et al. 2019)"),
    "level_ece": ("ECE levels", True, "mean over robustness levels of the ECE within the level"),
    "shift_ece": ("ECE shift", True, "ECE of each corruption and severity, then the mean over these cells"),
    "shift_accuracy": ("Acc. shift", False, "mean accuracy over the same cells"),
    "shift_nll": ("NLL shift", True, "mean negative log-likelihood over the same cells"),
}

#: Settings that the plan decides itself: neither recipe nor options may.
RESERVED = ("seed", "split_seed", "method", "scores")
_RECIPE = tuple(item.name for item in dataclasses.fields(TrainSettings) if item.name not in RESERVED)


@dataclass(frozen=True)
class MethodPlan:
    """A method to be trained.

    Attributes:
        label: what tables call it.
        method: key of `robcal.methods.METHODS`.
        options: settings that differ from the recipe.
        grid: points to choose from on the tuning seeds, each a set of settings; empty: nothing is chosen.
        tuned_as: label of the method whose chosen point it takes.
        seeds: its evaluation seeds.
    """

    label: str
    method: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Mapping[str, Any], ...] = ()
    tuned_as: str | None = None


@dataclass(frozen=True)
class EnsemblePlan:
    """The average of M independently trained runs of a method with the same split; member 0 is its ordinary run."""

    label: str
    of: str
    members: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A statement that the comparison is to decide, on one outcome.

    With d the paired difference of method and against, over seeds: "below" says d < -margin; "half" says that the
    method's value is below half of the other's; "within" says that it is worse by less than the margin.

    Attributes:
        name: what tables call it.
        metric: key of `OUTCOMES`.
        method: label.
        against: labels, one statement each.
        kind: "below", "half" or "within".
        margin: of "below" (default 0) and "within".
        scaled: both after temperature scaling.
    """

    name: str
    metric: str
    method: str
    against: tuple[str, ...]
    kind: str = "below"
    margin: float = 0.0
    scaled: bool = False


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        title: heading of its tables.
        seeds: evaluation seeds.
        recipe: settings that all share.
        methods: at least one.
        ensembles: averages of their runs.
        tuning_seeds: seeds of the runs that choose grid points: other splits than those of the evaluation.
        select: what is least in the last epoch of the chosen point.
        shift_limit: test examples under corruption, None for all, 0 for no shift.
        score_limit: test examples whose robustness is scored, None for all, 0 for no levels.
        reference: labels that differences are taken to.
        targets: statements to decide.
    """

    title: str
    seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    methods: tuple[MethodPlan, ...]
    ensembles: tuple[EnsemblePlan, ...] = ()
    tuning_seeds: tuple[int, ...] = (100,)
    select: str = "val_nll"
    shift_limit: int | None = None
    score_limit: int | None = None
    reference: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """All that is compared, methods first."""
        return (*(item.label for item in self.methods), *(item.label for item in self.ensembles))

    def method(self, label: str) -> MethodPlan:
        """The method of that label."""
        return next(item for item in self.methods if item.label == label)

    def grid_of(self, method: MethodPlan) -> tuple[MethodPlan, tuple[Mapping[str, Any], ...]]:
        """The method whose runs choose this one's grid point, and the points (one empty point if none is chosen)."""
        tuned = self.method(method.tuned_as) if method.tuned_as else method
        return tuned, tuned.grid or ({},)

    def settings(
        self, method: MethodPlan, seed: int, *, point: Mapping[str, Any] | None = None, split_seed: int | None = None
    ) -> TrainSettings:
        """Settings of one run.

        Raises:
            InputError: if they cannot be run; the message names the label.
        """
        values = {**self.recipe, **method.options, **(point or {})}
        try:
            return TrainSettings(**values, method=method.method, seed=seed, split_seed=split_seed)
        except (InputError, TypeError) as error:
            raise InputError(f"method {method.label!r}: {error}") from None

    def plain(self, seed: int) -> TrainSettings:
        """Settings of the plain model of a seed, whose robustness cuts the test split into levels."""
        return self.settings(MethodPlan("plain model of the levels", "vanilla", (seed,)), seed)

    def digest(self) -> str:
        """Names what is compared; the title and the order of labels in tables aside."""
        record = dataclasses.asdict(self)
        for name in ("title", "reference", "targets"):
            del record[name]
        record["recipe"] = {name: value for name, value in record["recipe"].items() if name != "device"}
        return digest_of(record)

    def warnings(self) -> tuple[str, ...]:
        """What a reader should know of the plan: budgets that differ."""
        sizes = {method.label: len(method.grid) for method in self.methods if method.grid}
        if len(set(sizes.values())) <= 1:
            return ()
        each = ", ".join(f"{label} {size}" for label, size in sizes.items())
        return (f"methods have different numbers of grid points to choose from: {each}",)


def preset_names() -> tuple[str, ...]:
    """Names of the comparisons that come with robcal."""
    found = (item.name for item in files("robcal").joinpath("presets").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load_plan(
    source: str,
    *,
    seeds: Sequence[int] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Plan:
    """Read a preset or a TOML file.

    Args:
        source: a name of `preset_names`, or a path that ends in .toml.
        seeds: evaluation seeds instead of the file's; those of single methods and ensembles are cut to them.
        recipe: settings that override the file's recipe (data, device, …).

    Raises:
        InputError: if the file is missing, is no TOML, or anything in it does not fit; the message names the key.
    """
    if source.endswith(".toml"):
        text = check_readable(Path(source), "the comparison").read_text(encoding="utf-8")
    else:
        check_choice(source, preset_names(), "the preset")
        text = files("robcal").joinpath("presets", f"{source}.toml").read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        refuse(f"{source} is not TOML ({error})", "a comparison is a TOML file", "Mend it")
    if seeds is not None:
        raw["seeds"] = list(seeds)
        for table in (*raw.get("methods", ()), *raw.get("ensembles", ())):
            if isinstance(table, dict) and isinstance(table.get("seeds"), list):
                table["seeds"] = [seed for seed in table["seeds"] if seed in raw["seeds"]] or list(seeds)
    if recipe:
        raw["recipe"] = {**raw.get("recipe", {}), **recipe}
    return parse_plan(raw)


def parse_plan(raw: Mapping[str, Any]) -> Plan:
    """Check what a TOML file says, and fill in what it leaves out.

    Raises:
        InputError: naming the key.
    """
    kinds: dict[str, Any] = {
        "title": str, "seeds": tuple[int, ...], "reference": tuple[str, ...], "shift_limit": int, "score_limit": int,
        "recipe": dict, "tuning": dict, "methods": tuple[dict[str, Any], ...], "ensembles": tuple[dict[str, Any], ...],
        "targets": tuple[dict[str, Any], ...],
    }  # fmt: skip
    values = _take(raw, "", kinds, required=("seeds", "recipe", "methods"))
    for name in ("shift_limit", "score_limit"):
        if values.get(name, 0) < 0:
            refuse(f"{name} is {values[name]}", "it must be at least 0", "Leave it out for all test examples")
    tuning = _take(values.pop("tuning", {}), "tuning.", {"seeds": tuple[int, ...], "select": str})
    check_choice(tuning.get("select", "val_nll"), SELECT, "tuning.select")
    seeds = _distinct(values["seeds"], "seeds")
    recipe = _settings(values["recipe"], "recipe")
    if "data" not in recipe:
        refuse("recipe.data is missing", "the comparison needs data", "Name it in the file, or pass --data")
    plan = Plan(
        title=values.get("title", "Comparison"),
        seeds=seeds,
        recipe=recipe,
        methods=tuple(_method(table, n, seeds) for n, table in enumerate(values["methods"])),
        ensembles=tuple(_ensemble(table, n, seeds) for n, table in enumerate(values.get("ensembles", ()))),
        tuning_seeds=_distinct(tuning.get("seeds", (100,)), "tuning.seeds"),
        select=tuning.get("select", "val_nll"),
        shift_limit=values.get("shift_limit"),
        score_limit=values.get("score_limit"),
        reference=values.get("reference", ()),
        targets=tuple(_target(table, n) for n, table in enumerate(values.get("targets", ()))),
    )
    _check(plan)
    return plan if plan.reference else dataclasses.replace(plan, reference=(plan.labels[0],))


def _method(table: Mapping[str, Any], number: int, seeds: tuple[int, ...]) -> MethodPlan:
    where = f"methods[{number}]."
    kinds = {"label": str, "method": str, "options": dict, "grid": dict, "tuned_as": str, "seeds": tuple[int, ...]}
    values = _take(table, where, kinds, required=("label", "method"))
    check_choice(values["method"], METHODS, f"{where}method")
    grid = {}
    for name, points in values.get("grid", {}).items():
        check_choice(name, _RECIPE, f"a key of {where}grid")
        if not isinstance(points, list) or not points:
            refuse(f"{where}grid.{name} is {points!r}", "it must be a list of values to choose from", "Write a list")
        grid[name] = points
    if grid and "tuned_as" in values:
        refuse(f"{where}grid and {where}tuned_as are both given", "a method is tuned in one way", "Drop one of them")
    return MethodPlan(
        label=values["label"],
        method=values["method"],
        seeds=_distinct(values.get("seeds", seeds), f"{where}seeds"),
        options=_settings(values.get("options", {}), f"{where}options"),
        grid=tuple(dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())) if grid else (),
        tuned_as=values.get("tuned_as"),
    )


def _ensemble(table: Mapping[str, Any], number: int, seeds: tuple[int, ...]) -> EnsemblePlan:
    where = f"ensembles[{number}]."
    kinds = {"label": str, "of": str, "members": int, "seeds": tuple[int, ...]}
    values = _take(table, where, kinds, required=("label", "of", "members"))
    if values["members"] < 1:
        refuse(f"{where}members is {values['members']}", "it must be at least 1", "Raise it")
    return EnsemblePlan(
        values["label"], values["of"], values["members"], _distinct(values.get("seeds", seeds), f"{where}seeds")
    )


def _target(table: Mapping[str, Any], number: int) -> Target:
    where = f"targets[{number}]."
    against = table.get("against")
    kinds = {
        "name": str, "metric": str, "method": str, "against": tuple[str, ...], "kind": str, "margin": float,
        "scaled": bool,
    }  # fmt: skip
    listed = {**table, "against": [against]} if isinstance(against, str) else table
    values = _take(listed, where, kinds, required=("name", "metric", "method", "against"))
    check_choice(values["metric"], OUTCOMES, f"{where}metric")
    check_choice(values.get("kind", "below"), TARGET_KINDS, f"{where}kind")
    if values.get("kind") == "within" and values.get("margin", 0) <= 0:
        refuse(f"{where}margin is {values.get('margin', 'missing')}", '"within" needs a margin above 0', "Add it")
    return Target(**values)


def _check(plan: Plan) -> None:
    """What must hold between the parts of a plan."""
    _distinct(plan.labels, "the labels")
    if overlap := sorted(set(plan.tuning_seeds) & set(plan.seeds)):
        refuse(f"tuning.seeds holds {overlap[0]}, and so does seeds", "tuning needs splits of its own", "Change one")
    for n, method in enumerate(plan.methods):
        if method.tuned_as is not None:
            check_choice(
                method.tuned_as, [other.label for other in plan.methods if other.grid], f"methods[{n}].tuned_as"
            )
        for point in plan.grid_of(method)[1]:
            made = plan.settings(method, plan.seeds[0], point=point)
            reference = plan.settings(method, plan.seeds[0]).reference()
            if method.method == "ar-adals" and made.reference().relevant() != reference.relevant():
                refuse(
                    f"the grid of methods[{n}] changes its reference model ({', '.join(point)})",
                    "the grid is of the method's own options",
                    "Change the recipe instead",
                )
        _seeds_within(method.seeds, plan.seeds, f"methods[{n}].seeds")
    for n, ensemble in enumerate(plan.ensembles):
        check_choice(ensemble.of, [method.label for method in plan.methods], f"ensembles[{n}].of")
        _seeds_within(ensemble.seeds, plan.method(ensemble.of).seeds, f"ensembles[{n}].seeds")
    for label in plan.reference:
        check_choice(label, plan.labels, "reference")
    for n, target in enumerate(plan.targets):
        for label in (target.method, *target.against):
            check_choice(label, plan.labels, f"a label of targets[{n}]")


def _seeds_within(seeds: tuple[int, ...], allowed: tuple[int, ...], name: str) -> None:
    if extra := [seed for seed in seeds if seed not in allowed]:
        refuse(f"{name} holds {extra[0]}", f"it must be among {list(allowed)}", "Add it to the seeds, or drop it here")


def _settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of TrainSettings, their names checked; their values are checked where settings are made of them."""
    for name in values:
        if name in RESERVED:
            refuse(f"{where}.{name} is given", "seeds, methods and scores are the comparison's own keys", "Drop it")
        check_choice(name, _RECIPE, f"a key of {where}")
    return dict(values)


def _distinct(values: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not values or len(set(values)) != len(values):
        refuse(f"{name}: {list(values)}", "there must be at least one, and none twice", "Change the list")
    return values


def _take(
    table: Mapping[str, Any], where: str, kinds: Mapping[str, Any], *, required: Sequence[str] = ()
) -> dict[str, Any]:
    """The table's values, lists as tuples; unknown, missing and mistyped keys are refused."""
    if not isinstance(table, Mapping):
        refuse(f"{where.rstrip('.')} is {table!r}", "it must be a table", "See `robcal compare --help`")
    for name in table:
        check_choice(name, kinds, f"a key of {where.rstrip('.') or 'the file'}")
    for name in required:
        if name not in table:
            refuse(f"{where}{name} is missing", "it must be given", "Add it")
    return {name: _typed(value, kinds[name], f"{where}{name}") for name, value in table.items()}


def _typed(value: Any, kind: Any, name: str) -> Any:
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, (list, tuple)):
            refuse(f"{name} is {value!r}", "it must be a list", "Write [ … ]")
        inner = typing.get_args(kind)[0]
        inner = typing.get_origin(inner) or inner
        return tuple(_typed(item, inner, f"{name}[{n}]") for n, item in enumerate(value))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a table"}
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        refuse(f"{name} is {value!r}", f"it must be {names[kind]}", "Change it")
    if kind is int and value < 0:
        refuse(f"{name} is {value}", "it must be at least 0", "Change it")
    return value
