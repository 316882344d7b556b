"""Results of networks → docs/evidence/gpu.md and, beside it, every number of every run as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.checks import IntArray
from robcal.base.files import replacing
from robcal.base.levels import assign_levels
from robcal.base.storage import save_json
from robcal.base.types import Estimate
from robcal.calibration.temperature import TemperatureScaling
from robcal.comparison.outcomes import Evidence, Outcome, outcome
from robcal.comparison.summary import Measurements
from robcal.data.splits import stratified_subset
from robcal.report import formatting
from robcal.runs.shift import ShiftLogits
from wide.measure import cells_of
from wide.people import TITLES, against_people, noise_ranks, noise_rows, people_rows, read_votes
from wide.plan import Plan, Regime, parse_plan
from wide.recipes import RECIPES
from wide.store import Arrays, Results
from wide.validation import COLUMNS as SPLIT_COLUMNS
from wide.validation import both_splits, split_rows, unlike

#: Outcome → heading of its column.
COLUMNS = {
    "accuracy": "accuracy",
    "ece": "ECE",
    "nll": "NLL",
    "aurc": "AURC",
    "shift_ece": "ECE shift",
    "shift_nll": "NLL shift",
}
#: Recipes that the others are subtracted from, where they were trained.
AGAINST = ("plain", "adals", "mixup")
#: Whose temperature is a competitor of recipes without one.
SCALED = ("plain", "mixup")


@dataclass(frozen=True)
class Section:
    """What was measured in a regime.

    Attributes:
        regime: of the plan.
        found: recipe → its runs, the referee left out.
        facts: recipe → facts of its runs, in the order of the seeds.
        referee: arrays and facts of the referee, or None.
        people: recipe → losses against people of its runs, as they come and after a temperature; empty without votes.
        splits: recipe → validation split beside test split (`both_splits`) of its runs.
        sizes: validation images of a run, and test images.
    """

    regime: Regime
    found: Mapping[str, Measurements]
    facts: Mapping[str, Sequence[Mapping[str, Any]]]
    referee: tuple[Arrays, Mapping[str, Any]] | None
    people: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
    splits: Mapping[str, Sequence[Sequence[float]]]
    sizes: tuple[int, int]


def write_page(folder: Path, page: Path, people: Path | None = None, judges: Path | None = None) -> None:
    """Write the page, and the numbers beside it.

    Args:
        folder: of the results.
        page: a Markdown file.
        people: folder of CIFAR-10H, to compare probabilities with the answers of people as well.
        judges: folder of results of the same test images, for regimes whose `judge` is in it.
    """
    votes = None if people is None else read_votes(people)
    results = Results(folder)
    others = results if judges is None else Results(judges)
    plan = parse_plan(results.about["plan"])
    sections = [one for regime in plan.regimes if (one := section(results, plan, regime, votes, others)).found]
    page.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([head(results, plan, page.stem), *map(told, sections)])
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    save_json({**results.about, "regimes": [numbers(one) for one in sections]}, page.with_suffix(".json"))


def section(
    results: Results, plan: Plan, regime: Regime, votes: IntArray | None = None, others: Results | None = None
) -> Section:
    """Compute every outcome of a regime; `others` hold the run that its `judge` names."""
    name, judge = regime.name, regime.judge or f"{regime.name}/plain/{regime.referee}"
    judges = results if others is None or regime.judge is None else others
    referee = (judges.arrays[judge], judges.facts[judge]) if judge in judges else None
    levels, index = (None, None)
    if referee is not None:
        levels = assign_levels(referee[0]["distance"], plan.levels, ties="share")
        index = referee[0]["scored"]
    found, facts, people, splits, sizes = {}, {}, {}, {}, (0, 0)
    for recipe in regime.recipes:
        names = {seed: f"{name}/{recipe}/{seed}" for seed in regime.seeds if f"{name}/{recipe}/{seed}" in results}
        if names:
            runs = {seed: outcomes(results.arrays[run], plan, levels, index) for seed, run in names.items()}
            found[recipe] = Measurements(RECIPES[recipe].title, runs)
            facts[recipe] = [results.facts[run] for run in names.values()]
            arrays = [results.arrays[run] for run in names.values()]
            splits[recipe] = [both_splits(one) for one in arrays]
            sizes = len(arrays[0]["val_labels"]), len(arrays[0]["test_labels"])
            if votes is not None:
                people[recipe] = [against_people(one, votes) for one in arrays]
    return Section(regime, found, facts, referee, people, splits, sizes)


def outcomes(arrays: Arrays, plan: Plan, levels: Any, index: Any) -> tuple[Outcome, Outcome]:
    """Compute the outcomes of a run, raw and after the temperature of its validation split."""
    labels = {name: arrays[f"{name}_labels"].astype(np.int64) for name in ("val", "test")}
    logits = {name: arrays[name].astype(np.float32) for name in ("val", "test", "shift")}
    corrupted = stratified_subset(labels["test"], logits["shift"].shape[1], num_classes=logits["test"].shape[1])
    shift = ShiftLogits(logits["shift"], labels["test"][corrupted], corrupted, tuple(cells_of(plan.severities)))
    evidence = Evidence(logits["val"], labels["val"], logits["test"], labels["test"], shift)
    temperature = TemperatureScaling().fit(logits["val"], labels["val"]).temperature
    raw, scaled = (outcome(evidence, one, levels=levels, index=index) for one in (1.0, temperature))
    return raw, scaled


def head(results: Results, plan: Plan, stem: str) -> str:
    """Say what the page is, and how it was made."""
    about = results.about
    kinds = len(cells_of(plan.severities)) // len(plan.severities)
    val = "the validation split" if plan.kept_val is None else f"{plan.kept_val:,} images of the validation split"
    return f"""# {plan.title}

