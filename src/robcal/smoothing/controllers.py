"""What steers the smoothing of each level: an integral update, and one that is stable by construction.

Both move the mass on the true class, one update an epoch, against the gap = confidence - accuracy of the level's
validation examples.

**integral** (method, section 3; the rule of Qin et al. 2021 as far as public pages tell it, step and bounds are ours):
`mass <- clip(mass - step_size gap, min_true_mass, 1)`, level by level, from the first epoch on.

**stable** (ours): with K updates in the run,

    integral <- clip(integral - (1 - exp(-gain / K)) smoothed_gap, least_mass, 1)      from update start * K on
    mass      = clip(integral - lead * smoothed_gap, least_mass, 1)

- *start*: what the gaps of an untrained model say is not about the labels.
- *(1 - exp(-gain / K))* is below 1, and K of them make up the same course for any K, without a new step size.
- *lead*: the integral is out of date while training moves on; the gap of this epoch acts at once, in proportion.
- *smoothed_gap* (`smooth_over_levels`): levels that differ by no more than noise get one common gap, as in AdaLS.
- *least_mass* (`justified_mass`): softening that lowers a level's accuracy, and keeps its gap open, cannot feed itself.

docs/controller.md derives these, and states what the tests prove of them.
"""

from __future__ import annotations

import numpy as np

from robcal.base.checks import FloatArray

#: Names of the controllers.
CONTROLLERS = ("integral", "stable")

#: Older names, which files, presets and commands may still hold.
_OLDER_NAMES = {"published": "integral"}

#: Which update steers unless another is named.
DEFAULT_CONTROLLER = "stable"

#: Default of `gain` [choice]: the updates of a run leave a fiftieth of a deviation.
DEFAULT_GAIN = 4.0

#: Default of `start` [choice]: the learning rate is past its peak, and the gaps are the model's own.
DEFAULT_START = 0.25

#: Default of `step_size`, of the integral update [choice]: over 18 to 40 epochs larger ones wind up while the model is
#: still untrained.
DEFAULT_STEP_SIZE = 0.05

#: Default of `lead` [choice]: damps a model that answers with up to twice the mass taken (docs/controller.md).
DEFAULT_LEAD = 1 / 3

#: Standard errors by which an accuracy must exceed a mass before it bounds it [choice].
BOUND_ERRORS = 2.0

#: Candidates for (standard deviation of the random walk's steps / mean standard error of a gap)^2; 0 is one common gap.
_RELATIVE_VARIANCES = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 25)])


def controller_name(name: str) -> str:
    """Return the name of a controller, given that or an older one ("published"); any other text as it is."""
    return _OLDER_NAMES.get(name, name)


def integral_update(
    true_mass: FloatArray, confidence: FloatArray, accuracy: FloatArray, *, step_size: float, min_true_mass: float
) -> FloatArray:
    """Return (R,) `clip(mass - step_size (confidence - accuracy), min_true_mass, 1)` (method, section 3)."""
    return np.clip(true_mass - step_size * (confidence - accuracy), min_true_mass, 1.0)


def stable_update(
    integral: FloatArray,
    confidence: FloatArray,
    accuracy: FloatArray,
    counts: FloatArray,
    *,
    step: float,
    least_mass: FloatArray,
    lead: float = DEFAULT_LEAD,
) -> tuple[FloatArray, FloatArray]:
    """Return the integral and the masses, (R,) each, after one update of every level against its smoothed gap h.

        integral <- clip(integral - step h, least_mass, 1)          mass = clip(integral - lead h, least_mass, 1)

    `counts` are the validation examples of each level, `step` is of `step_of_run`, `least_mass` of `justified_mass`.
    """
    gap = smooth_over_levels(confidence - accuracy, common_squared_errors(accuracy, counts))
    moved = np.clip(integral - step * gap, least_mass, 1.0)
    return moved, np.clip(moved - lead * gap, least_mass, 1.0)


def step_of_run(gain: float, num_updates: int) -> float:
    """Return `1 - exp(-gain / K)`, the step of each of K updates: they leave `exp(-gain)` of a deviation, for any K."""
    return float(-np.expm1(-gain / num_updates))


def squared_errors(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Return (R,) `a (1 - a) / n`, squared standard errors of gaps, `a` drawn to 1/2 by Jeffreys' half counts."""
    n = np.asarray(counts, dtype=np.float64)
    share = (accuracy * n + 0.5) / (n + 1)
    return np.asarray(np.where(n > 0, share * (1 - share) / np.maximum(n, 1), np.inf))


def common_squared_errors(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Return the same with the mean `a (1 - a)` over all examples [choice]: the common gap is then that of AdaLS."""
    n = np.asarray(counts, dtype=np.float64)
    known = n > 0
    if not known.any():
        return np.full(len(n), np.inf)
    variance = squared_errors(accuracy, n)[known] * n[known]
    return np.asarray(np.where(known, variance @ n[known] / n.sum() / np.maximum(n, 1), np.inf))


def justified_mass(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Return the mass below which examples, if any, justify no softening: accuracy - 2 standard errors, at least 0."""
    return np.asarray(np.maximum(0.0, accuracy - BOUND_ERRORS * np.sqrt(squared_errors(accuracy, counts))))


def smooth_over_levels(gap: FloatArray, variance: FloatArray) -> FloatArray:
    """Return the posterior mean of the true gaps, (R,): neighbours are alike, each known to its squared standard error.

    A random walk over the levels with a flat prior on its height: the minimiser of

        sum_r (h_r - gap_r)^2 / variance_r + sum_r (h_{r+1} - h_r)^2 / walk_variance

    (Whittaker 1923), with the walk's variance of greatest restricted likelihood. It is linear in the gaps with weights
    that are not negative and sum to 1, so no smoothed gap leaves the range of the gaps; walk variance 0 is the weighted
    mean of all levels. A level without examples has an infinite variance.
    """
    known = np.flatnonzero(np.isfinite(variance))
    if len(known) == 0:
        return np.zeros(len(gap))
    values, errors = gap[known], variance[known]
    steps = errors.mean() * _RELATIVE_VARIANCES[:, np.newaxis] * np.diff(known)
    likelihoods, means = _random_walks(values, errors, steps)
    best = np.interp(np.arange(len(gap)), known, means[likelihoods.argmax()])
    return np.asarray(np.clip(best, values.min(), values.max()))


def _random_walks(gap: FloatArray, variance: FloatArray, steps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return restricted log-likelihoods (K,) of K random walks, of `steps` (K, R - 1), and posterior means (K, R)."""
    contrasts = np.diff(np.eye(len(gap)), axis=0)
    covariance = contrasts * variance @ contrasts.T + steps[:, :, np.newaxis] * np.eye(len(gap) - 1)
    differences = np.diff(gap)
    solved = np.linalg.solve(covariance, differences[:, np.newaxis])[..., 0]
    likelihoods = -0.5 * (np.linalg.slogdet(covariance)[1] + solved @ differences)
    return likelihoods, gap - solved @ contrasts * variance
