"""`Recalibrator`: the probabilities of a trained classifier, repaired on validation data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robcal.base.checks import (
    FloatArray,
    IntArray,
    check_choice,
    check_labels,
    check_no_probs,
    check_output,
    check_same_rows,
    check_scores,
    check_seed,
    refuse,
)
from robcal.base.encoding import plain, sealed, typed, unsealed
from robcal.base.files import reading, replacing
from robcal.calibration.prob_rows import ProbRows, row_keys
from robcal.calibration.recalibration.average import Average, read_map, single, stored
from robcal.calibration.recalibration.maps import IMPOSSIBLE, Affine, Isotonic, Map, apply, logits_of, margins, masks
from robcal.calibration.recalibration.score_problem import Monotone
from robcal.calibration.recalibration.selection import (
    AVERAGE,
    FOLDS,
    KEEPING,
    METHODS,
    SCORE_TEMPERATURE,
    CandidateResult,
    Rows,
    average,
    choose,
    compare,
    cross_fit,
    drawn_folds,
    first_of,
    fold_order,
    refit,
)
from robcal.calibration.recalibration.stages import has_probmetrics
from robcal.calibration.temperature import TemperatureScaling, check_possible

#: Fewer examples than this are refused: five folds of them say nothing about a method.
LEAST_EXAMPLES = 50

#: `auto` tries class-wise methods up to this many logits (N Z), matrices up to this N Z², and compares on a sample of
#: at most `SAMPLE` logits; the method that is chosen is then fitted on all rows.
MOST_LOGITS, MOST_PRODUCTS, SAMPLE = 10_000_000, 50_000_000, 3_000_000

#: What to do with probabilities: zeros would be logits of -inf.
LOGARITHMS = "Pass their logarithms, `np.log(np.maximum(logits, 1e-30))` (robcal recalibrate takes the file by --probs)"

#: Version 1 had no `tail` in a score temperature.
_FORMAT, _VERSIONS = "robcal recalibrator", (1, 2)


class Recalibrator:
    """Fit a recalibration of logits on validation data: one temperature, one that depends on a score, or by class.

    `auto` cross-fits every method that applies, and `average`: their probabilities weighed by the cross-fitted
    likelihood of the average. `none`, `temperature` and `score-temperature` never change a prediction: the simplest of
    them is taken beside which the average's weights gain no more likelihood than chance gives them, else the average
    (docs/method.md, section 7.1).

    Args:
        method: "auto", "average", one of `METHODS`, or several of them to choose from; "A+score-temperature" fits the
            score temperature on cross-fitted outputs of A.
        score: name of the score. "margin", the default, is the largest logit minus the second largest and needs no
            `scores`; any other name stands for scores of your own (robustness distance, density, text length), which
            `fit` and `predict_proba` are then given.
        monotone: "increasing" or "decreasing" makes the temperature so in the score.
        seed: of the folds, of the sample of a large set, and of the simulation behind the intervals of the ECE.

    Attributes:
        method: what was asked for; after `fit` what was chosen.
        comparison: after `fit`, one `CandidateResult` a method, the simplest first, cross-fitted.
        notes: after `fit`, sentences on what was left out and why, and on what an average is made of.
        data: after `fit`, the `digest_of_data` of what it was fitted on.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = 3 * rng.normal(size=(2000, 3))
        >>> true = np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)  # the network is sure by a factor of 3
        >>> labels = (true.cumsum(1) > rng.random((2000, 1))).argmax(1)
        >>> recalibrator = Recalibrator().fit(logits, labels)
        >>> recalibrator.method, bool(abs(recalibrator.predict_proba(logits) - true).max() < 0.02)
        ('temperature', True)
    """

    method: str
    comparison: tuple[CandidateResult, ...]
    notes: tuple[str, ...]
    data: str
    _maps: tuple[Map, ...]
    _classes: int

    def __init__(
        self,
        method: str | Sequence[str] = "auto",
        *,
        score: str = "margin",
        monotone: Monotone | None = None,
        seed: int = 0,
    ) -> None:
        named = (method,) if isinstance(method, str) else tuple(method)
        self._asked = tuple(check_choice(one, ("auto", AVERAGE, *METHODS), "method") for one in named)
        self.method = method if isinstance(method, str) else " or ".join(named)
        self.score = score
        if monotone is not None:
            check_choice(monotone, ("increasing", "decreasing"), "monotone")
        self.monotone, self.seed = monotone, check_seed(seed)

    @property
    def maps(self) -> tuple[Map, ...]:
        """After `fit`: what is done to the logits, one after another."""
        return self._maps

    def fit(self, logits: Any, labels: Any, scores: Any = None) -> Recalibrator:
        """Fit on validation data that the network was not trained on.

        Args:
            logits: (N, Z) logits, N >= 50; -inf marks a class that is masked off, never the true one. For
                probabilities pass their logarithms.
            labels: (N,) integers in 0 … Z - 1.
            scores: (N,) scores of your own, +inf allowed; needed unless `score` is "margin".

        Returns:
            This object.

        Raises:
            InputError: on bad input, fewer than 50 examples, scores that are missing or not wanted, or a method that
                these data or this installation do not allow.
        """
        array, truth, values = self._checked(logits, labels, scores)
        automatic = "auto" in self._asked or AVERAGE in self._asked
        methods, self.notes = _candidates(array, truth) if automatic else (self._asked, ())
        true = array[np.arange(len(truth)), truth]
        self.data = digest_of_data(array, truth)
        order = fold_order(true, truth, values, lambda: row_keys(array))
        rows = Rows(array, truth, values, drawn_folds(order, folds=FOLDS, seed=self.seed))
        index = _sampled(order, array.shape[1], self.seed, SAMPLE)
        sample = rows if len(index) == len(truth) else rows.part(index)
        candidates = cross_fit(methods, sample, self.monotone)
        if automatic and set(methods) - set(KEEPING) and (averaged := average(candidates, sample)) is not None:
            candidates.append(averaged)
        number = choose(candidates, sample.labels, averaged=self._asked == (AVERAGE,))
        self.comparison = compare(candidates, sample, number, seed=self.seed)
        best = candidates[number]
        if len(sample.labels) < len(truth):
            self.notes += (f"Methods were compared on {len(sample.labels)} of {len(truth)} examples.",)
            best = refit(best, rows, self.monotone)
        self.method, self._maps, self._classes = best.method, best.maps, array.shape[1]
        self.notes += tuple(one.told() for one in self._maps if isinstance(one, Average))
        return self

    def predict_proba(self, logits: Any, scores: Any = None) -> FloatArray:
        """Return the recalibrated probabilities.

        Args:
            logits: (N, Z) logits of the same network.
            scores: (N,) scores, as in `fit`; not needed where the method that was chosen does not use them.

        Returns:
            (N, Z) float64, rows sum to 1.

        Raises:
            InputError: before `fit`, on another number of classes, on masked classes where the method mixes classes, or
                on missing scores.
        """
        self._check_fitted("predict_proba needs a fit")
        array = check_no_probs(logits, "a recalibrator", LOGARITHMS)
        check_same_rows(logits=logits, scores=scores)
        if array.shape[1] != self._classes:
            refuse(
                f"logits have {array.shape[1]} classes",
                f"the recalibrator was fitted on {self._classes}",
                "Pass logits of the network that it was fitted on",
            )
        maps = list(single(self._maps))
        for one in maps:
            if isinstance(one, (Affine, Isotonic)):
                _check_mixes(self.method, one.masked(array))
        uses = any(one.kind == SCORE_TEMPERATURE for one in maps)
        values = self._scores(array, scores) if uses or scores is not None else margins(array)
        return np.exp(apply(self._maps, array, values))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fitted recalibration as JSON: numbers only, nothing that runs when it is read.

        Raises:
            InputError: before `fit`, or if the file exists and `overwrite` is false.
        """
        self._check_fitted("only a fitted one can be saved")
        file = check_output(Path(path), overwrite=overwrite)
        contents = {
            "format": _FORMAT, "version": _VERSIONS[-1], "method": self.method, "score": self.score, "seed": self.seed,
            "monotone": self.monotone, "classes": self._classes, "data": self.data, "notes": self.notes,
            "comparison": plain(self.comparison),
            "maps": [stored(one) for one in self._maps],
        }  # fmt: skip
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(sealed(contents), allow_nan=False) + "\n", encoding="utf-8")
        return file

    def _check_fitted(self, allowed: str) -> None:
        if not hasattr(self, "_maps"):
            refuse("the recalibrator is not fitted", allowed, "Call fit on validation data first")

    def _checked(self, logits: Any, labels: Any, scores: Any) -> tuple[FloatArray, IntArray, FloatArray]:
        array = check_no_probs(logits, "a recalibrator", LOGARITHMS)
        truth = check_labels(labels, n=len(array), num_classes=array.shape[1])
        check_same_rows(logits=logits, labels=labels, scores=scores)
        if len(truth) < LEAST_EXAMPLES:
            refuse(
                f"{len(truth)} examples were given",
                f"a recalibration is fitted on at least {LEAST_EXAMPLES}, held out from training",
                "Collect more labelled examples; until then keep the network's own probabilities",
            )
        check_possible(array, truth)
        array -= array.max(axis=1, keepdims=True)
        masked = _mask(array, truth)
        for method in self._asked:
            if method not in ("auto", AVERAGE):
                _check_mixes(method, masked)
                if first_of(method) != "none" and len(np.unique(truth)) == 1:
                    fix = 'Pass labels of all classes, or choose "temperature" or "score-temperature"'
                    refuse(f"the labels hold class {truth[0]} only", f"{method} fits every class", fix)
        return array, truth, self._scores(array, scores)

    def _scores(self, logits: FloatArray, scores: Any) -> FloatArray:
        if self.score == "margin" and scores is None:
            return margins(logits)
        if scores is None:
            refuse(
                f"the score {self.score!r} is not given",
                'only the score "margin" is made from the logits',
                "Pass scores=, (N,) values of the same examples",
            )
        if self.score == "margin":
            refuse(
                'scores were given for the score "margin"',
                "the margin is made from the logits",
                'Name your score, for example Recalibrator(score="distance"), or leave scores out',
            )
        return check_scores(scores, n=len(logits))


