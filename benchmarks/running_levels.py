r"""Is AR-AdaLS by running levels, alone and with mixup, better than what else costs one training? One page of answers.

Usage: robcal compare cifar10-running --data cifar10:PATH --cache runs/study --out docs/evidence/running
       python benchmarks/training.py --train 1280 --val 1024 --epochs 11 --precision bf16 \
         --also mixup ar-adals+mixup --json docs/evidence/running/times.json
       python benchmarks/running_levels.py --data cifar10:PATH --cache runs/study

The comparison trains and measures, and writes every number; this reads the same runs, decides each clause of the target
by its paired interval, also those that compare a network as it comes with one that has a temperature, and cuts the
levels it judges by with a referee: the plain network of the next seed, which no method of the seed has seen.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robcal.base.files import replacing
from robcal.base.jobs import available_cores
from robcal.base.storage import load_json, save_json
from robcal.base.types import Estimate
from robcal.comparison.doing import dataset_of
from robcal.comparison.outcomes import Job, outcomes_of
from robcal.comparison.plan_file import load_plan
from robcal.comparison.study import plan_work
from robcal.comparison.summary import Measurements
from robcal.comparison.tasks import Work
from robcal.report import formatting
from turns import median_interval
from wide.report import COLUMNS, against_scaled, differences, short, signed, table, with_temperature

PAGE = Path("docs/evidence/running-levels.md")
RUNNING, COMPOSED = "Running levels", ("Running levels, mixup", "Running levels, mixup, own alpha")
#: Labels of the comparison → names of the contenders of benchmarks/training.py.
TIMED = {
    **{RUNNING: "AR-AdaLS, running levels", "AdaLS": "AdaLS", "Mixup": "mixup"},
    **dict.fromkeys(COMPOSED, "ar-adals+mixup"),
}


class Clause(NamedTuple):
    """A statement of the target: some difference lies below a bound.

    Attributes:
        text: the statement.
        value: what is bounded from above.
        bound: the most that it may be.
        metric: whose.
    """

    text: str
    value: Estimate
    bound: float
    metric: str

    def verdict(self) -> str:
        """Tell on which side of the bound the whole interval lies."""
        if self.value.low is None or self.value.high is None:
            return "not resolved"
        return "met" if self.value.high <= self.bound else "not met" if self.value.low > self.bound else "not resolved"


def main() -> None:
    """Read the runs, decide, write the page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default="cifar10-running", help="a preset or a TOML file")
    parser.add_argument("--data", required=True, help="as `robcal compare` was given it")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--times", type=Path, default=PAGE.parent / "running" / "times.json", help="of training.py")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    plan = load_plan(options.plan, recipe={"data": options.data})
    work = plan_work(plan, options.cache, cache=options.cache, overwrite=True)
    found = by_referee(work)
    times = ratios(load_json(options.times, "the times")) if options.times.exists() else {}
    clauses = {label: composed_clauses(found, label, times) for label in COMPOSED}
    clauses[RUNNING] = running_clauses(found)
    with replacing(options.out) as temporary:
        temporary.write_text(page(work, found, clauses, times), encoding="utf-8")
    save_json(numbers(found, clauses, times), options.out.with_suffix(".json"))


def by_referee(work: Work) -> dict[str, Measurements]:
    """Compute the outcomes of all runs; test levels are those of the plain network of the next seed."""
    seeds = work.plan.seeds
    found: dict[str, Measurements] = {label: Measurements(label, {}) for label in work.plan.labels}
    for entry in work.entries:
        referee = work.plain.get(seeds[(seeds.index(entry.seed) + 1) % len(seeds)])
        job = Job(entry, work.place, referee, work.shift, work.plan.score_limit)
        one = found[entry.label]
        found[entry.label] = dataclasses.replace(one, by_seed={**one.by_seed, entry.seed: outcomes_of(job)})
    return found


def ratios(times: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Estimate]:
    """Label → time of an epoch over plain's: the median of paired ratios with its 95% interval."""
    seconds = {name: np.array(each) for name, each in times["seconds"].items()}
    made = {}
    for label, name in TIMED.items():
        each = (seconds[name] / seconds["plain"]).tolist()
        made[label] = Estimate(*median_interval(each), tuple(each))
    return made


def composed_clauses(found: Mapping[str, Measurements], label: str, times: Mapping[str, Estimate]) -> list[Clause]:
    """List what was to be shown of a composed recipe."""
    ours, plain, mixup = found[label], found["Plain"], found["Mixup"]
    scaled = (with_temperature(plain), with_temperature(mixup))
    return [
        *([Clause("time at most 1.1 x plain's", times[label], 1.1, "time")] if label in times else []),
        Clause("accuracy not below Plain", known(plain.difference(ours, "accuracy", "raw")), 0.0, "accuracy"),
        Clause("ECE at most .02", known(ours.estimate("ece", "raw")), 0.02, "ece"),
        *(below(ours, other, metric) for other in scaled for metric in ("shift_ece", "shift_nll")),
        *(below(ours, other, "aurc") for other in (plain, mixup)),
        below(ours, scaled[1], "nll", 0.01),
    ]


