"""Robustness scores side by side: ours and the peers' on one trained network and the same images, in one run.

Usage: python benchmarks/scoring.py RUN --images 200 --out DIR        (RUN: a directory that `robcal train` made)
       python benchmarks/scoring.py resnet-20 --data FOLDER --out DIR (published weights; or resnet-56)
       python benchmarks/scoring.py --page [RESULTS.json …]           (docs/scoring.md and its details, of raw results;
                                                                       those of docs/evidence/scoring, if none is named)

Writes DIR/table.md, DIR/figure.svg and DIR/results.json (settings, versions, hardware, every distance). What a peer has
finished is kept in DIR/peers, so a stopped run goes on there. One thread. The peers: benchmarks/requirements.txt.

Counted are forwards and backwards of single images (a pass is one of each). Timed is the call alone, after a warm-up;
settings of at most --repeat-passes passes run again in turn with ours, three rounds, and the median counts. The
reference of an image is the smallest verified distance of all methods here, the peers' and ours, and of the strong
references of robcal: no method can look worse than it is for having found a nearer point than they did.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

import robcal
import scoring_limits
import scoring_report
from peers import PEERS, Counted, Peer, verify, versions
from real.networks import cifar10_test, published_resnet
from real.networks import run as run_batches
from robcal.base.checks import InputError, IntArray
from robcal.base.storage import digest_of, digest_of_tensors, load_json, load_predictions, save_json
from robcal.base.types import Scores
from robcal.data import load_dataset
from robcal.robustness.attacks import attack_batch, make_attack
from robcal.robustness.reference import reference_attacks
from robcal.robustness.scoring import score
from robcal.runs.directory import load_data, load_model, open_run
from scoring_limits import rounded
from scoring_pages import write_pages

#: The methods of ours, as far as this version has them.
OURS = ("first-order", "quick", "projection", "auto")
DOCS = Path(__file__).parents[1] / "docs"

#: The test images at these positions.
Images = Callable[[IntArray], Tensor]


@dataclass(frozen=True)
class Task:
    """One network and its images.

    Attributes:
        model: the network, which counts.
        x: (N, C, H, W) float32 images in [0, 1].
        prediction: (N,) int64 labels of the network.
        margin: (N,) float32 logit margins.
        batch_size: images an evaluation.
        seed: of the choice of images, and of every method that draws.
        key: digest of all that, which ties kept results to it.
    """

    model: Counted
    x: Tensor
    prediction: Tensor
    margin: Tensor
    batch_size: int
    seed: int
    key: str


@dataclass
class Job:
    """One method with its settings: `call` gives adversarial points of the first `images` images, or our scores."""

    name: str
    package: str
    settings: str
    images: int
    call: Callable[[], Tensor | Scores]
    kind: str


def main() -> None:
    """Measure, or write the page."""
    options = parse()
    if options.page:
        files = options.runs or sorted((DOCS / "evidence/scoring").glob("*.json"))
        write_pages(DOCS, [scoring_report.judge(load_json(file, "results")) for file in files])
        return
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    started = datetime.now(UTC)
    options.out.mkdir(parents=True, exist_ok=True)
    task, about = prepare(options)
    rows = [measure(task, job, options.out) for job in our_jobs(task)]
    budget = max(row["passes"] for row in rows)
    failed: dict[str, str] = {}
    for job in peer_jobs(task, budget, options):
        try:
            rows.append(measure(task, job, options.out))
        except Exception as error:  # what a peer may raise; the others go on, and the page says so
            failed[f"{job.name} ({job.settings})"] = f"{type(error).__name__}: {error}"
    repeat(task, rows, options)
    references = reference_distances(task, options)
    record = {
        **about,
        "images": len(task.x),
        "seed": options.seed,
        "batch_size": task.batch_size,
        "budget": budget,
        "versions": {"robcal": robcal.__version__, "torch": torch.__version__, "numpy": np.__version__, **versions()},
        "python": platform.python_version(),
        "hardware": options.hardware,
        "processor": processor(),
        "load": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "started": started.isoformat(timespec="seconds"),
        "minutes": round((datetime.now(UTC) - started).total_seconds() / 60, 1),
        "quick": options.quick,
        "margin": rounded(task.margin),
        "reference_settings": {
            "iterations": options.reference_iterations,
            "restarts": options.reference_restarts,
            "num_rivals": options.reference_rivals,
        },
        "references": {name: rounded(distance) for name, distance in references.items()},
        "rows": rows,
        "failed": failed,
        "most_passes": options.most_passes,
        "limits": scoring_limits.distances(task.model, task.x, task.batch_size, options.seeds)
        if options.seeds
        else None,
    }
    save_json(record, options.out / "results.json")
    record = scoring_report.judge(record)
    (options.out / "table.md").write_text(scoring_report.table(record), encoding="utf-8")
    scoring_report.figure(record, options.out / "figure.svg")
    print(scoring_report.table(record))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="a run directory or a published network; with --page, raw "
                        "results")  # fmt: skip
    parser.add_argument("--images", type=int, default=200, help="test images, drawn by the seed")
    parser.add_argument("--out", type=Path, help="where to")
    parser.add_argument("--data", help="the data, where it is not where the run says; the folder of published networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=0, help="auto under so many seeds, and complete descents, besides")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--most-passes", type=int, default=1000, help="settings that may take more are left out …")
    parser.add_argument("--slow-images", type=int, default=4, help="… and defaults that may are run on so few images")
    parser.add_argument("--reference-iterations", type=int, default=100, help="see robcal's reference_attacks")
    parser.add_argument("--reference-restarts", type=int, default=3, help="likewise")
    parser.add_argument("--reference-rivals", type=int, default=9, help="likewise")
    parser.add_argument(
        "--repeat-passes", type=float, default=40, help="settings up to this cost are timed three times"
    )
    parser.add_argument("--hardware", default=f"{os.cpu_count()} CPU cores", help="for the record")
    parser.add_argument("--only", default="", help="peers whose names match this regular expression; default: all")
    strong = sorted(reference_attacks())
    parser.add_argument("--references", nargs="+", choices=strong, default=strong, help="default: all; two or more "
                        "tell the noise ceiling")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="20 images, budgets like ours and short defaults only")
    parser.add_argument("--page", action="store_true", help="write the pages from raw results instead")
    options = parser.parse_args()
    if not options.page and (len(options.runs) != 1 or options.out is None):
        parser.error("a measurement takes one RUN and --out DIR")
    if options.quick:
        options.images, options.slow_images, options.most_passes = min(options.images, 20), 0, 100
        options.reference_iterations, options.reference_restarts, options.reference_rivals = 20, 0, 2
    return options


def prepare(options: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    """The network and its images, and what is to be said about them."""
    published = re.fullmatch(r"resnet-(\d+)", str(options.runs[0]))
    model, images, labels, about = read_published(int(published[1]), options) if published else read_run(options)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(labels))[: options.images])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = images(chosen)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(options.batch_size)])
    top = logits.topk(2, dim=1)
    key = digest_of([digest_of_tensors(model.state_dict()), chosen.tolist(), options.batch_size, robcal.__version__])
    margin = top.values[:, 0] - top.values[:, 1]
    prediction = top.indices[:, 0].clone()
    task = Task(Counted(model).eval(), x, prediction, margin, options.batch_size, options.seed, key)
    return task, about | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "test_images": len(labels),
        "accuracy_of_images": float((prediction.numpy() == labels[chosen]).mean()),
    }


def read_run(options: argparse.Namespace) -> tuple[nn.Module, Images, IntArray, dict[str, Any]]:
    """The network of a run, its test images and labels."""
    run = open_run(options.runs[0])
    data = load_dataset(options.data, seed=run.settings.seed) if options.data else load_data(run.settings)
    split = data.split("test")
    model, about = load_model(run.directory)
    stored = load_predictions(run.directory / "predictions-test.safetensors")
    accuracy = float((stored.probs.argmax(1) == stored.labels).mean())
    training = f"{run.settings.method}, {run.settings.epochs} epochs"
    about = {"data": data.name, "model": about["model"], "training": training, "accuracy": accuracy}
    return model, split.batch, split.labels, about


def read_published(depth: int, options: argparse.Namespace) -> tuple[nn.Module, Images, IntArray, dict[str, Any]]:
    """A ResNet of He et al. 2016 by the weights that others published, and the test images of CIFAR-10 (JPEG)."""
    images, labels = cifar10_test(Path(options.data))
    model = published_resnet(Path(options.data), depth)
    accuracy = float((run_batches(model, images).argmax(1) == labels).mean())
    about = {"data": "CIFAR-10 (JPEG)", "model": f"ResNet-{depth}", "training": "published weights"}
    return model, lambda chosen: images[chosen], labels, about | {"accuracy": accuracy}


def our_jobs(task: Task) -> Iterator[Job]:
    """Ours, each at its default."""
    for name in OURS:
        try:
            score(task.model, task.x[:16], method=name, batch_size=8)
        except InputError as error:
            print(f"{name}: not in this version ({error})")
            continue
        yield Job(name, "robcal", "default", len(task.x), partial(our_distances, task, name), "ours")


def our_distances(task: Task, name: str) -> Scores:
    """What `robcal.score` says."""
    return score(task.model, task.x, method=name, batch_size=task.batch_size, seed=task.seed)


def our_verified(task: Task, name: str) -> Tensor | None:
    """(N,) norms of the points of one of our attacks, checked like the peers'; None where there are no points."""
    if name in ("first-order", "auto"):
        return None
    result = attack_batch(make_attack(name, seed=task.seed), task.model, task.x, None, (0.0, 1.0), task.batch_size)
    return verify(task.model, task.x, result.point, task.prediction)


