"""AR-AdaLS for a training loop of your own: one object that keeps the margins, the levels and the smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from robcal.base.checks import FloatArray, IntArray, as_array, check_fraction, check_positive_int, refuse
from robcal.smoothing import passes
from robcal.smoothing.running import (
    DEFAULT_DECAY,
    NOT_SEEN,
    level_bounds,
    logit_margin,
    running_average,
    running_levels,
    shown_margins,
)
from robcal.smoothing.smoother import AdaptiveLabelSmoother
from robcal.smoothing.soft_labels import (
    FIX_LABELS,
    Bounded,
    Reduction,
    check_ranges,
    class_index,
    level_statistics,
    like,
    mix_with_uniform,
    soft_cross_entropy,
)

#: Label that neither the loss nor the validation figures count, as in `torch.nn.functional.cross_entropy`.
IGNORED = -100

#: Names in a state: what precedes those of the smoother, and the arrays beside it.
_SMOOTHER = "smoother."
_ARRAYS = ("train_margins", "val_margins", "shown_index", "shown_margins")
#: Is in a state whose shown margins are those of all processes.
_OF_ALL = "shown_by_all"


@dataclass(frozen=True)
class EpochUpdate:
    """What `ARAdaLS.end_epoch` measured and did; printed, a line."""

    epoch: int  #: number of finished epochs
    epochs: int  #: number of epochs of the run
    confidence: FloatArray  #: (R,) mean confidence of each level on the validation examples
    accuracy: FloatArray  #: (R,) accuracy of each level on them
    counts: IntArray  #: (R,) number of them
    epsilon: FloatArray  #: (R,) label smoothing of each level in the next epoch

    def __str__(self) -> str:
        """Return a line with the accuracy, the mean confidence and the range of the smoothing."""
        share = self.counts / self.counts.sum()
        return (
            f"epoch {self.epoch} of {self.epochs}: validation accuracy {share @ self.accuracy:.3f}, mean confidence "
            f"{share @ self.confidence:.3f}; smoothing {self.epsilon.min():.3f} to {self.epsilon.max():.3f}"
        )


class _Table(NamedTuple):
    """What an epoch looks up: the level of each example, the ends of the levels, and the smoothing of each."""

    levels: torch.Tensor
    bounds: torch.Tensor
    epsilon: torch.Tensor

    def on(self, device: torch.device) -> _Table:
        """Return the same on a device."""
        return self if self.levels.device == device else _Table(*(values.to(device) for values in self))


class ARAdaLS:
    """AR-AdaLS in your own training loop: call `loss` for every batch and `end_epoch` after every epoch.

    Levels come from the margins that your own passes show (`robcal.smoothing.running`): no reference model is trained
    and nothing is scored. Labels are hard in the first epochs (controller "stable"). The number of training examples
    need not be known: it grows as they are seen.

    With `torch.distributed`, `end_epoch` is called in all processes: margins and validation figures are gathered, so
    that all of them go on with the same levels and the same smoothing.

    Args:
        num_classes: Z >= 2.
        num_levels: R >= 1; 1 is AdaLS.
        epochs: K, how often `end_epoch` will be called in the whole run.
        decay: weight of the epochs before in the average of the margins, strictly between 0 and 1 [choice].
        smoother: further arguments of `AdaptiveLabelSmoother`, such as `gain`, or `controller` and `step_size`.

    Attributes:
        smoother: the `AdaptiveLabelSmoother` that is steered.

    Raises:
        InputError: on arguments out of range.

    >>> generator = torch.Generator().manual_seed(0)
    >>> inputs, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 3
    >>> model, smoothing = torch.nn.Linear(4, 3), ARAdaLS(num_classes=3, num_levels=2, epochs=5)
    >>> for index in torch.arange(40).split(20):  # positions in the training set
    ...     loss = smoothing.loss(model(inputs[index]), labels[index], index)
    ...     loss.backward()
    >>> print(str(smoothing.end_epoch(model(inputs[40:]), labels[40:]))[:12])
    epoch 1 of 5
    >>> smoothing.levels.shape, smoothing.epsilon
    ((40,), array([0., 0.]))
    """

    def __init__(
        self, num_classes: int, num_levels: int = 10, *, epochs: int, decay: float = DEFAULT_DECAY, **smoother: Any
    ) -> None:
        self.epochs = check_positive_int(epochs, "epochs")
        self.smoother = AdaptiveLabelSmoother(num_levels, num_classes, num_updates=epochs, **smoother)
        self.decay = check_fraction(decay, "decay")
        self._train = self._val = np.zeros(0)
        self._shown: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # positions, margins, labels
        self._first_is_of_all = False  # the first of them came with a state, which every process has loaded
        self._table = self._new_table()

    @property
    def epsilon(self) -> FloatArray:
        """(R,) float64: label smoothing of each level."""
        return self.smoother.epsilon

    @property
    def levels(self) -> IntArray:
        """(N,) int64: level of each training example up to the last that was seen; -1 for those not seen yet."""
        return self._table.levels.cpu().numpy().copy()

    @property
    def examples_shown(self) -> int:
        """Training examples that `loss` was given here since the last `end_epoch`; 0 in a check before training."""
        return sum(len(index) for index, _, _ in self._shown)

    def loss(
        self,
        logits: torch.Tensor,
        labels: Any,
        index: Any,
        *,
        weight: Any = None,
        ignore_index: int = IGNORED,
        reduction: Reduction = "mean",
    ) -> torch.Tensor:
        """Compute the cross-entropy with the soft targets of the examples' levels, and keep the margins of the logits.

        Under `torch.no_grad` (validation) nothing is kept.

        Args:
            logits: (B, Z) of the training pass; half precision is computed in float32.
            labels: (B,) true classes, integers.
            index: (B,) position of each example in the training set, integers, the same in every epoch.
            weight: (Z,) weight of each class, see `soft_cross_entropy`.
            ignore_index: examples with this label do not count, and their margins are not kept.
            reduction: "mean", "sum" or "none".

        Returns:
            A scalar, or (B,) losses for "none".

        Raises:
            InputError: on other shapes or dtypes; on the CPU also on values out of range.
        """
        classes = class_index(labels, "labels").to(logits.device)
        where, margin = self._pass(logits, index)
        counted = classes != ignore_index
        if len(classes) != len(where):
            refuse(
                f"there are {len(classes)} labels for {len(where)} logits", "each row has one", "Pass both of one batch"
            )
        targets = self._targets(classes.where(counted, 0), where, margin)
        loss = soft_cross_entropy(
            logits, targets, labels=classes, weight=weight, ignore_index=ignore_index, reduction=reduction
        )
        if torch.is_grad_enabled():
            known = classes.where(counted, passes.NO_LABEL)
            self._shown.append((where.clone(), margin.where(counted, torch.nan), known))
        return loss

    def soft_targets(self, labels: Any, index: Any, logits: Any = None) -> Any:
        """Return the soft targets of a batch, for a loss of your own.

        Args:
            labels: (B,) true classes: a tensor, an array or a list.
            index: (B,) position of each example in the training set.
            logits: (B, Z) of this pass: they tell the level of an example that no epoch has shown; without them such
                an example keeps its hard label.

        Returns:
            (B, Z) float32, a tensor on the device of `labels` if these are a tensor, else an array.

        Raises:
            InputError: on other shapes or dtypes; on the CPU also on values out of range.
        """
        classes = class_index(labels, "labels")
        if classes.device.type == "cpu":
            check_ranges(Bounded("labels", classes, self.smoother.num_classes - 1, FIX_LABELS))
        where = passes.positions(index, len(classes)).to(classes.device)
        margin = None if logits is None else self._pass(logits, index)[1].to(classes.device)
        return like(labels, self._targets(classes, where, margin))

    def keep_margins(self, logits: Any, index: Any) -> None:
        """Keep the margins of a training pass, for a loss of your own; `loss` does so itself.

        Of mixed inputs (mixup) keep those that are nearly one example, with its position: the margin of a mixture is of
        no example. `robcal train` counts what is at least nine tenths of one.

        Args:
            logits: (B, Z): a tensor or an array.
            index: (B,) position of each example in the training set.

        Raises:
            InputError: on other shapes or dtypes; on the CPU also on values out of range.
        """
        where, margin = self._pass(logits, index)
        self._shown.append((where.clone(), margin, torch.full_like(where, passes.NO_LABEL)))

    def end_epoch(
        self, val_logits: Any, val_labels: Any, *, val_index: Any = None, ignore_index: int = IGNORED
    ) -> EpochUpdate:
        """Cut the levels anew, measure each on validation examples, and update its smoothing; call once an epoch.

        Args:
            val_logits: (M, Z) of the validation examples, in eval mode.
            val_labels: (M,) their true classes.
            val_index: (M,) which example each row is, integers; by default rows are the same examples, in one order, in
                every epoch. Rows of one example count once. With `torch.distributed` each process passes its share;
                processes whose shares overlap must pass it.
            ignore_index: examples with this label do not count.

        Returns:
            What was measured, and the new smoothing; `print` shows a line.

        Raises:
            InputError: on other shapes or values, fewer examples than levels, if no training example was shown since
                the last call, or if one came with two labels; nothing is changed then.
        """
        shown, val = passes.in_all_processes(
            self._shown_so_far(),
            passes.measured(val_logits, val_labels, val_index, self.smoother.num_classes, ignore_index),
            numbered=val_index is not None,
        )
        if not len(shown.place) or (np.isnan(shown.margin).all() and np.isnan(self._train).all()):
            refuse(
                "no training example that counts has passed through loss since the last end_epoch",
                "an epoch trains first, and is measured then",
                "Call loss for every batch, with gradients enabled, and with labels other than ignore_index; where "
                "nothing was trained (examples_shown is 0) do not call end_epoch",
            )
        num_levels = self.smoother.num_levels
        train_average = self._averaged(self._train, shown.place, shown.margin)
        val_average = self._averaged(self._val, val.place, val.margin)
        levels = running_levels(train_average, num_levels)
        val_levels = running_levels(val_average[val.place], num_levels)
        figures = level_statistics(val.confidence, val.correct, val_levels, num_levels)
        self.smoother.update(*figures)
        self._train, self._val, self._shown, self._first_is_of_all = train_average, val_average, [], False
        self._table = self._new_table(levels)
        return EpochUpdate(int(self.smoother.state_dict()["updates"]), self.epochs, *figures, self.epsilon)

    def state_dict(self, *, joined: bool = False) -> dict[str, torch.Tensor]:
        """Return the whole state as a flat dictionary of tensors, also in the middle of an epoch.

        Args:
            joined: with `torch.distributed`, called in all processes: with the margins that all of them have shown of
                an unfinished epoch, so that one state is that of all, also of another number of processes. By default
                they are those of this process, and one state is that of all after `end_epoch` only.
        """
        shown = self._shown_so_far()
        if joined:
            shown = passes.Shown(*passes.joined_columns(shown))
        of_all = len(shown.place) > 0 and (joined or passes.rank_and_size()[1] == 1)
        arrays = (self._train.copy(), self._val.copy(), shown.place, shown.margin)
        return {
            **{_SMOOTHER + name: values for name, values in self.smoother.state_dict().items()},
            **{name: torch.from_numpy(array) for name, array in zip(_ARRAYS, arrays, strict=True)},
            **({_OF_ALL: torch.tensor(True)} if of_all else {}),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            InputError: if it is of an object with other arguments, or not such a state; this one is then unchanged.
        """
        train, val, index, margin = (_vector(state, name) for name in _ARRAYS)
        shown = passes.Shown(index.astype(np.int64), margin)
        if len(index) != len(margin):
            refuse(
                f"the state has {len(margin)} shown_margins for {len(index)} entries of shown_index",
                "each margin has the position of its example",
                "Pass a state as ARAdaLS.state_dict returned it",
            )
        passes.check_positions(torch.from_numpy(shown.place))
        prefixed = {name.removeprefix(_SMOOTHER): value for name, value in state.items() if name.startswith(_SMOOTHER)}
        self.smoother.load_state_dict(prefixed)
        self._train, self._val = train.astype(np.float64), val.astype(np.float64)
        place, margins = torch.from_numpy(shown.place), torch.from_numpy(shown.margin)
        self._shown = [(place, margins, torch.full_like(place, passes.NO_LABEL))] if len(index) else []
        self._first_is_of_all = _OF_ALL in state
        self._table = self._new_table(running_levels(self._train, self.smoother.num_levels) if len(train) else None)

    def _pass(self, logits: Any, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the checked positions and the margins of a pass, on the device of the logits."""
        values = logits if isinstance(logits, torch.Tensor) else torch.as_tensor(as_array(logits, "logits"))
        classes = self.smoother.num_classes
        if values.ndim != 2 or values.shape[1] != classes or not values.is_floating_point():
            refuse(
                f"logits are {values.dtype} of shape {tuple(values.shape)}",
                f"they are floating-point numbers (B, {classes})",
                "Pass the outputs of the network before softmax, and their number as num_classes",
            )
        return passes.positions(index, len(values)).to(values.device), logit_margin(values)

    def _targets(self, classes: torch.Tensor, where: torch.Tensor, margin: torch.Tensor | None) -> torch.Tensor:
        """Return the soft targets; a label out of range counts as the nearest class, and the loss refuses it."""
        self._table = table = self._table.on(classes.device)
        level = table.levels[where.clamp(max=len(table.levels) - 1)].where(where < len(table.levels), NOT_SEEN)
        if margin is not None:
            level = level.where(level != NOT_SEEN, torch.bucketize(margin.float(), table.bounds, right=True))
        num_classes = self.smoother.num_classes
        return mix_with_uniform(classes.clamp(0, num_classes - 1), table.epsilon[level], num_classes)

    def _new_table(self, levels: IntArray | None = None) -> _Table:
        """Return what the coming epoch looks up; before the first cut no example has a level, and labels are hard."""
        found = np.full(1, NOT_SEEN, np.int64) if levels is None else levels
        bounds = np.zeros(0) if levels is None else level_bounds(self._train, found, self.smoother.num_levels)
        epsilon = np.append(self.smoother.epsilon, 0.0)  # its last entry is that of level NOT_SEEN, -1
        return _Table(
            torch.from_numpy(found), torch.from_numpy(bounds).float(), torch.from_numpy(epsilon.astype(np.float32))
        )

    def _averaged(self, before: FloatArray, index: IntArray, margin: FloatArray) -> FloatArray:
        size = max(len(before), int(index.max()) + 1)
        return running_average(before, shown_margins(index, margin, size), self.decay)

    def _shown_so_far(self) -> passes.Shown:
        """Return what the passes of this epoch have shown here, on the host; what all have loaded is that of rank 0."""
        own = self._shown[1:] if self._first_is_of_all and passes.rank_and_size()[0] else self._shown
        if not own:
            return passes.Shown(np.zeros(0, np.int64), np.zeros(0, np.float32))
        index, margin, label = (torch.cat([part.cpu() for part in parts]) for parts in zip(*own, strict=True))
        passes.check_positions(index)
        passes.check_one_label(index.numpy(), label.numpy())
        return passes.Shown(index.numpy(), margin.numpy())


def _vector(state: Mapping[str, Any], name: str) -> npt.NDArray[Any]:
    """Return one array of a state, (N,), as an array of its own."""
    if name not in state:
        refuse(
            f"the state has no {name!r}, only {', '.join(map(repr, state)) or 'nothing'}",
            "it is what ARAdaLS.state_dict returned",
            "Pass that part of the checkpoint",
        )
    array = np.array(as_array(state[name], name))
    if array.ndim != 1:
        refuse(
            f"{name} of the state has shape {array.shape}",
            "it holds one number an example",
            "Pass a state as ARAdaLS.state_dict returned it",
        )
    return array
