"""Advice about samples of lm-evaluation-harness, carried out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from hint_cases import Case, Steps, robcal
from lm_eval_files import sample, task, write

from robcal.integrations.lm_eval import read_answers

Rows = list[dict]
OPTIONS = ("--levels", 2, "--resamples", 20, "--quiet")


def _read(rows: Rows, right: Callable[[Path, str], object]) -> Callable[[Path], Steps]:
    """A file of samples that is refused by the command, and what the advice makes of it."""

    def steps(folder: Path) -> Steps:
        file = write(folder / "samples_x.jsonl", rows)
        message = yield robcal("audit", "--lm-eval", file, *OPTIONS)
        yield lambda: right(file, message)

    return steps


def _of_another_task(file: Path, _: str) -> None:
    other = write(file.with_name("samples_choice_2026-01-31T10-11-12.1.jsonl"), task(40))
    robcal("audit", "--lm-eval", other, *OPTIONS)()


def _by_hand(file: Path, _: str) -> None:
    np.save(file.with_name("c.npy"), np.linspace(0.1, 0.9, 40))
    np.save(file.with_name("r.npy"), np.arange(40) % 2)
    robcal("audit", "--confidence", file.with_name("c.npy"), "--correct", file.with_name("r.npy"), *OPTIONS[2:])()


def _named(file: Path, message: str) -> None:
    robcal("audit", "--lm-eval", message.rpartition(": ")[2].rstrip("."), *OPTIONS)()


def _no_such_filter(folder: Path) -> Steps:
    file = write(folder / "samples_x.jsonl", task(40))
    message = yield lambda: read_answers(Path(f"{file}:strict"))
    yield lambda: read_answers(Path(message.rpartition(": ")[2].rstrip(".")))


def _by_acc(rows: Rows) -> Callable[[Path], Steps]:
    """Samples of which --lm-eval-metric acc_norm says nothing."""

    def steps(folder: Path) -> Steps:
        file = write(folder / "samples_x.jsonl", rows)
        message = yield robcal("audit", "--lm-eval", file, "--lm-eval-metric", "acc_norm", *OPTIONS)
        yield robcal("audit", "--lm-eval", file, *message.rpartition("Pass ")[2].rstrip(".").split(), *OPTIONS)

    return steps


def _each_by_itself(file: Path, _: str) -> None:
    parts = [write(file.with_name(f"samples_{name}.jsonl"), task(40, seed)) for seed, name in enumerate("ab")]
    robcal("audit", *(word for part in parts for word in ("--lm-eval", part)), *OPTIONS)()


def _together(*words: str, without: str) -> Callable[[Path], Steps]:
    def steps(folder: Path) -> Steps:
        file = write(folder / "samples_x.jsonl", task(40))
        np.save(folder / "y.npy", np.zeros(40, int))
        given = [folder / word if "." in word else word for word in words]
        yield robcal("audit", "--lm-eval", file, *given, *OPTIONS)
        yield robcal("audit", "--lm-eval", file, *OPTIONS)

    assert without in words
    return steps


def _metric_alone(folder: Path) -> Steps:
    np.save(folder / "p.npy", np.full((40, 2), 0.5))
    np.save(folder / "y.npy", np.arange(40) % 2)
    predictions = ("--probs", folder / "p.npy", "--labels", folder / "y.npy", *OPTIONS[2:])
    yield robcal("audit", *predictions, "--lm-eval-metric", "acc")
    yield robcal("audit", *predictions)


WORDS = [{"doc_id": 0, "target": "18", "filtered_resps": ["18"], "acc": 1.0}]
SEVERAL = [sample(k, [-1.0, -2.0, -3.0], "[0, 2]", right=0) for k in range(40)]
SAME = [{**row, "arguments": {}} for row in task(40)]

CASES = [
    Case("a damaged file", r"Pass a file samples_TASK_DATE\.jsonl", _read([], _of_another_task)),
    Case("a task that generates text", "pass --confidence and --correct, made by yourself", _read(WORDS, _by_hand)),
    Case("several right choices", "audit what is right by --confidence and --correct", _read(SEVERAL, _by_hand)),
    Case("several filters", "Name one of them", _read([*task(40, filter="a"), *task(40, filter="b")], _named)),
    Case("a filter that is not there", "Name one: .*:none", _no_such_filter),
    Case("several tasks in one file", "each by an --lm-eval of its own", _read(task(40) + task(40), _each_by_itself)),
    Case("choices without length", "Pass --lm-eval-metric acc", _by_acc(SAME)),
    Case("a length of its own", "Pass --lm-eval-metric acc", _by_acc([
        {**row, "acc_norm": 1 - row["acc_norm"]} for row in task(40)
    ])),
    Case("labels beside samples", "Leave them out", _together("--labels", "y.npy", without="--labels")),
    Case("a metric without samples", "or use --lm-eval", _metric_alone),
]  # fmt: skip
