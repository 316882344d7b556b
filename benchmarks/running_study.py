"""Do the comparisons of running levels, the most wanted rows first, and keep what was measured in a few small files.

Usage: python benchmarks/running_study.py --data cifar10:PATH --fashion fashion-mnist:PATH --tiny npz:FILE --cache DIR
         --out DIR (running_tiny.py writes FILE)
       (--jobs 14 --minutes 9: on 14 cores, for nine minutes; the same command goes on)
       (--presets cifar10-running-seeds: this comparison alone, on another machine)

Five presets (`ORDER`) share the runs below --cache, as `robcal compare PRESET --cache DIR` makes them. Test levels are
those of a referee: the plain network of the next seed, which no method of the seed has seen. --out gets
results-00.safetensors, …, of which `python benchmarks/running_levels.py` makes docs/evidence/running-levels.md.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kept_outcomes import to_arrays
from robcal.base.jobs import Failure, run_tasks
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import load_arrays, save_arrays
from robcal.comparison.assemble import hardware
from robcal.comparison.doing import dataset_of, run_task, seconds_of
from robcal.comparison.outcomes import outcomes_of
from robcal.comparison.plan import Plan
from robcal.comparison.plan_file import load_plan
from robcal.comparison.tasks import Choice, Entry, Job, Place, Task, Work
from robcal.data.corruptions import BENCHMARK_KINDS
from robcal.runs.directory import open_run
from wide.store import Results

#: Presets and rows of them (none named: all), the most wanted first.
ORDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "cifar10-running",
        (
            "Plain",
            "AdaLS",
            "Running levels",
            "Mixup",
            "AdaLS, mixup",
            "Running levels, mixup",
            "AugMix",
            "AdaLS, AugMix",
            "Running levels, AugMix",
            "Levels by margin",
            "Levels by distance",
            "Levels by margin, mixup",
            "Levels by distance, mixup",
            "Random levels, mixup",
            "Label smoothing, mixup",
            "Random levels",
            "Label smoothing",
        ),
    ),
    (
        "cifar10-running-seeds",
        ("Plain", "Running levels", "Running levels, integral update", "Mixup", "Running levels, mixup"),
    ),
    ("cifar10-running-seeds", ("AdaLS, mixup", "Label smoothing, mixup")),
    ("fashion-running", ("Plain", "AdaLS", "Running levels", "Mixup", "Running levels, mixup", "AdaLS, mixup")),
    ("cifar10-running-seeds", ()),
    ("fashion-running", ()),
    ("cifar10-running-regularised", ("Plain", "AdaLS", "Running levels", "Mixup", "Running levels, mixup")),
    ("tiny-running", ("Plain", "AdaLS", "Running levels", "Mixup", "Running levels, mixup")),
    ("cifar10-running-regularised", ()),
    ("tiny-running", ()),
)
PRESETS = tuple(dict.fromkeys(name for name, _ in ORDER))
#: Seconds before the end from which on nothing else is begun.
LAST_SECONDS = 15.0
#: Seconds after which what is measured is packed again.
SAVE_SECONDS = 60.0


class NoTimeError(Exception):
    """The time is over before a piece has begun."""


@dataclass(frozen=True)
class Piece:
    """A task of a comparison, or the outcomes of one of its entries, and until when it may begin.

    Attributes:
        what: the task or the job.
        needs: positions of the pieces before it that it waits for.
        until: seconds since the epoch, infinite without a limit.
    """

    what: Task | Job
    needs: tuple[int, ...]
    until: float

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return self.what.kind if isinstance(self.what, Task) else "outcomes"

    def describe(self) -> str:
        """Return one line for people."""
        if isinstance(self.what, Task):
            return self.what.describe()
        return f"outcomes: {self.what.entry.label} seed {self.what.entry.seed}"


def main(arguments: list[str] | None = None) -> None:
    """Do what there is time for, and pack what is measured."""
    started, options = time.time(), parse(arguments)
    works = {name: work_of(name, options) for name in options.presets if spec_of(name, options)}
    end = started + 60 * options.minutes
    pieces = laid_out(works, ORDER, end, end - options.training_seconds)
    say(started, f"{len(pieces)} pieces; {hardware()['cpu']}, torch {torch.__version__}")
    try:
        report(started, pieces, do_all(started, pieces, options.jobs, lambda: pack(works, options.out)))
    finally:
        pack(works, options.out)
        say(started, "results are packed")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="cifar10:PATH; comparisons whose data is not named are left out")
    parser.add_argument("--fashion", help="fashion-mnist:PATH")
    parser.add_argument("--tiny", help="npz:FILE, which running_tiny.py writes")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, a new one")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which nothing is begun")
    parser.add_argument(
        "--training-seconds", type=float, default=60.0, help="before the end from which on no training begins"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the presets")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS, help="comparisons, instead of all")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="of the recipe, for a trial")
    return parser.parse_args(arguments)


def spec_of(name: str, options: argparse.Namespace) -> str | None:
    """Return the data of a preset, as it is named on the command line."""
    return {"fashion-running": options.fashion, "tiny-running": options.tiny}.get(name, options.data)


def work_of(name: str, options: argparse.Namespace) -> Work:
    """Return the tasks of a preset."""
    trial = {key: int(value) for key, _, value in (text.partition("=") for text in options.set)}
    plan = load_plan(name, seeds=options.seeds, recipe={"data": spec_of(name, options), "device": "cpu", **trial})
    return Work(plan, Place(options.cache), kinds=BENCHMARK_KINDS)


def laid_out(
    works: Mapping[str, Work], order: Sequence[tuple[str, Sequence[str]]], end: float, last_training: float
) -> list[Piece]:
    """Return all pieces, each after what it needs: those of the first rows first, one seed after the other.

    Args:
        works: preset → its tasks.
        order: as `ORDER`.
        end: when all must have ended, in seconds since the epoch.
        last_training: from when on no training begins.
    """
    pieces: list[Piece] = []
    number: dict[tuple[Any, ...], int] = {}

    def add(key: tuple[Any, ...], what: Task | Job, needs: Sequence[int]) -> int:
        if key not in number:
            number[key] = len(pieces)
            training = isinstance(what, Task) and what.kind in ("train", "score train")
            pieces.append(Piece(what, tuple(needs), last_training if training else end - LAST_SECONDS))
        return number[key]

    def add_task(name: str, task: int) -> int:
        work = works[name]
        return add((name, task), work.tasks[task], [add_task(name, need) for need in work.needs[task]])

    for name, labels in order:
        for entry in works[name].entries if name in works else ():
            if not labels or entry.label in labels:
                work, plain = works[name], works[name].plan.labels[0]
                own, judge = work.parts[entry.label, entry.seed], work.parts[plain, referee_of(work.plan, entry)]
                needs = [add_task(name, task) for task in (*own["all"], *own.get("shift", ()), *judge["levels"])]
                add((name, entry.label, entry.seed), job_of(work, entry), needs)
    return pieces


def referee_of(plan: Plan, entry: Entry) -> int:
    """Return the seed of the plain network that judges an entry: the next one."""
    return plan.seeds[(plan.seeds.index(entry.seed) + 1) % len(plan.seeds)]


def job_of(work: Work, entry: Entry) -> Job:
    """Return what the outcomes of an entry are computed from."""
    return Job(entry, work.place, work.plain[referee_of(work.plan, entry)], work.shift, work.plan.score_limit)


def do_all(started: float, pieces: Sequence[Piece], jobs: int, save: Callable[[], None]) -> list[Any]:
    """Do the pieces, and save what is measured from time to time; for each its seconds, or why it was not done."""
    told = [started]

    def done(count: int) -> None:
        if time.time() - told[0] > SAVE_SECONDS:
            say(started, f"{count} pieces have ended")
            save()
            told[0] = time.time()

    def failed(number: int, failure: Failure) -> None:
        if NoTimeError.__name__ not in failure.reason:
            say(started, f"failed: {pieces[number].describe()}: {failure.reason}")

    return run_tasks(do, pieces, [one.needs for one in pieces], jobs=jobs, done=done, failed=failed)


def do(piece: Piece, reporter: Reporter = SILENT) -> float:
    """Do a piece; its seconds.

    Raises:
        NoTimeError: if it is too late to begin.
    """
    start = time.time()
    if start > piece.until:
        raise NoTimeError
    if isinstance(piece.what, Task):
        run_task(piece.what, SILENT)
    else:
        keep(piece.what)
    return time.time() - start


def keep(job: Job) -> None:
    """Compute the outcomes of an entry, and write them down; those that are there are left."""
    file = measured_file(job)
    if file.exists():
        return
    run = open_run(job.place.of(job.entry.members[0].settings()))
    data, last = dataset_of(run.settings), run.history()[-1]
    arrays, facts = to_arrays(outcomes_of(job))
    about = {
        "run": run.directory.name,
        "seconds": seconds_of(run.directory),
        "epsilon": last.epsilon,
        "gap": last.gap,
        "data": {"name": data.name, "sizes": {name: len(split) for name, split in data.splits.items()}},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(arrays, file, about={**facts, **about})


def measured_file(job: Job) -> Path:
    """Return where the outcomes of an entry are kept: by its run and by its referee."""
    assert job.plain is not None, "every comparison has levels"
    names = (job.place.of(choice.settings()).name for choice in (job.entry.members[0], job.plain))
    return job.place.cache / "measured" / f"{'-by-'.join(names)}.safetensors"


def report(started: float, pieces: Sequence[Piece], ended: Sequence[Any]) -> None:
    """Say what was done, and what it took."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for piece, end in zip(pieces, ended, strict=True):
        if not isinstance(end, Failure):
            seconds[piece.kind].append(end)
    for kind, each in seconds.items():
        say(started, f"{kind}: {len(each)}, mean {sum(each) / len(each):.1f} s, longest {max(each):.1f} s")
    say(started, f"{sum(map(len, seconds.values()))} of {len(pieces)} pieces are done")


