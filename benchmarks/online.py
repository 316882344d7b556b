"""What estimates of robustness from training's own passes are worth, and what they cost.

Usage: python benchmarks/online.py --out DIR                                   (digits)
       python benchmarks/online.py --data cifar10:PATH --models cnn-fast,mlp --train-limit 2000 --out DIR
       python benchmarks/online.py --cost cnn-fast,mlp --out DIR               (training with and without, in turns)

Every network is trained once, by `robcal train`'s recipe, with `OnlineScores` as they are by default and with both
kinds of refresh at its side; none changes the training. The reference is the distance that projection finds for the
final network at every training example. Levels are ten groups of equal size. Beside them: first-order estimates of
the final network, which cost a scoring of their own, and its logit margin. Intervals are 95% t-intervals over seeds,
or bootstrap intervals over turns for times.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.stats import spearmanr

import robcal
from robcal.calibration.seeds import seed_mean_interval
from robcal.config import TrainSettings
from robcal.data import Dataset, load_dataset
from robcal.methods import make_method
from robcal.models import build_model
from robcal.predictors import predict_logits
from robcal.progress import SILENT
from robcal.recipe import augmentation, build_networks
from robcal.robustness.agreement import level_agreement
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.levels import assign_levels
from robcal.robustness.online import OnlineScores
from robcal.robustness.scoring import score
from robcal.training import fit
from training import synthetic
from turns import Contender, machine, median_interval, take_turns

#: Same level, and share of training time, that the estimates are to reach.
TARGET_SAME, TARGET_COST = 0.60, 0.03
FREE, LINEAR, SECANT = "online", "online, refresh linear", "online, refresh secant"
#: How a training may be watched: settings of `OnlineScores`.
WAYS: dict[str, dict[str, Any]] = {FREE: {}, LINEAR: {"refresh": "linear"}, SECANT: {"refresh": "secant"}}
#: How many of the epochs looked at are shown, the last ones.
EPOCHS_SHOWN = 6

Figures = tuple[float, float, float]  # same level, within one, Spearman


def main() -> None:
    """Measure, print, and keep what was printed."""
    options = parse()
    torch.set_num_threads(1)
    text = "\n".join([about(), "", *(cost_text(options) if options.cost else agreement_text(options))])
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        name = "cost" if options.cost else options.data.partition(":")[0]
        (options.out / f"online-{name}.md").write_text(text + "\n", encoding="utf-8")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="as for `robcal train`")
    parser.add_argument("--models", default="mlp,cnn", help="with commas between them")
    parser.add_argument("--methods", default="vanilla,label-smoothing")
    parser.add_argument("--augment", default="none,standard")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--train-limit", type=int)
    parser.add_argument("--cost", help="measure time instead, for these models")
    parser.add_argument("--measured", type=int, default=8, help="--cost: epochs that are timed")
    parser.add_argument("--train", type=int, help="--cost: training examples; default 1,280, 12,800 for the mlp")
    parser.add_argument("--out", type=Path, help="folder for the text")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: there is no interval over one")
    return options


def about() -> str:
    """Where it was measured."""
    versions = f"robcal {robcal.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{machine()}, 1 thread, Python {platform.python_version()}; {versions}."


# agreement ----------------------------------------------------------------------------------------------------------


class Watchers:
    """Several `OnlineScores` at one training; what each says after every epoch is kept."""

    def __init__(self, watchers: dict[str, OnlineScores]) -> None:
        self.watchers, self.epoch, self.epochs = watchers, 0, 1
        self.said: dict[str, list[np.ndarray]] = {name: [] for name in watchers}
        self.refresh = any(watcher.refresh for watcher in watchers.values())

    def watch(self, model: torch.nn.Module) -> None:
        """See `OnlineScores`."""
        for watcher in self.watchers.values():
            watcher.watch(model)

    def wants(self, epoch: int, epochs: int) -> bool:
        """Whether any does."""
        self.epoch, self.epochs = epoch, epochs
        return any(watcher.wants(epoch, epochs) for watcher in self.watchers.values())

    def observe(self, *passes: torch.Tensor) -> None:
        """To those that want it."""
        for watcher in self.watchers.values():
            if watcher.wants(self.epoch, self.epochs):
                watcher.observe(*passes)

    def look(self, *arguments: Any) -> None:
        """To those that want it."""
        for watcher in self.watchers.values():
            if watcher.refresh:
                watcher.look(*arguments)

    def end_epoch(self, total: Any = None, measure: Any = None) -> None:
        """Keep what each says."""
        for name, watcher in self.watchers.items():
            watcher.end_epoch(total, measure)
            self.said[name].append(watcher.scores().distance)


def agreement_text(options: argparse.Namespace) -> list[str]:
    """Tables of all networks, trainings and seeds that were asked for."""
    lines: list[str] = []
    for model in options.models.split(","):
        for augment in options.augment.split(","):
            for method in options.methods.split(","):
                runs = [one_run(options, model, method, augment, seed) for seed in range(options.seeds)]
                lines += cell_lines(f"{model}, {method}, augment {augment}", runs, options)
    return lines


def one_run(options: argparse.Namespace, model: str, method: str, augment: str, seed: int) -> dict[str, Any]:
    """Train one network; figures of every estimate against projection distances of the final network."""
    settings = TrainSettings(
        data=options.data, model=model, method=method, augment=augment, seed=seed, epochs=options.epochs,
        train_limit=options.train_limit,
    )  # fmt: skip
    data = load_dataset(settings.data, seed=seed, train_limit=settings.train_limit)
    network, train = build_networks(settings, data)[0], data.split("train")
    watchers = Watchers({name: OnlineScores(len(train), **WAYS[name]) for name in (FREE, LINEAR, SECANT)})
    history = fit(
        network, data, make_method(method, **settings.method_options()), epochs=settings.epochs,
        batch_size=settings.batch_size, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay,
        augment=augmentation(settings, data), seed=seed, device="cpu", online=watchers,  # type: ignore[arg-type]
    )  # fmt: skip
    reference = score(network, train.inputs, method="projection", box=data.box).distance
    estimates = {name: said[-1] for name, said in watchers.said.items()} | scored(network, data)
    wanted = watchers.watchers[FREE]
    looked = [epoch for epoch in range(settings.epochs) if wanted.wants(epoch, settings.epochs)][-EPOCHS_SHOWN:]
    return {
        "data": data.name,
        "examples": len(train),
        "accuracy": history[-1].val_accuracy,
        "figures": {name: figures(distance, reference) for name, distance in estimates.items()},
        "epochs": {epoch + 1: figures(watchers.said[FREE][epoch], reference) for epoch in looked},
    }


def scored(network: torch.nn.Module, data: Dataset) -> dict[str, np.ndarray]:
    """Estimates of the final network that cost a scoring of their own."""
    train = data.split("train")
    top = np.sort(predict_logits(network, train), axis=1)
    return {
        "logit margin": top[:, -1] - top[:, -2],
        "first-order, 1 rival": score(network, train.inputs, method=FirstOrder(num_rivals=1), box=data.box).distance,
        "first-order, 3 rivals": score(network, train.inputs, method=FirstOrder(num_rivals=3), box=data.box).distance,
    }


#: Passes an example that each estimate spends beside training.
PASSES = {FREE: "0", LINEAR: "1", SECANT: "1.5", "logit margin": "0.5", "first-order, 1 rival": "1.5"}
PASSES |= {"first-order, 3 rivals": "2.5"}


def figures(distance: np.ndarray, reference: np.ndarray) -> Figures:
    """Share in the same of ten levels, share within one, and Spearman's ρ; no estimate ranks highest.

    >>> figures(np.arange(20.0), np.arange(20.0))
    (1.0, 1.0, 1.0)
    """
    finite = np.nan_to_num(np.asarray(distance, np.float64), posinf=1e30)
    agreement = level_agreement(assign_levels(finite, 10), assign_levels(np.asarray(reference, np.float64), 10))
    return agreement.same_level, agreement.within_one, round(float(spearmanr(finite, reference).statistic), 12)


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% t-interval.

    >>> [round(value, 3) for value in mean_interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    estimate = seed_mean_interval(values)
    return estimate.value, estimate.high - estimate.value


def cell_lines(name: str, runs: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """One network and training: a table of estimates, and the free one's figures epoch by epoch."""
    accuracy, half = mean_interval([run["accuracy"] for run in runs])
    lines = [
        f"### {runs[0]['data']}: {name}",
        "",
        f"{runs[0]['examples']:,} training examples, {options.epochs} epochs, {len(runs)} seeds, validation accuracy "
        f"{accuracy:.3f} ± {half:.3f}.",
        "",
        "| estimate | passes | same level | within one | ρ |",
        "|---|--:|--:|--:|--:|",
    ]
    for estimate in runs[0]["figures"]:
        cells = " | ".join(cell([run["figures"][estimate][k] for run in runs]) for k in range(3))
        lines.append(f"| {estimate} | {PASSES[estimate]} | {cells} |")
    shown = list(runs[0]["epochs"])
    lines += ["", f"| {FREE}, after epoch | " + " | ".join(map(str, shown)) + " |", "|---|" + "--:|" * len(shown)]
    for number, title in enumerate(("same level", "within one", "ρ")):
        cells = " | ".join(cell([run["epochs"][epoch][number] for run in runs]) for epoch in shown)
        lines.append(f"| {title} | {cells} |")
    return [*lines, ""]


