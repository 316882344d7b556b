"""The command line: one typed function a command; its docstring is its help."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robcal.checks import InputError, check_output, check_positive_int, refuse
from robcal.config import DEFAULT_LEVELS_FROM, TrainSettings, parse_method_options

app = typer.Typer(
    name="robcal",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="**robcal**: find the inputs a classifier is wrongly sure about, and train it not to be.\n\n"
    "Start with `robcal demo`. To look at predictions you already have: `robcal audit --probs p.npy --labels y.npy`.",
    epilog="Every command tells its options by --help. Stopped with Ctrl-C, each keeps its finished work and goes on "
    "from there when it is started again.",
)

DATA_HELP = "digits | cifar10:PATH | cifar100:PATH | svhn:PATH | imagenet:PATH | npz:FILE | folder:PATH"
MODEL_HELP = (
    "mlp | cnn | cnn-fast | resnet-small | wrn-DEPTH-WIDTH | preact-resnet-20 (29, 56, 110) | resnet-50 | resnet-101 | "
    "timm:NAME | torchvision:NAME | package.module:factory, your own code, which is imported."
)

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: what there is.")]


MethodName = Literal[
    "vanilla", "label-smoothing", "adals", "random-levels", "ar-adals", "mixup", "focal", "ccat", "crl",
    "adversarial-training", "swag", "mc-dropout",
]  # fmt: skip
Optimizer = Literal["sgd", "adamw"]
Augmentation = Literal["none", "standard"]
Precision = Literal["float32", "bf16"]
Scorer = Literal["auto", "first-order", "projection", "carlini-wagner"]
Controller = Literal["published", "stable"]
Online = Literal["free", "linear", "secant"]
LevelsFrom = Literal["robustness", "cross-fit", "online", "margin", "loss"]
SplitChoice = Literal["train", "val", "test"]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs, results and the report.")] = Path("robcal-demo"),
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 8,
    jobs: Annotated[int | None, typer.Option(help="Seeds trained side by side; default: number of cores.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show everything on handwritten digits, in about a minute and without a download.

    Trains a plain classifier, scores the adversarial robustness of every image, cuts ten levels, trains AR-AdaLS,
    measures both in distribution and under corruption over several seeds, prints one table and writes a report.
    """
    from robcal.demo import run_demo
    from robcal.jobs import available_cores
    from robcal.progress import open_reporter
    from robcal.report import text_table, write_report

    check_positive_int(seeds, "--seeds", minimum=2)
    with open_reporter(quiet=quiet) as reporter:
        results = run_demo(
            out, seeds=seeds, jobs=jobs or min(available_cores(), seeds), overwrite=overwrite, reporter=reporter
        )
    _print(text_table(results))
    typer.echo(str(write_report(results, out / "report.html", overwrite=True)))


