"""First stages of a recalibration: what is fitted on logits and labels alone, class by class.

Each function takes logits (N, Z) and labels (N,) and returns one map. Vector scaling (Guo et al. 2017, section 4.2) and
Dirichlet calibration (Kull et al. 2019, with their off-diagonal and intercept penalty) are convex and solved by L-BFGS;
no library that is still kept has the latter right (dirichletcal needs jax, netcal has no ODIR penalty). Structured
scaling (`svs`, `sms`: Berta et al. 2026) is fitted by probmetrics and then held as numbers, without it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, IntArray, refuse
from robcal.base.solve import minimised
from robcal.base.special import log_softmax, softmax
from robcal.calibration.prob_rows import canonical_order
from robcal.calibration.recalibration.maps import Affine, Isotonic, Map
from robcal.calibration.temperature import TemperatureScaling

#: A first stage: logits (N, Z), labels (N,) → its map.
FitStage = Callable[[FloatArray, IntArray], Map]

#: Standard deviations of the normal priors: of the diagonal of W around 1, of b around 0, and those of the entries off
#: the diagonal that the caller's cross-fitting chooses among, narrow ones first.
DIAGONAL, BIAS, OFF_DIAGONAL = 0.1, 0.3, (0.01, 0.03, 0.1, 0.3)


def fit_vector(logits: FloatArray, labels: IntArray) -> Affine:
    """Fit w ∘ x + b on log-probabilities x after one temperature; normal priors on w - 1 and b hold rare classes."""
    temperature, x = _scaled(logits, labels)
    widths = np.repeat([DIAGONAL, BIAS], x.shape[1])
    return Affine(temperature, *_solve(x, labels, widths, full=False), mixture=0.0, least=None)


def fit_dirichlet(logits: FloatArray, labels: IntArray, width: float) -> Affine:
    """Fit W x + b on log-probabilities x after one temperature, with the ODIR penalty of Kull et al. (2019).

    Theirs is λ / (Z (Z - 1)) Σ_{i≠j} w_ij² + μ / Z Σ b_i². As normal priors, λ / (Z (Z - 1)) = 1 / (2 N width²) and
    μ / Z = 1 / (2 N BIAS²), a width means the same for any N and Z. They leave the diagonal free; here it has a prior
    around 1 too, without which few examples over-fit it.
    """
    temperature, x = _scaled(logits, labels)
    classes = x.shape[1]
    widths = np.full((classes, classes + 1), width)
    widths[np.arange(classes), np.arange(classes)] = DIAGONAL
    widths[:, classes] = BIAS
    return Affine(temperature, *_solve(x, labels, widths.ravel(), full=True), mixture=0.0, least=None)


def fit_isotonic(logits: FloatArray, labels: IntArray) -> Isotonic:
    """Fit an isotonic regression a class against the rest, normalised, within 1 / (N + 2) of 0 and 1 (Laplace)."""
    probs, floor = softmax(logits), 1 / (len(labels) + 2)
    inputs, outputs = [], []
    for number in range(probs.shape[1]):
        x, y = _isotonic(probs[:, number], labels == number)
        inputs.append(x)
        outputs.append(np.clip(y, floor, 1 - floor))
    return Isotonic(tuple(inputs), tuple(outputs))


def _isotonic(x: FloatArray, y: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the steps of an isotonic regression of y on x, (K,) each, by pooling (Ayer et al. 1955)."""
    places, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    successes, starts = np.bincount(group, weights=y), np.arange(len(places))
    while True:
        means = successes / counts
        first = np.flatnonzero(np.append(True, means[1:] > means[:-1]))
        if len(first) == len(means):
            break
        successes, counts, starts = np.add.reduceat(successes, first), np.add.reduceat(counts, first), starts[first]
    last = np.append(starts[1:], len(places)) - 1
    ends, which = np.unique(np.concatenate([starts, last]), return_index=True)
    return places[ends], np.tile(means, 2)[which]


def fit_structured(name: str, logits: FloatArray, labels: IntArray) -> Affine:
    """Fit `svs` or `sms` by probmetrics, which visits rows by their position, and return the same map without it."""
    if not has_probmetrics():
        refuse(
            f"method {name} needs the package probmetrics, which is not installed",
            "without it the methods are none, temperature, score-temperature, vector, isotonic and dirichlet",
            'Install it: pip install "robcal[recalibration]"; or choose one of these',
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports, and of its optimiser
        from probmetrics.calibrators import SMSCalibrator, SVSCalibrator

        fitted = (SVSCalibrator if name == "svs" else SMSCalibrator)()
        order = canonical_order(logits, labels)
        fitted.fit(softmax(logits[order]), labels[order])
    first, mixture = fitted.ts_.cal_, fitted.ts_.output_constant / (fitted.ts_.n_samples_ + 1)
    if name == "svs":
        weight, bias = np.array(fitted.v_, float), np.array(fitted.b_, float)
    else:
        whole = np.array(fitted.W_, float)
        weight, bias = whole[:, :-1], whole[:, -1]
    least = float(np.log(np.finfo(np.float32).tiny))
    return Affine(1 / float(first.invtemp_), weight, bias, mixture, least)


def has_probmetrics() -> bool:
    """Return whether probmetrics and what its `svs` and `sms` need are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("probmetrics", "numba"))


def _scaled(logits: FloatArray, labels: IntArray) -> tuple[float, FloatArray]:
    """Return the temperature, and log-probabilities after it: penalties then mean the same at any scale of logits."""
    temperature = TemperatureScaling().fit(logits, labels).temperature
    return temperature, log_softmax(logits / temperature)


def _solve(x: FloatArray, labels: IntArray, widths: FloatArray, *, full: bool) -> tuple[FloatArray, FloatArray]:
    """Minimise NLL + |u|² / 2N, where `widths` · u is the distance of W (diagonal or full) and b from identity."""
    size, classes = x.shape
    rows = np.arange(size)
    inputs = np.hstack([x, np.ones((size, 1))])

    def objective(u: FloatArray) -> tuple[float, FloatArray]:
        moved = widths * u
        change = inputs @ moved.reshape(classes, -1).T if full else x * moved[:classes] + moved[classes:]
        logs = log_softmax(x + change)
        loss = -logs[rows, labels].mean() + u @ u / (2 * size)
        excess = np.exp(logs, out=logs)
        excess[rows, labels] -= 1
        slope = (excess.T @ inputs).ravel() if full else np.concatenate([(excess * x).sum(0), excess.sum(0)])
        return float(loss), (widths * slope + u) / size

    moved = widths * minimised(objective, np.zeros(len(widths)))
    if full:
        matrix = moved.reshape(classes, -1)
        return np.eye(classes) + matrix[:, :classes], matrix[:, classes]
    return 1 + moved[:classes], moved[classes:]
