"""Recalibrate trained classifiers by every method and by other libraries, in distribution and under shift.

Usage: python benchmarks/recalibration.py --data FOLDER [--quick | --large] [--work FOLDER] [--out PAGE.md]

The networks are in recalibration_networks.py; those whose data are not below --data are left out, and named. All
methods of a network are fitted and measured one after another in one process. --quick takes those that are trained in
seconds (about a minute); --large adds the time of `auto` on 50,000 rows of 1,000 classes. Of each network one was
trained, on one split: intervals are of the test examples alone. --work keeps what was trained and measured, a network a
file, so that networks may be measured in turns (--only NAME) and the page written from all of them.

With --out the tables take the place of those in a page, between the two comments that mark them. Other libraries are in
benchmarks/requirements.txt; those that are not installed are left out. svs and sms need robcal[recalibration].
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

import recalibration_levels as levels
from recalibration_networks import Network, networks
from robcal.base.files import replacing
from robcal.calibration import aurc, calibration_error
from robcal.calibration.intervals import calibration_error_interval
from robcal.calibration.recalibration import Recalibrator
from turns import machine

#: Probabilities of new logits.
Predict = Callable[[np.ndarray], np.ndarray]

OURS = ("none", "temperature", "score-temperature", "vector", "isotonic", "dirichlet", "sms",
        "dirichlet+score-temperature", "sms+score-temperature", "auto")  # fmt: skip
BEGIN, END = "<!-- made by benchmarks/recalibration.py -->", "<!-- end of what it made -->"
#: What the counts of levels mean.
GAPS = (
    "A level is outside if the 95% interval of its mean confidence - accuracy does not hold 0. That of the test rows "
    "alone tells whether this repaired classifier has a gap there; with the error of the fit, whether another "
    "validation split of the same size could have left none. Of chance: as many are outside where labels are drawn "
    "from the method's own predictions and it is fitted anew, so that its form is right. Holm (1979): outside where "
    "the levels of a network are looked at together, at 5%."
)
QUICK = ("cross-entropy", "focal", "digits", "adult", "sentiment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets and published networks")
    parser.add_argument("--work", type=Path, help="what is trained and measured is kept here")
    parser.add_argument("--only", nargs="+", default=[], help="measure these networks only")
    parser.add_argument("--quick", action="store_true", help="networks that are trained in seconds")
    parser.add_argument("--large", action="store_true", help="also the time of auto on 50,000 rows of 1,000 classes")
    parser.add_argument("--out", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = run(options, options.work or Path(folder))
    print(text)
    if options.out:
        before, rest = options.out.read_text(encoding="utf-8").split(BEGIN)
        with replacing(options.out) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def run(options: argparse.Namespace, work: Path) -> str:
    """Measure what is not measured yet; return the tables of all that is."""
    work.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, make in networks(options.data, work).items():
        file = work / f"{name}.json"
        if file.exists() or (options.only and name not in options.only) or (options.quick and name not in QUICK):
            continue
        try:
            file.write_text(json.dumps(measure(make())), encoding="utf-8")
        except FileNotFoundError as error:
            missing.append(f"{name} (no {error.filename or error})")
    measured = [json.loads(file.read_text(encoding="utf-8")) for name in networks(options.data, work)
                if (file := work / f"{name}.json").exists()]  # fmt: skip
    parts = [page(measured)]
    if options.large:
        parts.append(f"`auto` takes {large():.1f} CPU s for 50,000 rows of 1,000 classes.\n")
    if missing:
        parts.append(f"Left out: {', '.join(missing)}.\n")
    return "\n".join(parts)


def measure(network: Network) -> dict[str, Any]:
    """Fit every contender on the validation rows, and measure it on each set of test rows."""
    conditions = {"test": (network.test[0][None], network.test[1])}
    if network.shift is not None:
        conditions["shift"] = network.shift[1:]
    rows: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, fit in contenders().items():
        begun = time.process_time()
        try:
            predict, chosen = fit(*network.val)
        except ImportError:
            continue
        seconds = time.process_time() - begun
        rows[name] = {"seconds": seconds, "chosen": chosen}
        rows[name].update({key: figures(predict, *condition) for key, condition in conditions.items()})
        if name in levels.REPEATS:
            found[name] = levels.of_levels(predict, name, network)
    sizes = [len(network.val[1]), len(network.test[1])]
    return {"title": network.title, "sizes": sizes, "shift": network.shift and network.shift[0], "rows": rows,
            "levels": found}  # fmt: skip


def figures(predict: Predict, cells: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the figures of one contender, each the mean over the cells; losses (N,) are means over the cells too."""
    truth = np.eye(cells.shape[2])[labels]
    losses, brier, errors, risks, outside, number = [], [], [], [], 0, 0
    for logits in cells:
        probs = np.asarray(predict(logits), float)
        losses.append(-np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-12)))
        brier.append(((probs - truth) ** 2).sum(1).mean())
        errors.append(calibration_error(probs, labels))
        risks.append(aurc(probs, labels))
        gaps = levels.gaps(probs, labels, levels.levels_of(logits))
        outside, number = outside + len(levels.outside(levels.ends(gaps))), number + len(gaps)
    ends = calibration_error_interval(probs, labels, resamples=300) if len(cells) == 1 else (None, None)
    return {
        "losses": np.mean(losses, axis=0).tolist(), "brier": np.mean(brier), "ece": np.mean(errors), "ends": ends,
        "aurc": np.mean(risks), "outside": outside, "levels": number, "gaps": levels.ends(gaps),
    }  # fmt: skip


