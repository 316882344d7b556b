"""Results of earlier versions as those of now: comparisons had a form of their own, and differences stood elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from robcal.base.metrics import mean_of
from robcal.base.results import VARIANTS

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
