"""What is compared with what: a TOML file, checked whole before any work; messages name the key.

title = "…"; seeds = [0, 1, 2]; reference = ["Plain", "AR-AdaLS"]; shift_limit = 1000; score_limit = 2000
shift = "cifar10c:PATH" (official files instead of our own corruptions)
ood = {name = "cifar100:PATH"}; ood_limit = 2000 (out-of-distribution inputs: the test split of any data)
[recipe]       settings that all methods share: data, model, epochs, …
[tuning]       seeds = [100]; select = "val_nll" | "val_ece"
[[methods]]    label, method = "NAME" or "NAME+NAME", options = {…} (the method's own, and settings that differ from the
               recipe), grid = {option = [values]}, tuned_as = "another label", seeds
[[ensembles]]  label, of = "a method's label", members = 4, seeds
[[targets]]    name, metric, method, against, kind = "below" | "half" | "within", margin, scaled
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from robcal.base.checks import MOST_NETWORKS, InputError, check_choice, refuse
from robcal.base.files import reading
from robcal.base.metrics import OUTCOMES
from robcal.base.names import preset_names
from robcal.comparison.plan import EnsemblePlan, MethodPlan, Plan, Target
from robcal.data.corrupted import READERS as CORRUPTED_READERS
from robcal.methods import METHODS, method_options
from robcal.training.settings import TrainSettings

#: Kinds of values in words, and an example.
_KINDS: Mapping[Any, tuple[str, str]] = {
    int: ("a whole number", "3"),
    float: ("a number", "0.5"),
    str: ("a text", '"text"'),
    bool: ("true or false", "true"),
    dict: ("a table", "{ name = value }"),
}
SELECT = ("val_nll", "val_ece")
#: Most points of a grid: each is trained once a tuning seed.
MOST_POINTS = 10_000
TARGET_KINDS = ("below", "half", "within")
#: Settings that the plan decides itself: neither recipe nor options may.
RESERVED = ("seed", "split_seed", "method", "options", "scores", "weights", "weights_digest")
_RECIPE = tuple(item.name for item in dataclasses.fields(TrainSettings) if item.name not in RESERVED)


def load_plan(
    source: str,
    *,
    seeds: Sequence[int] | None = None,
    recipe: Mapping[str, Any] | None = None,
    shift: str | None = None,
    ood: Mapping[str, str] | None = None,
) -> Plan:
    """Read a preset or a TOML file.

    Args:
        source: a name of `preset_names`, or a path that ends in .toml.
        seeds: evaluation seeds instead of the file's; those of single methods and ensembles are cut to them.
        recipe: settings that override the file's recipe (data, device, …).
        shift: official corrupted files instead of the file's.
        ood: sets of out-of-distribution inputs that are added to the file's.

    Raises:
        InputError: if the file is missing, is no TOML, or anything in it does not fit; the message names file and key.
    """
    if source.endswith(".toml"):
        fix = "Correct it there; texts stand in quotes, and the file is saved in UTF-8"
        with reading(Path(source), "the comparison", rule="a comparison is a TOML file", fix=fix):
            raw = tomllib.loads(Path(source).read_text(encoding="utf-8-sig"))
    else:
        check_choice(source, preset_names(), "the preset")
        preset = files("robcal.comparison").joinpath("presets", f"{source}.toml")
        raw = tomllib.loads(preset.read_text(encoding="utf-8"))
    for name, kind in (("methods", list), ("ensembles", list), ("recipe", dict), ("ood", dict)):
        if name in raw and not isinstance(raw[name], kind):
            fix = f"Write [[{name}]] above each of them" if kind is list else f"Write [{name}] above its settings"
            refuse(f"{name} is {raw[name]!r}", f"it must be a {'list' if kind is list else 'table'}", fix)
    if seeds is not None:
        raw["seeds"] = list(seeds)
        for table in (*raw.get("methods", ()), *raw.get("ensembles", ())):
            if isinstance(table, dict) and isinstance(table.get("seeds"), list):
                table["seeds"] = _among(table["seeds"], seeds, table.get("label"))
    if shift is not None:
        raw["shift"] = shift
    for name, more in (("recipe", recipe), ("ood", ood)):
        if more:
            raw[name] = {**raw.get(name, {}), **more}
    try:
        return parse_plan(raw)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _among(own: list[Any], seeds: Sequence[int], label: Any) -> list[Any]:
    """Return those of a method's own seeds that were asked for; refuse if none is, so that it would have no run."""
    kept = [seed for seed in own if seed in seeds]
    if not kept:
        asked, named = (", ".join(map(str, some)) for some in (seeds, own))
        refuse(
            f"--seeds {asked} leaves {label!r} no seed: its own are {named}",
            "a method or ensemble with seeds of its own runs on those that --seeds names too",
            "Add one of its seeds to --seeds, or take its seeds or all of it out of the file",
        )
    return kept


