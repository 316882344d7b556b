"""The one result model: what audits, reports, demos and comparisons find, and what tables and pages show.

Everything in it is a number, a string or PNG bytes; `robcal.base.storage` keeps it as JSON. Results of earlier
versions, where comparisons had a form of their own, become those of now by `of_now`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from robcal.base.metrics import mean_of
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
    """Metrics of one corruption at one severity (method, section 6: metrics per cell, then averaged over cells)."""

    corruption: str  #: its kind
    severity: int  #: its strength
    ece: float  #: as measured, like the next ones the mean over seeds
    accuracy: float  #: share classified right
    nll: float  #: mean negative log-likelihood
    brier: float  #: Brier score
    #: the ECE that a perfectly calibrated model measures there; None where it was not computed
    ece_floor: float | None = None
    #: the same metrics of each seed by name, None where a seed has none (empty where they were not kept)
    per_seed: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SmallestChange:
    """Show the nearest input with another label that was found."""

    image_png: bytes  #: the changed image as PNG bytes
    difference_png: bytes  #: what changed: grey where nothing did, lighter or darker by `factor` times the difference
    factor: int  #: by how much the difference is amplified
    prediction: str  #: name of the class that the changed image gets
    distance: float  #: l2 norm of the difference, in input units


@dataclass(frozen=True)
class GalleryItem:
    """One test image of the gallery: a wrong prediction, among those of highest confidence of its level."""

    index: int  #: its position in the split
    image_png: bytes  #: the image as PNG bytes
    label: str  #: name of the true class
    prediction: str  #: name of the predicted class
    confidence: float  #: top-label confidence
    distance: float | None = None  #: adversarial distance, None where unknown
    level: int | None = None  #: robustness level, None where unknown
    change: SmallestChange | None = None  #: what flips the label, None where that was not looked for or not found


@dataclass(frozen=True)
class WrongExample:
    """One example that is classified wrongly."""

    index: int  #: its position in the arrays or the split, from 0
    label: int  #: the true class
    prediction: int  #: the class that is stated
    confidence: float  #: top-label confidence
    score: float | None = None  #: the example's score, None without scores; may be inf (a censored distance)
    level: int | None = None  #: the example's level, None without scores


@dataclass(frozen=True)
class RepairedLevel:
    """The gap of one level before and after a recalibration."""

    level: int  #: its number, 0 for the lowest scores
    n: int  #: number of examples
    before: Estimate  #: mean confidence - accuracy; the interval holds for all levels at once
    after: Estimate  #: the same after the recalibration


@dataclass(frozen=True)
class Repair:
    """What a recalibration that keeps every label would repair, judged on examples that its fit did not see."""

    method: str  #: "none", "temperature" or "score-temperature", by cross-fitted NLL
    score: str  #: what the temperature may depend on: the name of the audit's score, or "margin"
    judged: str  #: a clause that says on what the figures rest
    nll: tuple[Estimate, ...]  #: mean negative log-likelihood before and after
    ece: tuple[Estimate, ...]  #: expected calibration error before and after
    levels: tuple[RepairedLevel, ...]  #: one row a level of the score
    sentence: str  #: what to do, what it repairs and what it leaves


#: Figures of single seeds: a row a seed; None where a seed has none.
SeedRows = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Training:
    """How the runs of a method of a comparison were made, and what they took."""

    method: str  #: key of `robcal.methods.METHODS`
    members: int = 1  #: runs whose probabilities are averaged, at each seed
    settings: Mapping[str, Any] = field(default_factory=dict)  #: of its first run
    runs: tuple[tuple[str, ...], ...] = ()  #: for each seed the names of the runs' folders
    temperatures: tuple[float, ...] = ()  #: for each seed the temperature that was fitted on validation data
    seconds: tuple[float, ...] = ()  #: for each seed the seconds of training, with the reference models
    #: for each seed the seconds in which it predicts the test split; NaN where not timed
    inference_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Stability:
    """Hold the variance over independent runs of the probability of the true class."""

    runs: int  #: their number
    all: float  #: mean over examples
    levels: tuple[float, ...] = ()  #: mean over the examples of each robustness level (empty without levels)


@dataclass(frozen=True)
class MethodResult:
    """Everything measured of one method, over its seeds."""

    name: str  #: key of the method ("vanilla", "ar-adals", or the user's file name in an audit)
    title: str  #: what people call it ("Plain", "AR-AdaLS")
    seeds: tuple[int, ...] = ()  #: the seeds of its runs (empty for an audit of plain files)
    #: over-all metrics by name; the names are the keys of `robcal.base.metrics.METRIC_LIST`
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    reliability: tuple[ReliabilityBin, ...] = ()  #: bins of the reliability diagram
    levels: tuple[GroupRow, ...] = ()  #: one row a robustness level, least robust first (empty without scores)
    #: rows of any other grouping the user handed in, by the grouping's name
    groups: Mapping[str, tuple[GroupRow, ...]] = field(default_factory=dict)
    trends: tuple[TrendTest, ...] = ()  #: trend tests over the levels
    shift: tuple[ShiftCell, ...] = ()  #: one entry a corruption and severity, mean over seeds (empty without shift)
    #: the epochs of the first seed's training run (empty in an audit of plain files)
    history: tuple[EpochRow, ...] = ()
    gallery: tuple[GalleryItem, ...] = ()  #: test images (empty for tables, and without images)
    remarks: tuple[str, ...] = ()  #: what a reader must know of the method's runs before the numbers, a clause each
    #: the wrong predictions of the first seed, highest confidence first (10,000 of all methods together at most; in a
    #: comparison of at most four methods)
    worst: tuple[WrongExample, ...] = ()
    repair: Repair | None = None  #: what a recalibration would repair, in an audit of enough examples (else None)
    #: metric → what a perfectly calibrated model with these confidences measures ("ece", "shift_ece")
    floors: Mapping[str, float] = field(default_factory=dict)
    #: paired differences, this method minus another: the other's name → metric → estimate
    minus: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    #: the same figures after temperature scaling of every run (None where that was not measured)
    scaled: MethodResult | None = None
    #: metric → "best" of all methods, "tied" (not distinguishable from it) or ""; empty where tables find it
    marks: Mapping[str, str] = field(default_factory=dict)
    #: metric → a row a seed, a figure a robustness level
    level_values: Mapping[str, SeedRows] = field(default_factory=dict)
    risk: SeedRows = ()  #: a row a seed: error rate of the most confident examples, at each of `Study.coverages`
    #: set of out-of-distribution inputs → metric → estimate
    ood: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    stability: Stability | None = None  #: over runs (None without several seeds)
    training: Training | None = None  #: how the runs were made (None outside of a comparison)

    def variant(self, name: Variant) -> MethodResult:
        """Return the figures as the runs give them ("raw"), or after temperature scaling ("scaled")."""
        return self if name == "raw" else self.scaled or MethodResult(self.name, self.title)


@dataclass(frozen=True)
class Missing:
    """Figures of one method at one seed that could not be measured."""

    label: str  #: of the method
    seed: int  #: evaluation seed
    part: str  #: what is lacking: "all", "levels", "shift", "ood" or "inference"
    task: str  #: what failed, in one line
    reason: str  #: why, in one line


@dataclass(frozen=True)
class Decision:
    """A target of a comparison against one method, decided (see `robcal.comparison.plan.Target`)."""

    name: str  #: of the target
    metric: str  #: on which it is decided
    method: str  #: label
    against: str  #: the other label
    kind: str  #: "below", "half" or "within"
    margin: float  #: of the target
    scaled: bool  #: whether both are temperature-scaled
    difference: Estimate | None  #: the paired difference that decides (None where it was not measured)
    verdict: str  #: "met", "not met", "not distinguishable" or "not measured"
    seeds: tuple[int, ...] = ()  #: on which it was decided
    lacking: tuple[int, ...] = ()  #: planned seeds that could not be used


@dataclass(frozen=True)
class Study:
    """What a comparison was to find out, and what it lacks."""

    plan: Mapping[str, Any]  #: `robcal.comparison.Plan`, JSON-able
    plan_digest: str = ""  #: names it
    references: tuple[str, ...] = ()  #: names of the methods that differences are taken to
    tuning: tuple[Mapping[str, Any], ...] = ()  #: what was chosen for each method with a grid among what, JSON-able
    targets: tuple[Decision, ...] = ()  #: decided
    coverages: tuple[float, ...] = ()  #: shares of the examples at which `MethodResult.risk` is given
    shift: str = ""  #: a sentence on what the shift is ("" without)
    #: set of out-of-distribution inputs → how many there are, and their digest
    ood: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()  #: what could not be measured
    warnings: tuple[str, ...] = ()  #: what a reader should know of the plan
    corrected: bool = True  #: whether differences of calibration errors are those of the corrected errors


@dataclass(frozen=True)
class Results:
    """What a report shows; everything in it is a number, a string or PNG bytes."""

    title: str  #: heading of the report
    dataset: Mapping[str, Any]  #: name, num_classes, class_names and sizes of the splits, JSON-able
    methods: tuple[MethodResult, ...]  #: one entry a method, the baseline first
    #: sentences on how the numbers were computed (bins, seeds, intervals, box, reference of the attack, …)
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)  #: versions, settings, digests, hardware; JSON-able
    #: how far the robustness scores can be trusted (empty where that was not measured)
    fidelity: tuple[FidelityRow, ...] = ()
    score_name: str = ROBUSTNESS  #: what the levels are cut by: `ROBUSTNESS`, or the name of the user's own score
    study: Study | None = None  #: what only a comparison has (None for others)

    def method(self, name: str) -> MethodResult:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)


#: What results.json of a comparison held of each label beside its figures, and now holds as `Training`.
_TRAINING = ("method", "members", "settings", "runs", "seconds", "inference_seconds")
_STUDY = ("plan", "plan_digest", "tuning", "targets", "coverages", "ood", "missing", "warnings")


def of_now(found: Any) -> Any:
    """Return what results.json holds in the form of this version; what is in it already, or is no results, stays."""
    if not isinstance(found, Mapping):
        return found
    if "study" not in found and "plan" in found and "targets" in found:
        return _comparison(found)
    if "differences" in found or "pairs" in found:
        return _report(found)
    return found


def _report(found: Mapping[str, Any]) -> dict[str, Any]:
    """Differences of a report or an audit, which stood beside the methods."""
    kept = {key: value for key, value in found.items() if key not in ("differences", "pairs")}
    first, *_ = (one["name"] for one in found["methods"])
    minus: dict[str, dict[str, Any]] = {name: {first: one} for name, one in found.get("differences", {}).items()}
    for name, rivals in found.get("pairs", {}).items():
        minus.setdefault(name, {}).update(rivals)
    return {**kept, "methods": [{**one, "minus": minus.get(one["name"], {})} for one in found["methods"]]}


def _comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison, which held a mapping a label and figures as lists a seed."""
    return {
        "title": found["title"],
        "dataset": found["dataset"],
        "provenance": found["provenance"],
        "methods": [_label(found, one) for one in found["methods"]],
        "study": {
            **{key: found[key] for key in _STUDY if key in found},
            "references": list(found["differences"]),
            "shift": found.get("shift") or ("15 corruptions at 5 severities" if found["cells"] else ""),
            "corrected": bool(found.get("corrected_differences")),
        },
    }


