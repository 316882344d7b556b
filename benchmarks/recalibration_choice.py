"""How much worse than the best method is the one that `auto` takes? Several rules on the same fits.

Usage: python benchmarks/recalibration_choice.py --data FOLDER --work FOLDER [--only NAME …] [--out docs]

Rows of a trained classifier are cut at random into N to fit on and others to measure on. Every method is cross-fitted
once; then each rule takes one, or an average. Told is by how much its NLL on the other rows exceeds that of the best
single method there ("regret"), which nobody can know beforehand. The best of a dozen on the rows that judge it is in
part luck, so regret is also told against the method that the other half of these rows names the best. Rules: the lowest
cross-fitted NLL; the simplest within one standard error of that and .001; the average; `auto`.

Classifiers are simulations whose true probabilities are known, and ones that scikit-learn makes in seconds of text,
tables and images; the rule was chosen on five of the latter (docs/evidence/recalibration-details.md says which) and on
others. --work keeps the figures, a classifier a file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

import recalibration_page
from recalibration_levels import candidates_of, rows_of
from recalibration_networks import Rows, fashion_mnist, read_adult, read_text
from robcal.base.checks import FloatArray, IntArray
from robcal.calibration.recalibration import selection
from robcal.calibration.recalibration.maps import apply, margins
from robcal.calibration.recalibration.selection import AVERAGE, Candidate
from robcal.data import load_dataset

SIZES, SEEDS, MOST = (500, 2000, 5000), 3, 25_000
RULES = ("lowest", "simplest within one standard error", "average", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of text and tables")
    parser.add_argument("--work", type=Path, required=True, help="figures are kept here")
    parser.add_argument("--only", nargs="+", default=[], help="these classifiers only")
    parser.add_argument("--out", type=Path, help="docs: the folder of the pages")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    made, found = classifiers(options.data), {}
    for name, make in made.items():
        file = options.work / f"choice-{name}.json"
        if not file.exists() and (not options.only or name in options.only):
            file.write_text(json.dumps(regrets(*make())), encoding="utf-8")
        if file.exists():
            found[name] = reduced(json.loads(file.read_text(encoding="utf-8")))
    for name, table in recalibration_page.choice_tables(found).items():
        print(f"{name}\n\n{table}\n")
    if options.out:
        recalibration_page.keep(options.out, "choice", found)


def regrets(logits: FloatArray, labels: IntArray) -> dict[str, Any]:
    """Return, for each N and rule, the regrets of all splits: by the best on all other rows, and by halves of them.

    `details` hold the figures of every split.
    """
    found: dict[str, Any] = {}
    details: dict[str, list[dict[str, Any]]] = {}
    for size in SIZES:
        if size > 0.55 * len(labels):
            continue
        of_size = found.setdefault(str(size), {rule: [] for rule in RULES})
        for seed in range(SEEDS):
            order = np.random.default_rng(1000 * size + seed).permutation(len(labels))
            fit, new = order[:size], order[size : size + MOST]
            candidates = candidates_of(rows_of(logits[fit], labels[fit]))
            losses = np.stack([new_losses(one, logits[new], labels[new]) for one in candidates])
            singles = losses[[one.method != AVERAGE for one in candidates]]
            half = np.arange(len(new)) % 2 == 0
            details.setdefault(str(size), []).append(_detail(candidates, losses, pick("auto", candidates, labels[fit])))
            for rule in RULES:
                taken = losses[pick(rule, candidates, labels[fit])]
                halves = [taken[b].mean() - singles[singles[:, a].mean(1).argmin(), b].mean()
                          for a, b in ((half, ~half), (~half, half))]  # fmt: skip
                of_size[rule].append((taken.mean() - singles.mean(1).min(), float(np.mean(halves))))
    return {**found, "details": details}


def _detail(candidates: list[Candidate], losses: FloatArray, taken: int) -> dict[str, Any]:
    """Return the NLL of some methods on the other rows, and that of `auto` less the lowest, with the half interval."""
    nll = {one.method: float(values.mean()) for one, values in zip(candidates, losses, strict=True)}
    best = min((one.method for one in candidates if one.method != AVERAGE), key=nll.__getitem__)
    apart = losses[taken] - losses[[one.method for one in candidates].index(best)]
    few = {name: nll[name] for name in selection.KEEPING}
    return {**few, "best": best, "lowest": nll[best], "taken": candidates[taken].method, "above": float(apart.mean()),
            "error": float(1.96 * apart.std(ddof=1) / np.sqrt(len(apart)))}  # fmt: skip


def reduced(found: dict[str, Any]) -> dict[str, Any]:
    """Return the regrets of every N and rule, and means over the splits of the largest N."""
    details = found["details"]
    size = max(details, key=int)
    names = ("none", "temperature", "score-temperature", "lowest")
    most = {
        "size": int(size),
        "nll": [float(np.mean([split[key] for split in details[size]])) for key in names],
        "above": [float(np.mean([split[key] for split in details[size]])) for key in ("above", "error")],
    }
    return {"regrets": {size: rules for size, rules in found.items() if size != "details"}, "most": most}


def new_losses(candidate: Candidate, logits: FloatArray, labels: IntArray) -> FloatArray:
    """Return the NLL of new rows."""
    logs = apply(candidate.maps, logits, margins(logits))
    return np.asarray(-logs[np.arange(len(labels)), labels])


def pick(rule: str, candidates: list[Candidate], labels: IntArray) -> int:
    """Return the position of what a rule takes."""
    singles = [one for one in candidates if one.method != AVERAGE]
    if rule == "auto":
        return selection.choose(candidates, labels)
    if rule == "average":
        return selection.choose(candidates, labels, averaged=True)
    held = [-one.held[np.arange(len(labels)), labels] for one in singles]
    lowest = min(held, key=lambda values: float(values.mean()))
    for number, losses in enumerate(held):
        above, error = (losses - lowest).mean(), (losses - lowest).std(ddof=1) / np.sqrt(len(lowest))
        if above <= (0 if rule == "lowest" else min(error, 1e-3)):
            return number
    raise AssertionError("the lowest is not above itself")


def classifiers(folder: Path) -> dict[str, Callable[[], Rows]]:
    """Return what gives logits and labels of held-out rows, by name."""
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    boosted = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.2, random_state=0)
    few = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.2, random_state=0)
    return {
        **{f"simulated-{kind}": lambda kind=kind: simulated(kind)
           for kind in ("calibrated", "temperature", "margin", "bias", "mixed")},
        "MR": lambda: text(folder, "rt-polarity.all", 2500, LogisticRegression(C=30, max_iter=1000)),
        "MPQA": lambda: text(folder, "mpqa.all", 2000, MultinomialNB(alpha=0.1)),
        "TREC": lambda: text(folder, "TREC.train.all", 1500, MultinomialNB(alpha=0.05)),
        "SST-5": lambda: text(folder, "stsa.fine.train", 2500, LogisticRegression(C=10, max_iter=1000)),
        "Adult-boosted": lambda: table(folder, boosted),
        "Adult-forest": lambda: table(folder, RandomForestClassifier(100, random_state=0)),
        "Subj": lambda: text(folder, "subj.all", 3000, MultinomialNB(alpha=0.05)),
        "Adult-education-boosted": lambda: table(folder, few, "education"),
        "Adult-education-forest": lambda: table(folder, RandomForestClassifier(60, random_state=0), "education"),
        "Adult-occupation-boosted": lambda: table(folder, few, "occupation"),
        "Fashion-perceptron": lambda: pictures(folder, MLPClassifier((128,), max_iter=60, random_state=0)),
        "Fashion-trees": lambda: pictures(folder, ExtraTreesClassifier(50, random_state=0)),
        "Fashion-neighbours": lambda: pictures(folder, KNeighborsClassifier(10)),
    }  # fmt: skip


def simulated(kind: str, classes: int = 10, size: int = 30_000) -> Rows:
    """Draw labels from known probabilities, and logits that are wrong about them in one way."""
    rng, fixed = np.random.default_rng(1), np.random.default_rng(7)
    true = 1.5 * rng.standard_normal((size, classes))
    true[np.arange(size), rng.integers(classes, size=size)] += rng.gamma(2.5, 2.5, size=size)
    labels = (softmax(true, axis=1).cumsum(1) > rng.random((size, 1))).argmax(1)
    logits = {
        "calibrated": true,
        "temperature": 2.5 * true,
        "margin": true * (1.3 + 2 * np.exp(-margins(true) / 2))[:, None],
        "bias": 2 * (true - 0.5 * fixed.standard_normal(classes)),
        "mixed": 1.5 * true @ (np.eye(classes) + 0.24 / classes**0.5 * fixed.standard_normal((classes, classes))),
    }
    return logits[kind], labels


def text(folder: Path, name: str, size: int, model: object) -> Rows:
    """Fit a classifier of words to `size` texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, labels = read_text(folder, name)
    order = np.random.default_rng(5).permutation(len(labels))
    words = TfidfVectorizer(min_df=2).fit_transform([texts[n] for n in order])
    model.fit(words[:size], labels[order[:size]])  # type: ignore[attr-defined]
    return np.maximum(model.predict_log_proba(words[size:]), -60), labels[order[size:]]  # type: ignore[attr-defined]


