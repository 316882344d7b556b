"""What the predictions of every label show beside its outcomes: bins, levels, course of training, images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robcal.base.types import MethodResult, Missing
from robcal.comparison.doing import dataset_of, plain_scores, scored_index
from robcal.comparison.outcomes import Job, gather, levels_of
from robcal.comparison.tasks import Entry, Work
from robcal.results.collect import looked_into
from robcal.runs.directory import open_run
from robcal.runs.measure import Measured
from robcal.training.predict import softmax


def details_of(work: Work, label: str, missing: Sequence[Missing], *, first: bool) -> MethodResult:
    """Return what the runs of a label show, without temperature scaling; seeds that lack something are left out.

    Args:
        work: the tasks, done.
        label: of a method or ensemble.
        missing: what could not be measured.
        first: whether it shows the robustness of the test examples, for the plain model, which is the same for all.
    """
    lost = {one.seed for one in missing if one.label == label and one.part != "inference"}
    entries = [entry for entry in work.entries if entry.label == label and entry.seed not in lost]
    if not entries:
        return MethodResult(label, label)
    data = dataset_of(work.plan.plain(work.plan.seeds[0]))
    images = data.split("test").inputs if data.kind == "image" else None
    cuts = {
        entry.seed: levels_of(Job(entry, work.place, work.plain.get(entry.seed), None, work.plan.score_limit))
        for entry in entries
    }
    levels = {seed: level for seed, (level, _) in cuts.items() if level is not None}
    return looked_into([_measured(work, entry, images, first=first) for entry in entries], levels)


def _measured(work: Work, entry: Entry, images: Any, *, first: bool) -> Measured:
    """An entry as a report takes it."""
    plan, place = work.plan, work.place
    evidence, run = gather(entry, place, None), open_run(place.of(entry.members[0].settings()))
    plain, distance, index = work.plain.get(entry.seed), None, None
    if plain is not None:
        index = scored_index(plain.settings(), plan.score_limit)
        distance = plain_scores(plain, place, plan.score_limit).distance if first else None
    return Measured(
        directory=run.directory,
        settings=run.settings,
        dataset=run.record["dataset"],
        probs=softmax(evidence.test).astype(np.float32),
        labels=evidence.test_labels,
        distance=distance,
        shift=None,
        history=run.history() if len(entry.members) == 1 else (),
        images=images,
        label=entry.label,
        scored=index,
        networks=tuple(open_run(place.of(choice.settings())).directory for choice in entry.members),
    )
