"""What metrics with intervals cost at scale: robcal beside torchmetrics and netcal, which need a bootstrap loop.

Usage: pip install -r benchmarks/requirements.txt
       python benchmarks/metrics.py                  (1,000,000 top labels, and 50,000 x 1,000 probabilities: 3 GB)
       python benchmarks/metrics.py --large          (whole audits of files: 5,000,000 x 10, and 50,000 x 1,000)
       python benchmarks/metrics.py --quick          (small, to see that it runs)

Every job runs in a process of its own, on one thread, and tells its CPU seconds (after a warm-up on few examples) and
its peak memory beyond that of its input and libraries. Jobs run in turn, `--rounds` times; the medians count. A peer
draws `--peer-resamples` resamples a round, and its time is extrapolated to as many as ours: every resample costs the
same. A ratio is between two jobs of the same round. "One figure" is the ECE (15 equal-width bins, l1).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

#: (inputs, resamples, seed) → the figures it found: value, low, high.
Job = Callable[[Any, int, int], dict[str, tuple[float, float | None, float | None]]]
BINS = 15
#: Examples, classes and levels of the audits of `--large`.
LARGE = ((5_000_000, 10, 10), (50_000, 1_000, 100))


@dataclass(frozen=True)
class Contender:
    """A way to get figures with intervals; `peer` if its resamples are few and its time is extrapolated."""

    package: str
    what: str
    job: Job
    peer: bool


def _estimates(found: dict[str, Any]) -> dict[str, tuple[float, float | None, float | None]]:
    return {name: (estimate.value, estimate.low, estimate.high) for name, estimate in found.items()}


def _our_summary(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    from robcal.calibration import top_label_metrics

    return _estimates(top_label_metrics(*inputs, bins=BINS, resamples=resamples, seed=seed))


def _our_metrics(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    from robcal.calibration import overall_metrics

    return _estimates(overall_metrics(*inputs, bins=BINS, resamples=resamples, seed=seed))


def _our_ece(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    from robcal.calibration import calibration_error, calibration_error_interval

    ends = calibration_error_interval(*inputs, bins=BINS, resamples=resamples, seed=seed)
    return {"ece": (calibration_error(*inputs, bins=BINS), *ends)}


def _torch_loop(metric: Callable[[Any, Any], Any], inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    """The percentile bootstrap of a function of tensors."""
    import torch

    values, truth = torch.from_numpy(inputs[0]), torch.from_numpy(inputs[1].astype(np.int64))
    generator, n, found = torch.Generator().manual_seed(seed), len(truth), []
    for _ in range(resamples):
        index = torch.randint(n, (n,), generator=generator)
        found.append(metric(values[index], truth[index]))
    low, high = torch.stack(found).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"ece": (float(metric(values, truth)), low, high)}


def _torchmetrics_binary(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    from torchmetrics.functional.classification import binary_calibration_error

    def metric(values: Any, truth: Any) -> Any:
        return binary_calibration_error(values, truth, n_bins=BINS, norm="l1", validate_args=False)

    return _torch_loop(metric, inputs, resamples, seed)


def _torchmetrics_multiclass(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    from torchmetrics.functional.classification import multiclass_calibration_error

    def metric(values: Any, truth: Any) -> Any:
        return multiclass_calibration_error(
            values, truth, num_classes=values.shape[1], n_bins=BINS, norm="l1", validate_args=False
        )

    return _torch_loop(metric, inputs, resamples, seed)


def _torchmetrics_bootstrapper(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    """As torchmetrics documents it: one copy of the metric, with its own copy of the data, a resample."""
    import torch
    from torchmetrics.classification import BinaryCalibrationError
    from torchmetrics.wrappers import BootStrapper

    torch.manual_seed(seed)
    values, truth = torch.from_numpy(inputs[0]), torch.from_numpy(inputs[1].astype(np.int64))
    base = BinaryCalibrationError(n_bins=BINS, norm="l1", validate_args=False)
    quantiles = torch.tensor([0.025, 0.975])
    wrapped = BootStrapper(
        base, num_bootstraps=resamples, quantile=quantiles, mean=True, std=False, sampling_strategy="multinomial"
    )
    wrapped.update(values, truth)
    found = wrapped.compute()
    return {"ece": (float(found["mean"]), *found["quantile"].tolist())}


def _top_label_first(job: Job) -> Job:
    """What a careful user does: reduce the probabilities to their top labels once, and resample these."""

    def reduced(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
        probs, labels = inputs
        return job((probs.max(1), probs.argmax(1) == labels), resamples, seed)

    return reduced


def _netcal(inputs: Any, resamples: int, seed: int) -> dict[str, Any]:
    from netcal.metrics import ECE

    values, truth = inputs[0], inputs[1].astype(np.int64)
    rng, n, metric = np.random.default_rng(seed), len(truth), ECE(BINS)
    draws = (rng.integers(n, size=n) for _ in range(resamples))
    found = [metric.measure(values[draw], truth[draw]) for draw in draws]
    low, high = np.quantile(found, [0.025, 0.975])
    return {"ece": (float(metric.measure(values, truth)), float(low), float(high))}


CONTENDERS: dict[str, tuple[Contender, ...]] = {
    "summary": (
        Contender("robcal", "10 figures with intervals", _our_summary, peer=False),
        Contender("torchmetrics", "one figure, bootstrap loop", _torchmetrics_binary, peer=True),
        Contender("torchmetrics", "one figure, BootStrapper", _torchmetrics_bootstrapper, peer=True),
        Contender("netcal", "one figure, bootstrap loop", _netcal, peer=True),
    ),
    "full": (
        Contender("robcal", "12 figures with intervals", _our_metrics, peer=False),
        Contender("robcal", "one figure, test inversion", _our_ece, peer=False),
        Contender("torchmetrics", "one figure, bootstrap loop", _torchmetrics_multiclass, peer=True),
        Contender("torchmetrics", "one figure, top labels first", _top_label_first(_torchmetrics_binary), peer=True),
        Contender("netcal", "one figure, bootstrap loop", _netcal, peer=True),
        Contender("netcal", "one figure, top labels first", _top_label_first(_netcal), peer=True),
    ),
}


def main() -> None:
    """Measure and print, or be one job of a measurement."""
    options = parse()
    if options.job:
        print(json.dumps(run_job(options)))
        return
    if options.audit:
        print(json.dumps(run_audit(Path(options.audit), options)))
        return
    from turns import machine

    if options.large:
        print(f"{machine()}, 1 thread; robcal {_version('robcal')}, numpy {_version('numpy')}\n")
        print(large_table([start_audit(sizes, options) for sizes in options.large]))
        return
    found = ", ".join(f"{package} {_version(package)}" for package in ("robcal", "numpy", "torchmetrics", "netcal"))
    print(f"{machine()}, 1 thread; {found}; {options.resamples:,} resamples, {options.rounds} rounds")
    sizes = {"summary": (options.summary,), "full": (options.full, options.classes)}
    for task, contenders in CONTENDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(task, sizes[task], Path(folder))
            rounds = [
                [start_job(task, k, folder, options) for k in range(len(contenders))] for _ in range(options.rounds)
            ]
        print(f"\n## {task}: {' x '.join(f'{size:,}' for size in sizes[task])}\n\n{table(contenders, rounds)}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", type=int, default=1_000_000, help="examples of the top-label summary")
    parser.add_argument("--full", type=int, default=50_000, help="examples with all their probabilities …")
    parser.add_argument("--classes", type=int, default=1_000, help="… of so many classes")
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--peer-resamples", type=int, default=5, help="that a peer draws; extrapolated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=int, default=10, help=argparse.SUPPRESS)
    parser.add_argument("--large", action="store_const", const=LARGE, help="audits of large files, by robcal alone")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--audit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.summary, options.full, options.classes, options.rounds = 20_000, 1_000, 50, 1
        options.large = options.large and [(n // 100, classes, 10) for n, classes, _ in LARGE]
    return options


def write_inputs(task: str, sizes: tuple[int, ...], folder: Path) -> None:
    """Over-confident predictions: confidences of a beta law, and what is right drawn at 0.9 of them."""
    rng, n = np.random.default_rng(0), sizes[0]
    confidence = rng.beta(5, 1.5, n).astype(np.float32)
    correct = rng.random(n) < 0.9 * confidence
    if task == "summary":
        np.save(folder / "values.npy", confidence)
        np.save(folder / "truth.npy", correct)
        return
    num_classes = sizes[1]
    confidence = np.maximum(confidence, np.float32(0.2))
    labels = rng.integers(num_classes, size=n)
    predicted = np.where(correct, labels, (labels + rng.integers(1, num_classes, n)) % num_classes)
    probs = np.lib.format.open_memmap(folder / "values.npy", "w+", np.float32, (n, num_classes))
    for start in range(0, n, 1000):
        part = slice(start, min(start + 1000, n))
        rest = rng.gamma(0.3, size=(part.stop - start, num_classes)).astype(np.float32) + np.float32(1e-6)
        rest[np.arange(len(rest)), predicted[part]] = 0
        # No other class may come near the top label, so the rest is spread evenly where it would.
        rest /= rest.sum(1, keepdims=True)
        rest = np.minimum(rest * (1 - confidence[part, None]), 0.9 * confidence[part, None])
        rest[np.arange(len(rest)), predicted[part]] = 1 - rest.sum(1)
        probs[part] = rest
    probs.flush()
    np.save(folder / "truth.npy", labels)


def start_audit(sizes: tuple[int, int, int], options: argparse.Namespace) -> dict[str, Any]:
    """Write inputs, audit them in a process of its own, and return its record."""
    with tempfile.TemporaryDirectory() as folder:
        write_inputs("full", sizes[:2], Path(folder))
        np.save(Path(folder) / "scores.npy", np.random.default_rng(1).gamma(2, size=sizes[0]))
        record = in_process(["--audit", folder, "--levels", str(sizes[2])], options.resamples, options.seed)
    return {"sizes": sizes, **record}


def run_audit(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: what `robcal audit --probs FILE.npy …` does, with the report."""
    begin, cpu = time.perf_counter(), time.process_time()
    from robcal.base.user_files import read_array
    from robcal.runs.audit import audit
    from robcal.runs.audit_files import read_beside

    made = audit(
        read_array(folder / "values.npy", "the probabilities", mapped=True),
        read_array(folder / "truth.npy", "the labels"),
        **read_beside(folder / "scores.npy"),
        num_levels=options.levels,
        resamples=options.resamples,
        seed=options.seed,
    )
    report = made.to_html(folder / "report.html")
    seconds, waited = time.process_time() - cpu, time.perf_counter() - begin
    return {"seconds": seconds, "waited": waited, "megabytes": _peak(), "report": report.stat().st_size}


