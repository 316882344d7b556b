"""A classifier as the attacks see it: flat inputs in, logits and gradients of logit differences out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from robcal.base.checks import refuse
from robcal.base.types import Precision
from robcal.robustness.box import Bounds
from robcal.robustness.modes import default_dtype

#: A classifier: any torch module, or any function from inputs (B, …) to logits (B, Z).
Model = Callable[[Tensor], Tensor]

#: A point counts as adversarial when another logit leads by more than the two may round differently in another batch: a
#: verified point must stay verified. Each of the two is rounded to its last digit, however large an offset it shares
#: with all others; and before that, their gap was summed from terms that may be larger than what is left of them (three
#: times the most by which 20 kinds of networks differed at 5,000 boundary points, in batches of 1 to 256).
LEAD_OF_LOGITS, LEAD_OF_TERMS = 2.0**-23, 2.0**-20


@dataclass(frozen=True)
class Linearisation:
    """The classifier near a batch of points."""

    logits: Tensor  # (B, Z) float32
    rivals: Tensor  # (B, K) int64, the K classes whose logits come nearest to the reference label's, best first
    gap: Tensor  # (B, K) float32, z_reference - z_rival; negative where the rival leads, +inf where its logit is -inf
    # (B, K, D) float32, gradient of the gap with respect to the input; zero where it is not finite, or the gap
    # is not: such rivals are out of reach
    normal: Tensor
    terms: Tensor  # (B, K) float32, Σ_i |normal_i x_i|: the size of what the gap is a sum of
    lead: Tensor  # (B, K) float32, what each rival must lead by (see `required_lead`); +inf where its logit is -inf

    def rows(self, at: Tensor) -> Linearisation:
        """Return the linearisation of some of the points, at (n,) positions."""
        return Linearisation(*(getattr(self, field.name)[at] for field in fields(self)))

    @property
    def nearest_terms(self) -> Tensor:
        """(B,) `terms` of the rival that leads, or comes nearest to it."""
        return self.terms.gather(1, self.gap.argmin(1, keepdim=True)).squeeze(1)


class Network:
    """A classifier on flat float32 inputs; make one inside `scoring_mode`.

    Args:
        model: from inputs `(B, *input_shape)` to logits (B, Z).
        input_shape: shape of one input.
        bounds: the box of flat inputs.
        device: where batches are sent.
        precision: of the evaluations that gradients are taken of. "bf16" chooses directions only: every logit that
            leaves this class, and with it every label, margin and distance, is of a float32 forward.
        dtype: of the inputs that the model takes.
        default: dtype of the tensors that the model makes without saying which.
        batch_size: inputs of a batch, at most.
        compile: whether the model is to be run through torch.compile, in batches filled up to that size.

    Attributes:
        num_classes: Z, as the trial of the model shows.
        masked: (Z,) bool, classes whose logit is -inf: no input can belong to them.
        channels_last: whether inputs, images, are given in this memory format.
        copies: whether the model changes its inputs in place, and is given a copy to do so.
        fixed_batch: size that every batch is filled up to; 0 for none.
        surcharge: passes that a linearisation costs beside its own forward and backward: the float32 forward of bf16.
    """

    def __init__(
        self,
        model: Model,
        input_shape: tuple[int, ...],
        bounds: Bounds,
        device: torch.device,
        *,
        precision: Precision = "float32",
        dtype: torch.dtype = torch.float32,
        default: torch.dtype = torch.float32,
        batch_size: int,
        compile: bool = False,
    ) -> None:
        self.model, self.input_shape, self.bounds, self.device = model, input_shape, bounds, device
        self.num_classes = 0
        self.masked = torch.zeros(0, dtype=torch.bool)
        self.low_precision = precision == "bf16"
        self.surcharge = 0.5 if self.low_precision else 0.0
        self.dtype, self.default = dtype, default
        self.channels_last = len(input_shape) == 3
        self.batch_size, self.fixed_batch = batch_size, 0
        self.copies = False
        self.compiling, self._compiled = compile, model
        _check_precision(self.low_precision, self.dtype, device)

    def compile(self) -> None:
        """Run the model through torch.compile from now on, in batches of one size; nothing is left on the module."""
        model = self.model
        self.fixed_batch = self.batch_size
        self._compiled = torch.compile(lambda inputs: model(inputs), dynamic=False)

    def leaf(self, x: Tensor) -> Tensor:
        """Return a copy of x (B, D) as the model wants it, whose gradient can be taken."""
        return self._shape(x).requires_grad_()

    def run(self, shaped: Tensor, count: int) -> Tensor:
        """Return (count, Z) what the model returns, in its own dtype, for the first of the inputs that it is given."""
        with default_dtype(self.default):
            outputs: Tensor = self._compiled(shaped.clone() if self.copies else shaped)
        return outputs[:count] if self.fixed_batch else outputs

    def differentiable(self, x: Tensor) -> Tensor:
        """Return (B, Z) float32 logits of x (B, D), through which gradients flow back to x."""
        return self.run(self._arranged(x), len(x)).float()

    def logits(self, x: Tensor) -> Tensor:
        """Return (B, Z) float32 logits of x (B, D): half a pass each."""
        with torch.no_grad():
            return self.run(self._shape(x), len(x)).float()

    def linearise(
        self,
        x: Tensor,
        reference: Tensor,
        num_rivals: int,
        target: Tensor | None = None,
        without: Tensor | None = None,
    ) -> Linearisation:
        """Logits, nearest rivals and gradients at x: half a pass for the forward, half for each rival.

        Args:
            x: (B, D) float32.
            reference: (B,) int64 reference labels; -1 takes the prediction at x.
            num_rivals: K >= 1, at most Z - 1.
            target: (B,) int64 classes that come first among the rivals whatever their logits, -1 for none.
            without: (B, M) int64 classes that come last among the rivals whatever their logits, -1 for none.
        """
        leaf = self.leaf(x)
        with self._reusable_backward(), self._autocast(x.device.type):
            logits = self.run(leaf, len(x))
        exact = self.logits(x) if self.low_precision else logits.detach()
        values = exact.float()
        reference = torch.where(reference < 0, values.argmax(1), reference)
        num_rivals = min(num_rivals, values.shape[1] - 1)
        ranked = mask_reference(values.clamp_min(torch.finfo(values.dtype).min), reference)  # -inf before reference
        if target is not None:
            wanted = torch.where((target >= 0) & (target != reference), target, ranked.argmax(1))
            ranked = ranked.scatter(1, wanted.unsqueeze(1), torch.inf)
        if without is not None:
            ranked = mask_classes(ranked, without)
        rivals = ranked.topk(num_rivals, dim=1).indices
        gap = _gaps(exact, reference, rivals).float()
        gaps = _gaps(logits, reference, rivals)
        normals = []
        for k in range(num_rivals):
            (gradient,) = torch.autograd.grad(
                gaps[:, k].sum(), leaf, retain_graph=k + 1 < num_rivals, materialize_grads=True
            )
            normal = gradient[: len(x)].float().reshape(x.shape)
            finite = torch.isfinite(normal).all(1) & torch.isfinite(gap[:, k])
            normals.append(torch.where(finite.unsqueeze(1), normal, 0.0))
        terms = torch.stack([(normal * x).abs().sum(1) for normal in normals], 1)
        lead = required_lead(values.gather(1, reference.unsqueeze(1)), values.gather(1, rivals), terms)
        return Linearisation(values, rivals, gap, torch.stack(normals, 1), terms, lead)

    def _autocast(self, kind: str) -> AbstractContextManager[Any]:
        return torch.autocast(kind, dtype=torch.bfloat16) if self.low_precision else nullcontext()

    def _reusable_backward(self) -> AbstractContextManager[Any]:
        """A compiled backward may overwrite what it has read; not here, where each rival runs it once more."""
        if self._compiled is self.model:
            return nullcontext()
        import torch._functorch.config as functorch_config

        patched: AbstractContextManager[Any] = functorch_config.patch(donated_buffer=False)
        return patched

    def _shape(self, x: Tensor) -> Tensor:
        """Flat inputs in the shape, dtype and memory format the model wants; never an alias of x.

        Where batches have one size, they are filled up with copies of the first input.
        """
        return self._arranged(x.detach())

    def _arranged(self, x: Tensor) -> Tensor:
        """The same, through which gradients flow back."""
        if len(x) < self.fixed_batch:
            x = torch.cat([x, x[:1].expand(self.fixed_batch - len(x), -1)])
        shaped = x.reshape(-1, *self.input_shape).to(self.dtype)
        return shaped.clone(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


def _gaps(logits: Tensor, reference: Tensor, rivals: Tensor) -> Tensor:
    """(B, K) z_reference - z_rival."""
    return logits.gather(1, reference.unsqueeze(1)) - logits.gather(1, rivals)


def mask_reference(logits: Tensor, reference: Tensor) -> Tensor:
    """Return the logits (B, Z) with the reference label's replaced by -inf, so that the rest can be ranked."""
    return logits.scatter(1, reference.unsqueeze(1), -torch.inf)