def peer_jobs(task: Task, budget: float, options: argparse.Namespace) -> Iterator[Job]:
    """Every peer at its default, at a budget like ours, and at some in between."""
    for peer in PEERS:
        if not re.search(options.only, peer.name):
            continue
        steps = fit_steps(task, peer, budget)
        if not steps:
            continue
        yield peer_job(task, peer, dict(peer.small(steps)), f"our budget: {words(peer.small(steps))}", "budget")
        few = peer.passes > options.most_passes
        count = min(options.slow_images, len(task.x)) if few else len(task.x)
        which = f" (first {count} images)" if count < len(task.x) else ""
        if count:
            yield peer_job(task, peer, {}, f"default: {peer.default}{which}", "default", count)
        for passes, settings in peer.ladder:
            if passes <= options.most_passes and not options.quick:
                yield peer_job(task, peer, dict(settings), words(settings), "other")


def peer_job(task: Task, peer: Peer, settings: dict[str, Any], said: str, kind: str, images: int | None = None) -> Job:
    """A job that runs a peer."""
    count = len(task.x) if images is None else images

    def call() -> Tensor:
        parts = range(0, count, task.batch_size)
        ends = [slice(start, min(start + task.batch_size, count)) for start in parts]
        return torch.cat([peer.attack(task.model, task.x[end], task.prediction[end], **settings) for end in ends])

    return Job(peer.name, peer.package, said, count, call, kind)


