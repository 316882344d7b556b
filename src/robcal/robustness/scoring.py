"""Score a whole data set: one attack over inputs that may be larger than memory, with checks before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robcal.checks import IntArray, check_choice, check_labels, check_positive_int, refuse
from robcal.data.dataset import Box, Inputs
from robcal.robustness.box import Bounds, make_bounds
from robcal.robustness.carlini_wagner import CarliniWagner
from robcal.robustness.engine import RESULT_KEYS, Attack, Fresh, Rows, run
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.network import Model
from robcal.robustness.projection import Projection
from robcal.robustness.steps import probed
from robcal.types import Scores

#: The attacks by name.
METHODS: dict[str, type[FirstOrder] | type[Projection] | type[CarliniWagner]] = {
    "first-order": FirstOrder,
    "projection": Projection,
    "carlini-wagner": CarliniWagner,
}

#: Inputs are checked this many values at a time.
_CHECK_VALUES = 1 << 24


def score(
    model: Model,
    inputs: Tensor | Inputs,
    *,
    method: str | Attack = "projection",
    box: Box = (0.0, 1.0),
    num_rivals: int = 3,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    seed: int = 0,
    reference: Literal["prediction", "label"] = "prediction",
    labels: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Adversarial robustness of every example: the l2 distance to the nearest input with another label (METHOD 2).

    d(x) = min ‖δ‖₂ such that ŷ(x + δ) ≠ ŷ(x) and x + δ in the box. Each method gives an upper bound by a verified
    point, except "first-order", which gives an estimate.

    Args:
        model: from inputs (B, …) to logits (B, Z): a torch module (its mode, gradients and parameters are left as they
            were found) or a function. Any normalisation belongs inside it: distances are in the units of `inputs`.
        inputs: (N, …) float32 in the box, or uint8 images (divided by 255): a tensor, an array, or anything with the
            `Inputs` protocol; read in order, a few batches at a time.
        method: "first-order" (1 forward, K backward passes, an estimate), "projection" (default: a few passes,
            verified), "carlini-wagner" (thousands of passes, verified), or an attack with settings of its own, for
            example `CarliniWagner(max_iterations=100)`.
        box: (lo, hi), numbers or arrays that broadcast to one input, in input units; None for unbounded inputs.
        num_rivals: K >= 1, classes whose boundaries are linearised; more than Z - 1 means all. Used by named methods.
        batch_size: examples an evaluation of the model; no result depends on it (beyond float32 rounding).
        device: where the model is; None reads it off the model's parameters (CPU for a function).
        seed: seeds the perturbation of inputs whose gradient is zero; no global random state is used or changed.
        reference: "prediction": the label to be changed is the model's own (default); "label": the true one, and
            misclassified inputs have distance 0.
        labels: (N,) integers, needed for reference="label" only.
        progress: called as progress(done, total) whenever examples finish.

    Returns:
        Scores of the N examples, in their order. status: "verified"; "estimate" (first-order); "censored" where no
        adversarial point was found or the gradient stayed zero (distance +inf).

    Raises:
        InputError: bad arguments, inputs that are NaN, infinite or outside the box, a model whose output is not
            finite, differentiable logits (B, Z), or one whose input gradients are zero at every example. All but the
            last are found before any work starts.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.fill_(0.0)
        >>> scores = score(linear, torch.tensor([[0.25, 0.5], [-0.5, 0.0]]), box=None)
        >>> scores.distance.round(2).tolist(), scores.status.tolist()
        ([0.25, 0.5], ['verified', 'verified'])
    """
    attack = _attack(method, check_positive_int(num_rivals, "num_rivals"), check_positive_int(seed, "seed", minimum=0))
    check_positive_int(batch_size, "batch_size")
    check_choice(reference, ("prediction", "label"), "reference")
    place = _device(model, device)
    shape = _check_shape(inputs)
    bounds = make_bounds(box, shape[1:])
    _check_values(inputs, shape, bounds, box)
    reference_labels = _reference_labels(reference, labels, shape[0])
    here = Bounds(bounds.lo.to(place), bounds.hi.to(place), bounds.bounded)
    source = _Stream(inputs, reference_labels, shape[0], place)
    collector = _Collector(shape[0], progress)
    with probed(model, source.peek(min(batch_size, 32)), shape[1:], here) as network:
        if reference == "label":
            check_labels(reference_labels, n=shape[0], num_classes=network.num_classes)
        run(attack, network, source, batch_size=batch_size, emit=collector.emit)
    provenance = {
        "attack": {"name": attack.name, **asdict(attack)},  # type: ignore[call-overload]
        "box": None if box is None else [np.asarray(end).tolist() for end in box],
        "batch_size": batch_size,
        "torch": torch.__version__,
    }
    return collector.scores(attack.name, reference, provenance)


