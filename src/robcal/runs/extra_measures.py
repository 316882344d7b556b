"""What else is measured of a finished run: its logits of out-of-distribution inputs, and the seconds of predicting.

Both are kept in the run directory: DIR/ood-DIGEST.safetensors, one a set of inputs, and DIR/inference.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from robcal.base.files import reading
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of, kept_arrays, load_json, save_arrays, save_json
from robcal.base.types import Float32Array
from robcal.data import Split
from robcal.runs.directory import Run
from robcal.training.predict import average_logits, predict_logits

#: Opens the networks that predict, and says which device they are on; not called where the answer is on disk.
Networks = Callable[[], tuple[Sequence[nn.Module], str]]

#: Passes over the test split are repeated until they took so many seconds, at most `MOST_PASSES` times.
ENOUGH_SECONDS = 2.0
MOST_PASSES = 3


def measure_outside(
    run: Run,
    networks: Networks,
    split: Split,
    digest: str,
    *,
    reporter: Reporter = SILENT,
) -> Float32Array:
    """Predict logits (M, Z) of a run on inputs of another data set; they are read back if they were computed before.

    The probabilities of several networks are averaged: the logits are then their logarithms.
    """
    key = digest_of({"model": run.model_digest, "data": digest})
    file = run.directory / f"ood-{digest}.safetensors"
    if (arrays := kept_arrays(file, key, "the logits")) is not None:
        return np.asarray(arrays["logits"])
    models, device = networks()
    parts = [
        predict_logits(one, split, device=device, reporter=reporter, description=f"ood {run.settings.method}")
        for one in models
    ]
    logits = average_logits(parts)
    save_arrays({"logits": logits}, file, about={"key": key})
    return logits


def measure_inference(run: Run, networks: Networks, test: Split) -> dict[str, Any]:
    """Return the seconds that predicting the test split takes, reading and every network included; measured once.

    A first batch goes unmeasured. The least of a few passes counts: whatever else the machine does only adds.
    """
    file = run.directory / "inference.json"
    if file.exists():
        found: dict[str, Any] = load_json(file, "the seconds")
        with reading(file, "the seconds"):
            if found.get("model", run.model_digest) == run.model_digest and float(found["seconds"]) >= 0:
                return found
    models, device = networks()
    for model in models:
        predict_logits(model, test, device=device, index=np.arange(min(len(test), 512)))
    times: list[float] = []
    while len(times) < MOST_PASSES and sum(times) < ENOUGH_SECONDS:
        start = time.perf_counter()
        for model in models:
            predict_logits(model, test, device=device)
        times.append(time.perf_counter() - start)
    made = {
        "model": run.model_digest,
        "seconds": min(times),
        "examples": len(test),
        "passes": len(times),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
    }
    save_json(made, file)
    return made
