"""What the fold-out of the report shows of every label: reliability, levels, courses of training, images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robcal.base.progress import SILENT, Reporter
from robcal.base.types import Results
from robcal.comparison.doing import dataset_of, plain_scores, scored_index
from robcal.comparison.missing import Missing
from robcal.comparison.outcomes import gather
from robcal.comparison.tasks import Entry, Work
from robcal.results.collect import collect
from robcal.runs.directory import open_run
from robcal.runs.measure import Measured
from robcal.training.predict import softmax


def report_results(work: Work, missing: Sequence[Missing] = (), *, reporter: Reporter = SILENT) -> Results | None:
    """Return what the details of the report show: every label as a method, without temperature scaling.

    Labels and seeds that lack something are left out, and what shares no seed with the first label that is left.
    """
    plan, lost = work.plan, {(one.label, one.seed) for one in missing if one.part != "inference"}
    data = dataset_of(plan.plain(plan.seeds[0]))
    test = data.split("test")
    images = test.inputs if data.kind == "image" else None
    by_label = {label: [entry for entry in work.entries if entry.label == label] for label in plan.labels}
    whole = {label: [e for e in entries if (label, e.seed) not in lost] for label, entries in by_label.items()}
    first = next((label for label, entries in whole.items() if entries), None)
    if first is None:
        return None
    seeds = {entry.seed for entry in whole[first]}
    shown = [entries for entries in whole.values() if seeds & {entry.seed for entry in entries}]
    measured = [_measured(work, entry, images, first) for entries in shown for entry in entries]
    return collect(measured, title=plan.title, reporter=reporter)


def _measured(work: Work, entry: Entry, images: Any, first: str) -> Measured:
    """An entry as the report takes it; the first label's runs bring the robustness of the test examples."""
    plan, place = work.plan, work.place
    evidence = gather(entry, place, work.shift)
    run = open_run(place.of(entry.members[0].settings()))
    plain, distance, index = work.plain.get(entry.seed), None, None
    if plain is not None:
        scores = plain_scores(plain, place, plan.score_limit)
        index = scored_index(plain.settings(), plan.score_limit)
        distance = scores.distance if entry.label == first else None
    return Measured(
        directory=run.directory,
        settings=run.settings,
        dataset=run.record["dataset"],
        probs=softmax(evidence.test).astype(np.float32),
        labels=evidence.test_labels,
        distance=distance,
        shift=None if evidence.shift is None else evidence.shift.summary(),
        history=run.history() if len(entry.members) == 1 else (),
        images=images,
        label=entry.label,
        scored=index,
    )
