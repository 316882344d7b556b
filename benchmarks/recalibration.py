"""Recalibrate trained classifiers by every method and by other libraries, in distribution and under shift.

Usage: python benchmarks/recalibration.py --data FOLDER [--quick | --large] [--work FOLDER] [--out PAGE.md]

The networks are in recalibration_networks.py; those whose data are not below --data are left out, and named. All
methods of a network are fitted and measured one after another in one process. --quick takes those that are trained in
seconds (about a minute); --large adds the time of `auto` on 50,000 rows of 1,000 classes. Of each network one was
trained, on one split: intervals are of the test examples alone. --work keeps what was trained and measured, a network a
file, so that networks may be measured in turns (--only NAME) and the page written from all of them.

With --out docs the figures that pages show are kept in docs/evidence/recalibration.json, and recalibration_page.py
writes the pages from that file. Other libraries are in benchmarks/requirements.txt; those that are not installed are
left out. svs and sms need robcal[recalibration].
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

import recalibration_levels as levels
import recalibration_page
from recalibration_networks import Network, networks
from robcal.calibration import aurc, calibration_error
from robcal.calibration.intervals import calibration_error_interval
from robcal.calibration.recalibration import Recalibrator
from turns import machine

#: Probabilities of new logits.
Predict = Callable[[np.ndarray], np.ndarray]

OURS = ("none", "temperature", "score-temperature", "vector", "isotonic", "dirichlet", "sms",
        "dirichlet+score-temperature", "sms+score-temperature", "auto")  # fmt: skip
QUICK = ("cross-entropy", "focal", "digits", "adult", "sentiment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets and published networks")
    parser.add_argument("--work", type=Path, help="what is trained and measured is kept here")
    parser.add_argument("--only", nargs="+", default=[], help="measure these networks only")
    parser.add_argument("--quick", action="store_true", help="networks that are trained in seconds")
    parser.add_argument("--large", action="store_true", help="also the time of auto on 50,000 rows of 1,000 classes")
    parser.add_argument("--out", type=Path, help="docs: the folder of the pages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found, missing = run(options, options.work or Path(folder))
    for name, table in recalibration_page.tables(found).items():
        print(f"{name}\n\n{table}\n")
    if options.large:
        print(f"`auto` takes {large():.1f} CPU s for 50,000 rows of 1,000 classes.")
    if missing:
        print(f"Left out: {', '.join(missing)}.")
    if options.out:
        recalibration_page.keep(options.out, "networks", found)


def run(options: argparse.Namespace, work: Path) -> tuple[recalibration_page.Records, list[str]]:
    """Measure what is not measured yet; return the records of all that is, and what could not be."""
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
    found = {name: reduced(json.loads(file.read_text(encoding="utf-8"))) for name in networks(options.data, work)
             if (file := work / f"{name}.json").exists()}  # fmt: skip
    return found, missing


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


def reduced(measured: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a network that the pages show: a row's losses give means, and differences ± 1.96 errors."""
    rows = measured["rows"]
    test = {name: np.array(row["test"]["losses"]) for name, row in rows.items() if name in OURS and name != "auto"}
    best = min(test, key=lambda name: float(test[name].mean()))
    of_auto = np.array(rows["auto"]["test"]["losses"])
    return {
        "title": measured["title"],
        "sizes": measured["sizes"],
        "shift": measured["shift"],
        "machine": machine(),
        "rows": {name: _reduced_row(row, rows["temperature"]) for name, row in rows.items()},
        "regret": {"best": best, "nll": float(test[best].mean()), "above": _difference(of_auto, test[best])},
        "levels": {name: levels.reduced(one) for name, one in measured["levels"].items()},
    }


def _reduced_row(row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    found = {"seconds": row["seconds"], "chosen": row["chosen"]}
    for condition in {"test", "shift"} & set(row):
        kept = {key: row[condition][key] for key in ("brier", "ece", "ends", "aurc", "outside", "levels")}
        losses, of_plain = (np.array(one[condition]["losses"]) for one in (row, plain))
        found[condition] = {**kept, "nll": float(losses.mean()), "above": _difference(losses, of_plain)}
    return found


def _difference(losses: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return the mean paired difference and 1.96 standard errors."""
    apart = losses - others
    return float(apart.mean()), float(1.96 * apart.std(ddof=1) / np.sqrt(len(apart)))


if __name__ == "__main__":
    main()
