"""Bad arrays, a piece of what robcal says about each, and what its advice makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from hint_cases import Case, Steps, code_in

import robcal
from robcal.base import checks, levels
from robcal.calibration import binning, conditional, metrics, ood, seeds, temperature, trends, weighted

N = 12
LABELS = np.array([0, 2, 1, 2, 1, 0, 0, 1, 2, 2, 1, 0])
PROBS = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.625, 0.125]] * 4)
LOGITS = np.log(PROBS) + 3
TWO, BINARY = np.column_stack([1 - PROBS[:, 0], PROBS[:, 0]]), (LABELS == 0).astype(int)
SCORES = np.arange(N) / 4
IDS = [f"picture-{number}" for number in range(N)]
NAMES = np.array(["bird", "cat", "dog"])
NAN = np.where(np.arange(N) == 3, np.nan, 1.0)
MULTI = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]] * 4)


@dataclass(frozen=True)
class ArrayCase:
    """Bad input, a piece of the message, and what the advice makes of the input.

    Attributes:
        call: takes the arrays by name.
        given: the arrays, one of them bad.
        says: a piece of the message.
        mends: the array to replace by the code in backticks, the first that is an expression; or "rows": the code tells
            which rows to keep; or a function of the arrays and the message that does by hand what it says.
        right: what the array must be then; None: it is enough that the call works.
        more: names that the code may use.
    """

    call: Callable[..., Any]
    given: dict[str, Any]
    says: str
    mends: str | Callable[[dict[str, Any], str], dict[str, Any]]
    right: Any = None
    more: dict[str, Any] = field(default_factory=dict)


def of_labels(labels: Any, says: str, right: Any = LABELS, **more: Any) -> ArrayCase:
    return ArrayCase(metrics.accuracy, {"probs": PROBS, "labels": labels}, says, "labels", right, more)


def of_probs(probs: Any, says: str, right: Any = PROBS, labels: Any = LABELS) -> ArrayCase:
    return ArrayCase(metrics.brier_score, {"probs": probs, "labels": labels}, says, "probs", right)


def with_labels(arrays_: dict[str, Any], message: str) -> dict[str, Any]:
    """Audit one class, k = 1, as two classes."""
    names = {**arrays_, "np": np, "k": 1}
    found = code_in(message)
    exec(next(code for code in found if code.startswith("p = ")), names)
    made = {"probs": eval(next(code for code in found if "column_stack" in code), names)}
    made["labels"] = eval(found[0], names) if "labels" in found[0] else (LABELS == 1).astype(int)
    np.testing.assert_allclose(made["probs"][:, 1], np.asarray(arrays_["probs"])[:, 1])
    return made


def replaced(**values: Any) -> Callable[[dict[str, Any], str], dict[str, Any]]:
    """Do by hand what the message says, where it names no code."""
    return lambda given, message: {**given, **values}


def pressed(given: dict[str, Any], message: str) -> dict[str, Any]:
    """Take the setting that the message names, NAME=VALUE."""
    name, value = re.search(r"Pass (\w+)=([\d.]*\d)", message).groups()  # type: ignore[union-attr]
    assert name in given
    return {**given, name: float(value) if "." in value else int(value)}


def fit(logits: Any, labels: Any) -> Any:
    return temperature.TemperatureScaling().fit(logits, labels).transform(logits)


def fit_or_probs(logits: Any, labels: Any, probs: bool = False) -> Any:
    scaling = temperature.TemperatureScaling()
    return scaling.fit_probs(logits, labels) if probs else scaling.fit(logits, labels)


def whole_labels(probs: Any, labels: Any) -> Any:
    """Take labels whose next fault, that they are floats, is none here."""
    whole = np.ndim(labels) == 1 and bool(np.isfinite(np.asarray(labels, dtype=float)).all())
    return metrics.accuracy(probs, np.asarray(labels, dtype=int) if whole else labels)


def softmaxed(given: dict[str, Any], message: str) -> dict[str, Any]:
    probs = eval(code_in(message)[0], {"np": np, "logits": LOGITS})
    return {"true_class": np.stack([probs.max(1)] * 2)}


def chosen_edges(edges: str, scheme: str) -> None:
    binning.check_binning(15, scheme, edges)


def votes(probs: Any, transform: str) -> Any:
    fitted = temperature.TemperatureScaling().fit_probs([[1.0, 0.0]] * 4, [0, 0, 0, 1])
    return getattr(fitted, transform)(probs)


def unfitted(logits: Any, labels: Any, first: str = "") -> Any:
    scaling = temperature.TemperatureScaling()
    if first:
        getattr(scaling, first)(logits, labels)
    return scaling.transform(logits)


def set_params(params: dict[str, Any]) -> Any:
    return temperature.TemperatureScaling().set_params(**params)


ROUNDED = PROBS.round(2)
MASKED = np.ma.masked_array(PROBS, np.repeat(np.arange(N) == 2, 3).reshape(N, 3))
HIDDEN = np.where((np.arange(N)[:, None] == 4) & (np.arange(3) == LABELS[4]), -np.inf, LOGITS)
ARRAYS: dict[str, ArrayCase] = {
    # labels
    "an index in another order": ArrayCase(
        metrics.accuracy,
        {"probs": pd.DataFrame(PROBS, index=IDS), "labels": pd.Series(LABELS, index=IDS)[::-1]},
        "holds the rows of probs in another order",
        "labels",
        LABELS,
    ),
    "labels of shape (N, 1)": of_labels(LABELS[:, None], "`np.ravel(labels)`"),
    "labels of shape (1, N)": of_labels(LABELS[None], "`np.ravel(labels)`"),
    "labels of floats (N, 1)": ArrayCase(
        whole_labels, {"probs": PROBS, "labels": LABELS[:, None] * 1.0}, "np.ravel", "labels", LABELS
    ),
    "one-hot labels": of_labels(np.eye(3)[LABELS], "`np.argmax(labels, axis=1)`"),
    "one-hot labels of booleans": of_labels(np.eye(3, dtype=bool)[LABELS], "`np.argmax(labels, axis=1)`"),
    "one-hot label of one example": ArrayCase(
        metrics.accuracy, {"probs": PROBS[:1], "labels": np.array([[1, 0, 0]])}, "argmax", "labels", [0]
    ),
    "several labels an example": ArrayCase(
        metrics.accuracy, {"probs": PROBS, "labels": MULTI}, "one class k at a time", with_labels
    ),
    "soft labels": of_labels(0.9 * np.eye(3)[LABELS] + 0.1 / 3, "`np.argmax(labels, axis=1)`"),
    "labels of pixels": ArrayCase(
        metrics.accuracy, {"probs": PROBS, "labels": LABELS.reshape(2, 3, 2)}, "np.ravel", "labels", LABELS
    ),
    "a single label": ArrayCase(
        metrics.accuracy, {"probs": PROBS[:1], "labels": 0}, "`np.atleast_1d(labels)`", "labels", [0]
    ),
    "labels as names": of_labels(NAMES[LABELS], "`np.searchsorted(classes, labels)`", classes=NAMES),
    "labels as names in objects": of_labels(NAMES[LABELS].astype(object), "np.searchsorted", classes=NAMES),
    "labels as text": of_labels(LABELS.astype(str), "`np.asarray(labels, dtype=int)`"),
    "labels as floats": of_labels(LABELS.astype(float), "`np.asarray(labels, dtype=int)`"),
    "labels that are missing": ArrayCase(
        whole_labels, {"probs": PROBS, "labels": LABELS * NAN}, "np.isfinite(np.asarray(labels", "rows"
    ),
    "labels of which some are None": ArrayCase(
        whole_labels, {"probs": PROBS, "labels": np.where(NAN == 1, LABELS, None)}, "np.isfinite(np.asarray(", "rows"
    ),
    "labels that a table may lack": ArrayCase(
        whole_labels, {"probs": PROBS, "labels": pd.Series(LABELS * NAN, dtype="Int64")}, "np.isfinite(np.asarray(",
        "rows",
    ),
    "labels as fractions": ArrayCase(
        metrics.accuracy, {"probs": PROBS, "labels": LABELS / 3}, "Pass the index", replaced(labels=LABELS)
    ),
    "booleans of unknown classes": ArrayCase(
        checks.check_labels, {"labels": BINARY == 1}, "`np.asarray(labels, dtype=int)`", "labels", BINARY
    ),
    "labels numbered from 1": of_labels(LABELS + 1, "`np.asarray(labels) - 1`"),
    "labels of -1 and 1": ArrayCase(
        metrics.accuracy, {"probs": TWO, "labels": 2 * BINARY - 1}, "(np.asarray(labels) + 1) // 2", "labels", BINARY
    ),
    "labels with -1 for none": ArrayCase(
        metrics.accuracy, {"probs": PROBS, "labels": np.where(SCORES < 1, -1, LABELS)}, "tells the rows to keep", "rows"
    ),
    "labels with their own numbers": of_labels(
        LABELS * 10 + 7, "`np.searchsorted(classes, labels)`", classes=np.array([7, 17, 27])
    ),
    "labels of fewer examples": ArrayCase(
        metrics.accuracy, {"probs": PROBS, "labels": LABELS[:-1]}, "the last batch was not dropped",
        replaced(labels=LABELS),
    ),
    "no labels": ArrayCase(
        metrics.accuracy, {"probs": PROBS, "labels": []}, "the split and the file", replaced(labels=LABELS)
    ),
    # probabilities
    "probabilities of class 1": of_probs(PROBS[:, 0], "np.column_stack", TWO, BINARY),
    "probabilities of class 1, (N, 1)": of_probs(PROBS[:, :1], "np.column_stack", TWO, BINARY),
    "probabilities of one example": of_probs(PROBS[0], "np.reshape(probs, (1, -1))", PROBS[:1], LABELS[:1]),
    "probabilities of pixels": of_probs(PROBS.reshape(2, 6, 3), "np.shape(probs)[-1]"),
    "a single probability": of_probs(np.float64(0.25), "np.column_stack", np.array([[0.75, 0.25]]), [1]),
    "percentages": of_probs(PROBS * 100, "percentages"),
    "logarithms": of_probs(np.log(PROBS), "`np.exp(probs)`"),
    "logits": of_probs(LOGITS, "np.logaddexp.reduce"),
    "rounded probabilities": of_probs(ROUNDED, "rounded", ROUNDED / ROUNDED.sum(1, keepdims=True)),
    "scores that are independent": ArrayCase(
        metrics.accuracy, {"probs": PROBS * [1.0, 0.5, 0.2], "labels": LABELS}, "one class k at a time", with_labels
    ),
    "logits between 0 and 1": of_probs(LOGITS / 8, "np.logaddexp.reduce", scipy.special.softmax(LOGITS / 8, axis=1)),
    "probabilities with gaps": ArrayCase(
        metrics.brier_score, {"probs": PROBS * NAN[:, None], "labels": LABELS}, "np.isfinite(probs).all(axis=1)", "rows"
    ),
    "masked probabilities": ArrayCase(
        metrics.brier_score, {"probs": MASKED, "labels": LABELS}, "3 of the 36 entries of probs are masked", "rows"
    ),
    "probabilities as text": of_probs(PROBS.astype(str), "`np.asarray(probs, dtype=float)`"),
    "complex numbers": ArrayCase(
        metrics.brier_score, {"probs": PROBS.astype(complex), "labels": LABELS}, "says what cannot",
        replaced(probs=PROBS.astype(complex).real),
    ),
    "decimals": of_probs(
        np.array([[Decimal(p) for p in row] for row in PROBS.tolist()]), "`np.array(probs, dtype=float)`"
    ),
    "ragged rows": ArrayCase(
        metrics.brier_score, {"probs": [[0.5, 0.5], [1.0]], "labels": [0, 1]}, "1 to 2 entries: give each as many",
        replaced(probs=[[0.5, 0.5], [1.0, 0.0]]),
    ),
    "rows of ragged rows": ArrayCase(
        metrics.brier_score, {"probs": [[[0.5], [0.5, 0.5]]] * 2, "labels": [0, 1]}, "Make an array of its numbers",
        replaced(probs=[[0.5, 0.5]] * 2),
    ),
    "no array": ArrayCase(
        metrics.brier_score, {"probs": [{}, 1.0], "labels": [0]}, "probs", replaced(probs=[[0.5, 0.5]])
    ),
    "no examples": ArrayCase(
        metrics.brier_score, {"probs": np.empty((0, 3)), "labels": LABELS}, "Check the split", replaced(probs=PROBS)
    ),
    # logits
    "logits of one class of two": ArrayCase(
        fit, {"logits": LOGITS[:, 0], "labels": BINARY}, "np.column_stack", "logits",
        np.column_stack([np.zeros(N), LOGITS[:, 0]]),
    ),
    "logits of pixels": ArrayCase(
        fit, {"logits": LOGITS.reshape(4, 3, 3), "labels": LABELS}, "np.shape(logits)[-1]", "logits", LOGITS
    ),
    "logits with gaps": ArrayCase(
        fit, {"logits": LOGITS * NAN[:, None], "labels": LABELS}, "np.less(logits, np.inf).all(axis=1)", "rows"
    ),
    "logits that are all -inf": ArrayCase(
        fit, {"logits": np.where(SCORES[:, None] == 1, -np.inf, LOGITS), "labels": LABELS}, "any(axis=1)", "rows"
    ),
    "a true class that is masked off": ArrayCase(
        fit, {"logits": HIDDEN, "labels": LABELS}, "-inf in row 4", "rows"
    ),
    "probabilities for logits": ArrayCase(
        fit_or_probs, {"logits": PROBS, "labels": LABELS}, "Pass them to `fit_probs`", replaced(probs=True)
    ),
    "logits that look like probabilities": ArrayCase(
        fit, {"logits": PROBS, "labels": LABELS}, "`np.asarray(logits) - 1`", "logits", PROBS - 1
    ),
    "a temperature of probabilities for logits": ArrayCase(
        votes, {"probs": [[1.0, 0.5]], "transform": "transform"}, "`transform_probs`",
        replaced(transform="transform_probs", probs=[[1.0, 0.0]]),
    ),
    "a temperature that is not fitted": ArrayCase(
        unfitted, {"logits": LOGITS, "labels": LABELS}, "Call `fit`", replaced(first="fit")
    ),
    "settings of the temperature": ArrayCase(set_params, {"params": {"bins": 3}}, "Pass nothing", replaced(params={})),
    # scores, levels, groups, confidences
    "scores of shape (N, 1)": ArrayCase(
        levels.assign_levels, {"scores": SCORES[:, None], "num_levels": 3}, "np.ravel", "scores", SCORES,
    ),
    "several scores": ArrayCase(
        levels.assign_levels, {"scores": np.column_stack([SCORES] * 2), "num_levels": 3}, "[:, 0]", "scores", SCORES,
    ),
    "scores that are missing": ArrayCase(
        robcal.audit, {"probs": PROBS, "labels": LABELS, "scores": SCORES * NAN, "num_levels": 2, "resamples": 20},
        "`~np.isnan(np.asarray(scores, dtype=float))`", "rows",
    ),
    "scores that a table may lack": ArrayCase(
        robcal.audit,
        {"probs": PROBS, "labels": LABELS, "scores": pd.Series(SCORES * NAN, dtype="Float64"), "num_levels": 2,
         "resamples": 20},
        "np.isnan(np.asarray(scores", "rows",
    ),
    "scores that float64 does not tell apart": ArrayCase(
        levels.assign_levels, {"scores": 2**60 + np.arange(N), "num_levels": 3}, "np.unique(scores", "scores",
        np.arange(N),
    ),
    "more bins than memory": ArrayCase(
        metrics.calibration_error, {"probs": PROBS, "labels": LABELS, "bins": 10**9}, "Pass bins=15", pressed
    ),
    "scores of -inf": ArrayCase(
        levels.assign_levels, {"scores": np.where(SCORES > 1, SCORES, -np.inf), "num_levels": 3}, "np.maximum(scores",
        "scores",
    ),
    "scores as text": ArrayCase(
        levels.assign_levels, {"scores": SCORES.astype(str), "num_levels": 3}, "dtype=float", "scores", SCORES
    ),
    "scores of fewer examples": ArrayCase(
        robcal.audit, {"probs": PROBS, "labels": LABELS, "scores": SCORES[1:], "num_levels": 2, "resamples": 20},
        "same split", replaced(scores=SCORES),
    ),
    "more levels than examples": ArrayCase(
        levels.assign_levels, {"scores": SCORES, "num_levels": 13}, "Ask for fewer levels", replaced(num_levels=12)
    ),
    "groups of several columns": ArrayCase(
        conditional.group_table, {"probs": PROBS, "labels": LABELS, "groups": MULTI}, "[:, 0]", "groups", MULTI[:, 0]
    ),
    "groups that are scores": ArrayCase(
        conditional.group_table, {"probs": PROBS, "labels": LABELS, "groups": SCORES}, "assign_levels", "groups",
        levels.assign_levels(SCORES, 5),
    ),
    "groups that are missing": ArrayCase(
        conditional.group_table, {"probs": PROBS, "labels": LABELS, "groups": NAN}, "dtype=str", "groups",
        NAN.astype(str),
    ),
    "confidences in percent": ArrayCase(
        conditional.top_label_metrics, {"confidences": PROBS.max(1) * 100, "correct": BINARY}, "/ 100", "confidences",
        PROBS.max(1),
    ),
    "logits as confidences": ArrayCase(
        trends.trend_tests, {"confidence": LOGITS.max(1) - 4, "correct": BINARY, "levels": LABELS},
        "np.max(probs, axis=1)", "confidence", PROBS.max(1), {"probs": PROBS},
    ),
    "labels for correct": ArrayCase(
        conditional.top_label_metrics, {"confidences": PROBS.max(1), "correct": LABELS}, "np.argmax(probs, axis=1)",
        "correct", PROBS.argmax(1) == LABELS, {"probs": PROBS, "labels": LABELS},
    ),
    "correct of another shape": ArrayCase(
        conditional.top_label_metrics, {"confidences": PROBS.max(1), "correct": BINARY[:, None]}, "np.argmax(probs",
        "correct", PROBS.argmax(1) == LABELS, {"probs": PROBS, "labels": LABELS},
    ),
    "infinite confidences": ArrayCase(
        ood.ood_metrics, {"confidence_in": np.where(SCORES > 2, np.inf, SCORES), "confidence_out": SCORES},
        "np.minimum(confidence_in", "confidence_in",
    ),
    "one run": ArrayCase(
        seeds.run_variance, {"true_class": PROBS.max(1)}, "np.stack", "true_class",
        np.stack([PROBS[np.arange(N), LABELS]] * 2), {"runs": [PROBS, PROBS], "labels": LABELS},
    ),
    "runs of logits": ArrayCase(
        seeds.run_variance, {"true_class": np.stack([LOGITS.max(1)] * 2)}, "np.logaddexp.reduce", softmaxed
    ),
    # settings
    "no bins": ArrayCase(
        metrics.calibration_error, {"probs": PROBS, "labels": LABELS, "bins": 0}, "Pass bins=1 or more", pressed
    ),
    "a coverage in percent": ArrayCase(
        conditional.overall_metrics, {"probs": PROBS, "labels": LABELS, "confidence": 95, "resamples": 20},
        "Pass confidence=0.95", pressed,
    ),
    "a coverage of 1": ArrayCase(
        conditional.overall_metrics, {"probs": PROBS, "labels": LABELS, "confidence": 1.0, "resamples": 20},
        "Pass confidence=0.5, for example", pressed,
    ),
    "a metric misspelt": ArrayCase(
        weighted.weighted_metric, {"metric": "eces", "probs": PROBS, "labels": LABELS}, "Did you mean 'ece'",
        replaced(metric="ece"),
    ),
    "a seed below 0": ArrayCase(
        levels.assign_levels, {"scores": SCORES, "num_levels": 2, "seed": -1}, "such as 0", replaced(seed=0)
    ),
    "edges that do not go with the scheme": ArrayCase(
        chosen_edges, {"edges": "torchmetrics", "scheme": "mass"}, "Drop one of them", replaced(scheme="width")
    ),
}  # fmt: skip


def _carried_out(case: ArrayCase, message: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arrays after the advice was taken."""
    if callable(case.mends):
        return case.mends(given, message)
    names = {"np": np, "robcal": robcal, **given, **case.more}
    code = next(code for code in code_in(message) if re.search(r"[\w.]+\(|[-+/*\[]", code) and not _assigns(code))
    found = eval(code, names)
    if case.mends != "rows":
        return {**given, case.mends: found}
    assert found.dtype == bool
    assert 0 < (~found).sum() < len(found)
    return {name: _rows(value, found) for name, value in given.items()}


