"""The one result model: what audits, reports, demos and comparisons find, and what tables and pages show.

Everything in it is a number, a string or PNG bytes; `robcal.base.storage` keeps it as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from robcal.base.types import ROBUSTNESS, EpochRow, Estimate, FidelityRow, GroupRow, ReliabilityBin, TrendTest

#: Figures as runs give them, and after temperature scaling.
Variant = Literal["raw", "scaled"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
#: What tables say of the noise floor of a calibration error.
FLOOR_NOTE = (
    "Floor: the ECE that a perfectly calibrated model with these confidences measures on average. What is not much "
    "larger is mostly noise."
)


@dataclass(frozen=True)
class ShiftCell:
    """Metrics of one corruption at one severity (method, section 6: metrics per cell, then averaged over cells).

    Attributes:
        corruption: its kind.
        severity: its strength.
        ece: as measured, like the next ones the mean over seeds.
        accuracy: share classified right.
        nll: mean negative log-likelihood.
        brier: Brier score.
        ece_floor: the ECE that a perfectly calibrated model measures there; None where it was not computed.
        per_seed: the same metrics of each seed by name, None where a seed has none (empty where they were not kept).
    """

    corruption: str
    severity: int
    ece: float
    accuracy: float
    nll: float
    brier: float
    ece_floor: float | None = None
    per_seed: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SmallestChange:
    """Show the nearest input with another label that was found.

    Attributes:
        image_png: the changed image as PNG bytes.
        difference_png: what changed: grey where nothing did, lighter or darker by `factor` times the difference.
        factor: by how much the difference is amplified.
        prediction: name of the class that the changed image gets.
        distance: l2 norm of the difference, in input units.
    """

    image_png: bytes
    difference_png: bytes
    factor: int
    prediction: str
    distance: float


@dataclass(frozen=True)
class GalleryItem:
    """One test image of the gallery: a wrong prediction, among those of highest confidence of its level.

    Attributes:
        index: its position in the split.
        image_png: the image as PNG bytes.
        label: name of the true class.
        prediction: name of the predicted class.
        confidence: top-label confidence.
        distance: adversarial distance, None where unknown.
        level: robustness level, None where unknown.
        change: what flips the label, None where that was not looked for or not found.
    """

    index: int
    image_png: bytes
    label: str
    prediction: str
    confidence: float
    distance: float | None = None
    level: int | None = None
    change: SmallestChange | None = None


@dataclass(frozen=True)
class WrongExample:
    """One example that is classified wrongly.

    Attributes:
        index: its position in the arrays or the split, from 0.
        label: the true class.
        prediction: the class that is stated.
        confidence: top-label confidence.
        score: the example's score, None without scores; may be inf (a censored distance).
        level: the example's level, None without scores.
    """

    index: int
    label: int
    prediction: int
    confidence: float
    score: float | None = None
    level: int | None = None


@dataclass(frozen=True)
class RepairedLevel:
    """The gap of one level before and after a recalibration.

    Attributes:
        level: its number, 0 for the lowest scores.
        n: number of examples.
        before: mean confidence - accuracy; the interval holds for all levels at once.
        after: the same after the recalibration.
    """

    level: int
    n: int
    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Repair:
    """What a recalibration that keeps every label would repair, judged on examples that its fit did not see.

    Attributes:
        method: "none", "temperature" or "score-temperature", by cross-fitted NLL.
        score: what the temperature may depend on: the name of the audit's score, or "margin".
        judged: a clause that says on what the figures rest.
        nll: mean negative log-likelihood before and after.
        ece: expected calibration error before and after.
        levels: one row a level of the score.
        sentence: what to do, what it repairs and what it leaves.
    """

    method: str
    score: str
    judged: str
    nll: tuple[Estimate, ...]
    ece: tuple[Estimate, ...]
    levels: tuple[RepairedLevel, ...]
    sentence: str


#: Figures of single seeds: a row a seed; None where a seed has none.
SeedRows = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Training:
    """How the runs of a method of a comparison were made, and what they took.

    Attributes:
        method: key of `robcal.methods.METHODS`.
        members: runs whose probabilities are averaged, at each seed.
        settings: of its first run.
        runs: for each seed the names of the runs' folders.
        temperatures: for each seed the temperature that was fitted on validation data.
        seconds: for each seed the seconds of training, with the reference models.
        inference_seconds: for each seed the seconds in which it predicts the test split; NaN where not timed.
    """

    method: str
    members: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[tuple[str, ...], ...] = ()
    temperatures: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    inference_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Stability:
    """Hold the variance over independent runs of the probability of the true class.

    Attributes:
        runs: their number.
        all: mean over examples.
        levels: mean over the examples of each robustness level (empty without levels).
    """

    runs: int
    all: float
    levels: tuple[float, ...] = ()


@dataclass(frozen=True)
class MethodResult:
    """Everything measured of one method, over its seeds.

    Attributes:
        name: key of the method ("vanilla", "ar-adals", or the user's file name in an audit).
        title: what people call it ("Plain", "AR-AdaLS").
        seeds: the seeds of its runs (empty for an audit of plain files).
        metrics: over-all metrics by name; the names are the keys of `robcal.base.metrics.METRIC_LIST`.
        reliability: bins of the reliability diagram.
        levels: one row a robustness level, least robust first (empty without scores).
        groups: rows of any other grouping the user handed in, by the grouping's name.
        trends: trend tests over the levels.
        shift: one entry a corruption and severity, mean over seeds (empty without shift).
        history: the epochs of the first seed's training run (empty in an audit of plain files).
        gallery: test images (empty for tables, and without images).
        remarks: what a reader must know of the method's runs before the numbers, a clause each.
        worst: the wrong predictions of the first seed, highest confidence first (10,000 of
            all methods together at most; in a comparison of at most four methods).
        repair: what a recalibration would repair, in an audit of enough examples (else None).
        floors: metric → what a perfectly calibrated model with these confidences measures ("ece", "shift_ece").
        minus: paired differences, this method minus another: the other's name → metric → estimate.
        scaled: the same figures after temperature scaling of every run (None where that was not measured).
        marks: metric → "best" of all methods, "tied" (not distinguishable from it) or ""; empty where tables find it.
        level_values: metric → a row a seed, a figure a robustness level.
        risk: a row a seed: error rate of the most confident examples, at each of `Study.coverages`.
        ood: set of out-of-distribution inputs → metric → estimate.
        stability: over runs (None without several seeds).
        training: how the runs were made (None outside of a comparison).
    """

    name: str
    title: str
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    reliability: tuple[ReliabilityBin, ...] = ()
    levels: tuple[GroupRow, ...] = ()
    groups: Mapping[str, tuple[GroupRow, ...]] = field(default_factory=dict)
    trends: tuple[TrendTest, ...] = ()
    shift: tuple[ShiftCell, ...] = ()
    history: tuple[EpochRow, ...] = ()
    gallery: tuple[GalleryItem, ...] = ()
    remarks: tuple[str, ...] = ()
    worst: tuple[WrongExample, ...] = ()
    repair: Repair | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    minus: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    scaled: MethodResult | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    level_values: Mapping[str, SeedRows] = field(default_factory=dict)
    risk: SeedRows = ()
    ood: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    stability: Stability | None = None
    training: Training | None = None

    def variant(self, name: Variant) -> MethodResult:
        """Return the figures as the runs give them ("raw"), or after temperature scaling ("scaled")."""
        return self if name == "raw" else self.scaled or MethodResult(self.name, self.title)


@dataclass(frozen=True)
class Missing:
    """Figures of one method at one seed that could not be measured.

    Attributes:
        label: of the method.
        seed: evaluation seed.
        part: what is lacking: "all", "levels", "shift", "ood" or "inference".
        task: what failed, in one line.
        reason: why, in one line.
    """

    label: str
    seed: int
    part: str
    task: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """A target of a comparison against one method, decided (see `robcal.comparison.plan.Target`).

    Attributes:
        name: of the target.
        metric: on which it is decided.
        method: label.
        against: the other label.
        kind: "below", "half" or "within".
        margin: of the target.
        scaled: whether both are temperature-scaled.
        difference: the paired difference that decides (None where it was not measured).
        verdict: "met", "not met", "not distinguishable" or "not measured".
        seeds: on which it was decided.
        lacking: planned seeds that could not be used.
    """

    name: str
    metric: str
    method: str
    against: str
    kind: str
    margin: float
    scaled: bool
    difference: Estimate | None
    verdict: str
    seeds: tuple[int, ...] = ()
    lacking: tuple[int, ...] = ()


@dataclass(frozen=True)
class Study:
    """What a comparison was to find out, and what it lacks.

    Attributes:
        plan: `robcal.comparison.Plan`, JSON-able.
        plan_digest: names it.
        references: names of the methods that differences are taken to.
        tuning: what was chosen for each method with a grid among what, JSON-able.
        targets: decided.
        coverages: shares of the examples at which `MethodResult.risk` is given.
        shift: a sentence on what the shift is ("" without).
        ood: set of out-of-distribution inputs → how many there are, and their digest.
        missing: what could not be measured.
        warnings: what a reader should know of the plan.
        corrected: whether differences of calibration errors are those of the corrected errors.
    """

    plan: Mapping[str, Any]
    plan_digest: str = ""
    references: tuple[str, ...] = ()
    tuning: tuple[Mapping[str, Any], ...] = ()
    targets: tuple[Decision, ...] = ()
    coverages: tuple[float, ...] = ()
    shift: str = ""
    ood: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()
    corrected: bool = True


@dataclass(frozen=True)
class Results:
    """What a report shows; everything in it is a number, a string or PNG bytes.

    Attributes:
        title: heading of the report.
        dataset: name, num_classes, class_names and sizes of the splits, JSON-able.
        methods: one entry a method, the baseline first.
        notes: sentences on how the numbers were computed (bins, seeds, intervals, box, reference of the attack, …).
        provenance: versions, settings, digests, hardware; JSON-able.
        fidelity: how far the robustness scores can be trusted (empty where that was not measured).
        score_name: what the levels are cut by: `ROBUSTNESS`, or the name of the user's own score.
        study: what only a comparison has (None for others).
    """

    title: str
    dataset: Mapping[str, Any]
    methods: tuple[MethodResult, ...]
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    fidelity: tuple[FidelityRow, ...] = ()
    score_name: str = ROBUSTNESS
    study: Study | None = None

    def method(self, name: str) -> MethodResult:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)
