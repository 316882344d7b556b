"""Audit of any model on a split of a data set: it predicts, and levels are cut by its margin or by scores at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robcal.base.checks import check_probs, refuse
from robcal.base.distributed import choose_device
from robcal.base.progress import SILENT, Reporter
from robcal.base.types import Outputs
from robcal.calibration.recalibration.maps import margins
from robcal.data import Dataset
from robcal.results.audit import Audit, audit, read_beside
from robcal.robustness.probe import are_probabilities
from robcal.runs.scores import moved
from robcal.training.predict import predict_logits, softmax

#: What tables call the margin of a model.
MARGIN = "logit margin"


def audit_model(
    network: nn.Module,
    dataset: Dataset,
    split: str = "test",
    *,
    outputs: Outputs = "logits",
    scores: Path | None = None,
    column: str | None = None,
    score_name: str | None = None,
    groups: Path | None = None,
    device: str | None = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> Audit:
    """Audit a model on a split (see `robcal.audit`).

    Args:
        network: inputs (B, …) in input units → outputs (B, Z).
        dataset: the data.
        split: "train", "val" or "test".
        outputs: what the model returns: "logits", or "probs" (rows sum to 1).
        scores: a file of scores, as of `robcal.results.audit.audit_files`; default: the model's own margin, the largest
            logit minus the second largest, of probabilities the difference of their logarithms.
        column: of a table of scores.
        score_name: what tables call the scores.
        groups: a file of a grouping.
        device: where the model runs; None takes a GPU where there is one.
        reporter: shows progress.
        options: of `robcal.audit`.

    Raises:
        InputError: if the outputs are not what `outputs` says, or on bad files.
    """
    part, place = dataset.split(split), choose_device(device)
    with moved(network, place):
        values = predict_logits(network, part, device=place, reporter=reporter)
    beside = read_beside(scores, column, score_name, groups)
    if outputs == "probs":
        probs = np.asarray(check_probs(values, name="the model's outputs"), dtype=np.float64)
        logits = np.log(np.maximum(probs, np.finfo(np.float32).tiny)).astype(np.float32)
    else:
        if are_probabilities(torch.from_numpy(values)):
            refuse(
                f"the model returns probabilities: all {len(values)} rows lie in [0, 1] and sum to 1",
                "logits are expected unless you say otherwise",
                "Pass --outputs probs",
            )
        probs, logits = softmax(values), values
    if scores is None:
        beside |= {"scores": margins(logits), "score_name": MARGIN}
    return audit(probs, part.labels, **beside, title=f"Calibration on {dataset.name}, {split} split", **options)
