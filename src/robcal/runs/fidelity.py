"""Can the robustness scores be trusted? Candidates against strong references on a sample, each part resumable.

The mathematics is in `robcal.robustness.fidelity`, the strong attacks in `robcal.robustness.reference`. Every scoring
here is a scores file of its own in a folder beside the result, so a stopped run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robcal.base.checks import (
    InputError,
    IntArray,
    check_choice,
    check_output,
    check_positive_int,
    check_same_length,
    refuse,
)
from robcal.base.distributed import is_main
from robcal.base.encoding import sealed
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import digest_of, digest_of_tensors, load_json, provenance, save_json
from robcal.base.types import FidelityRow, Scores
from robcal.data import Dataset
from robcal.robustness import ATTACKS
from robcal.robustness.fidelity import Fidelity, fidelity, stratified_sample
from robcal.robustness.reference import reference_attacks
from robcal.runs.scores import kept_or_scored

#: Examples a shard of a reference attack, whose passes are thousands an example.
REFERENCE_SHARD = 64


def measure_fidelity(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    methods: Sequence[str] = ("auto", "projection", "first-order"),
    at_hand: Mapping[str, Scores] | None = None,
    sample: int = 1000,
    num_levels: int = 10,
    iterations: int = 1000,
    restarts: int = 12,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    **options: Any,
) -> tuple[FidelityRow, ...]:
    """Measure how far ways of scoring agree with the best of three strong attacks, and these with each other.

    The first candidate is of the whole split and stratifies the sample by its levels: scores `at_hand` by name, if
    there are any, else those of the first method. The references, of as many `iterations` and `restarts`, and the other
    methods score the sample only. `out` is a .json file; scores are kept beside it in `out`.scores/. The options are
    those of `robcal.score`. Rows come in this order: the candidates, the noise ceiling, then each reference.
    """
    check_output(out, overwrite=overwrite or out.is_file())
    at_hand = dict(at_hand or {})
    part = dataset.split(split)
    _check_candidates(methods, at_hand, split, len(part))
    check_positive_int(sample, "--sample", minimum=num_levels)
    work = out.with_name(out.name + ".scores")
    options = {"num_levels": num_levels, **options}
    about = provenance(
        model=digest_of_tensors(model.state_dict()),
        data=dataset.digest(split),
        split=split,
        sample=min(sample, len(part)),
        num_levels=num_levels,
        iterations=iterations,
        restarts=restarts,
        seed=seed,
        candidates={**{name: _digest(given) for name, given in at_hand.items()}, **dict.fromkeys(methods, "scored")},
    )
    check_output(out, overwrite=overwrite or _is_of(out, about))

    def scores(name: str, method: Any, data: Dataset, index: IntArray | None) -> Scores:
        """Return the scores of one method; those at hand if they were made with the same model, data and settings."""
        more: dict[str, Any] = {} if index is None else {"first_index": index}
        if not isinstance(method, str):
            more["shard_size"] = REFERENCE_SHARD
        depends = [repr(method), about["model"], data.digest(split), repr(sorted(options.items()))]
        file = work / f"{name}-{digest_of([*depends, None if index is None else index.tolist()])}.parquet"
        return kept_or_scored(
            model, data, split, [file], method=method, reporter=reporter, description=name, **more, **options
        )

    whole = at_hand or {methods[0]: scores(methods[0], methods[0], dataset, None)}
    first = next(iter(whole.values()))
    index = stratified_sample(first, min(sample, len(part)), num_levels=num_levels, seed=seed)
    chosen = dataclasses.replace(dataset, splits={**dataset.splits, split: part.subset(index)})
    candidates = {name: given.subset(index) for name, given in whole.items()}
    candidates |= {name: scores(name, name, chosen, index) for name in methods if name not in whole}
    attacks = reference_attacks(iterations=iterations, restarts=restarts, seed=seed)
    references = {name: scores(f"reference-{name}", attack, chosen, index) for name, attack in attacks.items()}
    measured = {
        name: fidelity(scores, references, num_levels=num_levels, seed=seed) for name, scores in candidates.items()
    }
    rows = _rows(measured)
    if is_main():
        save_json(sealed({"rows": rows, "about": about}), out)
    return rows


def _is_of(out: Path, about: Mapping[str, Any]) -> bool:
    """Tell whether a file is what this measurement writes: torchrun's restarts may find it finished."""
    try:
        found = load_json(out, "the fidelity")
    except InputError:
        return False
    return isinstance(found, dict) and found.get("about") == about


def _digest(scores: Scores) -> str:
    return hashlib.sha256(scores.distance.tobytes()).hexdigest()[:16]


def _check_candidates(methods: Sequence[str], at_hand: Mapping[str, Scores], split: str, count: int) -> None:
    """Refuse unknown methods, and scores that cannot be of this split, or of another question than the references'."""
    if not methods and not at_hand:
        refuse("no method was named", "at least one is measured", "Pass --method or --scores")
    for name in methods:
        check_choice(name, ATTACKS, "--method")
    for name, given in at_hand.items():
        if name in methods:
            refuse(f"scores at hand and a method are both called {name}", "names tell them apart", "Rename the file")
        check_same_length(len(given), count, f"{name}'s scores", f"the {split} split")
        if given.reference != "prediction":
            refuse(
                f"{name} holds distances at which the true class is lost",
                "the references measure where the model's own prediction changes",
                "Score with reference='prediction'",
            )


def _rows(measured: dict[str, Fidelity]) -> tuple[FidelityRow, ...]:
    """Return one row a candidate; ceiling and references are those of the first."""
    first = next(iter(measured.values()))
    rows = [FidelityRow(name, "candidate", one.candidate.metrics) for name, one in measured.items()]
    if first.ceiling is not None:
        rows.append(FidelityRow(f"{first.ceiling.name} ~ {first.ceiling.against}", "ceiling", first.ceiling.metrics))
    return (*rows, *(FidelityRow(strong.name, "reference", strong.metrics) for strong in first.references))