def parse_plan(raw: Mapping[str, Any]) -> Plan:
    """Check what a TOML file says, and fill in what it leaves out.

    Raises:
        InputError: naming the key.
    """
    kinds: dict[str, Any] = {
        "title": str, "seeds": tuple[int, ...], "reference": tuple[str, ...], "shift_limit": int, "score_limit": int,
        "recipe": dict, "tuning": dict, "methods": tuple[dict[str, Any], ...], "ensembles": tuple[dict[str, Any], ...],
        "targets": tuple[dict[str, Any], ...], "shift": str, "ood": dict, "ood_limit": int,
    }  # fmt: skip
    values = _take(raw, "", kinds, required=("seeds", "recipe", "methods"))
    if values.get("ood_limit") == 0:
        refuse("ood_limit is 0", "it must be at least 1", "Leave it out for all inputs, or leave ood out")
    for name, spec in values.get("ood", {}).items():
        if not isinstance(spec, str):
            refuse(f"ood.{name} is {spec!r}", "it must be a text, as --data takes it", f'Write {name} = "SPEC"')
    if "shift" in values:
        check_choice(values["shift"].partition(":")[0], CORRUPTED_READERS, "the shift")
    tuning = _take(values.pop("tuning", {}), "tuning.", {"seeds": tuple[int, ...], "select": str})
    check_choice(tuning.get("select", "val_nll"), SELECT, "tuning.select")
    seeds = _distinct(values.pop("seeds"), "seeds")
    recipe = _settings(values.pop("recipe"), "recipe", _RECIPE)
    if "data" not in recipe:
        refuse(
            "recipe.data is missing",
            "the comparison needs data",
            'Write data = "digits" below [recipe], or pass --data',
        )
    made = {
        "title": "Comparison",
        "seeds": seeds,
        "recipe": recipe,
        "methods": tuple(_method(table, n, seeds) for n, table in enumerate(values.pop("methods"))),
        "ensembles": tuple(_ensemble(table, n, seeds) for n, table in enumerate(values.pop("ensembles", ()))),
        "targets": tuple(_target(table, n) for n, table in enumerate(values.pop("targets", ()))),
        "tuning_seeds": _distinct(tuning.get("seeds", (100,)), "tuning.seeds"),
        "select": tuning.get("select", "val_nll"),
    }
    plan = Plan(**made | values)
    _check(plan)
    return plan if plan.reference else dataclasses.replace(plan, reference=(plan.labels[0],))


def _method(table: Mapping[str, Any], number: int, seeds: tuple[int, ...]) -> MethodPlan:
    where = f"methods[{number}]."
    kinds = {"label": str, "method": str, "options": dict, "grid": dict, "tuned_as": str, "seeds": tuple[int, ...]}
    values = _take(table, where, kinds, required=("label", "method"))
    for part in values["method"].split("+"):
        check_choice(part.strip(), METHODS, f"{where}method")
    known = (*method_options(values["method"]), *_RECIPE)
    grid = {}
    for name, points in _flat(values.get("grid", {})).items():
        check_choice(name, known, f"a key of {where}grid")
        if not isinstance(points, list) or not points:
            refuse(
                f"{where}grid.{name} is {points!r}",
                "it must be a list of values to choose from",
                f"Write {name} = [ … ]",
            )
        grid[name] = points
    if (size := math.prod(map(len, grid.values()))) > MOST_POINTS:
        refuse(f"{where}grid has {size:,} points", f"it may have {MOST_POINTS:,}", "Name fewer values")
    if grid and "tuned_as" in values:
        refuse(f"{where}grid and {where}tuned_as are both given", "a method is tuned in one way", "Drop one of them")
    return MethodPlan(
        label=values["label"],
        method=values["method"],
        seeds=_distinct(values.get("seeds", seeds), f"{where}seeds"),
        options=_settings(values.get("options", {}), f"{where}options", known),
        grid=tuple(dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())) if grid else (),
        tuned_as=values.get("tuned_as"),
    )