def large_table(records: list[dict[str, Any]]) -> str:
    """Markdown: what each audit took; memory is that of the whole process, its input included."""
    lines = ["| examples | classes | levels | CPU s | s | peak MB, all | report kB |", f"|{'--:|' * 7}"]
    for record in records:
        sizes = " | ".join(f"{size:,}" for size in record["sizes"])
        if "error" in record:
            lines.append(f"| {sizes} | failed: {record['error']} |")
            continue
        figures = f"{record['seconds']:.1f} | {record['waited']:.1f} | {record['megabytes']:,.0f}"
        lines.append(f"| {sizes} | {figures} | {record['report'] / 1000:,.0f} |")
    return "\n".join(lines)


def start_job(task: str, number: int, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a job in a process of its own; its record, or why there is none."""
    resamples = options.peer_resamples if CONTENDERS[task][number].peer else options.resamples
    record = in_process(["--job", json.dumps([task, number, folder])], resamples, options.seed)
    if "seconds" in record:
        record["seconds"] *= options.resamples / resamples
    return record


def in_process(arguments: list[str], resamples: int, seed: int) -> dict[str, Any]:
    """Run this file on one thread with other arguments; return what it prints last, or why there is nothing."""
    command = [sys.executable, __file__, *arguments, "--resamples", str(resamples), "--seed", str(seed)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def run_job(options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: warm up, then measure."""
    task, number, folder = json.loads(options.job)
    job = CONTENDERS[task][number].job
    values, truth = np.load(Path(folder) / "values.npy"), np.load(Path(folder) / "truth.npy")
    job((values[:200].copy(), truth[:200].copy()), 20, 0)
    before, begin = _peak(), time.process_time()
    figures = job((values, truth), options.resamples, options.seed)
    return {"seconds": time.process_time() - begin, "megabytes": _peak() - before, "figures": figures}


def _peak() -> float:
    """Peak resident memory of this process, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # the other figure starts at that of the process that started this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def table(contenders: tuple[Contender, ...], rounds: list[list[dict[str, Any]]]) -> str:
    """Markdown: CPU seconds, peak memory, the ECE found, and the ratios to ours."""
    ours = [number for number, contender in enumerate(contenders) if not contender.peer]
    heads = [f"to our {contenders[number].what.split(' with')[0].replace('one figure', 'one')}" for number in ours]
    lines = [
        f"| | | CPU s | peak MB | ECE | {' | '.join(heads)} |",
        f"|---|---|--:|--:|--:|{'--:|' * len(ours)}",
    ]
    for number, contender in enumerate(contenders):
        records = [records[number] for records in rounds]
        failed = next((record["error"] for record in records if "error" in record), None)
        if failed:
            lines.append(f"| {contender.package} | {contender.what} | failed: {failed} |")
            continue
        seconds = float(np.median([record["seconds"] for record in records]))
        megabytes = max(record["megabytes"] for record in records)
        ratios = [f"{paired_ratio(rounds, number, other):.3g}" if contender.peer else "" for other in ours]
        mark = " *" if contender.peer else ""
        lines.append(
            f"| {contender.package} | {contender.what} | {seconds:,.3g}{mark} | {megabytes:,.0f} | "
            f"{records[0]['figures']['ece'][0]:.5f} | {' | '.join(ratios)} |"
        )
    return "\n".join([*lines, "", "\\* extrapolated from a few resamples; peak memory is of these few"])


def paired_ratio(rounds: list[list[dict[str, Any]]], number: int, other: int) -> float:
    """Median over rounds of the ratio of two jobs' seconds; NaN where one failed."""
    pairs = [(records[number].get("seconds"), records[other].get("seconds")) for records in rounds]
    return float(np.median([float("nan") if a is None or b is None else a / b for a, b in pairs]))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
