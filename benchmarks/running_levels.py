r"""Is AR-AdaLS by running levels, alone, with mixup and with AugMix, better than what else costs one training?

Usage: python benchmarks/running_study.py --data cifar10:PATH --fashion fashion-mnist:PATH --cache runs/study \
         --out runs/running
       python benchmarks/running_study.py --presets cifar10-running-seeds fashion-running --data cifar10:PATH \
         --fashion fashion-mnist:PATH --cache DIR --out runs/running-seeds
       python benchmarks/running_tiny.py PATH/train.parquet runs/tiny-imagenet.npz
       python benchmarks/running_study.py --presets cifar10-running-regularised tiny-running \
         --data cifar10:PATH --tiny npz:runs/tiny-imagenet.npz --cache DIR --out runs/running-others
       python benchmarks/training.py --train 1280 --val 1024 --epochs 11 --precision bf16 \
         --also mixup ar-adals+mixup --json docs/evidence/running/times.json
       python benchmarks/running_levels.py --results runs/running runs/running-seeds runs/running-others

Those of running_study.py train and measure; this reads their results and writes one page of answers and every number
beside it: it decides each clause of the target by its paired interval, also those that compare a network as it comes
with one that has a temperature. Each comparison is taken whole from the folder with the most of its runs, so from one
machine; rows and comparisons without a result are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kept_outcomes import from_arrays
from robcal.base.encoding import plain
from robcal.base.files import replacing
from robcal.base.results import VARIANTS
from robcal.base.storage import load_json
from robcal.base.types import Estimate
from robcal.comparison.outcomes import Outcome
from robcal.comparison.plan import Plan
from robcal.comparison.plan_file import load_plan
from robcal.comparison.summary import Measurements
from robcal.report import formatting
from running_clauses import Clause, composed_clauses, contest, verdicts
from turns import median_interval
from wide.report import COLUMNS, against_scaled, differences, short, signed, table
from wide.store import Results

PAGE = Path("docs/evidence/running-levels.md")
RUNNING, COMPOSED, WEAKER = "Running levels", "Running levels, mixup", "Running levels, mixup of alpha .1"
AUGMENTED, INTEGRAL = "Running levels, AugMix", "Running levels, integral update"
#: Preset → heading of its part of the page, the main comparison first.
HEADINGS = {
    "cifar10-running": "CIFAR-10 (JPEG), 5,000 images, no augmentation",
    "cifar10-running-seeds": "CIFAR-10 (JPEG), 5,000 images, no augmentation, mixup of alpha .2, another machine",
    "fashion-running": "Fashion-MNIST (the first 20,000 training images), 5,000 images, no augmentation",
    "cifar10-running-regularised": "CIFAR-10 (JPEG), 12,000 images, pad-crop and flip",
    "tiny-running": "Tiny ImageNet at 32x32 (200 classes, no shift), 10,000 images, no augmentation",
}
#: Preset → recipe → those that it is to be below in likelihood, ranking and calibration.
CONTESTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "cifar10-running": {
        RUNNING: ("AdaLS", "Random levels", "Levels by margin", "Levels by distance"),
        COMPOSED: (
            "Mixup",
            "AdaLS, mixup",
            "Random levels, mixup",
            "Levels by margin, mixup",
            "Levels by distance, mixup",
        ),
        AUGMENTED: ("AugMix", "AdaLS, AugMix", "Mixup", COMPOSED),
    },
    "cifar10-running-seeds": {
        INTEGRAL: (RUNNING,),
        RUNNING: ("AdaLS",),
        COMPOSED: ("Mixup", "AdaLS, mixup", "Label smoothing, mixup", WEAKER),
    },
    "fashion-running": {RUNNING: ("AdaLS",), COMPOSED: ("Mixup", "AdaLS, mixup")},
    "cifar10-running-regularised": {RUNNING: ("AdaLS", "Label smoothing"), COMPOSED: ("Mixup", "AdaLS, mixup")},
    "tiny-running": {RUNNING: ("AdaLS",), COMPOSED: ("Mixup", "AdaLS, mixup")},
}
#: Behind a label that has clauses of its own: those of its contest.
AGAINST = ", against others"
#: Labels of the comparison → names of the contenders of benchmarks/training.py.
TIMED = {
    **{RUNNING: "AR-AdaLS, running levels", "AdaLS": "AdaLS", "Mixup": "mixup"},
    COMPOSED: "ar-adals+mixup",
}


class Arm(NamedTuple):
    """What was measured of a comparison.

    Attributes:
        plan: the preset.
        machine: "hardware" and "torch" of its runs.
        found: label → its runs, in the order of the preset; those without a run are left out.
        facts: label → seed → what else is known of the run.
        chosen: label → the points of its grid, the mean figure of each on the tuning seeds, and the one chosen.
    """

    plan: Plan
    machine: Mapping[str, Any]
    found: Mapping[str, Measurements]
    facts: Mapping[str, Mapping[int, Mapping[str, Any]]]
    chosen: Mapping[str, Mapping[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    """Read the results, decide, write the page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="folders that running_study.py wrote")
    parser.add_argument("--times", type=Path, default=PAGE.parent / "running" / "times.json", help="of training.py")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    results = [Results(folder) for folder in options.results]
    arms = {name: arm for name in HEADINGS if "Plain" in (arm := arm_of(fullest(results, name), name)).found}
    times = ratios(load_json(options.times, "the times")) if options.times.exists() else {}
    clauses = {name: clauses_of(name, arm, times) for name, arm in arms.items()}
    with replacing(options.out) as temporary:
        temporary.write_text(page(arms, clauses, times), encoding="utf-8")
    with replacing(options.out.with_suffix(".json")) as temporary:
        temporary.write_text(written(numbers(arms, clauses, times)), encoding="utf-8")


