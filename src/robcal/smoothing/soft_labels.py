"""Soft targets and their loss: what smoothing puts between the labels and the optimiser (method, section 3)."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from robcal.base.checks import FloatArray, as_numbers, check_choice, check_labels, check_positive_int, refuse

#: How `soft_cross_entropy` may reduce the losses of a batch.
Reduction = Literal["mean", "sum", "none"]

#: What rounding may add to a probability, or to a mean of probabilities, of 1.
ROUNDING = 1e-6

#: What to do about labels out of range.
FIX_LABELS = (
    "Number the classes from 0, or pass a larger num_classes; for labels that soft_cross_entropy is to ignore, pass "
    "labels.clip(0) here"
)


class Bounded(NamedTuple):
    """Values that must lie in 0 … high, with what to do if they do not."""

    name: str
    values: torch.Tensor
    high: float
    fix: str


def true_mass_from_epsilon(epsilon: npt.ArrayLike, num_classes: int) -> FloatArray:
    """Return the mass that smoothing leaves on the true class: `1 - epsilon (Z - 1) / Z` (method, section 3)."""
    return np.asarray(1 - np.asarray(epsilon, dtype=np.float64) * (num_classes - 1) / num_classes)


def epsilon_from_true_mass(true_mass: npt.ArrayLike, num_classes: int) -> FloatArray:
    """Invert `true_mass_from_epsilon`: `epsilon = (1 - mass) Z / (Z - 1)` (method, section 3)."""
    return np.asarray((1 - np.asarray(true_mass, dtype=np.float64)) * num_classes / (num_classes - 1))


def mix_with_uniform(labels: torch.Tensor, epsilon: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return (B, Z) `(1 - eps) onehot(y) + eps / Z` (method, section 3) of labels and eps (B,), unchecked."""
    others, true = _masses(epsilon, num_classes)
    return others.scatter_(1, labels.unsqueeze(1), true)


def targets_of_levels(
    labels: torch.Tensor, levels: torch.Tensor, epsilon: tuple[float, ...], num_classes: int
) -> torch.Tensor:
    """Return `mix_with_uniform(labels, epsilon[levels], Z)`, with masses that are kept from one step to the next."""
    others, true = _masses_of_levels(epsilon, num_classes, labels.device)
    return others.index_select(0, levels).scatter_(1, labels.unsqueeze(1), true.index_select(0, levels))


