"""What results lack because tasks failed, in words: which figures, of which label and seed, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robcal.base.results import Missing, Results

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


def lacking(results: Results, label: str, metric: str | None = None) -> tuple[int, ...]:
    """Return the seeds that a label lacks, of one outcome or of any."""
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


def _footnote(label: str, part: str, reason: str, found: Sequence[tuple[int, str]]) -> str:
    seeds = ", ".join(dict.fromkeys(str(seed) for seed, _ in found))
    tasks = list(dict.fromkeys(task for _, task in found))
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    what = "" if part == "all" else f" {PARTS[part]} of"
    return (
        f"{MARK} {label} lacks{what} {'seeds' if ',' in seeds else 'seed'} {seeds}: {tasks[0]}{more} failed: {reason}"
    )