`make gpu` trains and measures, `python benchmarks/gpu.py --report DIR` writes this page and
[every number]({stem}.json); [docs/gpu.md](../gpu.md) says how. {about["data"]}, {plan.model},
batches of {plan.batch_size}, SGD, {plan.precision};
{about["test_images"]:,} test images; {about["hardware"]["gpu"] or about["hardware"]["cpu"]}, torch {about["torch"]}.

Shift: {kinds} corruptions at severities {formatting.joined([str(one) for one in plan.severities])} of
{plan.shift_images:,} test images; the mean over these cells. "+ T": after one temperature, fitted on {val},
which AdaLS and AR-AdaLS use too (plain and mixup alone use none of it). Intervals are 95%, of another training
run and another test split. ECE as measured; differences of ECE are those of the error with most of its bias removed.
"""


def told(one: Section) -> str:
    """Write the tables of a regime."""
    parts = [f"## {one.regime.title}\n", means(one)]
    if max(len(runs.by_seed) for runs in one.found.values()) == 1:
        parts.append("One seed: these intervals hold for another test split, not for another training run.\n")
    parts.append(splits(one))
    parts += [differences(one.found, other) for other in AGAINST if other in one.found and len(one.found) > 1]
    parts += [against_scaled(one.found, other) for other in SCALED if other in one.found and len(one.found) > 1]
    if one.referee is not None:
        parts += [judged(one), scoring(*one.referee) if one.regime.judge is None else ""]
    parts += [noise(one), humans(one)]
    return "\n".join(parts)


def means(one: Section) -> str:
    """Means over seeds, as they come and after a temperature; the ECE of a calibrated network in the headings."""
    plain = next(iter(one.found.values())).floors("scaled")
    names = [
        f"{title} (floor {formatting.short(plain[key])})" if key in plain else title for key, title in COLUMNS.items()
    ]
    scaled = [key for key in COLUMNS if key not in ("accuracy", "aurc")]
    columns = ["seeds", *names, *(f"{COLUMNS[key]}, + T" for key in scaled), "T", "training ×"]
    rows = []
    base = seconds(one, next(iter(one.found)))
    for recipe, runs in one.found.items():
        cells = [str(len(runs.by_seed))]
        cells += [short(key, runs.estimate(key, "raw")) for key in COLUMNS]
        cells += [short(key, runs.estimate(key, "scaled")) for key in scaled]
        temperature = np.mean([pair[1].temperature for pair in runs.by_seed.values()])
        cells += [formatting.number(float(temperature), 2), formatting.number(seconds(one, recipe) / base, 2)]
        rows.append([runs.label, *cells])
    return table(["", *columns], rows)


def seconds(one: Section, recipe: str) -> float:
    """Mean seconds of a training, with that of the plain network where levels come from one."""
    own = float(np.mean([fact["seconds"] for fact in one.facts[recipe]]))
    return own + (seconds(one, "plain") if RECIPES[recipe].reference else 0.0)


def splits(one: Section) -> str:
    """Tell that the test images are not like the validation images; nothing where they are."""
    if not unlike(next(iter(one.splits.values())), one.sizes):
        return ""
    rows = split_rows(one.splits, {recipe: runs.label for recipe, runs in one.found.items()})
    return (
        f"**The test images are not like the validation images** ({one.sizes[0]:,} of a seed), which temperatures and "
        "ε are fitted on: what is measured here is calibration under that shift. Gap: confidence − accuracy.\n\n"
        + table(["", *SPLIT_COLUMNS], rows)
    )


def differences(found: Mapping[str, Measurements], other: str) -> str:
    """Paired differences of all recipes to one, raw and scaled."""
    scaled = ("shift_ece", "nll")
    columns = [*COLUMNS.values(), *(f"{COLUMNS[key]}, both + T" for key in scaled)]
    rows = []
    for recipe, runs in found.items():
        if recipe != other:
            cells = [signed(key, runs.difference(found[other], key, "raw")) for key in COLUMNS]
            cells += [signed(key, runs.difference(found[other], key, "scaled")) for key in scaled]
            rows.append([runs.label, *cells])
    return f"Minus {found[other].label}, the same seeds:\n\n" + table(["", *columns], rows)


def with_temperature(runs: Measurements) -> Measurements:
    """Return what a recipe reaches after a temperature, in the place of what it reaches as it comes."""
    return Measurements(f"{runs.label} + T", {seed: (scaled, scaled) for seed, (_, scaled) in runs.by_seed.items()})


def against_scaled(found: Mapping[str, Measurements], other: str) -> str:
    """Paired differences of all recipes as they come to one that has a temperature."""
    theirs = with_temperature(found[other])
    rows = [
        [runs.label, *(signed(key, runs.difference(theirs, key, "raw")) for key in COLUMNS)]
        for recipe, runs in found.items()
        if recipe != other
    ]
    return f"As they come, minus {theirs.label}:\n\n" + table(["", *COLUMNS.values()], rows)


def judged(one: Section) -> str:
    """Gap of each level of the referee's, mean over seeds."""
    rows = []
    for runs in one.found.values():
        for variant, suffix in enumerate(("", " + T")):
            gaps = np.mean([pair[variant].levels["gap"] for pair in runs.by_seed.values()], axis=0)
            rows.append([runs.label + suffix, *(formatting.short(float(gap), 3, formatting.signed) for gap in gaps)])
    count = len(one.referee[0]["scored"]) if one.referee else 0
    judge = f"seed {one.regime.referee}" if one.regime.judge is None else f"`{one.regime.judge}` of another page"
    return (
        f"Confidence minus accuracy by level of adversarial distance to a plain network that no recipe uses ({judge}; "
        f"{count:,} test images; level 0 is the least robust), mean over the seeds:\n\n"
        + table(["", *map(str, range(len(rows[0]) - 1))], rows)
    )


