"""Score a whole data set: one attack over inputs that may be larger than memory, with checks before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from robcal.base.checks import IntArray, check_choice, check_labels, check_positive_int, check_seed, refuse
from robcal.base.types import Precision, Reference, Scores
from robcal.data.dataset import Box, Inputs
from robcal.robustness.attacks import Attack, describe_attack, make_attack, probed, run
from robcal.robustness.box import Bounds, make_bounds
from robcal.robustness.engine import RESULT_KEYS, Fresh, Rows
from robcal.robustness.inputs import check_shape, check_values, read
from robcal.robustness.linear_error import log_error_counts
from robcal.robustness.network import Model, Network
from robcal.robustness.steps import MAX_PERTURBATIONS
from robcal.robustness.trial import TRIED


def score(
    model: Model,
    inputs: Tensor | Inputs,
    *,
    method: str | Attack | Callable[..., Tensor] = "auto",
    box: Box = (0.0, 1.0),
    num_rivals: int | None = None,
    num_levels: int = 10,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    seed: int = 0,
    reference: Reference = "prediction",
    labels: Any = None,
    precision: Precision = "float32",
    compile: bool = False,
    first_index: int | IntArray = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Scores:
    """Score every example: find the l2 distance to the nearest input with another label (method, section 1).

    d(x) = min ‖δ‖₂ such that ŷ(x + δ) ≠ ŷ(x) and x + δ in the box. Each method gives an upper bound by a verified
    point, except "first-order", which gives an estimate.

    Args:
        model: from inputs (B, …) to logits (B, Z): a torch module (its mode, gradients and parameters are left as they
            were found) or a function. Any normalisation belongs inside it: distances are in the units of `inputs`.
            It must be a deterministic function of each input, in float32 or float64 throughout: this is tried on 16
            inputs (about 50 forward passes, which the scores do not count). Classes may be masked, also by -inf.
        inputs: (N, …) float32 in the box, or uint8 images (divided by 255): a tensor, an array, or anything with the
            `Inputs` protocol; read a few batches at a time ("auto" reads them twice).
        method: "auto" (default: verified, as exact as the level of each example needs), "projection" (a few passes,
            verified, all examples alike), "quick" (fewer passes, verified, for ranks), "first-order" (1 forward, K
            backward passes, an estimate), "carlini-wagner" (thousands of passes, verified), any other name of
            `robcal.robustness.ATTACKS`, an attack with settings of its own, for example
            `CarliniWagner(max_iterations=100)`, or a function `points(network, x, label, rng)` that returns adversarial
            points (docs/extend.md, "An attack").
        box: (lo, hi), numbers or arrays that broadcast to one input, in input units; None for unbounded inputs.
        num_rivals: K >= 1, classes whose boundaries are linearised; more than Z - 1 means all. Used by named methods;
            None for 3, of "quick" 2.
        num_levels: R, the levels that the scores are to be cut into: "auto" spends passes where they may change one.
            More than N means N.
        batch_size: examples an evaluation of the model; no result depends on it (beyond float32 rounding).
        device: where the model is; None reads it off the model's parameters (CPU for a function).
        seed: of every random draw (the perturbation of inputs whose gradient is zero, random starts): each is a
            function of (seed, index of the example) alone; no global random state is used or changed.
        reference: "prediction": the label to be changed is the model's own (default); "label": the true one, and
            misclassified inputs have distance 0.
        labels: (N,) integers, needed for reference="label" only.
        precision: "float32", or "bf16": gradients are taken under autocast and choose directions only; every label,
            margin and distance is decided by a float32 forward, which `passes` counts.
        compile: run the model through torch.compile, on batches that are filled up to one shape.
        first_index: index of the first input in the data set that these inputs are a part of, or (N,) distinct indices:
            the scores of a part are then those of the whole (not by "auto", which looks at all distances together).
        progress: called as progress(done, total) whenever examples finish.

    Returns:
        Scores of the N examples, in their order. status: "verified"; "estimate" (first-order); "censored" where no
        adversarial point was found or the gradient stayed zero (distance +inf): points with another label that only
        random draws have met, with no gradient ever seen, are not counted as found.

    Raises:
        InputError: bad arguments, inputs that are NaN, infinite or outside the box, a model that does not take such
            inputs, whose output is not differentiable logits (B, Z), or probabilities, or which draws noise, looks at
            other rows of the batch or computes in less than float32; or one whose input gradients are zero at every
            example. All but the last are found before any work starts.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.fill_(0.0)
        >>> scores = score(linear, torch.tensor([[0.25, 0.5], [-0.5, 0.0]]), box=None)
        >>> scores.distance.round(2).tolist(), scores.status.tolist()
        ([0.25, 0.5], ['verified', 'verified'])
    """
    options: dict[str, Any] = {
        "box": box,
        "num_rivals": num_rivals,
        "batch_size": batch_size,
        "device": device,
        "seed": seed,
        "reference": reference,
        "labels": labels,
        "precision": precision,
        "compile": compile,
        "first_index": first_index,
    }
    if method == "auto":
        from robcal.robustness.auto import score_auto

        return score_auto(model, inputs, num_levels=num_levels, progress=progress, **options)
    scorer = Scorer(model, inputs, method=method, **options)
    scorer.check_inputs()
    with scorer.opened() as network:
        scores = scorer.run(network, np.arange(len(scorer)), progress=progress)
    refuse_without_gradients(scores)
    return scores


class Scorer:
    """An attack, a model and a data set, checked and ready to score any of its examples; see `score` for the arguments.

    Attributes:
        attack: the attack with its settings.
        place: the device of the model.
        settings: what the scores depend on beside model and data, JSON-able.

    Raises:
        InputError: as `score`, for whatever can be told without reading the inputs.
    """

    def __init__(
        self,
        model: Model,
        inputs: Tensor | Inputs,
        *,
        method: str | Attack | Callable[..., Tensor] = "projection",
        box: Box = (0.0, 1.0),
        num_rivals: int | None = None,
        batch_size: int = 256,
        device: torch.device | str | None = None,
        seed: int = 0,
        reference: Reference = "prediction",
        labels: Any = None,
        precision: Precision = "float32",
        compile: bool = False,
        first_index: int | IntArray = 0,
    ) -> None:
        if num_rivals is not None:
            check_positive_int(num_rivals, "num_rivals")
        self.attack = make_attack(method, num_rivals=num_rivals, seed=check_seed(seed))
        self.batch_size = check_positive_int(batch_size, "batch_size")
        self.reference: Reference = reference
        check_choice(reference, ("prediction", "label"), "reference")
        check_choice(precision, get_args(Precision), "precision")
        self.precision, self.compile = precision, compile
        self.model, self.inputs, self.box = model, inputs, box
        self.place = _device(model, device)
        self.shape = check_shape(inputs)
        self.bounds = make_bounds(box, self.shape[1:])
        self.labels = _reference_labels(reference, labels, self.shape[0])
        self.index = _global_index(first_index, self.shape[0])
        self.settings = {
            "attack": describe_attack(self.attack),
            "box": None if box is None else [np.asarray(end).tolist() for end in box],
            "batch_size": batch_size,
            "reference": reference,
            "precision": precision,
            "compile": compile,
        }

    def __len__(self) -> int:
        return self.shape[0]

    def check_inputs(self) -> None:
        """Read all inputs once and refuse what is not finite or lies outside the box.

        Raises:
            InputError: if there are any such inputs.
        """
        check_values(self.inputs, self.shape, self.bounds, self.box)

    @contextmanager
    def opened(self) -> Iterator[Network]:
        """Open the model in scoring mode, probed on the first inputs.

        Raises:
            InputError: if the model cannot be scored, or labels exceed its classes.
        """
        here = Bounds(self.bounds.lo.to(self.place), self.bounds.hi.to(self.place), self.bounds.bounded)
        first = read(self.inputs, np.arange(min(self.batch_size, TRIED, len(self)))).to(self.place)
        with probed(
            self.model,
            first,
            self.shape[1:],
            here,
            batch_size=self.batch_size,
            precision=self.precision,
            compile=self.compile,
        ) as network:
            if self.reference == "label":
                check_labels(self.labels, n=len(self), num_classes=network.num_classes)
            yield network

    def run(
        self,
        network: Network,
        positions: IntArray,
        *,
        attack: Attack | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Scores:
        """Score the examples at these positions of the data set.

        Args:
            network: from `opened`.
            positions: (n,) int64, in the order of the scores; read a batch at a time.
            attack: another attack than the scorer's own.
            progress: called as progress(done, n).

        Returns:
            Scores of the n examples. Their provenance counts those whose gradient was zero at first ("zero_gradient")
            and everywhere it was looked for ("no_gradient"); `refuse_without_gradients` judges them. "log_errors" are
            the counts of `robcal.robustness.linear_error`, of attacks that tell.
        """
        attack = attack or self.attack
        index = self.index[positions]
        collector = _Collector(index, progress)
        source = _Stream(self.inputs, positions, index, self.labels[positions], self.place)
        run(attack, network, source, batch_size=self.batch_size, emit=collector.emit)
        settings = {**self.settings, "attack": describe_attack(attack), "torch": torch.__version__}
        return collector.scores(attack.name, self.reference, settings)


def refuse_without_gradients(*scores: Scores) -> None:
    """Refuse a model none of whose examples has ever shown a gradient; judge all parts of a data set together.

    A piecewise constant model has points with other labels, and a random walk finds some: far ones, at distances that
    depend on luck. Such points are never kept (`robcal.robustness.steps.perturb`), so that the examples are censored,
    and a data set of nothing else is an error: its ranks would mean nothing.

    Raises:
        InputError: if so.
    """
    total = sum(len(part) for part in scores)
    if total and sum(part.provenance["no_gradient"] for part in scores) == total:
        refuse(
            f"the model's input gradients are zero at all {total} examples, and near them",
            "attacks need logits that change with the input",
            "Check for a constant, saturated or quantised model, or an integer cast in its forward",
        )


class _Stream:
    """Some of the inputs, in order, a few at a time, as flat float32 tensors on the model's device."""

    def __init__(
        self, inputs: Tensor | Inputs, positions: IntArray, index: IntArray, reference: IntArray, device: torch.device
    ) -> None:
        self.inputs, self.positions, self.index, self.reference = inputs, positions, index, reference
        self.device, self.taken = device, 0

    def take(self, count: int) -> Fresh | None:
        """Return the next `count` examples or fewer; None when there are no more."""
        part = slice(self.taken, self.taken + count)
        self.taken += count
        if not len(self.positions[part]):
            return None
        return (
            torch.from_numpy(self.index[part]).to(self.device),
            read(self.inputs, self.positions[part]).to(self.device),
            torch.from_numpy(self.reference[part]).to(self.device),
        )


