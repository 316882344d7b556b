"""The artifacts' contents: small frozen dataclasses of arrays with stated shapes and dtypes.

N examples, Z classes, R levels. Nothing here imports torch: whoever only reads results needs none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from robcal.base.checks import refuse

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
StringArray = npt.NDArray[np.str_]
#: Parts of a data set.
SplitName = Literal["train", "val", "test"]
#: What a model returns: logits, or probabilities.
Outputs = Literal["logits", "probs"]
#: A metric of lm-evaluation-harness, by which a choice is predicted.
LmEvalMetric = Literal["acc", "acc_norm"]
#: Number format of the forward passes that do not decide labels or norms.
Precision = Literal["float32", "bf16"]
#: Kinds of file that `robcal export` writes.
ExportFormat = Literal["safetensors", "pt2", "onnx"]
#: The label that a robustness score is the distance from: the model's own, or the true one.
Reference = Literal["prediction", "label"]
Status = Literal["verified", "estimate", "censored"]
#: Values of `Scores.status`: the point found changes the label in float32 and lies in the box; a first-order estimate
#: that was not verified; no adversarial point was found (`distance` is +inf).
STATUSES: tuple[Status, ...] = get_args(Status)
#: What levels are of where `Scores` made them; any other score goes by the name that its user gives it.
ROBUSTNESS = "adversarial robustness"


@dataclass(frozen=True)
class Scores:
    """Hold how far from each of N examples the nearest input with another label was found (method, section 1).

    Attributes:
        distance: (N,) float32, l2 norm in input units, an upper bound of d(x) where verified; +inf where censored.
        status: (N,) str, one of `STATUSES`.
        prediction: (N,) int64, the model's own label of the clean example.
        rival: (N,) int64, the label on the other side of the boundary that was found (-1 where censored).
        margin: (N,) float32, signed logit margin of the reference label, which breaks ties of the distance.
        passes: (N,) float32, forward + input-backward passes spent on the example (a forward and a backward 1/2 each).
        method: the method that made them, e.g. "projection".
        reference: "prediction" or "label": the label that the attack tries to change.
        provenance: how they were made (settings, digests of model and data), JSON-able.
    """

    distance: Float32Array
    status: StringArray
    prediction: Int64Array
    rival: Int64Array
    margin: Float32Array
    passes: Float32Array
    method: str = "unknown"
    reference: Reference = "prediction"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        lengths = {name: len(getattr(self, name)) for name in self.columns()}
        if len(set(lengths.values())) != 1:
            refuse(f"scores have columns of lengths {lengths}", "all must have one entry an example", "Score again")

    @staticmethod
    def columns() -> tuple[str, ...]:
        """Return the names of the per-example arrays, in the order they are stored."""
        return ("distance", "status", "prediction", "rival", "margin", "passes")

    def subset(self, index: Int64Array) -> Scores:
        """Return the scores of some of the examples.

        Args:
            index: (n,) positions, in the order wanted.
        """
        return replace(self, **{name: getattr(self, name)[index] for name in self.columns()})

    def __len__(self) -> int:
        return len(self.distance)


@dataclass(frozen=True)
class Levels:
    """The robustness level of every example of one split (method, section 2)."""

    level: Int64Array  # (N,) int64 in 0 … num_levels - 1; 0 is the least robust
    num_levels: int  # R
    source: str = "unknown"  # where the levels come from ("projection", "random", "margin", …)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # how they were made, JSON-able

    def __len__(self) -> int:
        return len(self.level)


@dataclass(frozen=True)
class Predictions:
    """What a predictor says of N examples."""

    probs: Float32Array  #: (N, Z) float32, rows sum to 1
    labels: Int64Array  #: (N,) int64, the true classes
    #: (N, Z) float32 or None (an ensemble has averaged probabilities and no logits of its own)
    logits: Float32Array | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  #: how they were made, JSON-able

    def __len__(self) -> int:
        return len(self.labels)

    def as_logits(self) -> npt.NDArray[np.float64]:
        """Return the logits, (N, Z); of an ensemble the logarithms of its probabilities, at least the least float32."""
        found = np.log(np.maximum(self.probs, np.finfo(np.float32).tiny)) if self.logits is None else self.logits
        return found.astype(np.float64)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float  #: the point estimate (over seeds: their mean)
    low: float | None = None  #: lower end of the interval, or None where no interval is known
    high: float | None = None  #: upper end, or None
    per_seed: tuple[float, ...] = ()  #: the value of each seed, in the order of the seeds (empty for a single run)
    #: variance that the finite test split gives to all seeds alike; None where it was not kept
    test_variance: float | None = None
    #: by how much a corrected calibration error may still be off, as a standard deviation; None where it was not kept.
    #: From `per_seed` and these two `robcal.calibration.seed_mean_interval` computes the interval
    bias_left: float | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends of the interval; None where they are not known."""
        if self.low is None or self.high is None or math.isnan(self.low + self.high):
            return None
        return self.low, self.high


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram: examples with a top-label confidence in (lower, upper]."""

    lower: float  #: lower edge of the bin
    upper: float  #: upper edge of the bin
    count: int  #: number of examples (summed over seeds)
    confidence: float  #: mean confidence of the bin (NaN where empty)
    accuracy: Estimate  #: share classified right, as an estimate with its interval (value NaN where empty)
    #: the same with an interval that holds for all non-empty bins at once; None where that is not known
    joint: Estimate | None = None

    @property
    def gap(self) -> float:
        """Mean confidence - accuracy."""
        return self.confidence - self.accuracy.value


@dataclass(frozen=True)
class GroupRow:
    """Calibration of one group of examples: a robustness level, or any group the user names (method, section 6)."""

    group: str  #: the group's name ("0" … for levels)
    n: int  #: number of examples (mean over seeds, rounded)
    score_low: float | None  #: smallest score in the group, None where the group has no score; may be inf (censored)
    score_high: float | None  #: largest score in the group
    accuracy: Estimate  #: share classified right
    confidence: Estimate  #: mean top-label confidence
    gap: Estimate  #: signed gap, mean confidence - accuracy (positive: over-confident)
    ece: Estimate  #: expected calibration error within the group, as measured
    #: the signed gap with an interval that holds for all rows of the table at once (Bonferroni): what verdicts on
    #: single rows are taken from; None where that is not known
    joint_gap: Estimate | None = None
    #: what a perfectly calibrated model with these confidences measures; None where it was not computed
    ece_floor: float | None = None


@dataclass(frozen=True)
class TrendTest:
    """Is a quantity monotone in the level? A permutation test on the correlation of examples' values with the level."""

    quantity: str  #: what is tested ("gap", "absolute gap", "accuracy", …)
    statistic: float  #: the test statistic (negative: the quantity falls as robustness grows)
    p_value: float  #: two-sided p-value
    permutations: int = 0  #: number of permutations used (0 where the p-value is analytic)


