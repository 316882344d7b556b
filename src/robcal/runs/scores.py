"""The adversarial robustness of one split of a data set: on the device that there is, by all processes there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from robcal.base.distributed import choose_device, process_group
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of_tensors, load_scores, provenance
from robcal.base.types import Scores
from robcal.data import Dataset
from robcal.robustness.shards import remove_shards, score_in_shards


def score_split(
    model: torch.nn.Module,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    method: Any = "projection",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    description: str | None = None,
    **options: Any,
) -> Scores:
    """Score one split and write `out`, a .parquet file; finished shards are kept beside it, so a stopped run resumes.

    The options are those of `robcal.score` and of `score_in_shards`; device None takes a GPU where there is one, and
    under torchrun "cuda" is the GPU of each process.
    """
    part = dataset.split(split)
    place = choose_device(options.pop("device", None) or _accelerator_of(model))
    with moved(model, place), process_group(place) as group:
        digest = group.from_main("data", lambda: dataset.digest(split))  # read once, not once a process
        about = provenance(model=digest_of_tensors(model.state_dict()), data=digest, dataset=dataset.name, split=split)
        options |= {"method": method, "overwrite": overwrite, "reporter": reporter}
        options |= {"description": description or f"score {split}", "box": dataset.box, "labels": part.labels}
        return score_in_shards(model, part.inputs, out=out, about=about, **options)


def _accelerator_of(model: torch.nn.Module) -> str | None:
    """Return the GPU the model is on, if it is on one."""
    parameter = next(iter(model.parameters()), None)
    return str(parameter.device) if parameter is not None and parameter.device.type != "cpu" else None


def kept_or_scored(
    model: torch.nn.Module, dataset: Dataset, split: str, files: Sequence[Path], **options: Any
) -> Scores:
    """Return the scores of the first of the files that holds them, else make them (`score_split`) in the last file."""

    def look() -> str | None:
        wanted = {"model": digest_of_tensors(model.state_dict()), "data": dataset.digest(split)}
        return next((str(file) for file in files if _is_of(file, wanted)), None)

    with process_group(choose_device(options.get("device") or _accelerator_of(model))) as group:
        kept = group.from_main(f"look for {files[-1].name}", look)
    if kept is not None:
        return load_scores(Path(kept))
    return score_split(model, dataset, split, files[-1], overwrite=True, **options)


def _is_of(file: Path, wanted: Mapping[str, str]) -> bool:
    """Tell whether a file holds finished scores of these digests; their shards are removed then."""
    if not file.exists() or not wanted.items() <= dict(load_scores(file).provenance).items():
        return False
    remove_shards(file)
    return True


@contextmanager
def moved(model: torch.nn.Module, place: str) -> Iterator[None]:
    """Open the model on that device; back where it was afterwards."""
    home = _accelerator_of(model) or "cpu"
    model.to(place)
    try:
        yield
    finally:
        model.to(home)