def _label(found: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    raw, scaled = (_figures(found, one, variant) for variant in VARIANTS)
    training = {key: one[key] for key in _TRAINING if one.get(key) is not None}
    training["inference_seconds"] = [
        "nan" if seconds is None else seconds for seconds in training.get("inference_seconds", ())
    ]
    if "levels_from" not in one["settings"] and one["method"] == "ar-adals":  # it was left out where it was the default
        training["settings"] = {**one["settings"], "levels_from": "robustness"}
    return {**raw, "scaled": scaled, "training": {**training, "temperatures": one["temperature"]}}


def _figures(found: Mapping[str, Any], one: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """What was measured of a label in one variant."""
    figures, label = one[variant], one["label"]
    stability = found.get("stability", {}).get(label)
    return {
        "name": label,
        "title": label,
        "seeds": one["seeds"],
        "metrics": _known(figures["metrics"]),
        "floors": figures.get("floors", {}),
        "level_values": figures["levels"],
        "shift": [_cell(figures["cells"], *cell) for cell in enumerate(found["cells"] if figures["cells"] else ())],
        "risk": figures.get("risk", []),
        "ood": {name: _known(metrics) for name, metrics in figures.get("ood", {}).items()},
        "minus": {
            reference: _known(labels[label][variant])
            for reference, labels in found["differences"].items()
            if label in labels
        },
        "marks": {metric: labels.get(label, "") for metric, labels in found["marks"][variant].items()},
        "stability": None if stability is None else stability[variant],
    }


def _known(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: estimate for name, estimate in metrics.items() if estimate is not None}


def _cell(cells: Mapping[str, Any], place: int, name: str) -> dict[str, Any]:
    """One corruption and severity: means over the seeds that have it, and the seeds' values."""
    kind, _, severity = name.rpartition("-")
    values = {metric: [row[place] for row in rows] for metric, rows in cells.items()}
    means = {metric: mean_of(found) for metric, found in values.items()}
    whole = {**dict.fromkeys(("ece", "accuracy", "nll", "brier"), math.nan), **means}
    shown = {metric: "nan" if math.isnan(mean) else mean for metric, mean in whole.items()}
    return {"corruption": kind, "severity": int(severity), **shown, "per_seed": values}