class _Collector:
    """The results of the examples of these global indices, kept on the host."""

    def __init__(self, index: IntArray, progress: Callable[[int, int], object] | None) -> None:
        self.order = np.argsort(index)
        self.sorted, self.done, self.progress = index[self.order], 0, progress
        self.columns: dict[str, Any] = {}
        self.log_errors: list[float] = []

    def emit(self, rows: Rows) -> None:
        where = self.order[np.searchsorted(self.sorted, rows["index"].cpu().numpy())]
        for key in RESULT_KEYS:
            values = rows[key].cpu().numpy()
            if key not in self.columns:
                self.columns[key] = np.zeros(len(self.order), dtype=values.dtype)
            self.columns[key][where] = values
        if "log_error" in rows:
            self.log_errors += rows["log_error"].tolist()
        self.done += len(where)
        if self.progress is not None:
            self.progress(self.done, len(self.order))

    def scores(self, method: str, reference: Reference, provenance: dict[str, Any]) -> Scores:
        columns = self.columns
        found = np.isfinite(columns["distance"])
        status = np.where(columns["verified"], "verified", np.where(found, "estimate", "censored"))
        counts = {
            "zero_gradient": int((columns["flat"] > 0).sum()),
            "no_gradient": int((columns["flat"] > MAX_PERTURBATIONS).sum()),
        }
        told = {"log_errors": log_error_counts(self.log_errors)} if self.log_errors else {}
        return Scores(
            distance=columns["distance"].astype(np.float32),
            status=status.astype(np.str_),
            prediction=columns["prediction"].astype(np.int64),
            rival=np.where(found, columns["rival"], -1).astype(np.int64),
            margin=columns["margin"].astype(np.float32),
            passes=columns["passes"].astype(np.float32),
            method=method,
            reference=reference,
            provenance={**provenance, **counts, **told},
        )


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


def _global_index(first_index: int | IntArray, count: int) -> IntArray:
    """(N,) index of every input in the whole data set."""
    if np.ndim(first_index) == 0:
        return check_positive_int(first_index, "first_index", minimum=0) + np.arange(count, dtype=np.int64)
    index = check_labels(first_index, n=count, name="first_index")
    if len(np.unique(index)) < count:
        refuse("first_index names an example twice", "every input has an index of its own", "Drop the repetitions")
    return index


def _reference_labels(reference: str, labels: Any, count: int) -> IntArray:
    """-1 everywhere for reference="prediction", else the checked labels."""
    if reference == "prediction":
        return np.full(count, -1, dtype=np.int64)
    if labels is None:
        refuse('reference is "label" without labels', "it needs the true classes", "Pass labels=…")
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    return check_labels(values, n=count)
