"""What a comparison lacks because tasks failed: which figures, of which label and seed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from robcal.base.jobs import Failure
from robcal.base.types import MethodResult, Missing, Results
from robcal.comparison.tasks import Work
from robcal.runs.hard_labels import REASON

#: What an entry may lack → what people call it; "all" is the run itself, and with it every figure.
PARTS: Mapping[str, str] = {
    "all": "everything",
    "levels": "robustness levels",
    "shift": "shift",
    "ood": "out-of-distribution inputs",
    "inference": "inference time",
}
#: Beginnings of the outcomes that belong to a part.
_OUTCOMES = {"levels": "level_", "shift": "shift_", "ood": "ood_"}
#: Stands behind a label that lacks seeds; plain text has an exclamation mark in its place.
MARK = "†"
#: Stands behind a label some of whose runs kept hard labels; plain text has a number sign in its place.
HARD = "‡"


def missing_parts(work: Work, ended: Sequence[Failure | None]) -> list[Missing]:
    """Return what the tasks that failed or were skipped take from the entries.

    Args:
        work: the tasks.
        ended: for each task its failure, or None.
    """
    return [
        Missing(label, seed, part, work.tasks[failure.cause].describe(), failure.reason)
        for (label, seed), parts in work.parts.items()
        for part, failure in _failed(parts, ended)
    ]


def failure_line(work: Work, number: int, failure: Failure) -> str:
    """Return one line on a task that failed, and how many others cannot be done without it."""
    lost = {number}
    for other, needs in enumerate(work.needs):
        if lost & set(needs):
            lost.add(other)
    skipped = f" ({len(lost) - 1} tasks that need it are skipped)" if len(lost) > 1 else ""
    return f"failed: {work.tasks[number].describe()}: {failure.reason}{skipped}"


def lacking(results: Results, label: str, metric: str | None = None) -> tuple[int, ...]:
    """Return the seeds that a label lacks, of one outcome or of any.

    Args:
        results: of a comparison.
        label: of a method or ensemble.
        metric: an outcome; None: any figure.
    """
    found = {
        one.seed
        for one in missing_of(results)
        if one.label == label
        and (metric is None or one.part == "all" or metric.startswith(_OUTCOMES.get(one.part, "-")))
    }
    return tuple(sorted(found))


def missing_of(results: Results) -> tuple[Missing, ...]:
    """Return what could not be measured."""
    return () if results.study is None else results.study.missing


def footnotes(results: Results) -> list[str]:
    """Return one line for each label, part and reason: which seeds are lacking, and why."""
    merged: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for one in missing_of(results):
        merged.setdefault((one.label, one.part, one.reason), []).append((one.seed, one.task))
    return [_footnote(*key, sorted(found)) for key, found in merged.items()]


def hard_labels(method: MethodResult) -> tuple[int, ...]:
    """Return the seeds at which a label was trained on hard labels, though its method smooths."""
    return () if method.training is None else method.training.hard_seeds


def hard_label_notes(results: Results) -> list[str]:
    """Return one line a label whose labels stayed hard: at which seeds, and what that means."""
    lines = []
    for one in results.methods:
        if hard := hard_labels(one):
            seeds = (
                "at every seed"
                if len(hard) == len(one.seeds)
                else f"at seed{'s' * (len(hard) > 1)} {', '.join(map(str, hard))}"
            )
            lines.append(f"{HARD} {one.title}: labels stayed hard {seeds}: {REASON}.")
    return lines


def _footnote(label: str, part: str, reason: str, found: Sequence[tuple[int, str]]) -> str:
    seeds = ", ".join(dict.fromkeys(str(seed) for seed, _ in found))
    tasks = list(dict.fromkeys(task for _, task in found))
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    what = "" if part == "all" else f" {PARTS[part]} of"
    return (
        f"{MARK} {label} lacks{what} {'seeds' if ',' in seeds else 'seed'} {seeds}: {tasks[0]}{more} failed: {reason}"
    )


def _failed(parts: Mapping[str, Sequence[int]], ended: Sequence[Failure | None]) -> Iterator[tuple[str, Failure]]:
    """Parts of one entry that lack a task; if the run itself is lacking, that says all."""
    found = {
        part: failure
        for part, numbers in parts.items()
        if (failure := next((ended[number] for number in numbers if ended[number] is not None), None)) is not None
    }
    yield from [("all", found["all"])] if "all" in found else found.items()
