"""Score a data set shard by shard, so that a run stopped at any moment resumes where it was.

Each finished shard is a scores file of its own in `OUT.parts/`, written whole or not at all, and names the model, the
data and the settings it was made with; a shard of anything else is refused. The shards' borders do not depend on where
a run was stopped, so a resumed run ends in the same file as an undisturbed one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from robcal.artifacts import digest_of, load_scores, save_scores
from robcal.checks import IntArray, check_output, check_positive_int, refuse
from robcal.data.dataset import Inputs
from robcal.progress import SILENT, Advance, Reporter, stop_at_boundary
from robcal.robustness.scoring import score
from robcal.types import Scores

#: Examples a shard: about what a killed run may lose.
SHARD_SIZE = 2048


def score_in_shards(
    model: nn.Module,
    inputs: Inputs,
    *,
    out: Path,
    about: Mapping[str, Any],
    labels: IntArray | None = None,
    method: str = "projection",
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    description: str = "score",
    **options: Any,
) -> Scores:
    """Score all inputs, write `out`, and keep every finished shard until then.

    Args:
        model: see `robcal.score`.
        inputs: (N, …), read a shard at a time.
        out: target, a .parquet file.
        about: what identifies model and data (their digests), JSON-able; kept as the scores' provenance.
        labels: (N,) true classes, for `reference="label"` only.
        method: of `robcal.score`.
        shard_size: examples a shard.
        overwrite: replace `out` if it exists.
        reporter: shows progress in examples.
        description: of the progress.
        options: further options of `robcal.score`.

    Returns:
        The scores of all N inputs, as written.

    Raises:
        InputError: on bad input, an existing `out`, or shards of another model, data set or settings.
        KeyboardInterrupt: on Ctrl-C, after the running shard was finished and saved.
    """
    check_output(out, overwrite=overwrite)
    check_positive_int(shard_size, "shard_size")
    total = inputs.shape[0]
    settings = {"method": method, "shard_size": shard_size, **{k: v for k, v in options.items() if k != "device"}}
    stamp = {**about, "settings": settings}
    key = digest_of({**stamp, "total": total})
    parts = out.with_name(out.name + ".parts")
    shards: list[Scores] = []
    advance = reporter.task(description, total)
    with stop_at_boundary() as stop:
        for start in range(0, total, shard_size):
            file = parts / f"{start:010d}.parquet"
            if not file.exists():
                index = np.arange(start, min(start + shard_size, total))
                wanted = labels[index] if labels is not None and options.get("reference") == "label" else None
                made = score(
                    model,
                    inputs[index],
                    method=method,
                    labels=wanted,
                    progress=_shifted(advance, start, total),
                    **options,
                )
                save_scores(_with_provenance(made, {"key": key}), file)
            shards.append(_load_shard(file, key))
            advance(min(start + shard_size, total))
            stop.raise_if_set()
    whole = _join(shards, stamp)
    save_scores(whole, out, overwrite=overwrite)
    shutil.rmtree(parts, ignore_errors=True)
    return whole


def _shifted(advance: Advance, start: int, total: int) -> Callable[[int, int], None]:
    """The progress of one shard as progress of the whole; the last step is the caller's, once the shard is saved."""
    return lambda done, whole: advance(min(start + done, total - 1))


def _load_shard(file: Path, key: str) -> Scores:
    shard = load_scores(file)
    if shard.provenance.get("key") != key:
        refuse(
            f"{file} was made with another model, data set or setting",
            "shards of one run belong together",
            f"Delete {file.parent} to start again, or choose another --out",
        )
    return shard


def _join(shards: list[Scores], stamp: Mapping[str, Any]) -> Scores:
    columns = {name: np.concatenate([getattr(shard, name) for shard in shards]) for name in Scores.columns()}
    return Scores(**columns, method=shards[0].method, reference=shards[0].reference, provenance=dict(stamp))


def _with_provenance(scores: Scores, about: Mapping[str, Any]) -> Scores:
    columns = {name: getattr(scores, name) for name in Scores.columns()}
    return Scores(**columns, method=scores.method, reference=scores.reference, provenance=dict(about))
