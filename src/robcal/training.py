"""The one training loop, and the only file that knows the distributed engine (Hugging Face accelerate).

Why accelerate: under `torchrun` it is DDP with mixed precision and nothing else changes, and it imports beside a broken
torchvision. What resumes a run and what splits it over processes is ours and engine-free: the order of an epoch is a
function of (seed, epoch), so a run resumes at any batch by counting; an epoch is cut into batches whose sizes differ by
at most one, and every process weighs its share, so there is no ragged last batch to pad, repeat or drop.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robcal.artifacts import decode, load_state, save_state
from robcal.calibration.metrics import calibration_error, negative_log_likelihood
from robcal.checks import IntArray, refuse
from robcal.data import Dataset, Split
from robcal.methods import Batch, EpochInfo, Method, RunInfo
from robcal.methods.method import State
from robcal.predictors import predict_logits, softmax
from robcal.progress import SILENT, Reporter, stop_at_boundary
from robcal.robustness.online import OnlineScores
from robcal.smoothing import level_statistics
from robcal.types import EpochRow

#: Inputs of a batch and the batch's generator → augmented inputs.
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass
class _Progress:
    """Where a run stands: everything but the tensors of model and optimiser."""

    state: State
    epoch: int = 0
    batch: int = 0
    loss_sum: float | torch.Tensor = 0.0
    history: list[EpochRow] = field(default_factory=list)


def fit(
    model: nn.Module,
    dataset: Dataset,
    method: Method,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    optimizer: str = "sgd",
    augment: Augment | None = None,
    seed: int = 0,
    levels: Mapping[str, IntArray] | None = None,
    num_levels: int = 1,
    precision: str = "float32",
    device: str | None = None,
    state_file: Path | None = None,
    state_seconds: float = 30.0,
    key: str = "",
    online: OnlineScores | None = None,
    reporter: Reporter = SILENT,
    description: str = "train",
) -> list[EpochRow]:
    """Train `model` in place by `method`; in several processes, under torchrun, too.

    Args:
        model: (B, …) float32 → (B, Z) logits; left on the CPU in eval mode.
        dataset: with a "train" and a "val" split; the latter is only ever measured, to steer the method.
        method: see `robcal.methods`.
        epochs: number of passes over the training split.
        batch_size: examples a step over all processes; an epoch has ceil(N / batch_size) nearly equal batches.
        learning_rate: peak of the schedule: linear warm-up over the first 5% of the steps, then cosine to 0.
        weight_decay: of the optimiser, on all parameters.
        optimizer: "sgd" (Nesterov momentum .9) or "adamw".
        augment: changes the inputs of a batch; None for none.
        seed: of the order of the examples, the augmentation and dropout.
        levels: level of every example of "train" and "val", (N,) int64 each, for methods that have levels.
        num_levels: R.
        precision: "float32" or "bf16" (autocast of the forward pass; validation is in float32).
        device: "cpu", "cuda", …; None takes what there is.
        state_file: where the unfinished run is kept; if it exists (and `key` matches) training goes on from there.
            It is written every `state_seconds`, and at once on Ctrl-C.
        state_seconds: how much work, in seconds, a killed run may lose.
        key: digest of the run's settings; a state of another run is refused.
        online: takes in robustness estimates of the training examples from every training pass (see
            `robcal.robustness.online`); None spends nothing on them.
        reporter: shows progress in batches.
        description: of the progress.

    Returns:
        One row an epoch.

    Raises:
        InputError: if the method needs levels and has none, or the loss is not finite.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.
    """
    needed = method.levels != "none"
    if needed and (levels is None or any(len(levels[name]) != len(dataset.split(name)) for name in ("train", "val"))):
        refuse(f"method {method.name} has no levels for train and val", "it needs one an example", "Pass levels")
    loop = _Loop(
        model,
        dataset,
        method,
        precision=precision,
        device=device,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        optimizer=optimizer,
        augment=augment,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        levels=levels if needed else None,
        num_levels=num_levels,
        online=online,
    )
    if state_file is not None and state_file.exists():
        loop.restore(load_state(state_file), key, state_file)
    devices = [loop.device] if loop.device.type == "cuda" else []
    advance = reporter.task(description, epochs * loop.num_batches)
    with torch.random.fork_rng(devices=devices), stop_at_boundary() as stop:
        saved = time.monotonic()
        while loop.progress.epoch < epochs:
            loop.start_epoch()
            while loop.progress.batch < loop.num_batches:
                loop.step()
                advance(loop.progress.epoch * loop.num_batches + loop.progress.batch)
                due = stop or time.monotonic() - saved >= state_seconds
                if due and state_file is not None and loop.is_main:
                    save_state({"key": key, **loop.snapshot()}, state_file)
                    saved = time.monotonic()
                stop.raise_if_set()
            loop.end_epoch()
    return loop.finish()


class _Loop:
    """One run: model, optimiser, order of the examples; knows nothing of files, signals or progress bars."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        method: Method,
        *,
        precision: str,
        device: str | None,
        learning_rate: float,
        weight_decay: float,
        optimizer: str,
        augment: Augment | None,
        seed: int,
        epochs: int,
        batch_size: int,
        levels: Mapping[str, IntArray] | None,
        num_levels: int,
        online: OnlineScores | None = None,
    ) -> None:
        self.engine = _engine(precision, device)
        self.device: torch.device = self.engine.device
        self.method, self.augment, self.seed, self.epochs = method, augment, seed, epochs
        self.learning_rate, self.num_levels = learning_rate, num_levels
        self.train, self.val, self.num_classes = dataset.split("train"), dataset.split("val"), dataset.num_classes
        self.num_batches = math.ceil(len(self.train) / batch_size)
        self.fetch = _fetcher(self.train, self.device)
        self.labels = torch.from_numpy(self.train.labels).to(self.device)
        self.levels = None if levels is None else torch.from_numpy(levels["train"]).to(self.device)
        self.val_levels = None if levels is None else levels["val"]
        self.user_model = model
        image = len(dataset.input_shape) == 3
        self.layout = torch.channels_last if image else torch.contiguous_format
        plain = model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = self.engine.prepare(_optimizer(optimizer, plain, learning_rate, weight_decay))
        self.model = self.engine.prepare(plain)
        info = RunInfo(
            num_classes=self.num_classes,
            num_levels=num_levels,
            epochs=epochs,
            seed=seed,
            num_train=len(self.train),
            box=dataset.box,
        )
        self.progress = _Progress(state=method.init(info))
        self.random_state: torch.Tensor | None = None
        self.online = online
        self.logits: torch.Tensor | None = None  # of the last forward pass, for the online estimates
        self.hook = None if online is None else self.model.register_forward_hook(self._keep_logits)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self.engine.is_main_process)

    def start_epoch(self) -> None:
        """Draw the order of the epoch and cut it into batches; the same in every process and after every resume."""
        epoch = self.progress.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        self.batches = np.array_split(order, self.num_batches)
        if self.random_state is not None:
            torch.set_rng_state(self.random_state)
            self.random_state = None
        else:
            torch.manual_seed(self._seed_of(epoch, 0) + self.engine.process_index)
        self.model.train()

    def step(self) -> None:
        """One optimiser step on the next batch."""
        at, rank, world = self.progress, self.engine.process_index, self.engine.num_processes
        whole = self.batches[at.batch]
        index = whole[rank::world]
        generator = torch.Generator().manual_seed(self._seed_of(at.epoch, 1 + at.batch * world + rank))
        batch = self._batch(torch.from_numpy(index), generator)
        targets = self.method.targets(at.state, batch, self.num_classes)
        inputs, targets = self.method.augment(batch.inputs, targets, generator)
        if self.online is not None:
            inputs = inputs.detach().requires_grad_()
        with self.engine.autocast():
            loss, at.state = self.method.loss(at.state, self.model, dataclasses.replace(batch, inputs=inputs), targets)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * schedule(
                at.epoch * self.num_batches + at.batch, self.epochs * self.num_batches
            )
        self.engine.backward(loss * (len(index) * world / len(whole)))
        if self.online is not None and self.logits is not None and inputs.grad is not None:
            self.online.observe(batch.index, self.logits, targets, inputs.grad * (len(whole) / world))
            self.logits = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        at.loss_sum = at.loss_sum + loss.detach().float() * (len(index) / len(whole))
        at.batch += 1

    def end_epoch(self) -> None:
        """Measure the validation split and let the method learn from it.

        Raises:
            InputError: if the loss is not finite.
        """
        at = self.progress
        train_loss = self._sum_over_processes(float(at.loss_sum)) / self.num_batches
        if not math.isfinite(train_loss):
            refuse(
                f"the training loss became {train_loss} in epoch {at.epoch + 1}",
                "it must be finite",
                "Lower --learning-rate",
            )
        probs = softmax(self._validation_logits())
        labels, levels = self.val.labels, self.val_levels
        info = EpochInfo(
            epoch=at.epoch + 1,
            epochs=self.epochs,
            probs=probs,
            labels=labels,
            levels=levels,
            num_levels=self.num_levels,
            model=self.user_model,
        )
        gap: tuple[float, ...] = ()
        if levels is not None:
            count = 1 if self.method.levels == "single" else self.num_levels
            confidence, accuracy, _ = level_statistics(info.confidence, info.correct, levels, count)
            gap = tuple((confidence - accuracy).tolist())
        at.state = self.method.after_epoch(at.state, info)
        row = EpochRow(
            epoch=at.epoch + 1,
            train_loss=train_loss,
            val_accuracy=float(info.correct.mean()),
            val_nll=negative_log_likelihood(probs, labels),
            val_ece=calibration_error(probs, labels),
            epsilon=self.method.epsilon(at.state),
            gap=gap,
        )
        at.history.append(row)
        at.epoch, at.batch, at.loss_sum = at.epoch + 1, 0, 0.0
        if self.online is not None:
            self.online.end_epoch(None if self.engine.num_processes == 1 else self._total)

    def finish(self) -> list[EpochRow]:
        """Hand the model back on the CPU, in eval mode and its usual layout."""
        if self.hook is not None:
            self.hook.remove()
        self.engine.free_memory()
        del self.optimizer, self.model
        self.user_model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.user_model.eval()
        for parameter in self.user_model.parameters():
            parameter.grad = None
        return self.progress.history

    def snapshot(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        at = self.progress
        return {
            "model": self.user_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": dict(at.state),
            "at": [at.epoch, at.batch, float(at.loss_sum)],
            "history": [dataclasses.asdict(row) for row in at.history],
            "random_state": torch.get_rng_state(),
            "online": {} if self.online is None else self.online.state(),
        }

    def restore(self, saved: Mapping[str, Any], key: str, file: Path) -> None:
        """Go on where `snapshot` was taken.

        Raises:
            InputError: if it was taken of a run with other settings.
        """
        if saved.get("key") != key:
            refuse(
                f"{file} belongs to a run with other settings",
                "a run resumes with the settings it began with",
                "Use another --out, or --overwrite to start again",
            )
        self.user_model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        epoch, batch, loss_sum = saved["at"]
        history = [decode(EpochRow, row, file) for row in saved["history"]]
        self.progress = _Progress(dict(saved["method"]), epoch, batch, loss_sum, history)
        self.random_state = saved["random_state"] if batch and self.is_main else None
        if self.online is not None and saved.get("online"):
            self.online.load_state(saved["online"])

    def _batch(self, index: torch.Tensor, generator: torch.Generator) -> Batch:
        inputs = self.fetch(index)
        if self.augment is not None:
            inputs = self.augment(inputs, generator)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        index = index.to(self.device)
        return Batch(inputs, self.labels[index], None if self.levels is None else self.levels[index], index)

    def _validation_logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        rank, world = self.engine.process_index, self.engine.num_processes
        index = np.arange(len(self.val))[rank::world]
        logits = predict_logits(self.user_model, self.val, device=self.device, index=index)
        self.model.train()
        if world == 1:
            return logits
        from accelerate.utils import gather_object

        parts = gather_object([logits])
        whole = np.empty((len(self.val), self.num_classes), np.float32)
        for other, part in enumerate(parts):
            whole[other::world] = part
        return whole

    def _keep_logits(self, model: nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
        """Forward hook: the logits of the training pass, which the method's loss computes inside."""
        if model.training:
            self.logits = outputs.detach()

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, on the host."""
        total: torch.Tensor = self.engine.reduce(values.to(self.device), "sum").cpu()
        return total

    def _sum_over_processes(self, value: float) -> float:
        return float(self.engine.reduce(torch.tensor(value, device=self.device, dtype=torch.float32), "sum"))

    def _seed_of(self, epoch: int, place: int) -> int:
        return int(np.random.SeedSequence([self.seed, epoch, place]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def schedule(step: int, steps: int) -> float:
    """Learning rate of a step as a share of the peak: linear warm-up over the first 5%, then cosine to 0.

    >>> [round(schedule(step, 100), 3) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.508, 0.0]
    """
    warm_up = max(1, round(0.05 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _engine(precision: str, device: str | None) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    on_cpu = device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if precision == "bf16" else "no")


def _optimizer(name: str, model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def _fetcher(split: Split, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Positions → inputs on the device; data that fits is kept there once, the rest is read batch by batch."""
    if isinstance(split.inputs, np.ndarray) and not isinstance(split.inputs, np.memmap) and split.inputs.nbytes < 2**31:
        resident = torch.from_numpy(split.inputs).to(device)
        scale = 255.0 if split.inputs.dtype == np.uint8 else 1.0
        return lambda index: resident[index.to(device)].float() / scale
    return lambda index: split.batch(index.numpy()).to(device, non_blocking=True)