def _ensemble(table: Mapping[str, Any], number: int, seeds: tuple[int, ...]) -> EnsemblePlan:
    where = f"ensembles[{number}]."
    values = _take(table, where, typing.get_type_hints(EnsemblePlan), required=("label", "of", "members"))
    if not 1 <= values["members"] <= MOST_NETWORKS:
        refuse(
            f"{where}members is {values['members']}",
            f"it must be from 1 to {MOST_NETWORKS}",
            "Write members = 2 or more, within that",
        )
    return EnsemblePlan(**values | {"seeds": _distinct(values.get("seeds", seeds), f"{where}seeds")})


def _target(table: Mapping[str, Any], number: int) -> Target:
    where = f"targets[{number}]."
    against = table.get("against")
    listed = {**table, "against": [against]} if isinstance(against, str) else table
    required = ("name", "metric", "method", "against")
    values = _take(listed, where, typing.get_type_hints(Target), required=required)
    check_choice(values["metric"], OUTCOMES, f"{where}metric")
    check_choice(values.get("kind", "below"), TARGET_KINDS, f"{where}kind")
    margin, within = values.get("margin", 0.0), values.get("kind") == "within"
    if not 0 <= margin < math.inf or (within and margin == 0):
        rule = '"within" needs a margin above 0' if within else "it must be at least 0 and finite"
        refuse(f"{where}margin is {values.get('margin', 'missing')}", rule, "Write for example margin = 0.01")
    return Target(**values)


def _check(plan: Plan) -> None:
    """Check what must hold between the parts of a plan."""
    _distinct(plan.labels, "the labels")
    if overlap := sorted(set(plan.tuning_seeds) & set(plan.seeds)):
        refuse(
            f"tuning.seeds holds {overlap[0]}, and so does seeds",
            "tuning needs splits of its own",
            "Take other seeds for tuning, such as 100",
        )
    for n, method in enumerate(plan.methods):
        if method.tuned_as is not None:
            check_choice(
                method.tuned_as, [other.label for other in plan.methods if other.grid], f"methods[{n}].tuned_as"
            )
        for point in plan.grid_of(method)[1]:
            made = plan.settings(method, plan.seeds[0], point=point)
            reference = plan.settings(method, plan.seeds[0]).reference()
            if made.takes_scores and made.reference().relevant() != reference.relevant():
                refuse(
                    f"the grid of methods[{n}] changes its reference model ({', '.join(point)})",
                    "the grid is of the method's own options",
                    "Write it below [recipe] instead",
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


def _settings(values: Mapping[str, Any], where: str, known: Sequence[str]) -> dict[str, Any]:
    """Return settings, their names checked; their values are checked where `TrainSettings` are made of them."""
    found = _flat(values)
    for name in found:
        if name in RESERVED:
            refuse(
                f"{where}.{name} is given", "seeds, methods, scores and weights are no keys of the recipe", "Drop it"
            )
        check_choice(name, known, f"a key of {where}")
    return found


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by their names: TOML reads `mixup.alpha = 0.2` as a table in a table.

    >>> _flat({"levels": 5, "mixup": {"alpha": 0.2}})
    {'levels': 5, 'mixup.alpha': 0.2}
    """
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    inner = {f"{part}.{name}": value for part, table in tables.items() for name, value in table.items()}
    return {name: value for name, value in values.items() if name not in tables} | inner


def _distinct(values: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not values or len(set(values)) != len(values):
        hint = "Drop what stands there twice" if values else "Name at least one, or leave the key out"
        refuse(f"{name}: {list(values)}", "there must be at least one, and none twice", hint)
    return values


def _take(
    table: Mapping[str, Any], where: str, kinds: Mapping[str, Any], *, required: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the table's values, lists as tuples; unknown, missing and mistyped keys are refused."""
    for name in table:
        check_choice(name, kinds, f"a key of {where.rstrip('.') or 'the file'}")
    for name in required:
        if name not in table:
            refuse(f"{where}{name} is missing", "it must be given", f"Write {name} = …")
    return {name: _typed(value, kinds[name], f"{where}{name}") for name, value in table.items()}


def _typed(value: Any, kind: Any, name: str) -> Any:
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, (list, tuple)):
            refuse(f"{name} is {value!r}", "it must be a list", f"Write [{value!r}]")
        inner = typing.get_args(kind)[0]
        inner = typing.get_origin(inner) or inner
        return tuple(_typed(item, inner, f"{name}[{n}]") for n, item in enumerate(value))
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        refuse(f"{name} is {value!r}", f"it must be {_KINDS[kind][0]}", f"Write it as {_KINDS[kind][1]}")
    if kind is int and value < 0:
        refuse(f"{name} is {value}", "it must be at least 0", "Write 0 or more, or leave the key out")
    return value