@functools.lru_cache(maxsize=4)
def _masses_of_levels(
    epsilon: tuple[float, ...], num_classes: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    return _masses(torch.tensor(epsilon, dtype=torch.float32, device=device), num_classes)


def _masses(epsilon: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what smoothing leaves on each other class, (N, Z), and on the true class, (N, 1)."""
    column = epsilon.unsqueeze(1)
    others = column / num_classes
    return others.repeat(1, num_classes), others + (1 - column)


def soft_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    labels: Any = None,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Compute the cross-entropy with soft targets, weighted by the true class as PyTorch weights hard labels.

        loss_i = -w_i sum_z target_iz log p_iz,   w_i = weight[y_i];   "mean": sum_i loss_i / sum_i w_i

    For one-hot targets this is `torch.nn.functional.cross_entropy(logits, labels, weight=weight)`. For soft ones it is
    not what PyTorch does with class probabilities, which weights every term of the sum by its own class and divides by
    the number of examples: smoothing would then move the optimum towards the heavy classes. Here a weight says how much
    an example counts, and the smoothing keeps its meaning.

    Args:
        logits: (B, Z) floating point; half precision is computed in float32.
        targets: (B, Z) soft targets, rows sum to 1, as `AdaptiveLabelSmoother.soft_targets` returns them.
        labels: (B,) integers, the true classes; needed for `weight` and for `ignore_index`.
        weight: (Z,) weight of each class, at least 0; None weighs all alike.
        ignore_index: examples with this label count neither in the sum nor in the mean, whatever their targets are.
        reduction: "mean" (NaN if no example counts, as in PyTorch), "sum", or "none".

    Returns:
        A scalar, or (B,) losses for "none". Labels are checked to be in range on the CPU only: on a GPU the check would
        wait for the device at every step.

    Raises:
        InputError: on other shapes or dtypes, a weight without labels, or (on the CPU) a label out of range.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> targets = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    >>> round(float(soft_cross_entropy(logits, targets, labels=labels, weight=[1.0, 3.0])), 4)
    0.3917
    """
    check_choice(reduction, get_args(Reduction), "reduction")
    for name, values in (("logits", logits), ("targets", targets)):
        if not (isinstance(values, torch.Tensor) and values.is_floating_point() and values.ndim == 2):
            refuse(f"{name} is {_about(values)}", "it must be a tensor (B, Z) of floats", f"Convert {name}")
    if targets.shape != logits.shape:
        refuse(
            f"logits have shape {tuple(logits.shape)}, targets {tuple(targets.shape)}",
            "both must be (B, Z)",
            "Make the targets of this batch, with num_classes = Z",
        )
    logs = functional.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)
    losses = -(targets.to(logs) * logs.where(targets > 0, 0)).sum(1)  # a class without mass may be masked by -inf
    counts = _counts_of(logs, labels, weight, ignore_index)
    weighted = (losses * counts).where(counts > 0, 0)
    if reduction == "none":
        return weighted
    return weighted.sum() if reduction == "sum" else weighted.sum() / counts.sum()


def _counts_of(logs: torch.Tensor, labels: Any, weight: Any, ignore_index: int) -> torch.Tensor:
    """Return (B,) how much each example counts: the weight of its true class, 0 if it is ignored."""
    size, classes = logs.shape
    if labels is None:
        if weight is not None:
            refuse("weight was given without labels", "an example has the weight of its true class", "Pass labels")
        return logs.new_ones(size)
    index = class_index(labels, "labels").to(logs.device)
    if len(index) != size:
        refuse(f"there are {len(index)} labels for {size} logits", "each row has one", "Pass the labels of this batch")
    counted = index != ignore_index
    index = index.where(counted, 0)
    if index.device.type == "cpu":
        fix = "Pass the label of examples to ignore as ignore_index, and logits of all classes"
        check_ranges(Bounded("labels", index, classes - 1, fix))
    if weight is None:
        return counted.to(logs.dtype)
    each = torch.as_tensor(weight).to(logs)
    if each.shape != (classes,):
        refuse(f"weight has shape {tuple(each.shape)}", f"it must be ({classes},)", "Pass one weight a class")
    return each[index] * counted


def level_statistics(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, levels: npt.ArrayLike, num_levels: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Measure mean confidence, accuracy and number of examples of every level.

    Args:
        confidence: (N,) top-label confidence of each validation example.
        correct: (N,) whether its prediction is right.
        levels: (N,) integers in 0 … num_levels - 1.
        num_levels: R.

    Returns:
        confidence (R,) float64, accuracy (R,) float64, counts (R,) int64; an empty level has 0, 0, 0 (its gap is 0, so
        an update leaves it alone).

    Raises:
        InputError: if the three differ in length, a level is out of range, or a value is not in [0, 1].
    """
    bound = check_positive_int(num_levels, "num_levels")
    index = class_index(levels, "levels").cpu()
    check_ranges(Bounded("levels", index, bound - 1, "Pass the num_levels that the levels were cut with"))
    counts = np.bincount(index.numpy(), minlength=bound)
    sums = []
    for name, given in (("confidence", confidence), ("correct", correct)):
        array = as_numbers(given, name)
        if array.shape != index.shape:
            refuse(
                f"{name} has shape {array.shape} for {len(index)} levels",
                "both describe the same examples",
                f"Pass {name} and levels of the validation examples, in one order",
            )
        if not ((array >= 0) & (array <= 1 + ROUNDING)).all():
            bad = array[~((array >= 0) & (array <= 1 + ROUNDING))][0]
            refuse(f"{name} holds {bad:g}", "it lies in [0, 1]", "Pass probabilities, not logits or per cent")
        sums.append(np.bincount(index.numpy(), weights=np.minimum(array, 1), minlength=bound))
    divisor = np.maximum(counts, 1)
    return sums[0] / divisor, sums[1] / divisor, counts


def class_index(values: Any, name: str) -> torch.Tensor:
    """Return (B,) integers of any width as an int64 tensor; those of a tensor stay on its device, unchecked."""
    if isinstance(values, torch.Tensor):
        if values.ndim == 1:
            if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
                refuse(f"{name} has dtype {values.dtype}", "it holds integers", f"If they are whole: `{name}.long()`")
            return values.detach().long()
    elif np.size(values) == 0:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(check_labels(values, name=name))


def check_ranges(*given: Bounded) -> None:
    """Refuse values out of their ranges; the ends of all of them come from the device in one transfer."""
    held = [item for item in given if len(item.values)]
    if not held:
        return
    ends = torch.stack([end.float() for item in held for end in torch.aminmax(item.values)]).tolist()
    for item, low, high in zip(held, ends[::2], ends[1::2], strict=True):
        if not (low >= 0 and high <= item.high):
            refuse(f"{item.name} holds {low:g} to {high:g}", f"it lies in 0 to {item.high:g}", item.fix)


def like(given: Any, made: torch.Tensor) -> Any:
    """Return `made` as what `given` is: a tensor for a tensor, else an array."""
    return made if isinstance(given, torch.Tensor) else made.numpy()


def _about(values: Any) -> str:
    """Say what was given, for an error: its type, with dtype and shape if it has these."""
    if hasattr(values, "shape") and hasattr(values, "dtype"):
        return f"{type(values).__name__} of {values.dtype} and shape {tuple(values.shape)}"
    return f"a {type(values).__name__}"