def written(values: Mapping[str, Any]) -> str:
    """Write numbers as JSON, each array of them in one line.

    >>> print(written({"of one run": [1, 2.5]}).strip())
    {
     "of one run": [1,2.5]
    }
    """
    text = json.dumps(plain(values), indent=1, allow_nan=False)
    return re.sub(r'\[[^][{}"]*\]', lambda found: "".join(found[0].split()), text) + "\n"


def fullest(results: Sequence[Results], name: str) -> Results:
    """Return the results that hold the most runs of a comparison."""
    return max(results, key=lambda one: sum(run.partition("/")[0] == name for run in one.facts))


def arm_of(results: Results, name: str) -> Arm:
    """Return what was measured of a comparison."""
    plan, facts = load_plan(name, recipe={"data": "cifar10:"}), dict[str, dict[int, Mapping[str, Any]]]()
    for run in sorted(results.facts, key=lambda one: int(one.rpartition("/")[2])):
        preset, label, seed = run.split("/")
        if preset == name:
            facts.setdefault(label, {})[int(seed)] = results.facts[run]
    found = {
        label: Measurements(
            label,
            {seed: from_arrays(results.arrays[f"{name}/{label}/{seed}"], fact) for seed, fact in facts[label].items()},
        )
        for label in plan.labels
        if label in facts
    }
    machine = {name: results.about[name] for name in ("hardware", "torch")}
    return Arm(plan, machine, found, facts, results.about["plans"].get(name, {}).get("chosen", {}))


def ratios(times: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Estimate]:
    """Label → time of an epoch over plain's: the median of paired ratios with its 95% interval."""
    seconds = {name: np.array(each) for name, each in times["seconds"].items()}
    made = {}
    for label, name in TIMED.items():
        each = (seconds[name] / seconds["plain"]).tolist()
        made[label] = Estimate(*median_interval(each), tuple(each))
    return made


def clauses_of(name: str, arm: Arm, times: Mapping[str, Estimate]) -> dict[str, list[Clause]]:
    """Return all clauses of a comparison, by what they are about."""
    found = arm.found
    made = {}
    if {"Plain", "Mixup"} <= set(found):
        own = times if name == next(iter(HEADINGS)) else {}
        made = {COMPOSED: composed_clauses(found, COMPOSED, own)} if COMPOSED in found else {}
    for label, others in CONTESTS[name].items():
        against = [other for other in others if other in found]
        if label in found and against:
            made[f"{label}{AGAINST}" if label in made else label] = contest(found, label, against)
    return made


