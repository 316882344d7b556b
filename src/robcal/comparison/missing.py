"""What tasks that failed take from a comparison: which figures, of which label and seed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from robcal.base.jobs import Failure
from robcal.base.results import Missing
from robcal.comparison.tasks import Work


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


def _failed(parts: Mapping[str, Sequence[int]], ended: Sequence[Failure | None]) -> Iterator[tuple[str, Failure]]:
    """Return the parts of one entry that lack a task; if the run itself is lacking, that says all."""
    found = {
        part: failure
        for part, numbers in parts.items()
        if (failure := next((ended[number] for number in numbers if ended[number] is not None), None)) is not None
    }
    yield from [("all", found["all"])] if "all" in found else found.items()