def running_clauses(found: Mapping[str, Measurements]) -> list[Clause]:
    """List what was to be shown of running levels alone, and what their being the default rests on."""
    metrics = ("nll", "aurc", "ece", "shift_ece", "shift_nll")
    against = [found[label] for label in ("AdaLS", "Random levels", "Levels by margin") if label in found]
    return [below(found[RUNNING], other, metric) for other in against for metric in metrics]


def below(runs: Measurements, other: Measurements, metric: str, bound: float = 0.0) -> Clause:
    """State that a figure lies below another's, or above it by less than the bound."""
    than = f"within {bound:g} of" if bound else "below"
    return Clause(
        f"{COLUMNS[metric]} {than} {other.label}", known(runs.difference(other, metric, "raw")), bound, metric
    )


def known(estimate: Estimate | None) -> Estimate:
    """Return what was measured of all labels."""
    assert estimate is not None, "every label has a run"
    return estimate


def page(
    work: Work,
    found: Mapping[str, Measurements],
    clauses: Mapping[str, Sequence[Clause]],
    times: Mapping[str, Estimate],
) -> str:
    """Write the page."""
    pairs = [
        *(differences(found, other) for other in work.plan.reference),
        *(against_scaled(found, other) for other in ("Plain", "Mixup")),
    ]
    parts = [
        "# Running levels, alone and with mixup\n",
        "The target, clause by clause. Figures are paired differences to the other recipe, as they come (of the "
        "accuracy: the other's minus this one's), with 95% intervals.\n",
        *(told(label, some) for label, some in clauses.items()),
        set_up(work),
        means(found, times),
        *pairs,
        judged(found, work.plan.score_limit),
    ]
    return "\n".join(parts)


def set_up(work: Work) -> str:
    """Say how the figures came about."""
    plan, data = work.plan, dataset_of(work.plan.plain(work.plan.seeds[0]))
    train, val, test = (f"{len(data.split(name)):,}" for name in ("train", "val", "test"))
    seeds, tuning = (formatting.joined([str(seed) for seed in some]) for some in (plan.seeds, plan.tuning_seeds))
    return f"""Made by `robcal compare cifar10-running` and `python benchmarks/running_levels.py`, whose head says how:
[every number](running/results.json), [all tables](running/table.md), [numbers of this page alone](running-levels.json).
{data.name}, `{plan.recipe["model"]}`, {train} training images without augmentation (it over-fits),
{plan.recipe["epochs"]} epochs, {val} validation and {test} test images, seeds {seeds}, {available_cores()} CPU cores.

- Shift: 15 corruptions at severities 1 to 5 of {plan.shift_limit:,} test images, the mean over these cells.
- "+ T": after one temperature, fitted on the validation images, by which AdaLS and AR-AdaLS steer too.
- Chosen by validation ECE among three points, on seed {tuning}: {"; ".join(chosen(work))}. Nothing else was varied;
  the constants of the controller that AdaLS and AR-AdaLS share were set by hand on this recipe before.
- "Own alpha" was planned. The row with the alpha of mixup was added after the test figures of the planned one were
  seen: one tuning seed hardly tells two points of the grid apart, and with equal alpha the levels are all that differs.
- Differences of ECE are those of the error with most of its bias removed. No correction for the number of comparisons
  was made.
- Time: CPU seconds of an epoch over plain's, of loops that take turns on a busy machine. Levels by margin need a plain
  training before, and cost 2.
"""


def chosen(work: Work) -> list[str]:
    """Say which point each method with a grid took."""
    told_of = []
    for method in work.plan.methods:
        choice = next(entry.members[0] for entry in work.entries if entry.label == method.label)
        if method.grid:
            point = method.grid[choice.best()]
            told_of.append(f"{method.label}: {', '.join(f'{name} = {value:g}' for name, value in point.items())}")
    return told_of


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
    found: Mapping[str, Measurements], clauses: Mapping[str, Sequence[Clause]], times: Mapping[str, Estimate]
) -> dict[str, object]:
    """Return the numbers of the page that results.json of the comparison does not hold."""
    return {
        "clauses": {
            label: [{**one._asdict(), "verdict": one.verdict()} for one in some] for label, some in clauses.items()
        },
        "times": times,
        "gap by level of the referee": {
            label: {seed: [pair[k].levels["gap"] for k in (0, 1)] for seed, pair in runs.by_seed.items()}
            for label, runs in found.items()
        },
    }


if __name__ == "__main__":
    main()