def pack(works: Mapping[str, Work], out: Path) -> None:
    """Write what is measured of all comparisons into a few files; what they hold already stays."""
    results = Results(out)
    results.about = {
        "hardware": hardware(),
        "torch": torch.__version__,
        "plans": {name: {"digest": work.plan.digest(), "chosen": dict(chosen(work))} for name, work in works.items()},
    }
    files = {f"{name}/{one.label}/{one.seed}": file for name, work in works.items() for one, file in measured(work)}
    results.add_all({name: load_arrays(file) for name, file in files.items() if name not in results})


def measured(work: Work) -> Iterator[tuple[Entry, Path]]:
    """Return the entries that are measured, and where."""
    for entry in work.entries:
        if all(map(decided, entry.members)) and (file := measured_file(job_of(work, entry))).exists():
            yield entry, file


def decided(choice: Choice) -> bool:
    """Tell whether the tuning runs of a choice are there."""
    return all((run / "run.json").exists() and open_run(run).is_complete for runs in choice.trials for run in runs)


def chosen(work: Work) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return, for each method with a grid of its own whose tuning runs are there, what it chose and by what."""
    first = {entry.label: entry.members[0] for entry in reversed(work.entries)}
    for method in work.plan.methods:
        choice = first[method.label]
        if method.grid and decided(choice):
            scores = [sum(one) / len(one) for one in choice.scores()]
            points = [dict(point) for point in method.grid]
            yield method.label, {"points": points, "scores": scores, "chosen": points[choice.best()]}


def say(started: float, text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.time() - started:6.1f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