def page(
    arms: Mapping[str, Arm],
    clauses: Mapping[str, Mapping[str, Sequence[Clause]]],
    times: Mapping[str, Estimate],
) -> str:
    """Write the page."""
    parts = [
        "# Running levels, alone, with mixup and with AugMix\n",
        "Every clause is decided by its interval. Figures are paired differences to the other recipe, as they come (of "
        "the accuracy: the other's minus this one's), with 95% intervals.\n",
        *(answers(HEADINGS[name], CONTESTS[name], clauses[name]) for name in arms),
        set_up(arms),
    ]
    for name, arm in arms.items():
        parts += [f"## {HEADINGS[name]}\n", described(arm)]
        parts += [told(label, some) for label, some in clauses[name].items()]
        parts += [means(arm.found, times if name == next(iter(HEADINGS)) else {})]
        parts += [differences(arm.found, other) for other in arm.plan.reference if other in arm.found]
        parts += [against_scaled(arm.found, other) for other in ("Plain", "Mixup", "AugMix") if other in arm.found]
        parts += [judged(arm.found, arm.plan.score_limit)]
    return "\n".join(parts)


def answers(heading: str, contests: Mapping[str, Sequence[str]], clauses: Mapping[str, Sequence[Clause]]) -> str:
    """Say in sentences what the intervals decide between the recipes of a comparison and those beside them."""
    every = {label: clauses.get(f"{label}{AGAINST}", clauses.get(label, ())) for label in contests}
    pairs = [
        (label, other, some)
        for label, others in contests.items()
        for other in others
        if (some := [one for one in every[label] if one.other == other])
    ]
    return (
        f"{heading}:\n\n"
        + "\n".join(f"- **{label}** compared with **{other}**: {verdicts(some)}." for label, other, some in pairs)
        + "\n"
    )


def set_up(arms: Mapping[str, Arm]) -> str:
    """Say how the figures came about."""
    plan = next(iter(arms.values())).plan
    return f"""Made by `python benchmarks/running_study.py` and `python benchmarks/running_levels.py`, whose heads say
how: [every number](running-levels.json). `{plan.recipe["model"]}`, one thread a run. Rows of one table are of one
machine; two machines round differently, so that a run of the same seed ends at other weights.

- Shift: 15 corruptions at severities 1 to 5 of {plan.shift_limit:,} test images, the mean over these cells.
- "+ T": after one temperature, fitted on the validation images, by which AdaLS and AR-AdaLS steer too.
- A row with something to choose takes, of three points, the one with the least validation ECE on tuning seed
  {formatting.joined([str(seed) for seed in plan.tuning_seeds])}. The constants of the controller that AdaLS and
  AR-AdaLS share were set by hand before, on the recipe of the first table.
- One tuning seed hardly tells two points of a grid apart: by the same rule the other machine chose alpha = .2 for
  mixup, and .1 for running levels with mixup. Compositions have the alpha of mixup alone, which was decided after test
  figures of a row with its own alpha, .1, were seen.
- "Label smoothing, mixup" has alpha = .2 in all tables, so it is judged beside running levels only where they have that
  alpha too.
- Of Tiny ImageNet the test images are a fifth of its training file, drawn by class: its own test images are sharper.
  Nothing is chosen there. Plain training for 8 epochs on 20,000 images left nothing to repair (validation ECE .016 on
  seed 0), so that epochs and images were changed to 14 and 10,000 before any other recipe was trained.
- Rows have the seeds that the time allowed. One with fewer than another is compared with it on the seeds that both
  have; its means are of fewer seeds.
- AugMix and mixup both change the inputs, so they do not compose.
- Levels by margin and by distance take a plain network before, whose margins or adversarial distances cut the levels.
- Differences of ECE are those of the error with most of its bias removed. No correction for the number of comparisons
  was made.
- Time: CPU seconds of an epoch over plain's, of loops that take turns on a busy machine with 2 CPU cores.
"""


def described(arm: Arm) -> str:
    """Say what the runs of a comparison were trained and measured on."""
    recipe, one = arm.plan.recipe, next(fact for facts in arm.facts.values() for fact in facts.values())
    sizes = {name: f"{count:,}" for name, count in one["data"]["sizes"].items()}
    hardware = arm.machine["hardware"]
    points = [f"{label}: {point(choice['chosen'])}" for label, choice in arm.chosen.items()]
    chosen = f" Chosen: {'; '.join(points)}." if points else ""
    return (
        f"{one['data']['name']}, {sizes['train']} training images, augmentation: {recipe['augment']}, "
        f"{recipe['epochs']} epochs; {sizes['val']} validation and {sizes['test']} test images; {hardware['cpu']}, "
        f"{hardware['cores']} CPU cores, torch {arm.machine['torch']}.{chosen}\n"
    )


