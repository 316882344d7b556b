"""The metrics of `robcal.calibration` for training loops that use torchmetrics: `update`, `compute`, `sync`, `reset`.

Each class keeps what it needs of every example, and `compute` calls the function of `robcal.calibration` that has its
name: batches give the same number as one call on all examples, also when they are spread over several processes, which
torchmetrics then gathers. Inputs are probabilities, never logits, and are checked at every `update`. The states are
float64, which Apple's MPS lacks: keep a metric on the CPU there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from robcal.base.extras import import_extra, refuse_untrainable

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    refuse_untrainable(error, "robcal.metrics", extra="metrics")

from robcal.base.checks import FloatArray, IntArray, check_choice, check_labels, check_positive_int, refuse
from robcal.calibration import metrics, selective
from robcal.calibration.binning import AnyFloatArray, Edges, Scheme, TopLabel, check_binning, top_of, total
from robcal.calibration.corrected import corrected_calibration_error
from robcal.calibration.metrics import NORMS, Loss, Norm
from robcal.calibration.prob_rows import ProbRows, checked

__all__ = [
    "AURC", "Accuracy", "BrierScore", "CalibrationError", "ClasswiseCalibrationError", "CorrectedCalibrationError",
    "DebiasedCalibrationError", "LevelGaps", "NegativeLogLikelihood", "RMSLevelGap", "SignedGap",
]  # fmt: skip

Metric: Any = import_extra("torchmetrics", "metrics", "robcal.metrics").Metric


class _OfExamples(Metric):  # type: ignore[misc]
    """Keep columns of numbers of all examples, whatever process saw them, and the precision in which these came."""

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False
    width: Tensor

    def __init__(self, *columns: str, **options: Any) -> None:
        super().__init__(**options)
        self._columns = columns
        for name in columns:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("width", default=torch.tensor(2), dist_reduce_fx="max")  # bytes of a number as it came

    def update(self, probs: Any, labels: Any) -> None:
        """Add a batch.

        Args:
            probs: (B, Z) probabilities, on any device.
            labels: (B,) integers in 0 … Z - 1.

        Raises:
            InputError: on bad probabilities or labels.
        """
        rows, truth = checked(probs, labels)
        self.width = self.width.clamp(min=rows.precision.dtype.itemsize)
        for name, values in self._columns_of(rows, truth).items():
            self._keep(name, values)

    def compute(self) -> Tensor:
        """Return the metric of all examples since the last `reset`: a float64 tensor.

        Raises:
            InputError: if there was none.
        """
        return torch.as_tensor(np.asarray(self._measure(), dtype=np.float64), device=self.device)

    def _columns_of(self, probs: ProbRows, labels: IntArray) -> dict[str, Any]:
        """Return what is kept of a batch."""
        raise NotImplementedError

    def _measure(self) -> Any:
        """Return the metric of what was kept."""
        raise NotImplementedError

    def _keep(self, name: str, values: Any) -> None:
        getattr(self, name).append(torch.as_tensor(np.asarray(values, dtype=np.float64), device=self.device))

    def _kept(self, name: str) -> FloatArray:
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else state  # a tensor once torchmetrics has gathered it
        if not sum(len(part) for part in parts):
            refuse(
                f"{type(self).__name__} is computed of no examples",
                "a metric needs at least one",
                "Call `update(probs, labels)` before `compute()`",
            )
        return np.concatenate([part.cpu().numpy() for part in parts])

    def _as_it_came(self, name: str) -> AnyFloatArray:
        return self._kept(name).astype(f"f{int(self.width)}")

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        """Gather; a process without examples hands over no numbers of the same format, which torchmetrics needs."""
        for name in self._columns:
            if not len(getattr(self, name)):
                setattr(self, name, [torch.empty(0, dtype=torch.float64, device=self.device)])
        super()._sync_dist(*arguments, **options)


class _OfTopLabel(_OfExamples):
    """Keep the confidence of every example and whether it is right, of which `_function` is the metric."""

    _function: Callable[[TopLabel, None], float]

    def __init__(self, *more: str, **options: Any) -> None:
        super().__init__("confidence", "correct", *more, **options)

    def _columns_of(self, probs: ProbRows, labels: IntArray) -> dict[str, Any]:
        top = top_of(probs, labels)
        return {"confidence": top.confidence, "correct": top.correct}

    def _top(self) -> TopLabel:
        correct = self._kept("correct")
        return TopLabel(self._as_it_came("confidence"), np.full(len(correct), -1), correct)

    def _measure(self) -> Any:
        return self._function(self._top(), None)


class CalibrationError(_OfTopLabel):
    """Calibration error of the top label: with norm "l1" the ECE, with "max" the MCE.

    Args:
        bins: K.
        scheme: "width" or "mass".
        edges: "guo", or "torchmetrics" for the bins of that library.
        norm: "l1", "l2" or "max".
        options: of `torchmetrics.Metric`.

    >>> metric = CalibrationError()
    >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
    >>> metric.compute().item()
    0.25
    """

    def __init__(
        self, *, bins: int = 15, scheme: Scheme = "width", edges: Edges = "guo", norm: Norm = "l1", **options: Any
    ) -> None:
        check_binning(bins, scheme, edges)
        check_choice(norm, NORMS, "norm")
        super().__init__(**options)
        self._function = functools.partial(metrics.calibration_error, bins=bins, scheme=scheme, edges=edges, norm=norm)


class CorrectedCalibrationError(_OfTopLabel):
    """The ECE with most of the bias removed that noise gives it; below 0 where less than chance is left.

    Args:
        bins: K.
        scheme: "width" or "mass".
        edges: "guo" or "torchmetrics".
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, *, bins: int = 15, scheme: Scheme = "width", edges: Edges = "guo", **options: Any) -> None:
        check_binning(bins, scheme, edges)
        super().__init__(**options)
        self._function = functools.partial(corrected_calibration_error, bins=bins, scheme=scheme, edges=edges)