def table(folder: Path, model: object, target: str | None = None) -> Rows:
    """Fit a classifier to 4,000 people of UCI Adult: of the income, or of another column."""
    inputs, labels, _ = read_adult(folder, target)
    order = np.random.default_rng(3).permutation(len(labels))
    model.fit(inputs[order[:4000]], labels[order[:4000]])  # type: ignore[attr-defined]
    probs = np.zeros((len(labels) - 4000, labels.max() + 1))
    probs[:, model.classes_] = model.predict_proba(inputs[order[4000:]])  # type: ignore[attr-defined]
    return np.log(np.maximum(probs, 1e-4)), labels[order[4000:]]


def pictures(folder: Path, model: object) -> Rows:
    """Fit a classifier to 60 principal components of 12,000 images of Fashion-MNIST."""
    from sklearn.decomposition import PCA

    if (place := fashion_mnist(folder)) is None:
        raise FileNotFoundError("Fashion-MNIST")
    data = load_dataset(place)
    train, test = (data.split(name) for name in ("train", "test"))
    pixels = [np.asarray(one.inputs[:12_000], np.float64).reshape(-1, 784) for one in (train, test)]
    components = PCA(60, random_state=0).fit(pixels[0])
    model.fit(components.transform(pixels[0]), train.labels[:12_000])  # type: ignore[attr-defined]
    return np.log(np.maximum(model.predict_proba(components.transform(pixels[1])), 1e-4)), test.labels  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
