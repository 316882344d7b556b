r"""From the size of a training pass's input gradient to the distances of every rival (METHOD 7, step 1).

Cross-entropy to targets t has the input gradient ∇ₓL = Σ_j c_j ∇ₓz_j with c = p − t, which is known; only its size is
kept. With D_jk = ‖∇ₓ(z_j − z_k)‖², and because c sums to 0,

    ‖∇ₓL‖² = −Σ_{j<k} c_j c_k D_jk.                                                                               (1)

One equation an example, Z (Z − 1) / 2 unknowns: D is taken to be s² times a D that all examples share, which is fitted
to an epoch's equations, and s, the example's own factor, is then read off (1). The estimate is the first-order one,
over all rivals of the prediction ŷ,

    d ≈ min_j (z_ŷ − z_j) / (s √D_ŷj).                                                                            (2)

Equation (1) says most about s where the gradient belongs to one pair of classes; elsewhere an error of the shared D
stands for a factor of the example. So log s is shrunk by 2 ‖c‖₂² / ‖c‖₁², which is 1 for one pair (always, with two
classes: (2) is then the first-order distance itself) and about 1/2 for many.

In training mode batch normalisation lets the loss of every example reach the inputs of the others, so that

    E ‖∇ₓLᵢ‖² = own part (1) + x · mean over the examples of ½‖c‖₂²,                                              (3)

and the gradient of a well-fitted example is mostly the second term. x is fitted with D, and log s is shrunk by the
share of the own part too: what a gradient does not tell, the typical slope of its pair of classes stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robcal.checks import FloatArray, IntArray

#: Pairs of classes are told apart up to so many classes; beyond, all pairs have one slope.
MAX_CLASSES = 16
_COLUMNS_OF_MANY = 6  # what `pack` keeps for more classes; 2 Z + 1 is odd
#: Equations a pair that the fit looks at, at most.
_EQUATIONS = 100
#: Weight of "all pairs are alike" in the fit, in equations.
_PRIOR = 5.0
_ROUNDS = 8
#: Outliers count as this many times the fitted value; fitted values stay within these factors of the typical one.
_OUTLIER, _FACTORS = 4.0, (0.05, 20.0)
#: A fitted own part below this share of the typical one is taken for this.
_LEAST = 0.1
#: ½‖c‖₁ below this has too few digits in the backward pass, whose p is in float32.
_LEAST_MASS = 1e-6


@dataclass(frozen=True)
class ClassSlopes:
    """What all examples share of the gradients of logit differences.

    Attributes:
        squared: (Z, Z) D_jk, the typical ‖∇ₓ(z_j − z_k)‖², in logits² per input unit²; 0 on the diagonal. (1, 1) where
            all pairs of classes have one.
        cross_talk: x of equation (3), likewise; 0 without.
    """

    squared: FloatArray
    cross_talk: float = 0.0

    def between(self, prediction: IntArray, rivals: IntArray) -> FloatArray:
        """Typical ‖∇ₓ(z_ŷ − z_j)‖ of a prediction (N,) and rivals (N, K), as (N, K)."""
        if len(self.squared) == 1:
            return np.full(rivals.shape, np.sqrt(self.squared[0, 0]))
        return np.sqrt(self.squared[prediction[:, None], rivals])


@dataclass(frozen=True)
class Passes:
    """What is kept of the training passes of N examples.

    Attributes:
        prediction: (N,) int64 ŷ.
        rivals: (N, K) int64, the other classes by falling logit; only the first where there are many classes.
        gaps: (N, K) z_ŷ − z_rival.
        half: (N,) ½‖c‖₂²: what −Σ_{j<k} c_j c_k is, as c sums to 0; m² where a mass m moves between two classes.
        absolute: (N,) ‖c‖₁.
        size: (N,) ‖∇ₓL‖ of the example's own loss, in 1 / input unit.
        change: (N, Z) c; None where there are many classes.
    """

    prediction: IntArray
    rivals: IntArray
    gaps: FloatArray
    half: FloatArray
    absolute: FloatArray
    size: FloatArray
    change: FloatArray | None

    @property
    def num_classes(self) -> int:
        """Z up to `MAX_CLASSES`; 0 where there are more."""
        return 0 if self.change is None else self.change.shape[1]


def pack(logits: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """What is kept of a batch, computed without waiting for the device.

    Args:
        logits: (B, Z) of the pass.
        targets: (B, Z), rows sum to 1: what the cross-entropy was taken to.
        gradient: (B, …) input gradient of each example's own loss (of the sum over the batch, not of its mean).

    Returns:
        (B, 2 Z + 1) float32 for up to `MAX_CLASSES` classes, (B, 6) for more.
    """
    values, wanted = logits.detach().float(), targets.detach().float()
    size = torch.linalg.vector_norm(gradient.detach().float(), dim=tuple(range(1, gradient.ndim))).unsqueeze(1)
    if values.shape[1] <= MAX_CLASSES:
        return torch.cat([values, wanted, size], 1)
    change, top = values.softmax(1) - wanted, values.topk(2, dim=1)
    first = top.indices[:, :1]  # 1 − p of a class near 1 has no digits left: it is what the others' changes leave
    change = change.scatter(1, first, -change.scatter(1, first, 0.0).sum(1, keepdim=True))
    half, absolute = 0.5 * change.square().sum(1), change.abs().sum(1)
    margin = top.values[:, 0] - top.values[:, 1]
    return torch.cat([torch.stack([margin, half, absolute], 1), top.indices.float(), size], 1)


def unpack(kept: Tensor) -> Passes:
    """What `pack` made of N examples."""
    table = kept.double().numpy()
    if table.shape[1] == _COLUMNS_OF_MANY:
        margin, half, absolute, prediction, rival, size = table.T
        rivals = rival.astype(np.int64)[:, None]
        return Passes(prediction.astype(np.int64), rivals, margin[:, None], half, absolute, size, None)
    classes = table.shape[1] // 2
    logits, size = table[:, :classes], table[:, -1]
    change = kept[:, :classes].double().softmax(1).numpy() - table[:, classes:-1]  # float32 has no digits of 1 − p
    order = np.argsort(-logits, axis=1, kind="stable")
    ranked = np.take_along_axis(logits, order, 1)
    half, absolute = 0.5 * (change**2).sum(1), np.abs(change).sum(1)
    return Passes(order[:, 0], order[:, 1:], ranked[:, :1] - ranked[:, 1:], half, absolute, size, change)


def fit_slopes(passes: Passes, *, cross_talk: bool = False) -> ClassSlopes | None:
    """Fit what all examples share to the equations (1) or (3) of an epoch.

    Least squares of the relative errors of ‖∇ₓL‖², reweighted, with a weak pull towards one D for all pairs.

    Args:
        passes: of an epoch.
        cross_talk: whether examples share batch statistics; x is 0 otherwise.

    Returns:
        None if no example has both a change and a gradient.

    Example:
        >>> logits = torch.zeros(600, 3)
        >>> targets = torch.eye(3)[torch.arange(600) % 3]
        >>> slopes = fit_slopes(unpack(pack(logits, targets, torch.full((600, 1), 3**-0.5))))
        >>> slopes.squared.round(3).tolist()  # of class k against the mean of the others, all pairs alike: ¾ · 4/9 = ⅓
        [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    half, size, classes = passes.half, passes.size, passes.num_classes
    usable = np.flatnonzero(~_met(passes) & (size > 0) & np.isfinite(size))
    if not len(usable):
        return None
    mean, pairs = float(half[usable].mean()), max(1, classes * (classes - 1) // 2)
    usable = usable[:: max(1, len(usable) // (_EQUATIONS * (pairs + 1)))]
    half, seen = half[usable], size[usable] ** 2 / half[usable]
    large = half >= np.median(half)  # cross-talk is least where the own part is large
    typical = float(np.exp(np.median(np.log(seen[large]))))
    table = np.ones((len(usable), 1))
    if passes.change is not None:
        first, second = np.triu_indices(classes, 1)
        table = -passes.change[usable][:, first] * passes.change[usable][:, second] / half[:, None]
    if cross_talk:
        table = np.column_stack([table, mean / half])
    found = typical * _fit(table, seen / typical, pairs)
    squared = np.full((1, 1), found[0])
    if passes.change is not None:
        squared = np.zeros((classes, classes))
        squared[first, second] = found[:pairs]
        squared += squared.T
    return ClassSlopes(squared, float(found[-1]) if cross_talk else 0.0)


def estimate_distances(passes: Passes, slopes: ClassSlopes) -> tuple[FloatArray, IntArray]:
    """Distances by equation (2).

    Args:
        passes: of N examples.
        slopes: what all examples share.

    Returns:
        distance: (N,) in input units; NaN for a flat pass, which has not met its targets while its gradient is 0 or not
            finite. Where they are met to the last digits, the typical slope stands for the example's.
        rival: (N,) int64, the class of the nearest boundary.
    """
    met = _met(passes)
    half, absolute = np.where(met, 1.0, passes.half), np.where(met, 1.0, passes.absolute)
    own = _own_part(passes, half, slopes)
    total = own + slopes.cross_talk * float(passes.half.mean()) / half
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(met, 0.0, 0.5 * np.log(passes.size**2 / half / total))
    factor *= 4 * half / absolute**2 * own / total
    shared = passes.gaps / slopes.between(passes.prediction, passes.rivals)
    nearest = shared.argmin(1)[:, None]
    distance = np.take_along_axis(shared, nearest, 1)[:, 0] * np.exp(-factor)
    rival = np.take_along_axis(passes.rivals, nearest, 1)[:, 0]
    return np.where(np.isfinite(factor), distance, np.nan), rival


def mixes_examples(model: nn.Module) -> bool:
    """Whether training passes of this network mix examples: it has batch normalisation.

    >>> mixes_examples(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), mixes_examples(nn.Linear(2, 2))
    (True, False)
    """
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _met(passes: Passes) -> npt.NDArray[np.bool_]:
    """(N,) whether p has met the targets as far as float32 tells."""
    return passes.absolute < 2 * _LEAST_MASS


def _own_part(passes: Passes, half: FloatArray, slopes: ClassSlopes) -> FloatArray:
    """(N,) right side of (1) by the shared D, relative to ½‖c‖₂²."""
    if passes.change is None:
        return np.full(len(half), slopes.squared[0, 0])
    change = passes.change
    product = -0.5 * np.einsum("nj,jk,nk->n", change, slopes.squared, change, optimize=True) / half
    off = slopes.squared[np.triu_indices(len(slopes.squared), 1)]
    least: FloatArray = np.maximum(product, _LEAST * np.median(off))
    return least


def _fit(table: FloatArray, seen: FloatArray, pairs: int) -> FloatArray:
    """Coefficients of the columns: those of pairs near 1, that of a last one beyond them any number from 0 on."""
    prior = (np.arange(table.shape[1]) < pairs).astype(np.float64)
    pull = np.where(prior > 0, _PRIOR, 1e-9)
    found = prior.copy()
    if table.shape[1] > pairs:  # from above, for a fit from 0 takes whatever cross-talk does for outliers
        found[-1] = np.median(seen / table[:, -1])
    for _ in range(_ROUNDS):
        fitted = np.maximum(table @ found, 0.01)
        weighed = table / (fitted**2)[:, None]
        right = np.clip(seen, fitted / _OUTLIER, fitted * _OUTLIER)
        found = np.linalg.solve(weighed.T @ table + np.diag(pull), weighed.T @ right + pull * prior)
        found[:pairs] = np.clip(found[:pairs], *_FACTORS)
        found[pairs:] = np.maximum(found[pairs:], 0.0)
    return found
