"""One network in training, and the only file that knows the distributed engine (Hugging Face accelerate).

Why accelerate: under `torchrun` it is DDP with mixed precision and nothing else changes, and it imports beside a broken
torchvision. What resumes a run and what splits it over processes is ours and engine-free: the order of an epoch is a
function of (seed, epoch), so a run resumes at any batch by counting; an epoch is cut into batches whose sizes differ by
at most one, and every process weighs its share, so there is no ragged last batch to pad, repeat or drop. The
optimiser is not handed to accelerate: its wrapper costs every step for other precisions and strategies than these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import numpy as np
import torch
from torch import nn

from robcal.base.checks import FloatArray, check_choice, refuse
from robcal.base.seeds import seed_of
from robcal.base.types import Precision
from robcal.data import Dataset
from robcal.data.augment import random_resized_crop
from robcal.methods import Batch, Method
from robcal.methods.method import State, keep_batch
from robcal.training.loading import Loader, Part, channels_last
from robcal.training.predict import predict_logits, softmax
from robcal.training.profile import Profile, timed
from robcal.training.settings import Recipe
from robcal.training.trainable import refuse_divergence

if TYPE_CHECKING:
    from robcal.training.running import FixedLevels, RunningLevels
    from robcal.training.settings import Augment

_NOTHING: AbstractContextManager[None] = nullcontext()

#: Steps between two looks at the losses of a GPU: each waits for it.
CHECK_EVERY = 64


def member_seed(seed: int, member: int) -> int:
    """Return the seed of a member of an ensemble: `seed` itself for member 0, for others drawn from (seed, member)."""
    return seed if member == 0 else seed_of(seed, member)


class Member:
    """A network with its optimiser and the order of its examples; it knows no levels, files, signals or progress."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        method: Method,
        recipe: Recipe,
        engine: Any,
        *,
        augment: Augment | None,
        profile: Profile | None = None,
        seed: int,
    ) -> None:
        self.engine, self.method, self.recipe, self.seed = engine, method, recipe, seed
        self.augment, self.profile = augment, profile
        self.device: torch.device = engine.device
        self.rank, self.world = engine.process_index, engine.num_processes
        self.train, self.val, self.num_classes = dataset.split("train"), dataset.split("val"), dataset.num_classes
        self.num_batches = math.ceil(len(self.train) / recipe.batch_size)
        self.loader = Loader(self.train, self.device, crops=augment is random_resized_crop)
        self.labels = torch.from_numpy(self.train.labels).to(self.device)
        self.user_model = model
        image = len(dataset.input_shape) == 3
        self.layout = torch.channels_last if image else torch.contiguous_format
        plain = model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = _optimizer(recipe, plain)
        self.model = engine.prepare(plain)
        self.autocast = nullcontext if engine.mixed_precision == "no" else engine.autocast
        self.draws = augment is not None or method.augment is not keep_batch
        self.plain_step = method.is_plain_step
        self.loss_sum: float | torch.Tensor = 0.0

    def start_epoch(self, epoch: int) -> None:
        """Draw the order of the next epoch, after `epoch` of them; the same in every process and after every resume."""
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        self.epoch, self.global_seed = epoch, seed_of(self.seed, epoch, 0)
        self.loader.start_epoch()
        self.model.train()

    def step(self, state: State, epoch: int, number: int, levels: FixedLevels | RunningLevels) -> State:
        """Take one optimiser step on a batch, one micro-batch at a time; returns the method's state after it."""
        _seed_global(self.device, self.global_seed + number * self.world + self.rank)  # dropout: a resumed run's too
        parts, loss = self._parts(number), None
        for part in parts:  # gradients of all processes are summed once a step
            with _NOTHING if part is parts[-1] else self.engine.no_sync(self.model):
                share, state = self._learn(state, part, levels)
            loss = share if loss is None else loss + share
        assert loss is not None, "a batch holds an example"
        if self.world > 1:  # the state that one process saves is that of all
            loss = self.engine.reduce(loss, "sum")
        if self.world == 1 and self.device.type == "cpu":
            self.check_loss(epoch, number, loss)
        elif number % CHECK_EVERY == CHECK_EVERY - 1:
            self.check_loss(epoch, number)
        rate = schedule(epoch * self.num_batches + number, self.recipe.epochs * self.num_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        with self._timed("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.loss_sum = self.loss_sum + loss
        return state

    def _parts(self, number: int) -> list[Part]:
        """Return the parts of a batch, cut as `numpy.array_split` cuts; each has an example of every process."""
        size, larger = divmod(len(self.order), self.num_batches)
        first = number * size + min(number, larger)
        batch = self.order[first : first + size + (number < larger)]
        draws, parts = 1 + number * self.world + self.rank, []
        count = min(self.recipe.accumulate, max(1, len(batch) // self.world))
        for k, everyone in enumerate(np.array_split(batch, count) if count > 1 else [batch]):
            seed = seed_of(self.seed, self.epoch, draws, *((k,) if k else ())) if self.draws else None
            index = everyone[self.rank :: self.world]
            parts.append(Part((number, k), everyone, index, seed, len(index) / len(batch)))
        return parts

    def _after(self, part: Part) -> Iterator[Part]:
        """Yield the micro-batches that come next in this epoch."""
        numbers = range(part.key[0], self.num_batches)
        return (later for number in numbers for later in self._parts(number) if later.key > part.key)

    def _learn(self, state: State, part: Part, levels: FixedLevels | RunningLevels) -> tuple[torch.Tensor, State]:
        """Add the gradient of this process's share of a part; return its loss, by its weight, and the state."""
        with self._timed("data"):
            batch, generator = self._batch(part, levels.train)
        with self._timed("forward"):
            targets = batch.labels if self.plain_step else self.method.targets(state, batch, self.num_classes)
            size, mixed = len(part.index), self.method.mixes and levels.see_passes
            if mixed:  # columns that tell which examples a row is mixed of
                targets = torch.cat([targets, torch.eye(size, device=targets.device)], dim=1)
            inputs, targets = self.method.augment(batch.inputs, targets, generator)
            targets, shares = (targets[:, :-size].contiguous(), targets[:, -size:]) if mixed else (targets, None)
            if inputs is not batch.inputs:
                batch = dataclasses.replace(batch, inputs=inputs)
            with self.autocast():
                loss, state = self.method.loss(state, self.model, batch, targets)
            levels.take(part.everyone, self.rank, self.world, shares)
        weight = part.weight
        with self._timed("backward"):  # the processes take the mean of their gradients
            (loss if weight == 1 else loss * (weight * self.world)).backward()
        share = loss.detach().float()
        return share if weight == 1 else share * weight, state

    def _timed(self, name: str) -> AbstractContextManager[None]:
        return timed(self.profile, name, self.device)

    def check_loss(self, epoch: int, number: int, latest: torch.Tensor | None = None) -> None:
        """Refuse a loss of this epoch that is not finite, after `number` steps; the `latest` is not in the sum yet."""
        value = float(self.loss_sum if latest is None else latest)
        if not math.isfinite(value):
            self.refuse_loss(value, epoch, number)

    def refuse_loss(self, value: float, epoch: int, number: int) -> NoReturn:
        """Refuse to go on with a loss that is not finite."""
        when = f"the training loss became {value} in epoch {epoch + 1}, after {number} of its {self.num_batches} steps"
        refuse_divergence(when, self.train, self.recipe.learning_rate, step=epoch * self.num_batches + number)

    def train_loss(self) -> float:
        """Return the mean loss of the epoch over all processes."""
        return float(self.loss_sum) / self.num_batches

    def validation_probs(self) -> FloatArray:
        """Return (N, Z) float64 probabilities of the validation split, each process predicting its share."""
        rank, world = self.rank, self.world
        index = np.arange(len(self.val))[rank::world]
        with self._timed("validation"):
            if world > 1:  # the network that is kept is rank 0's: with its means and variances of normalised batches
                for buffer in self.user_model.buffers():
                    torch.distributed.broadcast(buffer, 0)
            cast = _take_off_autocast(self.user_model)  # the engine's, of mixed precision: measurements are float32
            try:
                logits = predict_logits(self.user_model, self.val, device=self.device, index=index)
            finally:
                vars(self.user_model).update(cast)
            self.model.train()
            if world > 1:
                from accelerate.utils import gather_object

                parts = gather_object([logits])
                logits = np.empty((len(self.val), self.num_classes), np.float32)
                for other, part in enumerate(parts):
                    logits[other::world] = part
            return softmax(logits)

    def finish(self) -> None:
        """Hand the model back on the CPU, in eval mode, its usual layout and without what the engine put around it."""
        self.loader.close()
        del self.optimizer, self.model
        _take_off_autocast(self.user_model)
        self.user_model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.user_model.eval()
        for parameter in self.user_model.parameters():
            parameter.grad = None

    def snapshot(self) -> dict[str, Any]:
        """Return what a resumed run needs of this member."""
        return {
            "model": self.user_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_sum": float(self.loss_sum),
        }

    def restore(self, saved: Mapping[str, Any], file: Path) -> None:
        """Go on where `snapshot` was taken."""
        try:
            self.user_model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            refuse(
                f"{file} holds the weights of another network ({str(error).splitlines()[0]})",
                "a run resumes with the network it began with",
                "Pass that network, or delete this file to start again",
            )
        self.loss_sum = saved["loss_sum"]

    def _batch(self, part: Part, levels: torch.Tensor | None) -> tuple[Batch, torch.Generator]:
        index = torch.from_numpy(part.index).to(self.device)
        inputs, generator = self.loader.load(part, index, self._after(part))
        if self.augment is not None and not self.loader.crops:
            inputs = self.augment(inputs, generator)
        labels = self.labels.index_select(0, index)
        own = None if levels is None else levels.index_select(0, index)
        return Batch(channels_last(inputs), labels, own, index), generator


def _seed_global(device: torch.device, seed: int) -> None:
    """Seed what modules such as dropout draw from; `torch.manual_seed` takes forty times as long."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def schedule(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the peak: linear warm-up over the first 5%, then cosine to 0."""
    warm_up = max(1, round(0.05 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def open_engine(precision: str, device: str | None) -> Any:
    """Return the engine that all members of a training share; any device but "cpu" is the accelerator there is."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check_choice(precision, get_args(Precision), "precision")
    AcceleratorState._reset_state(reset_partial_state=False)
    on_cpu = device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if precision == "bf16" else "no")


def _take_off_autocast(network: nn.Module) -> dict[str, Any]:
    """Let a network run in float32 again; returns the attributes by which accelerate makes its forward cast."""
    attributes = vars(network)
    if "_original_forward" not in attributes:
        return {}
    cast = {name: attributes.pop(name) for name in ("forward", "_original_forward")}
    original = cast["_original_forward"]
    if getattr(original, "__func__", None) is not type(network).forward:  # the network had one of its own
        attributes["forward"] = original
    return cast


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
