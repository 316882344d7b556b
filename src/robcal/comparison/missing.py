"""What a comparison lacks because tasks failed: which figures, of which label and seed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robcal.base.jobs import Failure
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


@dataclass(frozen=True)
class Missing:
    """Figures of one label at one seed that could not be measured.

    Attributes:
        label: of a method or ensemble.
        seed: evaluation seed.
        part: key of `PARTS`.
        task: what failed, in one line.
        reason: why, in one line.
    """

    label: str
    seed: int
    part: str
    task: str
    reason: str


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


def lacking(record: Mapping[str, Any], label: str, metric: str | None = None) -> tuple[int, ...]:
    """Seeds that a label lacks, of one outcome or of any.

    Args:
        record: what results.json holds; older ones lack nothing.
        label: of a method or ensemble.
        metric: an outcome; None: any figure.
    """
    found = {
        one["seed"]
        for one in record.get("missing", ())
        if one["label"] == label
        and (metric is None or one["part"] == "all" or metric.startswith(_OUTCOMES.get(one["part"], "-")))
    }
    return tuple(sorted(found))


def footnotes(record: Mapping[str, Any]) -> list[str]:
    """Return one line for each label, part and reason: which seeds are lacking, and why."""
    merged: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for one in record.get("missing", ()):
        merged.setdefault((one["label"], one["part"], one["reason"]), []).append((one["seed"], one["task"]))
    return [_footnote(*key, sorted(found)) for key, found in merged.items()]


def hard_labels(record: Mapping[str, Any], label: str) -> tuple[int, ...]:
    """Seeds at which a label was trained on hard labels, though its method smooths; older records tell none."""
    return tuple(seed for one in record["methods"] if one["label"] == label for seed in one.get("hard_seeds", ()))


def hard_label_notes(record: Mapping[str, Any]) -> list[str]:
    """Return one line a label whose labels stayed hard: at which seeds, and what that means."""
    lines = []
    for one in record["methods"]:
        if hard := hard_labels(record, one["label"]):
            seeds = (
                "at every seed"
                if len(hard) == len(one["seeds"])
                else f"at seed{'s' * (len(hard) > 1)} {', '.join(map(str, hard))}"
            )
            lines.append(f"{HARD} {one['label']}: labels stayed hard {seeds}: {REASON}.")
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