@dataclass(frozen=True)
class EpochRow:
    """State of a training run after one epoch, on the validation split."""

    epoch: int  #: number of finished epochs, from 1
    train_loss: float  #: mean training loss of the epoch
    val_accuracy: float  #: accuracy on validation data
    val_nll: float  #: negative log-likelihood on validation data
    val_ece: float  #: ECE on validation data
    epsilon: tuple[float, ...] = ()  #: smoothing of each level, used in the *next* epoch (empty for methods without)
    gap: tuple[float, ...] = ()  #: signed gap of each level on validation data (empty for methods without levels)


@dataclass(frozen=True)
class FidelityRow:
    """Hold how far one way of scoring agrees with the reference, the best of strong attacks (method, section 1.1)."""

    name: str  #: the way of scoring, or a pair of strong attacks: the noise ceiling
    kind: str  #: "candidate"; "reference": one of the attacks against the best of all; "ceiling": two of them
    metrics: Mapping[str, Estimate]  #: the keys of `FIDELITY_TITLES`, as far as they apply


#: What is measured of two ways of scoring, in the order tables show it: key → (title, explanation).
FIDELITY_TITLES: Mapping[str, tuple[str, str]] = {
    "same_level": ("Same level", "share of examples that get the same level from both"),
    "within_one": ("Within one level", "share whose levels differ by at most one"),
    "spearman": ("Spearman", "rank correlation; censored examples are the largest, tied"),
    "kendall": ("Kendall", "tau-b: agreement on which of two examples is the more robust; censored as above"),
    "ratio_median": ("Norm ratio, median", "distance over the reference's, of examples that both found"),
    "ratio_mean": ("Norm ratio, mean", "the mean of the same ratios"),
    "near": ("Within 1 %", "share of examples whose distance is at most 1.01 times the reference's"),
    "verified": ("Verified", "share of distances proved by a point that changes the label"),
    "passes": ("Passes", "mean forward + backward passes an example"),
}
