"""Train Wide ResNets by several recipes on one GPU, in pieces of a few minutes, and write docs/evidence/gpu.md.

Usage: python benchmarks/gpu.py --data cifar10:PATH --minutes 9 --out DIR         start, or go on, for nine minutes
       python benchmarks/gpu.py --data cifar10:PATH --minutes 2 --speed           what a step costs, in several ways
       python benchmarks/gpu.py --report DIR --page docs/evidence/gpu.md          tables of what DIR holds (--people,
                                                                                  --judges)

benchmarks/wide/plan.toml says what is trained; docs/gpu.md says how, and what it costs.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PLAN = Path(__file__).parent / "wide" / "plan.toml"


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line asks for."""
    started, options = time.monotonic(), parse(arguments)
    log = functools.partial(say, started)
    if options.report is not None:
        from wide.report import write_page

        write_page(options.report, options.page, options.people, options.judges)
        return
    left = functools.partial(seconds_left, options.minutes, started)
    if options.speed is not None:
        from wide.speed import measure_speed

        measure_speed(options.data, options.plan, options.device, left, log, options.speed)
    if options.out is not None:
        work(options, left, log)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="cifar10:PATH, imagenet:PATH of 32x32 images, or npz:FILE")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--trial", action="store_true", help="two epochs of 5,000 images of everything, one seed")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this piece, start of the command included")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--noisy", type=Path, help="folder of CIFAR-10N, for regimes with noise")
    parser.add_argument("--state", type=Path, help="folder of what only a later piece needs; default OUT/state")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a trial")
    parser.add_argument("--turn", type=Path, help="a file: of processes that name it, one trains at a time")
    parser.add_argument(
        "--speed", nargs="?", const="", metavar="WAY", help="measure steps first, in every way or in one"
    )
    parser.add_argument("--report", type=Path, metavar="DIR")
    parser.add_argument("--people", type=Path, help="folder of CIFAR-10H, for the page")
    parser.add_argument("--judges", type=Path, help="folder of the results that a regime's `judge` is in, for the page")
    parser.add_argument("--page", type=Path, default=Path("docs/evidence/gpu.md"))
    options = parser.parse_args(arguments)
    if options.report is None and (options.data is None or (options.out is None and options.speed is None)):
        parser.error("--data and --out are needed, or --report DIR")
    return options


def work(options: argparse.Namespace, left: Callable[[], float], log: Callable[[str], None]) -> None:
    """Do a piece of the plan."""
    import torch

    from robcal.base.storage import digest_of
    from robcal.comparison.assemble import hardware
    from robcal.data import load_dataset
    from wide.images import read_images
    from wide.measure import CorruptedTest
    from wide.noise import NoisyLabels
    from wide.plan import load_plan, trial_of
    from wide.store import Results
    from wide.work import Worker

    plan, state = load_plan(options.plan), options.state or options.out / "state"
    plan = trial_of(plan) if options.trial else plan
    parts = read_images(options.data)
    data = load_dataset(options.data, parts=parts, test_limit=plan.test_images)
    results = Results(options.out, digest_of([plan, data.digest("test")]))
    results.about = {
        "plan": options.plan.read_text(encoding="utf-8"),
        "data": data.name,
        "test_images": len(data.split("test")),
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    state.mkdir(parents=True, exist_ok=True)
    log(f"{data.name} read; {results.about['hardware']['gpu'] or results.about['hardware']['cpu']}")
    shifted = CorruptedTest(data, plan, state / "corrupted")
    try:
        worker = Worker(
            plan=plan,
            spec=options.data,
            parts=parts,
            results=results,
            state=state,
            device=torch.device(options.device),
            shifted=shifted,
            seconds_left=left,
            log=log,
            noisy=NoisyLabels(options.noisy) if options.noisy is not None else None,
        )
        with turn(options.turn):
            log("everything is done" if worker.do() else "not everything is done; the same command goes on")
    finally:
        shifted.close()


@contextmanager
def turn(file: Path | None) -> Iterator[None]:
    """Wait until no other process is in its turn; what was read and made before is made while others train."""
    if file is None:
        yield
        return
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def seconds_left(minutes: float, started: float) -> float:
    """Return what is left of a piece."""
    return 60 * minutes - (time.monotonic() - started)


def say(started: float, text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