@dataclass(frozen=True)
class CrossFitted:
    """What the best of several methods makes of rows that its fit did not see."""

    method: str  # its name
    rows: IntArray  # (M,) positions of the rows that were used, all of them unless there are too many
    log_probs: FloatArray  # (M, Z) log-probabilities


def cross_fitted(
    methods: Sequence[str], probs: ProbRows, labels: IntArray, scores: FloatArray | None, *, most: int, seed: int
) -> CrossFitted:
    """Cross-fit methods on rows of at most `most` logits, and return the outputs of the one that `auto` chooses."""
    true = probs.each(lambda block, truth: logits_of(block)[np.arange(len(block)), truth], labels)
    values = probs.each(lambda block, _: margins(logits_of(block)), labels) if scores is None else scores
    order = fold_order(
        true, labels, values, lambda: np.concatenate([row_keys(logits_of(block)) for _, block in probs.blocks()])
    )
    index, folds = _sampled(order, probs.num_classes, seed, most), drawn_folds(order, folds=FOLDS, seed=seed)
    rows = Rows(logits_of(probs.take(index)), labels[index], values[index], folds[index])
    candidates = cross_fit(methods, rows, None)
    best = candidates[choose(candidates, labels[index])]
    return CrossFitted(best.method, index, best.held)