def noise(one: Section) -> str:
    """Tell whether the smoothing of a level follows its share of wrong labels; nothing without noise."""
    titles = {recipe: runs.label for recipe, runs in one.found.items()}
    rows = noise_rows(one.facts, titles)
    if not rows:
        return ""
    return (
        "By level of the training images, as they are cut at the end (level 0: the smallest margin), mean over the "
        "seeds:\n\n"
        + table(["", *map(str, range(len(rows[0]) - 1))], rows)
        + "\nSpearman's rank correlation of both over the levels, seed by seed: "
        f"{noise_ranks(one.facts, titles)}.\n"
    )


def humans(one: Section) -> str:
    """Compare the probabilities with the answers of people; nothing without votes."""
    if not one.people:
        return ""
    rows = people_rows(one.people, {recipe: runs.label for recipe, runs in one.found.items()})
    return (
        "Against the answers of about 50 people a test image (CIFAR-10H), mean over the seeds; KL(people ‖ network) in "
        "nats, of shared votes: without answers that one person alone gave; Brier: squared distance to the shares of "
        "people; excess: confidence − share of people who give the predicted answer:\n\n"
        + table(["", *TITLES.values(), "excess"], rows)
    )


def scoring(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    """What the distances cost."""
    count, distance = len(arrays["scored"]), arrays["distance"]
    return (
        f'`robcal.score(method="auto")` of these images took {arrays["passes"].mean():.1f} passes an image and '
        f"{1e3 * facts['scoring_seconds'] / count:.1f} ms an image in float32; {np.isfinite(distance).sum():,} of "
        f"{count:,} were verified, median distance {np.median(distance):.3f}.\n"
    )


def numbers(one: Section) -> dict[str, Any]:
    """Every number of every run of a regime."""
    return {
        "regime": asdict(one.regime),
        "people": one.people,
        "recipes": {
            recipe: {
                "title": runs.label,
                "seeds": list(runs.by_seed),
                "facts": one.facts[recipe],
                **{
                    variant: [
                        {"temperature": pair[number].temperature,
                         **{name: metric.value for name, metric in pair[number].metrics.items()},
                         "levels": pair[number].levels, "cells": pair[number].cells}
                        for pair in runs.by_seed.values()
                    ]
                    for number, variant in enumerate(("raw", "scaled"))
                },
            }
            for recipe, runs in one.found.items()
        },
    }  # fmt: skip


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def short(metric: str, estimate: Estimate | None) -> str:
    """A mean without its interval."""
    return _written(metric, estimate, formatting.number)


def signed(metric: str, estimate: Estimate | None) -> str:
    """A difference with its interval, bold where this leaves 0 out."""
    text = _written(metric, estimate, formatting.signed)
    write = partial(_write, metric, formatting.signed)
    ends = formatting.interval(estimate, write)
    if not ends or estimate is None or estimate.low is None or estimate.high is None:
        return text
    whole = f"{text} {ends}"
    return f"**{whole}**" if estimate.low > 0 or estimate.high < 0 else whole


def _written(metric: str, estimate: Estimate | None, write: Callable[[float | None, int], str]) -> str:
    return formatting.NOTHING if estimate is None else _write(metric, write, estimate.value)


def _write(metric: str, write: Callable[[float | None, int], str], value: float | None) -> str:
    return formatting.short(value, 4 if metric in ("ece", "accuracy", "aurc") else 3, write)