def contenders() -> dict[str, Callable[[np.ndarray, np.ndarray], tuple[Predict, str]]]:
    """Return what fits each contender: logits and labels → its prediction, and what it chose."""
    peers = {
        "scikit-learn: temperature": _sklearn,
        "probmetrics: ts-mix": lambda z, y: _probmetrics(z, y, "TemperatureScalingCalibrator"),
        "probmetrics: SMS": lambda z, y: _probmetrics(z, y, "SMSCalibrator"),
        "netcal: temperature": lambda z, y: _netcal(z, y, "scaling", "TemperatureScaling"),
        "netcal: isotonic": lambda z, y: _netcal(z, y, "binning", "IsotonicRegression"),
    }
    return {**{name: (lambda z, y, name=name: _ours(z, y, name)) for name in OURS}, **peers}


def _ours(logits: np.ndarray, labels: np.ndarray, name: str) -> tuple[Predict, str]:
    fitted = Recalibrator(name).fit(logits, labels)
    return fitted.predict_proba, fitted.method


def _sklearn(logits: np.ndarray, labels: np.ndarray) -> tuple[Predict, str]:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose inputs are its logits."""

        classes_ = np.arange(logits.shape[1])

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def decision_function(self, inputs: np.ndarray) -> np.ndarray:
            """Return the logits; of two classes their difference, as scikit-learn has it."""
            return inputs[:, 1] - inputs[:, 0] if inputs.shape[1] == 2 else inputs

        def predict(self, inputs: np.ndarray) -> np.ndarray:
            """Return the class."""
            return np.asarray(inputs.argmax(1))

        def fit(self, inputs: np.ndarray, labels: np.ndarray) -> Given:
            """Return itself: there is nothing to fit."""
            return self

    fitted = CalibratedClassifierCV(FrozenEstimator(Given()), method="temperature").fit(logits, labels)
    return fitted.predict_proba, "temperature"


def _probmetrics(logits: np.ndarray, labels: np.ndarray, name: str) -> tuple[Predict, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from probmetrics import calibrators

        fitted = getattr(calibrators, name)()
        fitted.fit(softmax(logits, axis=1), labels)
    return lambda z: fitted.predict_proba(softmax(z, axis=1)), name


def _netcal(logits: np.ndarray, labels: np.ndarray, module: str, name: str) -> tuple[Predict, str]:
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = getattr(importlib.import_module(f"netcal.{module}"), name)()
        fitted.fit(_two_ways(softmax(logits, axis=1)), labels)

    def predict(z: np.ndarray) -> np.ndarray:
        found = fitted.transform(_two_ways(softmax(z, axis=1)))
        return np.column_stack([1 - found, found]) if found.ndim == 1 else found

    return predict, name


def _two_ways(probs: np.ndarray) -> np.ndarray:
    """Return probabilities as netcal takes them: of two classes that of the second."""
    return probs[:, 1] if probs.shape[1] == 2 else probs


def large() -> float:
    """Return the CPU seconds of `auto` on 50,000 rows of 1,000 classes."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((50_000, 1000))
    labels = rng.integers(1000, size=50_000)
    logits[np.arange(50_000), labels] += rng.gamma(2.0, 4.0, size=50_000)
    begun = time.process_time()
    Recalibrator().fit(logits, labels)
    return time.process_time() - begun


# The page -------------------------------------------------------------------------------------------------------------