class DebiasedCalibrationError(_OfTopLabel):
    """Root of the debiased squared (l2) calibration error of the top label: not the ECE, which is l1.

    Args:
        bins: K.
        scheme: "mass" or "width".
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, *, bins: int = 15, scheme: Scheme = "mass", **options: Any) -> None:
        check_binning(bins, scheme, "guo")
        super().__init__(**options)
        self._function = functools.partial(metrics.debiased_calibration_error, bins=bins, scheme=scheme)


class Accuracy(_OfTopLabel):
    """Share of examples whose most probable class (lowest index among equals) is the true one."""

    higher_is_better = True

    _function = staticmethod(metrics.accuracy)


class SignedGap(_OfTopLabel):
    """Mean confidence minus accuracy: positive is over-confident."""

    higher_is_better = None

    _function = staticmethod(metrics.signed_gap)


class AURC(_OfTopLabel):
    """Area under the risk-coverage curve: the mean over i of the error rate of the i most confident examples."""

    _function = staticmethod(selective.aurc)


class _MeanLoss(_OfExamples):
    """Keep the loss of every example."""

    _loss: Loss

    def __init__(self, **options: Any) -> None:
        super().__init__("losses", **options)

    def _columns_of(self, probs: ProbRows, labels: IntArray) -> dict[str, Any]:
        return {"losses": metrics.losses_of(self._loss, probs, labels)}

    def _measure(self) -> Any:
        return self._kept("losses").mean()


class NegativeLogLikelihood(_MeanLoss):
    """Mean negative log-likelihood of the true class, in nats: -(1/N) Σ ln p_y."""

    _loss = "nll"


class BrierScore(_MeanLoss):
    """Mean squared distance of the probability vector from the one-hot label, in [0, 2]."""

    _loss = "brier"


class ClasswiseCalibrationError(_OfExamples):
    """Mean over the classes of the calibration error of that class's probability; keeps all probabilities.

    Args:
        bins: number of bins for each class.
        scheme: "width" or "mass".
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, *, bins: int = 15, scheme: Scheme = "width", **options: Any) -> None:
        check_binning(bins, scheme, "guo")
        super().__init__("entries", "labels", **options)
        self._error = functools.partial(metrics.classwise_calibration_error, bins=bins, scheme=scheme)

    def _columns_of(self, probs: ProbRows, labels: IntArray) -> dict[str, Any]:
        return {"entries": probs.take(slice(None)).ravel(), "labels": labels}

    def _measure(self) -> float:
        labels = self._kept("labels").astype(np.int64)
        return self._error(self._as_it_came("entries").reshape(len(labels), -1), labels)


class _OfLevels(_OfTopLabel):
    """Keep the level of every example, too."""

    def __init__(self, num_levels: int, **options: Any) -> None:
        super().__init__("level", **options)
        self.num_levels = check_positive_int(num_levels, "num_levels")

    def update(self, probs: Any, labels: Any, levels: Any) -> None:  # type: ignore[override]
        """Add a batch.

        Args:
            probs: (B, Z) probabilities, on any device.
            labels: (B,) integers in 0 … Z - 1.
            levels: (B,) integers in 0 … R - 1; 0 is the least robust.

        Raises:
            InputError: on bad probabilities, labels or levels.
        """
        level = check_labels(levels, n=len(labels), num_classes=self.num_levels, name="levels")
        super().update(probs, labels)
        self._keep("level", level)

    def _sums(self, values: FloatArray) -> FloatArray:
        return total(self._kept("level").astype(np.int64), values, self.num_levels)


class LevelGaps(_OfLevels):
    """Mean confidence minus accuracy of every level, (R,), least robust first; NaN for a level without examples.

    Args:
        num_levels: R.
        options: of `torchmetrics.Metric`.

    >>> metric = LevelGaps(2)
    >>> metric.update([[0.25, 0.75], [0.25, 0.75]], [1, 0], [1, 0])
    >>> metric.compute().tolist()
    [0.75, -0.25]
    """

    higher_is_better = None

    def _measure(self) -> Any:
        residual = self._top().residual
        count = self._sums(np.ones(len(residual)))
        return np.where(count > 0, self._sums(residual) / np.maximum(count, 1), np.nan)


class RMSLevelGap(_OfLevels):
    """Root mean square of the gaps of the levels: √(Σ_r (n_r / N) (conf_r - acc_r)²), one number for all levels.

    A calibrated model measures more than 0, for the gaps have noise. With `debiased` the sampling variance of each mean
    is taken off its square (the variance of confidence - correct in the level, over n_r), and less than 0 is 0; a level
    of one example tells nothing about its variance and counts 0.

    Args:
        num_levels: R.
        debiased: whether to take the noise off.
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, num_levels: int, *, debiased: bool = False, **options: Any) -> None:
        super().__init__(num_levels, **options)
        self.debiased = debiased

    def _measure(self) -> Any:
        residual = self._top().residual
        count = self._sums(np.ones(len(residual)))
        square = (self._sums(residual) / np.maximum(count, 1)) ** 2
        if self.debiased:
            variance = (self._sums(residual**2) / np.maximum(count, 1) - square) / np.maximum(count - 1, 1)
            square = np.where(count > 1, square - variance, 0)
        return np.sqrt(max(0.0, float(count @ square / count.sum())))