def _assigns(code: str) -> bool:
    return "=" in code.split("(")[0]


def _rows(value: Any, keep: Any) -> Any:
    if isinstance(value, (np.ndarray, pd.Series)):
        return value[keep]
    return [row for row, kept in zip(value, keep, strict=True) if kept] if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    if np.ma.isMaskedArray(value):
        return list(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _steps(case: ArrayCase, lists: bool) -> Callable[[Path], Steps]:
    """The steps of a case, with its arrays or with lists of the same numbers."""

    def steps(folder: Path) -> Steps:
        given = {key: _listed(value) if lists else value for key, value in case.given.items()}
        message = yield lambda: case.call(**given)

        def mended() -> None:
            made = _carried_out(case, message, given)
            case.call(**made)
            if case.right is not None:
                assert isinstance(case.mends, str)
                _check_equal(made[case.mends], case.right)

        yield mended

    return steps


def _check_equal(made: Any, right: Any) -> None:
    if np.asarray(right).dtype.kind in "biuf":
        np.testing.assert_allclose(np.asarray(made, float), np.asarray(right, float), rtol=1e-12)
    else:
        np.testing.assert_array_equal(made, right)


CASES = [
    Case(f"{name}{held}", re.escape(case.says), _steps(case, bool(held)))
    for name, case in ARRAYS.items()
    for held in ("", ", in lists")
]
