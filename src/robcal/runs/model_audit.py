"""Audit of a run, or of any model on a split of a data set: what needs torch.

A run's levels are cut by its robustness, those of another model by its margin or by scores at hand.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robcal.base.checks import IntArray, check_probs, refuse
from robcal.base.distributed import choose_device
from robcal.base.progress import SILENT, Reporter
from robcal.base.types import ROBUSTNESS, Float32Array, Outputs
from robcal.calibration.recalibration.maps import margins
from robcal.data import Dataset, Split
from robcal.robustness.probe import are_probabilities, differing_rows
from robcal.runs.audit import Audit, audit
from robcal.runs.directory import open_run
from robcal.runs.gallery import gallery, model_gallery
from robcal.runs.hard_labels import hard_label_remarks
from robcal.runs.measure import measure_run
from robcal.runs.scores import moved
from robcal.training.predict import predict_logits, softmax

#: What tables call the margin of a model.
MARGIN = "logit margin"
#: A model is asked again about so many inputs. Between the same batches the gap of the two largest outputs may differ
#: by `_TWICE` of its median, between a large and a small batch, which half precision rounds otherwise, by `_ALONE`.
_ASKED, _TWICE, _ALONE = 16, 1e-4, 0.1


def audit_run(directory: Path, *, reporter: Reporter = SILENT, **options: Any) -> Audit:
    """Audit a finished run's test split, by the robustness of its own model, which is scored if it was not yet."""
    run = measure_run(open_run(directory), shift=False, reporter=reporter)
    title = f"{run.title} on {run.dataset['name']}, seed {run.seed}"
    made = audit(run.probs, run.labels, scores=run.distance, score_name=ROBUSTNESS, title=title, **options)
    shown, remarks = gallery(run, _levels_of(made)), hard_label_remarks({run.seed: run.history})
    known: dict[str, Any] = {"name": run.name, "title": run.title, "history": tuple(run.history), "remarks": remarks}
    method = dataclasses.replace(made.results.methods[0], gallery=shown, **known)
    trusted = open_run(directory).fidelity()
    results = dataclasses.replace(made.results, dataset=run.dataset, methods=(method,), fidelity=trusted)
    return Audit(results, made.examples)


def _levels_of(made: Audit) -> IntArray:
    """Return the levels of an audit with scores."""
    assert made.examples is not None
    assert made.examples.level is not None
    return made.examples.level


def audit_model(
    network: nn.Module,
    dataset: Dataset,
    split: str = "test",
    *,
    outputs: Outputs = "logits",
    device: str | None = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> Audit:
    """Audit a model, inputs (B, …) in input units → outputs (B, Z), on a split; options are those of `robcal.audit`.

    Outputs are "logits", or "probs", rows of which sum to 1. Without scores, levels are cut by the model's own margin,
    the largest logit minus the second largest, of probabilities the difference of their logarithms.
    """
    part, place = dataset.split(split), choose_device(device)
    with moved(network, place):
        values = predict_logits(network, part, device=place, reporter=reporter)
        _refuse_other_answers(network, part, values, place)
    if outputs == "probs":
        probs = np.asarray(check_probs(values, name="the model's outputs"), dtype=np.float64)
        logits = np.log(np.maximum(probs, np.finfo(np.float32).tiny)).astype(np.float32)
    else:
        if are_probabilities(torch.from_numpy(values)):
            given = f"the model returns probabilities: all {len(values)} rows lie in [0, 1] and sum to 1"
            refuse(given, "logits are expected unless you say otherwise", "Pass --outputs probs")
        probs, logits = softmax(values), values
    if options.get("scores") is None:
        options |= {"scores": margins(logits), "score_name": MARGIN}
    made = audit(probs, part.labels, title=f"Calibration on {dataset.name}, {split} split", **options)
    if dataset.kind != "image":
        return made
    shown = model_gallery(network, part, probs, _levels_of(made), dataset.class_names, device=place)
    method = dataclasses.replace(made.results.methods[0], gallery=shown)
    return Audit(dataclasses.replace(made.results, methods=(method,)), made.examples)


def _refuse_other_answers(network: nn.Module, split: Split, values: Float32Array, device: str) -> None:
    """Refuse a model whose outputs (N, Z) of an input are noise, or depend on the batch that it stands in."""
    index = np.arange(min(_ASKED, -(-len(values) // 2)))
    again, once_more = (torch.from_numpy(predict_logits(network, split, device=device, index=index)) for _ in range(2))
    fix = (
        "Export it in eval mode, model.eval(), or take dropout, noise and statistics of the batch out of its forward; "
        "to audit the mean of several draws, average their probabilities and pass --probs"
    )
    if noisy := differing_rows(again, once_more, share=_TWICE):
        given = f"the model gives other outputs for {noisy} of {len(index)} inputs when it is asked again"
        refuse(given, "an audit is of what a model predicts, which must be the same each time", fix)
    if coupled := differing_rows(torch.from_numpy(values[index]), again, share=_ALONE):
        given = f"the model's outputs for {coupled} of {len(index)} inputs depend on the other inputs of the batch"
        refuse(given, "an audit is of what a model predicts for an input alone", fix)