def digest_of_data(logits: FloatArray, labels: IntArray) -> str:
    """Return a fitted recalibrator's `data`: a digest of the true logits below the largest of (N, Z) and of labels."""
    rows = np.arange(len(labels))
    array = np.asarray(logits, dtype=np.float64)
    true = array[rows, labels] - array.max(axis=1)
    return hashlib.sha256(true.tobytes() + np.asarray(labels, dtype=np.int64).tobytes()).hexdigest()


def load_recalibrator(path: str | Path) -> Recalibrator:
    """Read a file of `Recalibrator.save`.

    Raises:
        InputError: if it is no such file, or damaged.
    """
    file, rule = Path(path), f"a file of Recalibrator.save, version {_VERSIONS[-1]} or older, is expected"
    with reading(file, "the recalibrator", rule=rule, fix="Fit it again and save it"):
        found = unsealed(json.loads(file.read_text(encoding="utf-8")), file)
        if found["format"] != _FORMAT or found["version"] not in _VERSIONS:
            raise ValueError(f"format {found['format']!r}, version {found['version']!r}")
        loaded = Recalibrator(found["method"], score=found["score"], monotone=found["monotone"], seed=found["seed"])
        loaded.notes = tuple(str(note) for note in found["notes"])
        loaded.comparison = typed(tuple[CandidateResult, ...], found["comparison"])
        loaded._classes, loaded.data = int(found["classes"]), str(found["data"])
        loaded._maps = tuple(read_map(one) for one in found["maps"])
    return loaded