def words(settings: Any) -> str:
    """Settings for a table; a batch size is no setting of the method."""
    return ", ".join(f"{key} {value}" for key, value in settings.items() if key != "batch_size") or "in batches"


def fit_steps(task: Task, peer: Peer, budget: float) -> int:
    """The largest number of iterations whose measured passes stay within the budget, 1 at least; 0 if it cannot run."""
    best, count = 0, min(16, len(task.x))
    for steps in range(1, int(2 * budget) + 2):
        task.model.reset()
        try:
            peer.attack(task.model, task.x[:count], task.prediction[:count], **peer.small(steps))
        except Exception as error:  # a peer that is missing or breaks is reported, and the others go on
            print(f"{peer.name}: {type(error).__name__}: {error}")
            break
        passes = task.model.passes / count
        if best and passes > budget + 0.5:
            break
        best = steps
    return best


def measure(task: Task, job: Job, out: Path) -> dict[str, Any]:
    """Run a job once, counted and timed, and check its points; a peer's finished job is read back instead."""
    kept = out / "peers" / f"{digest_of([task.key, job.name, job.settings, job.images])}.json"
    if job.kind != "ours" and kept.exists():
        row: dict[str, Any] = load_json(kept, "a finished measurement")
        row["call"] = job.call
        return row
    result, spent = run_once(task, job)
    row = {
        "name": job.name,
        "package": job.package,
        "settings": job.settings,
        "kind": job.kind,
        "images": job.images,
        "passes": task.model.passes / job.images,
        "forwards": task.model.forwards / job.images,
        "backwards": task.model.backwards / job.images,
        "times": [spent],
    }
    if isinstance(result, Scores):
        found = our_verified(task, job.name)
        row["distance"] = rounded(result.distance)
        row["says_passes"] = float(result.passes.mean())
        row["estimate"] = bool((result.status == "estimate").any())
        row["verified"] = None if found is None else rounded(found)
        row["says_verified"] = float((result.status == "verified").mean())
    else:
        x, prediction = task.x[: job.images], task.prediction[: job.images]
        row["distance"], row["verified"] = rounded(verify(task.model, x, result, prediction)), None
        row["estimate"] = False
        kept.parent.mkdir(exist_ok=True)
        save_json(row, kept)
    print(f"{job.name:22s} {job.settings:44s} {row['passes']:9.1f} passes {spent['wall'] / job.images * 1e3:9.1f} ms")
    row["call"] = job.call
    return row