def cell(values: list[float]) -> str:
    """Mean and half-width."""
    mean, half = mean_interval(values)
    return f"{mean:.3f} ± {half:.3f}"


# cost ---------------------------------------------------------------------------------------------------------------


class Timed(OnlineScores):
    """Estimates that know what they cost beside training steps."""

    def __init__(self, count: int, **settings: Any) -> None:
        super().__init__(count, **settings)
        self.ends: list[float] = []
        self.looks: list[float] = []
        self.samples: list[float] = []

    def end_epoch(self, total: Any = None, measure: Any = None) -> None:
        """Timed, a measured sample apart."""

        def timed(index: np.ndarray) -> np.ndarray:
            begin = time.process_time()
            found = measure(index)
            self.samples.append(time.process_time() - begin)
            return found

        begin, measured = time.process_time(), sum(self.samples)
        super().end_epoch(total, timed)
        self.ends.append(time.process_time() - begin - (sum(self.samples) - measured))

    def look(self, *arguments: Any) -> None:
        """Timed."""
        begin = time.process_time()
        super().look(*arguments)
        self.looks.append(time.process_time() - begin)


def cost_text(options: argparse.Namespace) -> list[str]:
    """Tables of what watching costs, for every model that was asked for."""
    lines: list[str] = []
    train_watched("mlp", synthetic("mlp", 256, 26), 1, None, None)  # what is imported once is nobody's cost
    for model in options.cost.split(","):
        count = options.train or (12_800 if model == "mlp" else 1_280)
        data = synthetic(model, count, count // 10)
        turns, watched = turn_seconds(model, data, options.measured)
        plain = turns[:2].mean(0)
        epoch = float(np.median(plain)) * turns.shape[1] / options.measured
        step = median_interval((turns[2] / plain).tolist())
        again = median_interval((turns[1] / turns[0]).tolist())
        end = float(np.median(watched["step"].ends)) / epoch
        looks = {way: watched[way].looks[0] / epoch for way in (LINEAR, SECANT)}
        lines += [
            f"### Cost: {model}, {'x'.join(map(str, data.input_shape))}",
            "",
            f"{count:,} synthetic training examples, batches of 128, {options.measured} epochs, CPU time in turns: a "
            f"step looked at to the mean of two plain ones {ratio_text(step)}, one of these to the other "
            f"{ratio_text(again)}; in epochs of plain training ({epoch:.2f} s), the end of one looked at {end:.4f}, "
            f"refresh linear {looks[LINEAR]:.2f}, secant {looks[SECANT]:.2f}. {sample_text(watched[SECANT], epoch)} "
            f"Share of the time of a whole training, without such samples (target: {TARGET_COST:.0%}):",
            "",
            "| epochs | " + " | ".join(WAYS) + " |",
            "|--:|" + "--:|" * len(WAYS),
        ]
        for epochs in (30, 60, 200):
            cells = [share_text(way, epochs, step, end, looks.get(way, 0.0)) for way in WAYS]
            lines.append(f"| {epochs} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def sample_text(watcher: Timed, epoch: float) -> str:
    """What comparing with a measured sample costs, which does not grow with the data."""
    seconds = float(np.median(watcher.samples))
    examples = seconds / epoch * watcher.count
    looked = sum(OnlineScores(100).wants(number, 30) for number in range(30))
    share = examples * looked / (30 * 50_000)
    return (
        f"Measuring a sample of {len(watcher.sample)} takes as long as training on {examples:,.0f} examples: "
        f"{share:.2%} of 30 epochs of 50,000 examples."
    )


def share_text(way: str, epochs: int, step: tuple[float, float, float], end: float, look: float) -> str:
    """Extra time as a share of plain training: its middle and ends by those of the ratio of steps.

    >>> share_text(FREE, 30, (1.1, 1.05, 1.2), 0.01, 0.0)  # 4 of 30 epochs are looked at
    '1.5% (0.8–2.8)'
    """
    online = OnlineScores(100, **WAYS[way])
    looked = sum(online.wants(epoch, epochs) for epoch in range(epochs))
    middle, low, high = (100 * (looked * (ratio - 1 + end) + look) / epochs for ratio in step)
    return f"{middle:.1f}% ({low:.1f}–{high:.1f})"


def ratio_text(ratio: tuple[float, float, float]) -> str:
    """Median and interval."""
    return f"{ratio[0]:.3f} ({ratio[1]:.3f}–{ratio[2]:.3f})"


def turn_seconds(model: str, data: Dataset, epochs: int, *, turn: int = 2) -> tuple[np.ndarray, dict[str, Timed]]:
    """(3, turns) CPU seconds of plain training, the same again, and one looked at in every step; and the watchers."""
    count = len(data.split("train"))
    watched = {"step": Timed(count, every=1), LINEAR: Timed(count, **WAYS[LINEAR])}
    watched[SECANT] = Timed(count, **WAYS[SECANT], sample=200)

    def work(watcher: Timed | None) -> Callable[[Contender], object]:
        return lambda contender: train_watched(model, data, epochs, watcher, contender)

    names: dict[str, Timed | None] = {"plain": None, "plain, again": None, **watched}
    contenders = [Contender(name, work(watcher), every=turn) for name, watcher in names.items()]
    turns = -(-count // 128) * epochs // turn
    times = take_turns(contenders, turns + 1)  # the last one ends the training
    return times[:3, :-1], watched


def train_watched(
    model: str, data: Dataset, epochs: int, watcher: OnlineScores | None, contender: Contender | None
) -> object:
    """A plain training, watched or not, that reports its steps to its contender."""
    network = build_model(model, input_shape=data.input_shape, num_classes=data.num_classes, seed=0)
    return fit(
        network, data, make_method("vanilla"), epochs=epochs, device="cpu", reporter=contender or SILENT, online=watcher
    )


if __name__ == "__main__":
    main()