class _Stream:
    """The inputs in order, a few at a time, as flat float32 tensors on the model's device."""

    def __init__(self, inputs: Tensor | Inputs, reference: IntArray, count: int, device: torch.device) -> None:
        self.inputs, self.reference, self.count, self.device = inputs, reference, count, device
        self.position = 0

    def peek(self, count: int) -> Tensor:
        return read(self.inputs, np.arange(min(count, self.count))).to(self.device)

    def take(self, count: int) -> Fresh | None:
        """The next `count` examples or fewer; None when there are no more."""
        index = np.arange(self.position, min(self.position + count, self.count))
        self.position += len(index)
        if not len(index):
            return None
        return (
            torch.from_numpy(index).to(self.device),
            read(self.inputs, index).to(self.device),
            torch.from_numpy(self.reference[index]).to(self.device),
        )


class _Collector:
    """The per-example results of N examples, kept on the host."""

    def __init__(self, count: int, progress: Callable[[int, int], None] | None) -> None:
        self.count, self.done, self.progress = count, 0, progress
        self.columns: dict[str, Any] = {}

    def emit(self, rows: Rows) -> None:
        index = rows["index"].cpu().numpy()
        for key in RESULT_KEYS:
            values = rows[key].cpu().numpy()
            if key not in self.columns:
                self.columns[key] = np.zeros(self.count, dtype=values.dtype)
            self.columns[key][index] = values
        self.done += len(index)
        if self.progress is not None:
            self.progress(self.done, self.count)

    def scores(self, method: str, reference: Literal["prediction", "label"], provenance: dict[str, Any]) -> Scores:
        columns = self.columns
        found = np.isfinite(columns["distance"])
        if not found.any() and (columns["flat"] > 0).all():
            refuse(
                f"the model's input gradients are zero at all {self.count} examples, and near them",
                "attacks need logits that change with the input",
                "Check for a constant, saturated or quantised model, or an integer cast in its forward",
            )
        status = np.where(columns["verified"], "verified", np.where(found, "estimate", "censored"))
        return Scores(
            distance=columns["distance"].astype(np.float32),
            status=status.astype(np.str_),
            prediction=columns["prediction"].astype(np.int64),
            rival=np.where(found, columns["rival"], -1).astype(np.int64),
            margin=columns["margin"].astype(np.float32),
            passes=columns["passes"].astype(np.float32),
            method=method,
            reference=reference,
            provenance={**provenance, "zero_gradient": int((columns["flat"] > 0).sum())},
        )


def read(inputs: Tensor | Inputs, index: IntArray) -> Tensor:
    """(B, D) float32 flat inputs at these positions, on the CPU; uint8 images are divided by 255."""
    values = inputs[torch.from_numpy(index)] if isinstance(inputs, Tensor) else torch.from_numpy(_copy(inputs[index]))
    flat = values.detach().cpu().reshape(len(index), -1)
    return flat.float() / 255 if flat.dtype == torch.uint8 else flat.float()


