"""Say whether the smoothing ever acted: a run whose labels stayed hard is one without it, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robcal.base.types import EpochRow

#: Why, and what it means.
REASON = "no level was found over-confident on validation data, so nothing was smoothed"


def labels_stayed_hard(history: Sequence[EpochRow]) -> bool:
    """Return whether a method that smooths per level trained every epoch on hard labels; False for other methods.

    The smoothing of an epoch's row is used in the next epoch, so that of the last row never was.

    >>> rows = [EpochRow(number, 0.5, 0.9, 0.3, 0.1, epsilon=(0.0, 0.2)) for number in (1, 2)]
    >>> labels_stayed_hard(rows), labels_stayed_hard(rows[1:])
    (False, True)
    """
    smooths = any(row.epsilon for row in history)
    return smooths and not any(epsilon for row in history[:-1] for epsilon in row.epsilon)


def hard_label_remarks(histories: Mapping[int, Sequence[EpochRow]]) -> tuple[str, ...]:
    """Return what a reader must know of a method's runs, by seed: a sentence if any of them kept hard labels."""
    hard = [seed for seed, history in histories.items() if labels_stayed_hard(history)]
    return remarks_on(hard, tuple(histories))


def remarks_on(hard: Sequence[int], seeds: Sequence[int]) -> tuple[str, ...]:
    """Return the same, for the seeds at which labels stayed hard among all."""
    if not hard:
        return ()
    where = f" at seed{'s' if len(hard) > 1 else ''} {', '.join(map(str, hard))}" if len(hard) < len(seeds) else ""
    return (f"labels stayed hard{where}: {REASON}{' there' if where else ''}",)