def point(settings: Mapping[str, float]) -> str:
    """Write the point of a grid."""
    return ", ".join(f"{name} = {value:g}" for name, value in settings.items())


def told(label: str, clauses: Sequence[Clause]) -> str:
    """Write clauses with their figures and verdicts."""
    verdicts = [one.verdict() for one in clauses]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("met", "not met", "not resolved"))
    rows = [[one.text, figure(one), verdict] for one, verdict in zip(clauses, verdicts, strict=True)]
    return f"{label}: {counts}.\n\n" + table(["", "measured", ""], rows)


def figure(clause: Clause) -> str:
    """Write what is bounded, with its interval."""
    value = clause.value
    if clause.metric == "time" or clause.text.startswith("ECE at most"):
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return signed(clause.metric, value).replace("**", "")


def means(found: Mapping[str, Measurements], times: Mapping[str, Estimate]) -> str:
    """Means over seeds, as they come and after a temperature."""
    floors = found["Plain"].floors("scaled")
    heads = [
        f"{title} (floor {formatting.short(floors[key])})" if key in floors else title for key, title in COLUMNS.items()
    ]
    scaled = [key for key in COLUMNS if key not in ("accuracy", "aurc")]
    rows = []
    for label, runs in found.items():
        cells = [str(len(runs.by_seed)), *(short(key, runs.estimate(key, "raw")) for key in COLUMNS)]
        cells += [short(key, runs.estimate(key, "scaled")) for key in scaled]
        cells.append(f"{np.mean([pair[1].temperature for pair in runs.by_seed.values()]):.2f}")
        cells.append(f"{times[label].value:.2f}" if label in times else "1" if label == "Plain" else "")
        rows.append([label, *cells])
    return table(["", "seeds", *heads, *(f"{COLUMNS[key]}, + T" for key in scaled), "T", "time ×"], rows)


def judged(found: Mapping[str, Measurements], limit: int | None) -> str:
    """Gap of each level of the referee, mean over seeds, and its root mean square over levels."""
    rows = []
    for runs in found.values():
        for variant, suffix in enumerate(("", " + T")):
            gaps = np.mean([pair[variant].levels["gap"] for pair in runs.by_seed.values()], axis=0)
            cells = [formatting.short(float(gap), 3, formatting.signed) for gap in gaps]
            rows.append([runs.label + suffix, *cells, formatting.short(float(np.sqrt((gaps**2).mean())))])
    return (
        f"Confidence minus accuracy by level of adversarial distance to a referee, the plain network of another seed "
        f"({limit:,} test images; level 0 is the least robust), mean over the seeds:\n\n"
        + table(["", *map(str, range(len(rows[0]) - 2)), "rms"], rows)
    )


def numbers(
    arms: Mapping[str, Arm],
    clauses: Mapping[str, Mapping[str, Sequence[Clause]]],
    times: Mapping[str, Estimate],
) -> dict[str, Any]:
    """Return every number of every run, and the clauses."""
    return {
        "times": times,
        "comparisons": {
            name: {
                "plan": asdict(arm.plan),
                **arm.machine,
                "chosen": arm.chosen,
                "clauses": {
                    label: [{**one._asdict(), "verdict": one.verdict()} for one in some]
                    for label, some in clauses[name].items()
                },
                "runs": {label: dict(run_numbers(arm, label)) for label in arm.found},
            }
            for name, arm in arms.items()
        },
    }


def run_numbers(arm: Arm, label: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return seed → the numbers of that run."""
    for seed, pair in arm.found[label].by_seed.items():
        fact = arm.facts[label][seed]
        yield (
            seed,
            {
                "seconds": fact["seconds"],
                "epsilon": fact["epsilon"],
                **{variant: outcome_numbers(one) for variant, one in zip(VARIANTS, pair, strict=True)},
            },
        )


def outcome_numbers(one: Outcome) -> dict[str, Any]:
    """Return the values of an outcome, rounded."""
    return {
        "temperature": round(one.temperature, 6),
        **{name: round(metric.value, 6) for name, metric in one.metrics.items()},
        "levels": {name: np.round(row, 3) for name, row in one.levels.items()},
        "cells": {name: np.round(one.cells[name], 3) for name in ("accuracy", "ece", "nll")},
    }


if __name__ == "__main__":
    main()