def _copy(values: Any) -> Any:
    """A contiguous, writable array in native byte order, which is what torch takes."""
    array = np.array(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _attack(method: str | Attack, num_rivals: int, seed: int) -> Attack:
    if not isinstance(method, str):
        return method
    return METHODS[check_choice(method, METHODS, "method")](num_rivals=num_rivals, seed=seed)


def _device(model: Model, device: torch.device | str | None) -> torch.device:
    """Where the model is; refuses a device that is not the model's, for moving the user's model would change it."""
    tensors: list[Tensor] = []
    if isinstance(model, torch.nn.Module):
        tensors = [*model.parameters(), *model.buffers()]
    elif not callable(model):
        refuse(f"model is a {type(model).__name__}", "it must be a torch module or a function", "Pass the module")
    have = tensors[0].device if tensors else None
    want = None if device is None else torch.device(device)
    if want is None or have is None:
        return have or want or torch.device("cpu")
    if want.type != have.type or (want.index is not None and want.index != have.index):
        refuse(f"device is {want}, the model is on {have}", "both must agree", f"Call model.to({str(want)!r}) first")
    return have


def _check_shape(inputs: Tensor | Inputs) -> tuple[int, ...]:
    if not hasattr(inputs, "shape") or not hasattr(inputs, "dtype"):
        refuse(
            f"inputs are a {type(inputs).__name__}",
            "they must be a tensor, an array, or have shape, dtype and __getitem__",
            "Convert them with numpy.asarray or torch.stack",
        )
    shape = tuple(int(size) for size in inputs.shape)
    if len(shape) < 2 or 0 in shape:
        refuse(
            f"inputs have shape {shape}",
            "they must be (N, …) with at least one example and one feature",
            "Check the split; a single input needs a leading dimension of 1",
        )
    dtype: Any = inputs.dtype
    if isinstance(dtype, torch.dtype):
        allowed = dtype.is_floating_point or dtype == torch.uint8
    else:
        allowed = np.dtype(dtype).kind == "f" or np.dtype(dtype) == np.uint8
    if not allowed:
        refuse(f"inputs have dtype {dtype}", "they must be float32, or uint8 images", "Convert them")
    return shape


def _blocks(shape: tuple[int, ...]) -> Iterator[IntArray]:
    rows = max(1, _CHECK_VALUES // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], rows):
        yield np.arange(start, min(start + rows, shape[0]))


def _check_values(inputs: Tensor | Inputs, shape: tuple[int, ...], bounds: Bounds, box: Box) -> None:
    """Refuse inputs that are not finite or lie outside the box, before any work."""
    is_bytes = inputs.dtype in (torch.uint8, np.uint8)
    if is_bytes and not (bool((bounds.lo > 0).any()) or bool((bounds.hi < 1).any())):
        return
    outside, worst, where = 0, 0.0, -1
    for index in _blocks(shape):
        x = read(inputs, index)
        bad = ~torch.isfinite(x).all(1)
        if bool(bad.any()):
            refuse(
                f"{int(bad.sum())} inputs hold NaN or infinite values (first at index {int(index[bad.numpy()][0])})",
                "inputs must be finite",
                "Mend or drop them",
            )
        excess = bounds.excess(x)
        outside += int((excess > 0).sum())
        if float(excess.max()) > worst:
            worst, where = float(excess.max()), int(index[int(excess.argmax())])
    if outside:
        refuse(
            f"{outside} of {shape[0]} inputs lie outside box={box}, by up to {worst:.4g} (index {where})",
            "every input lies in the box",
            "Pass the box of these inputs, or box=None; put any normalisation inside the model, not before it",
        )


def _reference_labels(reference: str, labels: Any, count: int) -> IntArray:
    """-1 everywhere for reference="prediction", else the checked labels."""
    if reference == "prediction":
        return np.full(count, -1, dtype=np.int64)
    if labels is None:
        refuse('reference is "label" without labels', "it needs the true classes", "Pass labels=…")
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    return check_labels(values, n=count)