def mask_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Return the values (B, Z) with -inf at the classes (B, M) of each row; -1 stands for no class.

    Example:
        >>> mask_classes(torch.zeros(2, 3), torch.tensor([[0, 2], [-1, 1]]))
        tensor([[-inf, 0., -inf],
                [0., -inf, 0.]])
    """
    count = values.shape[1]
    hit = torch.zeros(len(values), count + 1, dtype=torch.bool, device=values.device)  # the last column is no class
    hit = hit.scatter(1, torch.where(classes < 0, count, classes), True)
    return values.masked_fill(hit[:, :count], -torch.inf)


def signed_margin(logits: Tensor, reference: Tensor) -> Tensor:
    """Return (B,) z_reference minus the largest other logit; negative where another class leads."""
    own = logits.gather(1, reference.unsqueeze(1)).squeeze(1)
    return own - mask_reference(logits, reference).amax(1)


def required_lead(reference: Tensor, rival: Tensor, terms: Tensor) -> Tensor:
    """Return the lead that the rival's logit needs over the reference label's for a point to count as adversarial.

    2⁻²³ (|z_reference| + |z_rival|) + 2⁻²⁰ Σ_i |g_i x_i|, where g is the gradient of their gap (see `LEAD_OF_TERMS`).
    No other logit counts, nor what these two have in common, but for the digits that it costs them.
    """
    return LEAD_OF_LOGITS * (reference.abs() + rival.abs()) + LEAD_OF_TERMS * terms


def _check_precision(low: bool, dtype: torch.dtype, device: torch.device) -> None:
    if low and dtype != torch.float32:
        refuse(f"precision is bf16 with a model in {dtype}", "bf16 is for float32 models", 'Pass precision="float32"')
    if low and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        refuse("precision is bf16", "this GPU has no bf16", 'Pass precision="float32"')