@app.command()
def train(
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Run directory to make, or to finish.")],
    method: Annotated[MethodName, typer.Option(help="Training method.")] = "ar-adals",
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "cnn",
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the validation cut, initialisation, order and augmentation.")] = 0,
    split_seed: Annotated[int | None, typer.Option(help="Of the validation cut alone; default: --seed.")] = None,
    members: Annotated[int, typer.Option(help="Networks trained in lockstep as one ensemble.")] = 1,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="ar-adals: scores at hand instead of a reference model; pass twice, for train and for val."),
    ] = None,
    levels: Annotated[int, typer.Option(help="Number of robustness levels R.")] = 10,
    levels_from: Annotated[
        LevelsFrom | None,
        typer.Option(
            help="ar-adals: difficulty for a reference model (margin, loss), or distance to the nearest adversarial "
            "example of it (robustness), of models that never saw the example (cross-fit), of the running model "
            "(online). Default: margin; robustness with --scores or --scorer."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="--levels-from cross-fit: number of models.")] = 3,
    controller: Annotated[
        Controller, typer.Option(help="Adaptive methods: what steers the smoothing (docs/controller.md).")
    ] = "stable",
    step_size: Annotated[float, typer.Option(help="controller published: smoothing per unit of gap and epoch.")] = 0.05,
    gain: Annotated[float, typer.Option(help="controller stable: exp(-gain) of a gap is left after the run.")] = 4.0,
    epsilon: Annotated[float, typer.Option(help="label-smoothing: mass spread over all classes.")] = 0.05,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of other methods: mixup_alpha, focal_gamma, ranking_weight (crl), attack_epsilon, attack_steps, "
            "attack_step_size, ccat_rho, swag_start, swag_rank, samples (swag, mc-dropout).",
        ),
    ] = None,
    scorer: Annotated[
        Scorer | None, typer.Option(help="ar-adals: how the reference model's robustness is scored. Default: auto.")
    ] = None,
    online: Annotated[
        Online | None,
        typer.Option(
            help="Keep robustness estimates of the training split from the training passes themselves (free), or "
            "refreshed after the last epoch for 1 (linear) or 1.5 (secant) passes an example: docs/online.md."
        ),
    ] = None,
    online_sample: Annotated[
        int,
        typer.Option(
            help="--online: training examples whose distance is measured too, whenever the estimates change, to tell "
            "what these are worth; 0: none."
        ),
    ] = 200,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak; 5% warm-up, then cosine to 0.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 5e-4,
    optimizer: Annotated[Optimizer, typer.Option(help="SGD with Nesterov momentum .9, or AdamW.")] = "sgd",
    augment: Annotated[Augmentation, typer.Option(help="standard: pad-crop and flip (digits: shifts).")] = "none",
    val_fraction: Annotated[float | None, typer.Option(help="Held out of the training data to steer by.")] = None,
    train_limit: Annotated[int | None, typer.Option(help="Use this many training examples (stratified).")] = None,
    test_limit: Annotated[int | None, typer.Option(help="Measure on this many test examples.")] = None,
    image_size: Annotated[int | None, typer.Option(help="folder, imagenet: resize images to this side.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the training's forward pass.")] = "float32",
    device: Device = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier by one method; `ar-adals` alone does the whole pipeline.

    The pipeline of AR-AdaLS: a plain reference model by the same recipe, how near its training and validation images
    are to its boundaries, levels, then the training whose labels are softened per level. The validation split steers
    the smoothing; the test split is only ever measured on. Levels by adversarial distance, as published:
    --levels-from robustness.

    Example: robcal train --data digits --model cnn --method ar-adals --epochs 30 --out runs/digits
    """
    from robcal.distributed import is_main
    from robcal.models import admit_model
    from robcal.progress import open_reporter
    from robcal.runs import train_run

    admit_model(model)  # only what the user wrote here is ever imported
    source = levels_from or ("robustness" if scores or scorer else DEFAULT_LEVELS_FROM)
    settings = TrainSettings(
        data=data, model=model, method=method, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        weight_decay=weight_decay, optimizer=optimizer, augment=augment, seed=seed, levels=levels,
        step_size=step_size, gain=gain, epsilon=epsilon, scorer=scorer or "auto",
        scores=tuple(str(file) for file in scores or ()), val_fraction=val_fraction, train_limit=train_limit,
        test_limit=test_limit, image_size=image_size,
        precision=precision, device=device, split_seed=split_seed, members=members, levels_from=source,
        folds=folds, controller=controller, online=online, online_sample=online_sample,
        **parse_method_options(method, option or ()),  # type: ignore[arg-type]
    )  # fmt: skip
    with open_reporter(quiet=quiet or not is_main()) as reporter:
        run = train_run(settings, out, overwrite=overwrite, reporter=reporter)
    if not is_main():
        return
    last = run.history()[-1]
    typer.echo(
        f"validation after {last.epoch} epochs: accuracy {last.val_accuracy:.4f}, ECE {last.val_ece:.4f}, "
        f"NLL {last.val_nll:.4f}\nnext: robcal audit {out}"
    )
    if online:
        for row in run.online_history()[-1:]:
            typer.echo(
                f"online estimates against {row.compared} measured distances: same level {row.same_level:.2f}, "
                f"within one {row.within_one:.2f}, Spearman {row.spearman:.3f}"
            )
        typer.echo(str(out / "scores-online.parquet"))
    for checkpoint in run.checkpoints:
        typer.echo(str(checkpoint))


@app.command()
def score(
    model: Annotated[Path, typer.Option(help="Checkpoint (model.safetensors) or run directory of `robcal train`.")],
    out: Annotated[Path, typer.Option(help="Scores file to write (.parquet).")],
    data: Annotated[str | None, typer.Option(help=DATA_HELP + "; default: the data the model was trained on.")] = None,
    split: Annotated[SplitChoice, typer.Option(help="Which examples.")] = "test",
    method: Annotated[
        Scorer,
        typer.Option(
            help="auto: verified, passes spent where a level may change; projection: the same effort for all; "
            "first-order: a fast estimate; carlini-wagner: the slow reference."
        ),
    ] = "auto",
    levels: Annotated[int, typer.Option(help="auto: number of robustness levels R that will be cut.")] = 10,
    num_rivals: Annotated[int, typer.Option(help="Rival classes looked at.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Examples at once.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Of the validation cut; default: the model's own.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="bf16 chooses directions only; labels and norms are decided in float32.")
    ] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")] = False,
    shard_size: Annotated[int | None, typer.Option(help="Examples a shard: what a killed run may lose.")] = None,
    device: Device = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score adversarial robustness: how far each example is from the nearest input with another label.

    Writes one row an example: distance (l2, in input units; inf where none was found), status, prediction, rival,
    margin, passes. A stopped run keeps its finished shards beside the output and goes on from there. Several processes
    or machines share the work: torchrun --nproc-per-node=2 -m robcal score …

    Example: robcal score --model runs/digits --split test --out scores.parquet
    """
    from robcal.distributed import is_main
    from robcal.progress import open_reporter
    from robcal.runs import load_data, score_split

    check_output(out, overwrite=overwrite)
    if out.suffix != ".parquet":
        refuse(f"--out is {out}", "scores are a .parquet file", "Name it with this ending")
    network, settings = _open_model(model, data, seed)
    with open_reporter(quiet=quiet or not is_main()) as reporter:
        scores = score_split(
            network, load_data(settings), split, out, method=method, overwrite=overwrite, reporter=reporter,
            num_rivals=num_rivals, batch_size=batch_size, precision=precision, compile=compile, shard_size=shard_size,
            num_levels=levels, device=device,
        )  # fmt: skip
    if not is_main():
        return
    counts = {name: int((scores.status == name).sum()) for name in ("verified", "estimate", "censored")}
    typer.echo(
        f"{len(scores)} examples: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        + f"; median distance {_median(scores.distance):.4g}; {scores.passes.mean():.2f} passes an example"
    )  # fmt: skip
    typer.echo(str(out))


