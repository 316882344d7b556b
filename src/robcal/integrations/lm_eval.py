"""lm-evaluation-harness: the answers to multiple-choice tasks, as `lm_eval --log_samples` writes them, to be audited.

A language model says how likely each choice is as a continuation of the question; which choice it predicts is the
harness's `acc` or `acc_norm`, and the probabilities here are made of the same numbers:

    acc        p = softmax(log-likelihoods of the choices)
    acc_norm   p = softmax(log-likelihoods / number of characters of each choice)

`acc` is what the harness itself calls probabilities (its Brier score). Of `acc_norm` the harness takes the largest
only; as probabilities these are a choice, and far from sharp. Files of versions 0.4.0 to 0.4.12 are read, as text and
nothing else. The package is not needed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, IntArray, check_choice, check_logits, is_there, refuse
from robcal.base.files import reading
from robcal.base.special import softmax
from robcal.base.types import LmEvalMetric
from robcal.calibration.recalibration.maps import margins

__all__ = ["Answers", "read_answers"]

_RULE = "samples of lm-evaluation-harness are JSON objects, one a line"
_FIX = "Pass a file samples_TASK_DATE.jsonl of lm_eval --log_samples, of a multiple-choice task"
_FILTERED = re.compile(r"(?P<file>.+\.jsonl?):(?P<filter>[^/]+)")


@dataclass(frozen=True)
class Answers:
    """What a language model said to N questions with at most Z choices."""

    probs: FloatArray  #: (N, Z) probabilities of the choices, in their order; 0 where a question has fewer
    labels: IntArray  #: (N,) int64, the right choice
    margins: FloatArray  #: (N,) difference of the two largest numbers that the probabilities are the softmax of
    tasks: npt.NDArray[np.str_]  #: (N,) str, the task of each question, by the name of its file


@dataclass(frozen=True)
class _Sample:
    """A question as logged; `acc` and `acc_norm` are None where the task has no such metric of 0 or 1."""

    doc_id: Any
    filter: str
    target: Any
    likelihoods: FloatArray
    choices: tuple[str, ...]
    acc: bool | None
    acc_norm: bool | None


def read_answers(*paths: Path, metric: LmEvalMetric = "acc") -> Answers:
    """Read what a language model said to multiple-choice tasks.

    Args:
        paths: files samples_TASK_DATE.jsonl, one a task; of one with several filters FILE:FILTER.
        metric: of the harness, whose predictions these are; see the module's docstring.

    Raises:
        InputError: if a file is missing, damaged or of another kind of task, holds several tasks or filters, or what it
            says of right and wrong does not follow from its targets and likelihoods.
    """
    check_choice(metric, get_args(LmEvalMetric), "metric")
    values, labels, tasks = [], [], []
    for path in paths:
        file, name = _chosen(Path(path))
        samples = _one_task(_samples(file), file, name)
        labels += _labels(samples, file)
        scaled = [_scaled(sample, metric, file) for sample in samples]
        _check_norm(samples, labels[-len(samples) :], scaled, metric, file)
        values += scaled
        tasks += [_task(file)] * len(samples)
    logits = np.full((len(values), max([2, *map(len, values)])), -np.inf)
    for row, one in zip(logits, values, strict=True):
        row[: len(one)] = one
    logits = check_logits(logits, name="the log-likelihoods")
    return Answers(softmax(logits), np.array(labels), margins(logits), np.array(tasks))


def _chosen(path: Path) -> tuple[Path, str | None]:
    found = _FILTERED.fullmatch(str(path))
    if found is None or is_there(path):
        return path, None
    return Path(found["file"]), found["filter"]


def _task(file: Path) -> str:
    """Return the task by the name of its file, samples_TASK_2026-01-31T10-11-12.131415.jsonl."""
    return re.sub(r"_\d{4}-\d\d-\d\dT[\d.-]+$", "", file.stem).removeprefix("samples_")


def _samples(file: Path) -> list[_Sample]:
    with reading(file, "the samples", rule=_RULE, fix=_FIX):
        rows = list(_rows(file.read_text(encoding="utf-8")))
    samples = []
    for number, row in enumerate(rows, 1):
        try:
            samples.append(_sample(row))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            refuse(
                f"sample {number} of {file} has no log-likelihoods of choices",
                "in a multiple-choice task filtered_resps holds a pair for every choice, [log-likelihood, is_greedy]",
                f"{_FIX}; of a task that generates text pass --confidence and --correct, made by yourself",
            )
    if not samples:
        refuse(f"{file} holds no samples", _RULE, _FIX)
    return samples


def _rows(text: str) -> Iterator[Any]:
    """Yield the objects of a file: one a line, or all in one list, as version 0.4.0 wrote them."""
    if text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _sample(row: Any) -> _Sample:
    responses = row["filtered_resps"] if "filtered_resps" in row else [one for (one,) in row["resps"]]
    likelihoods = [float(value) for value, _ in responses]
    arguments = row.get("arguments") or {}
    given = arguments.values() if isinstance(arguments, dict) else arguments
    asked = [tuple(one.values() if isinstance(one, dict) else one)[:2] for one in given]
    conditional = [number for number, (context, _) in enumerate(asked) if context] or range(len(likelihoods))
    likelihoods = [likelihoods[number] for number in conditional]  # acc_mutual_info asks without the question, too
    choices = tuple(str(asked[number][1]) for number in conditional) if asked else ()
    if len(likelihoods) < 2 or np.isnan(likelihoods).any():
        raise ValueError
    return _Sample(
        row.get("doc_id"), str(row.get("filter", "")), row["target"], np.array(likelihoods), choices,
        _flag(row.get("acc")), _flag(row.get("acc_norm")),
    )  # fmt: skip


def _flag(value: Any) -> bool | None:
    return bool(value) if value in (0, 1) else None


def _one_task(samples: list[_Sample], file: Path, name: str | None) -> list[_Sample]:
    """Return the samples of one filter, each question once."""
    filters = sorted({sample.filter for sample in samples})
    if name is None and len(filters) > 1:
        refuse(
            f"{file} has the filters {', '.join(filters)}",
            "each gives an answer to the same questions",
            f"Name one of them: {file}:{filters[0]}",
        )
    if name is not None and name not in filters:
        refuse(f"{file} has no filter {name}", f"it has {', '.join(filters)}", f"Name one: {file}:{filters[0]}")
    kept = [sample for sample in samples if name in (None, sample.filter)]
    twice = next((key for key, count in Counter(str(one.doc_id) for one in kept).items() if count > 1), None)
    if twice not in (None, "None"):
        refuse(
            f"{file} has question {twice} several times",
            "a file holds one task, and each of its questions once",
            "Pass the files as the harness wrote them, each by an --lm-eval of its own",
        )
    return kept


def _scaled(sample: _Sample, metric: LmEvalMetric, file: Path) -> FloatArray:
    """Return the numbers whose largest is the prediction of the metric."""
    if metric == "acc":
        return sample.likelihoods
    lengths = _lengths(sample.choices)
    if len(set(sample.choices)) < 2 or not all(lengths):
        refuse(
            f"the choices of question {sample.doc_id} of {file} have no length of their own in the log",
            "acc_norm divides by the characters of each choice, which are read in arguments",
            "Pass --lm-eval-metric acc",
        )
    normed: FloatArray = sample.likelihoods / np.array(lengths, dtype=np.float64)
    return normed


def _lengths(choices: Sequence[str]) -> list[int]:
    """Return the characters of the choices, without the blank that the harness puts between question and choice."""
    blank = all(choice.startswith(" ") for choice in choices)
    return [len(choice) - blank for choice in choices]


def _index(sample: _Sample) -> int | None:
    """Return the target as the number of the choice."""
    text = str(sample.target).strip()
    return int(text) if text.isdecimal() and int(text) < len(sample.likelihoods) else None


def _by_text(sample: _Sample) -> int | None:
    """Return the target as the text of the choice."""
    texts = [choice.strip() for choice in sample.choices]
    text = str(sample.target).strip()
    return texts.index(text) if texts.count(text) == 1 else None


def _by_accuracy(sample: _Sample) -> int | None:
    """Return the choice that the harness counts as right, where it says only whether the prediction is."""
    predicted = int(sample.likelihoods.argmax())
    if sample.acc is None or str(sample.target).startswith("["):
        return None
    if sample.acc:
        return predicted
    return 1 - predicted if len(sample.likelihoods) == 2 else None


#: How a target says which choice is right; in a file all do it in one way.
_READINGS: tuple[Callable[[_Sample], int | None], ...] = (_index, _by_text, _by_accuracy)


def _labels(samples: list[_Sample], file: Path) -> list[int]:
    """Return the right choice of each sample, by the readings of the targets that agree with the logged accuracy.

    Where choices are digits, the log may state too little to tell a number from a text: such a file is refused.
    """
    likelihoods = [one.likelihoods for one in samples]
    read_each = ([read(sample) for sample in samples] for read in _READINGS)
    whole = [[label for label in found if label is not None] for found in read_each]
    possible = [
        labels for labels in whole if len(labels) == len(samples) and _agree(samples, labels, "acc", likelihoods)
    ]
    if possible and all(labels == possible[0] for labels in possible):
        return possible[0]
    if possible:
        doubted = [one for one, *labels in zip(samples, *possible, strict=True) if len(set(labels)) > 1]
    else:
        doubted = [one for one in samples if _index(one) is None and _by_text(one) is None] or samples
    refuse(
        f"the targets of {file} do not say which choice is right: that of question {doubted[0].doc_id} is "
        f"{doubted[0].target!r}" + (", the number of one choice and the text of another" if possible else ""),
        "a target is the number or the text of one choice, and agrees with the accuracy in the log",
        "Tasks with several right choices have no true class; audit what is right by --confidence and --correct, made "
        "by yourself",
    )


def _agree(samples: list[_Sample], labels: Sequence[int], metric: LmEvalMetric, values: Sequence[FloatArray]) -> bool:
    """Tell whether predictions and labels give the accuracy that the log states, wherever it states one."""
    stated = [getattr(sample, metric) for sample in samples]
    return all(
        said is None or said == (int(one.argmax()) == label)
        for said, one, label in zip(stated, values, labels, strict=True)
    )


def _check_norm(
    samples: list[_Sample], labels: Sequence[int], values: Sequence[FloatArray], metric: LmEvalMetric, file: Path
) -> None:
    if metric == "acc_norm" and not _agree(samples, labels, metric, values):
        refuse(
            f"the acc_norm in {file} is not that of its log-likelihoods by the length of the choices",
            "the task measures the length in a way of its own",
            "Pass --lm-eval-metric acc",
        )