def page(measured: list[dict[str, Any]]) -> str:
    """Return the tables of all networks."""
    shifted = [one for one in measured if one["shift"]]
    about = [f"| {one['title']} | {one['sizes'][0]:,} | {one['sizes'][1]:,} | {one['shift'] or '–'} | "
             f"{_accuracy(one)} | {one['rows']['auto']['chosen']} |" for one in measured]  # fmt: skip
    return "\n".join([
        f"{machine()}, one thread; one network each. {len(measured)} networks; margins cut the levels.", "",
        _table(["network", "validation", "test", "shift", "NLL as it is", "auto took"], about), "",
        "### In distribution: NLL less that of one temperature", "",
        "Paired, ± 1.96 standard errors of the test examples.", "",
        _matrix(measured, lambda one, row: _difference(one, row, "test")), "",
        "### In distribution: NLL of auto less that of the best single method", "",
        "Which is the best is told by the same test rows, and so in part by luck. Paired, ± 1.96 standard errors.", "",
        _regrets(measured), "",
        "### In distribution: ECE and its 95% interval", "",
        _matrix(measured, lambda one, row: _ece(row["test"])), "",
        "### In distribution: Brier score", "",
        _matrix(measured, lambda one, row: f"{row['test']['brier']:.4f}"), "",
        "### In distribution: AURC", "",
        _matrix(measured, lambda one, row: f"{row['test']['aurc']:.4f}"), "",
        "### In distribution: levels whose gap cannot be chance", "", GAPS, "",
        *levels.section(measured), "",
        "Outside by the interval of the test rows alone:", "",
        _matrix(measured, lambda one, row: f"{row['test']['outside']} of {row['test']['levels']}"), "",
        *_least_robust(measured),
        "### Under shift: NLL less that of one temperature", "",
        "Fitted on validation rows without shift; means over the cells of the shift.", "",
        _matrix(shifted, lambda one, row: _difference(one, row, "shift")), "",
        "### Under shift: ECE", "",
        _matrix(shifted, lambda one, row: f"{row['shift']['ece']:.3f}"), "",
        "### CPU seconds of a fit", "",
        _matrix(measured, lambda one, row: f"{row['seconds']:.2f}"), "",
    ])  # fmt: skip


def _table(headings: Iterable[str], rows: Iterable[str]) -> str:
    names = list(headings)
    return "\n".join([f"| {' | '.join(names)} |", "|---|" + "--:|" * (len(names) - 1), *rows])


def _matrix(measured: list[dict[str, Any]], cell: Callable[[dict[str, Any], dict[str, Any]], str]) -> str:
    """Return a table of contenders by networks."""
    names = [name for name in contenders() if any(name in one["rows"] for one in measured)]
    rows = [f"| {name} | " + " | ".join(cell(one, one["rows"][name]) if name in one["rows"] else "–"
                                        for one in measured) + " |" for name in names]  # fmt: skip
    return _table(["", *(one["title"] for one in measured)], rows)


def _accuracy(one: dict[str, Any]) -> str:
    return f"{np.mean(one['rows']['none']['test']['losses']):.4f}"


def _difference(one: dict[str, Any], row: dict[str, Any], condition: str) -> str:
    apart = np.array(row[condition]["losses"]) - np.array(one["rows"]["temperature"][condition]["losses"])
    return f"{apart.mean():+.4f} ± {1.96 * apart.std(ddof=1) / np.sqrt(len(apart)):.4f}"


def _regrets(measured: list[dict[str, Any]]) -> str:
    """Return by how much `auto` is above the best method for every network, and the mean and the largest of that."""
    lines, values = [], []
    for one in measured:
        losses = {name: np.array(one["rows"][name]["test"]["losses"]) for name in OURS if name in one["rows"]}
        taken = losses.pop("auto")
        best = min(losses, key=lambda name: float(losses[name].mean()))
        apart = taken - losses[best]
        values.append(apart.mean())
        error = 1.96 * apart.std(ddof=1) / np.sqrt(len(apart))
        lines.append(f"| {one['title']} | {best} | {losses[best].mean():.4f} | {apart.mean():+.4f} ± {error:.4f} |")
    lines.append(f"| mean; largest | | | {np.mean(values):+.4f}; {np.max(values):+.4f} |")
    return _table(["network", "best single method", "its NLL", "auto above it"], lines)


def _ece(row: dict[str, Any]) -> str:
    low, high = row["ends"]
    return f"{row['ece']:.4f} [{low:.3f}, {high:.3f}]"


def _least_robust(measured: list[dict[str, Any]]) -> list[str]:
    """Return the gap of the two lowest levels, before and after."""
    lines = []
    for one in measured:
        cells = [f"{gap[1]:+.3f} [{gap[0]:+.3f}, {gap[2]:+.3f}]" for name in ("temperature", "auto")
                 for gap in one["rows"][name]["test"]["gaps"][:2]]  # fmt: skip
        lines.append(f"| {one['title']} | {' | '.join(cells)} |")
    headings = ["", *(f"level {n} after {name}" for name in ("temperature", "auto") for n in (0, 1))]
    return ["Mean confidence - accuracy of the two levels of the lowest margin:", "", _table(headings, lines), ""]


if __name__ == "__main__":
    main()