@app.command()
def fidelity(
    model: Annotated[Path, typer.Option(help="Checkpoint (model.safetensors) or run directory of `robcal train`.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Result (.json); default: FILE.fidelity.json beside --scores FILE, else RUN/fidelity.json."),
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP + "; default: the data the model was trained on.")] = None,
    split: Annotated[SplitChoice, typer.Option(help="Which examples.")] = "test",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Way of scoring to measure; may be repeated. Default without --scores: auto, projection, first-order."
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="Scores of the split at hand, to measure instead (.parquet); may be repeated."),
    ] = None,
    sample: Annotated[int, typer.Option(help="Examples that the references score, stratified.")] = 1000,
    levels: Annotated[int, typer.Option(help="Number of robustness levels R.")] = 10,
    iterations: Annotated[int, typer.Option(help="Of each Carlini-Wagner search of the reference.")] = 1000,
    restarts: Annotated[int, typer.Option(help="Random starts of each reference.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the sample and the random starts.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples at once.")] = 256,
    device: Device = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure how far robustness scores can be trusted, against the best of three strong attacks.

    Scores the split, draws a stratified sample, runs Carlini-Wagner (full search), long projection and DDN on it, and
    tells rank correlation, level agreement, norm ratio and cost of each way of scoring, with intervals, beside the
    agreement of the two strongest attacks with each other: the noise ceiling. Slow, resumable, and shared by processes
    under torchrun. A run's audit and report then show it.

    Examples: robcal fidelity --model runs/digits --sample 300   |
    robcal fidelity --model runs/digits --split train --scores runs/digits/scores-online.parquet
    """
    from robcal.distributed import is_main
    from robcal.progress import open_reporter
    from robcal.report.fidelity import text_fidelity
    from robcal.runs import load_data
    from robcal.trust import measure_fidelity

    given = _named_scores(scores or [])
    methods = method or (() if given else ("auto", "projection", "first-order"))
    if out is None and scores:
        out = scores[0].with_suffix(".fidelity.json")
    elif out is None:
        if not model.is_dir():
            refuse("--out was not given", "a checkpoint outside its run directory has no place for it", "Pass --out")
        out = model / "fidelity.json"
    check_output(out, overwrite=overwrite)
    network, settings = _open_model(model, data, None)
    with open_reporter(quiet=quiet or not is_main()) as reporter:
        rows = measure_fidelity(
            network, load_data(settings), split, out, methods=methods, at_hand=given, sample=sample, num_levels=levels,
            iterations=iterations, restarts=restarts, seed=seed, overwrite=overwrite, reporter=reporter,
            batch_size=batch_size, device=device,
        )  # fmt: skip
    if is_main():
        _print(text_fidelity(rows))
        typer.echo(str(out))


@app.command()
def audit(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory of `robcal train`; or pass --probs, --labels.")
    ] = None,
    probs: Annotated[Path | None, typer.Option(help="(N, Z) probabilities, .npy.")] = None,
    labels: Annotated[Path | None, typer.Option(help="(N,) integer labels, .npy.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="One score an example (.npy, .parquet): small is fragile.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the .parquet file; default: distance.")] = None,
    groups: Annotated[Path | None, typer.Option(help="(N,) integers or strings, .npy: any grouping of yours.")] = None,
    levels: Annotated[int, typer.Option(help="Number of levels.")] = 10,
    bins: Annotated[int, typer.Option(help="Bins of the ECE.")] = 15,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="HTML report; default for a run: RUN/audit.html.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Tell which inputs a classifier is miscalibrated on: conditional calibration, level by level.

    Give a run directory, or plain files and no model at all. With scores (adversarial distances or any number an
    example, small meaning fragile) the examples are cut into levels; every figure comes with its interval.

    Examples: robcal audit runs/digits   |   robcal audit --probs p.npy --labels y.npy --scores d.npy --out report.html
    """
    from robcal.auditing import audit_files, audit_run
    from robcal.progress import open_reporter

    options: dict[str, Any] = {"num_levels": levels, "bins": bins, "resamples": resamples, "seed": seed}
    if (run is None) == (probs is None):
        refuse(
            "a run directory and --probs were both given" if run else "neither a run directory nor --probs was given",
            "audit takes one of them",
            "See robcal audit --help",
        )
    if run is not None:
        out = out or run / "audit.html"
        check_output(out, overwrite=overwrite or out == run / "audit.html")
        with open_reporter(quiet=quiet) as reporter:
            result = audit_run(run, reporter=reporter, **options)
    else:
        if labels is None or probs is None:
            refuse("--labels was not given", "--probs and --labels go together", "Pass the true classes")
        if out is not None:
            check_output(out, overwrite=overwrite)
        result = audit_files(probs, labels, scores=scores, column=column, groups=groups, **options)
    _print(result.to_text())
    if out is not None:
        typer.echo(str(result.to_html(out, overwrite=True)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, the baseline first; or the folder of a demo.")],
    out: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("report.html"),
    shift: Annotated[bool, typer.Option(help="Measure under corruption too (images).")] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure finished runs and put them side by side: one table, one HTML report.

    The folder of a comparison, or its results.json, gives the comparison's page from the numbers alone.

    Runs of one method with different seeds are averaged, with intervals; the first method named is the baseline.

    Example: robcal report runs/plain-0 runs/plain-1 runs/ar-0 runs/ar-1 --out report.html
    """
    from robcal.artifacts import load_results
    from robcal.comparison import is_comparison, load_comparison, text_tables, write_comparison_report
    from robcal.evaluate import report_runs
    from robcal.progress import open_reporter
    from robcal.report import text_table, write_report

    check_output(out, overwrite=overwrite)
    measured = runs[0] / "results.json" if runs[0].is_dir() else runs[0]
    if len(runs) == 1 and measured.suffix == ".json" and not (runs[0] / "run.json").exists():
        if is_comparison(measured):
            record = load_comparison(measured)
            typer.echo(text_tables(record, width=_columns()))
            typer.echo(str(write_comparison_report(record, out, overwrite=overwrite)))
            return
        results = load_results(measured)
    else:
        with open_reporter(quiet=quiet) as reporter:
            results = report_runs(runs, shift=shift, reporter=reporter)
    _print(text_table(results))
    typer.echo(str(write_report(results, out, overwrite=overwrite)))


@app.command()
def compare(
    what: Annotated[
        str, typer.Argument(metavar="PRESET|FILE.toml|results.json", help="What to compare; results: only tables.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    data: Annotated[str | None, typer.Option(help=DATA_HELP + "; instead of the file's.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for runs, shared by several comparisons; default: --out.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Tasks side by side; default: number of cores.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Evaluation seeds instead of the file's: 0,1,2 or 0-4.")] = None,
    shift: Annotated[
        str | None,
        typer.Option(help="Official corrupted files instead of our own: cifar10c:, cifar100c: or imagenetc:PATH."),
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SPEC: out-of-distribution inputs, any data text of the same shape; repeatable."),
    ] = None,
    device: Device = None,
    report: Annotated[bool, typer.Option(help="Write report.html too.")] = True,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop all at the first task that fails, with its traceback.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the tasks and do nothing.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods over seeds: hyper-parameters chosen on validation data, one table with paired differences.

    Every run is independent and kept by the digest of its settings: a stopped comparison goes on where it was, one that
    grew makes only what is new. Everything is measured in distribution and under corruption, raw and after temperature
    scaling.

    A task that fails is told at once and takes only what needs it with it: the tables are made of what there is, mark
    what lacks seeds and say why, and the exit status is 3. The same command again tries only what is missing.

    Example: robcal compare digits --out compare-digits
    """
    from robcal.comparison import compare as run_comparison
    from robcal.comparison import (
        load_comparison,
        load_plan,
        plan_work,
        text_tables,
        write_comparison_report,
        write_tables,
    )
    from robcal.jobs import available_cores
    from robcal.progress import open_reporter

    if what.endswith(".json"):
        record = load_comparison(Path(what))
        write_tables(record, out)
        if report and (overwrite or not (out / "report.html").exists()):  # one made by the runs shows more
            write_comparison_report(record, out / "report.html", overwrite=True)
        typer.echo(text_tables(record, width=_columns()))
        return
    chosen = {name: value for name, value in (("data", data), ("device", device)) if value is not None}
    plan = load_plan(
        what,
        seeds=None if seeds is None else _seeds(seeds),
        recipe=chosen,
        shift=shift,
        ood=dict(_named(text) for text in ood or ()),
    )
    for warning in plan.warnings():
        typer.echo(f"robcal: {warning}", err=True)
    if dry_run:
        for task in plan_work(plan, out, cache=cache, overwrite=overwrite).tasks:
            typer.echo(task.describe())
        return
    with open_reporter(quiet=quiet) as reporter:
        record = run_comparison(
            plan, out, cache=cache, jobs=jobs or available_cores(), report=report, overwrite=overwrite,
            fail_fast=fail_fast, on_failure=_tell_failure, reporter=reporter,
        )  # fmt: skip
    typer.echo(text_tables(record, width=_columns()))
    typer.echo(str(out / "results.json"))
    if record["missing"]:
        typer.echo("robcal: some tasks failed (see above); the same command tries again what is missing", err=True)
        raise typer.Exit(3)


def _tell_failure(line: str) -> None:
    """On standard error, above any bars that are drawn there."""
    print(f"robcal: {line}", file=sys.stderr, flush=True)


@app.command()
def unpack(
    data: Annotated[str, typer.Option(help="imagenet:PATH, a folder of parquet shards.")],
    out: Annotated[Path, typer.Option(help="Folder to make; a stopped unpacking goes on.")],
    quiet: Quiet = False,
) -> None:
    """Unpack ImageNet's parquet shards, which are slow to shuffle, into class folders.

    The pictures stay as they are stored; labels and splits stay the same. The folder appears when it is whole.

    Example: robcal unpack --data imagenet:shards --out pictures; then robcal train --data imagenet:pictures …
    """
    from robcal.data.unpack import unpack_pictures
    from robcal.progress import open_reporter

    form, _, path = data.partition(":")
    if form != "imagenet" or not path:
        refuse(f"--data is {data!r}", "only imagenet:PATH comes in shards to unpack", "Pass --data imagenet:PATH")
    with open_reporter(quiet=quiet) as reporter:
        folder = unpack_pictures(path, out, reporter=reporter)
    typer.echo(f"next: --data imagenet:{folder}")
    typer.echo(str(folder))


def _named_scores(files: list[Path]) -> dict[str, Any]:
    """Scores files by what tells them apart."""
    from robcal.artifacts import load_scores

    found = {file.stem: load_scores(file) for file in files}
    if len(found) < len(files):
        refuse("--scores names files of one name", "the name tells them apart", "Rename one")
    return found


def _named(text: str) -> tuple[str, str]:
    """NAME=SPEC."""
    name, _, spec = text.partition("=")
    if not name or not spec:
        refuse(f"--ood is {text!r}", "it is written NAME=SPEC", "For example --ood svhn=svhn:PATH")
    return name, spec


def _seeds(text: str) -> list[int]:
    """0,1,2 or 0-4, or both."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            refuse(f"--seeds is {text!r}", "seeds are whole numbers, 0,1,2 or a range 0-4", "Change --seeds")
        found += range(int(first), int(last or first) + 1)
    return found


def _version(wanted: bool) -> None:
    if wanted:
        from robcal import __version__

        typer.echo(f"robcal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _open_model(model: Path, data: str | None, seed: int | None) -> tuple[Any, TrainSettings]:
    """The network of a checkpoint or run directory, and the settings that say what data it goes with."""
    import dataclasses

    from robcal.runs import load_model, open_run

    network, about = load_model(model)
    directory = model if model.is_dir() else model.parent
    if (directory / "run.json").exists():
        settings = open_run(directory).settings
    elif data is None:
        refuse("--data was not given", "a checkpoint outside its run directory does not say its data", "Pass --data")
    else:
        settings = TrainSettings(data=data, model=about["model"], method="vanilla", epochs=1)
    changed = {"data": data or settings.data, "seed": settings.seed if seed is None else seed}
    if seed is not None:
        changed["split_seed"] = seed
    return network, dataclasses.replace(settings, **changed)  # type: ignore[arg-type]


def _print(text: Any) -> None:
    """Show a table on standard output, whatever it is made of."""
    from rich.console import Console

    Console().print(text)


def _columns() -> int:
    """Columns of the terminal; 120 where there is none."""
    import shutil

    return max(shutil.get_terminal_size((120, 24)).columns, 60)


def _median(values: Any) -> float:
    import numpy as np

    return float(np.median(values))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit 0 if all is well, 2 on bad input, 3 if a comparison lacks results, 130 on Ctrl-C."""
    try:
        app(args=arguments, prog_name="robcal")
    except InputError as error:
        typer.echo(f"robcal: {error}", err=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:
            typer.echo("robcal: stopped; finished work is kept, the same command goes on from there", err=True)
        raise


if __name__ == "__main__":
    main()