def _candidates(logits: FloatArray, labels: IntArray) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the methods that `auto` compares on these data, and why others are left out."""
    size, classes = logits.shape
    if logits.min() == -np.inf:
        return KEEPING, ("Methods that mix classes are left out: some classes are masked.",)
    if not logits[np.arange(size), labels].any():
        return KEEPING[:2], ("All methods but one temperature are left out: every example is right, so that the data "
                          "cannot tell where errors are.",)  # fmt: skip
    if len(np.unique(labels)) == 1:
        return KEEPING, ("Methods that mix classes are left out: the labels hold one class only.",)
    if size * classes > MOST_LOGITS:
        return KEEPING, ("Methods that mix classes are left out: the data are large; name one to have it fitted.",)
    methods, notes = [one for one in METHODS if first_of(one) != "isotonic" or one == "isotonic"], []
    if not has_probmetrics():
        methods = [one for one in methods if first_of(one) not in ("svs", "sms")]
        notes.append('svs and sms are left out: they need pip install "robcal[recalibration]".')
    if size * classes**2 > MOST_PRODUCTS:
        methods = [one for one in methods if first_of(one) not in ("dirichlet", "sms")]
        notes.append("dirichlet and sms are left out: there are many classes; name one to have it fitted.")
    return tuple(methods), tuple(notes)


def _mask(logits: FloatArray, labels: IntArray) -> npt.NDArray[np.bool_]:
    """Write -inf in place of logits, as -1e9, whose class has probability 0 after one temperature; return where."""
    if logits.min() >= IMPOSSIBLE:
        return np.zeros((1, 1), dtype=bool)
    true = logits[np.arange(len(labels)), labels]
    kept = true >= np.quantile(true, 0.01)  # -1e9 for a true class would decide the temperature
    temperature = TemperatureScaling().fit(logits[kept], labels[kept]).temperature
    masked = masks(logits, temperature)
    rows = np.flatnonzero(masked[np.arange(len(labels)), labels])
    if rows.size:
        refuse(
            f"the true class is masked in row {rows[0]} ({rows.size} rows): its logit is {-true[rows[0]]:.3g} below "
            "the largest, which is a probability of 0",
            "a masked class cannot be the true one",
            "Check that logits and labels are in the same order; if they are, leave these rows out: "
            "`np.asarray(logits)[np.arange(len(labels)), labels] > np.max(logits, axis=1) - "
            f"{-IMPOSSIBLE * max(temperature, 1):.3g}` tells those to keep, in every array",
        )
    logits[masked] = -np.inf
    return masked


def _check_mixes(method: str, masked: npt.NDArray[np.bool_]) -> None:
    if first_of(method) != "none" and masked.any():
        refuse(
            f"some classes are masked in row {int(masked.any(axis=1).argmax())}: logits of -inf, or so low that the "
            "probability is 0",
            f"{method} mixes the logits of all classes, none of which may be masked",
            'Choose "temperature" or "score-temperature"',
        )


def _sampled(order: IntArray, classes: int, seed: int, most: int) -> IntArray:
    """Return the positions of rows with at most `most` logits, drawn along an order of the rows."""
    size, most_rows = len(order), max(most // classes, FOLDS * LEAST_EXAMPLES)
    if size <= most_rows:
        return np.arange(size)
    return np.flatnonzero(drawn_folds(order, folds=-(-size // most_rows), seed=seed + 1) == 0)