def run_once(task: Task, job: Any) -> tuple[Any, dict[str, float]]:
    """One timed call, with the counter at zero and the random state of the seed."""
    torch.manual_seed(task.seed)
    task.model.reset()
    wall, cpu = time.perf_counter(), time.process_time()
    result = job.call()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def repeat(task: Task, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Time the cheap settings again, in turn, three rounds, every other one backwards, in place of the first times."""
    calls = [row.pop("call") for row in rows]
    cheap = [number for number, row in enumerate(rows) if row["passes"] <= options.repeat_passes]
    fresh: dict[int, list[dict[str, float]]] = {number: [] for number in cheap}
    for number in range(1 if options.quick else 3):
        for which in cheap if number % 2 == 0 else reversed(cheap):
            _, spent = run_once(task, argparse.Namespace(call=calls[which]))
            fresh[which].append(spent)
    for which, times in fresh.items():
        rows[which]["times"] = times


def reference_distances(task: Task, options: argparse.Namespace) -> dict[str, Tensor]:
    """(N,) distances of the strong references of robcal, by name; kept like the peers'."""
    settings = {
        "iterations": options.reference_iterations,
        "restarts": options.reference_restarts,
        "num_rivals": options.reference_rivals,
    }
    found: dict[str, Tensor] = {}
    for name, attack in reference_attacks(**settings, seed=task.seed).items():
        if name not in options.references:
            continue
        kept = options.out / "peers" / f"{digest_of([task.key, 'reference', name, settings])}.json"
        if not kept.exists():
            scores = score(task.model, task.x, method=attack, batch_size=task.batch_size, seed=task.seed)
            kept.parent.mkdir(exist_ok=True)
            save_json({"distance": rounded(scores.distance)}, kept)
        found[name] = torch.from_numpy(scoring_report.numbers(load_json(kept, "a kept reference")["distance"]))
    return found


def processor() -> str:
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
