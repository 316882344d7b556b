"""`robcal score` and `robcal fidelity`: how near examples are to another label, and how far that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from typer import Option

from robcal.base.checks import check_output, refuse
from robcal.base.distributed import is_main
from robcal.base.progress import open_reporter
from robcal.base.storage import load_scores
from robcal.base.types import Precision, SplitName
from robcal.commands import options as opt
from robcal.commands.options import File
from robcal.commands.terminal import columns, show_json, show_notes
from robcal.robustness import describe_attacks


def score(
    model: opt.AnyModel,
    out: Annotated[Path, Option(help="Scores file to write (.parquet).")],
    weights: opt.Weights = None,
    data: opt.ModelData = None,
    split: Annotated[SplitName, Option(help="Which examples.")] = "test",
    method: Annotated[str, Option(help=f"{describe_attacks()}.", autocompletion=opt.attack_names)] = "auto",
    levels: Annotated[int, Option(help="auto: number of robustness levels R that will be cut.")] = 10,
    num_rivals: Annotated[int | None, Option(help="Rival classes looked at; default: 3, of quick 2.")] = None,
    batch_size: Annotated[int, Option(help="Examples at once.")] = 256,
    seed: Annotated[int | None, Option(help="Of the validation cut; default: the model's own.")] = None,
    precision: Annotated[
        Precision, Option(help="bf16 chooses directions only; labels and norms are decided in float32.")
    ] = "float32",
    compile: Annotated[bool, Option("--compile", help="Run the model through torch.compile.")] = False,
    shard_size: Annotated[int | None, Option(help="Examples a shard: what a killed run may lose.")] = None,
    image_size: opt.ImageSize = None,
    factory: opt.Factory = None,
    device: opt.Device = None,
    json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score adversarial robustness: how far each example is from the nearest input with another label.

    Writes one row an example: distance (l2, in input units; inf where none was found), status, prediction, rival,
    margin, passes. A stopped run keeps its finished shards beside the output and goes on from there. Several processes
    or machines share the work: torchrun --nproc-per-node=2 -m robcal score …

    Example: robcal score --model runs/digits --split test --out scores.parquet
    """
    from robcal.runs.any_model import open_any
    from robcal.runs.scores import score_split

    is_there = out.suffix == ".parquet" and out.is_file()  # whether of this work, is seen when the model is known
    check_output(out, overwrite=overwrite or is_there)
    if out.suffix != ".parquet":
        refuse(f"--out is {out}", "scores are a .parquet file", f"Pass --out {out.with_suffix('.parquet')}")
    opt.admit_factories(factory)
    opened = open_any(model, weights=weights, data=data, seed=seed, image_size=image_size)
    show_notes(opened.notes if is_main() else ())
    with open_reporter(quiet=quiet or not is_main()) as reporter:
        scores = score_split(
            opened.network, opened.dataset, split, out, method=method, overwrite=overwrite, reporter=reporter,
            num_rivals=num_rivals, batch_size=batch_size, precision=precision, compile=compile, shard_size=shard_size,
            num_levels=levels, device=device,
        )  # fmt: skip
    if not is_main():
        return
    counts = {name: int((scores.status == name).sum()) for name in ("verified", "estimate", "censored")}
    median, passes = float(np.median(scores.distance)), float(scores.passes.mean())
    if json:
        show_json({"examples": len(scores), **counts, "median_distance": median, "passes": passes}, [out])
        return
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    typer.echo(f"{len(scores)} examples: {told}; median distance {median:.4g}; {passes:.2f} passes an example")
    typer.echo(str(out))


def fidelity(
    model: opt.AnyModel,
    out: Annotated[
        File, Option(help="Result (.json); default: FILE.fidelity.json beside --scores FILE, else RUN/fidelity.json.")
    ] = None,
    weights: opt.Weights = None,
    data: opt.ModelData = None,
    split: Annotated[SplitName, Option(help="Which examples.")] = "test",
    method: Annotated[
        list[str] | None,
        Option(
            help="Way of scoring to measure; may be repeated. Default without --scores: auto, projection, first-order.",
            autocompletion=opt.attack_names,
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None, Option(help="Scores of the split at hand, to measure instead (.parquet); may be repeated.")
    ] = None,
    sample: Annotated[int, Option(help="Examples that the references score, stratified.")] = 1000,
    levels: Annotated[int, Option(help="Number of robustness levels R.")] = 10,
    iterations: Annotated[int, Option(help="Of each Carlini-Wagner search of the reference.")] = 1000,
    restarts: Annotated[int, Option(help="Random starts of each reference.")] = 12,
    seed: Annotated[int, Option(help="Of the sample and the random starts.")] = 0,
    batch_size: Annotated[int, Option(help="Examples at once.")] = 256,
    image_size: opt.ImageSize = None,
    factory: opt.Factory = None,
    device: opt.Device = None,
    json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure how far robustness scores can be trusted, against the best of three strong attacks.

    Scores the split, draws a stratified sample, runs Carlini-Wagner (full search), long projection and DDN on it, and
    tells rank correlation, level agreement, norm ratio and cost of each way of scoring, with intervals, beside the
    agreement of the two strongest attacks with each other: the noise ceiling. Slow, resumable, and shared by processes
    under torchrun. A run's audit and report then show it.

    Examples: robcal fidelity --model runs/digits --sample 300   |
    robcal fidelity --model runs/digits --split val --scores val.parquet
    """
    from robcal.report.fidelity import text_fidelity
    from robcal.runs.any_model import open_any
    from robcal.runs.fidelity import measure_fidelity

    given = _named_scores(scores or [])
    methods = method or (() if given else ("auto", "projection", "first-order"))
    if out is None and scores:
        out = scores[0].with_suffix(".fidelity.json")
    elif out is None:
        if not Path(model).is_dir():
            refuse("--out was not given", "a model outside a run directory has no place for it", "Pass --out FILE.json")
        out = Path(model) / "fidelity.json"
    check_output(out, overwrite=overwrite or out.is_file())  # whether of this work, is seen when the model is known
    opt.admit_factories(factory)
    opened = open_any(model, weights=weights, data=data, image_size=image_size)
    show_notes(opened.notes if is_main() else ())
    with open_reporter(quiet=quiet or not is_main()) as reporter:
        rows = measure_fidelity(
            opened.network, opened.dataset, split, out, methods=methods, at_hand=given, sample=sample,
            num_levels=levels, iterations=iterations, restarts=restarts, seed=seed, overwrite=overwrite,
            reporter=reporter, batch_size=batch_size, device=device,
        )  # fmt: skip
    if is_main() and json:
        show_json({"rows": rows}, [out])
    elif is_main():
        typer.echo(text_fidelity(rows, columns()))
        typer.echo(str(out))


def _named_scores(files: list[Path]) -> dict[str, Any]:
    """Name scores files by what tells them apart."""
    found = {file.stem: load_scores(file) for file in files}
    if len(found) < len(files):
        refuse("--scores names files of one name", "the name tells them apart", "Rename one of the files")
    return found
