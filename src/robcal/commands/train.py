"""`robcal train` and `robcal demo`: from data to runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from robcal.base.checks import check_positive_int
from robcal.base.distributed import is_main
from robcal.base.levels import Cut
from robcal.base.progress import open_reporter
from robcal.base.types import Precision
from robcal.commands import options as opt
from robcal.commands.options import File, Text
from robcal.commands.terminal import columns, say, show_files, show_json, show_notes
from robcal.training.settings import DEFAULT_LEVELS_FROM, Augmentation, LevelsFrom, Optimizer, TrainSettings

if TYPE_CHECKING:
    from robcal.runs.directory import Run

MODEL_HELP = (
    "mlp | cnn | cnn-fast | resnet-small | wrn-DEPTH-WIDTH | preact-resnet-20 (29, 56, 110) | resnet-50 | resnet-101 | "
    "timm:NAME | torchvision:NAME | package.module:factory, your own code, which is imported."
)


def demo(
    out: Annotated[Path, Option(help="Folder for runs, results and the report.")] = Path("robcal-demo"),
    seeds: Annotated[int, Option(help="Number of seeds.")] = 8,
    jobs: Annotated[int | None, Option(help="Seeds trained side by side; default: number of cores.")] = None,
    json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Show everything on handwritten digits, in about a minute and without a download.

    Trains a plain classifier that over-fits, scores the adversarial robustness of every image, cuts five levels, trains
    AR-AdaLS, measures both and the plain one with a temperature, in distribution and under corruption, over several
    seeds; prints one table and what was found, and writes a report.
    """
    from robcal.base.jobs import available_cores
    from robcal.comparison.demo import BRIEFLY, NEXT, found, run_demo
    from robcal.report import text_table, write_report

    check_positive_int(seeds, "--seeds", minimum=2)
    if not (quiet or json):
        say(BRIEFLY)
    with open_reporter(quiet=quiet, seconds=60.0) as reporter:
        results = run_demo(
            out, seeds=seeds, jobs=jobs or min(available_cores(), seeds), overwrite=overwrite, reporter=reporter
        )
    written = write_report(results, out / "report.html", overwrite=True)
    if json:
        show_json(results, [written])
        return
    typer.echo(f"\n{text_table(results, differences=False, width=columns())}\n")
    for paragraph in found(results):
        say(paragraph)
    typer.echo(f"\n{NEXT}")
    show_files([written])


def train(
    context: typer.Context,
    data: Annotated[str, Option(help=opt.DATA_HELP, autocompletion=opt.data_names)],
    out: Annotated[Path, Option(help="Run directory to make, or to finish.")],
    method: Annotated[
        str, Option(help="Training method, or several joined by +; they stand below.", autocompletion=opt.method_names)
    ] = "ar-adals",
    option: Annotated[
        list[str] | None,
        Option(metavar="NAME=VALUE", help="Option of the method; --NAME VALUE says the same. Repeatable."),
    ] = None,
    model: Annotated[str, Option(help=MODEL_HELP)] = "cnn",
    weights: Annotated[
        File,
        Option(
            help="Start from these weights of --model: safetensors, or a state_dict of torch.save. Inputs reach other "
            "weights than robcal's as they are; a lower --learning-rate suits."
        ),
    ] = None,
    epochs: Annotated[int, Option(help="Passes over the training split.")] = 30,
    seed: Annotated[int, Option(help="Of the validation cut, initialisation, order and augmentation.")] = 0,
    split_seed: Annotated[
        int | None, Option(help="Of the validation cut and the --train-limit subset alone; default: --seed.")
    ] = None,
    members: Annotated[int, Option(help="Networks trained in lockstep as one ensemble.")] = 1,
    scores: Annotated[
        list[Path] | None,
        Option(help="Levels: scores at hand instead of a reference model; pass twice, for train and for val."),
    ] = None,
    levels: Annotated[int, Option(help="Number of robustness levels R.")] = 10,
    levels_from: Annotated[
        LevelsFrom | None,
        Option(
            help="Levels of ar-adals: the margins that the training's own passes show (running); or, of a reference "
            "model that is trained first, difficulty (margin, loss) or distance to the nearest adversarial example "
            "(robustness; cross-fit: of models that never saw the example). Default: running; robustness with "
            "--scores or --scorer."
        ),
    ] = None,
    cut: Annotated[
        Cut,
        Option(
            help="Levels of the validation split: cut by its own scores (split), or by the thresholds of the training "
            "split (train), which leave levels of any size."
        ),
    ] = "split",
    folds: Annotated[int, Option(help="--levels-from cross-fit: number of models.")] = 3,
    scorer: Annotated[
        Text,
        Option(
            help="Levels: --method of the robustness scores of the reference model. Default: auto.",
            autocompletion=opt.attack_names,
        ),
    ] = None,
    batch_size: Annotated[int, Option(help="Examples a step.")] = 128,
    accumulate: Annotated[
        int, Option(help="Micro-batches a step: --batch-size may be so many times what fits on the device.")
    ] = 1,
    learning_rate: Annotated[float, Option(help="Peak; 5% warm-up, then cosine to 0.")] = 0.1,
    weight_decay: Annotated[float, Option(help="Of the optimiser.")] = 5e-4,
    optimizer: Annotated[Optimizer, Option(help="SGD with Nesterov momentum .9, or AdamW.")] = "sgd",
    augment: Annotated[Augmentation, Option(help="standard: pad-crop and flip (digits: shifts).")] = "none",
    val_fraction: Annotated[float | None, Option(help="Held out of the training data to steer by.")] = None,
    train_limit: Annotated[int | None, Option(help="Use this many training examples (stratified).")] = None,
    test_limit: Annotated[int | None, Option(help="Measure on this many test examples.")] = None,
    image_size: Annotated[int | None, Option(help="folder, imagenet: resize images to this side.")] = None,
    precision: Annotated[Precision, Option(help="Of the training's forward pass.")] = "float32",
    device: opt.Device = None,
    tracker: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="Tell every epoch to an experiment tracker, tensorboard (below --out), wandb or mlflow. Repeatable.",
        ),
    ] = None,
    profile: Annotated[
        bool, Option("--profile", help="Tell what the steps' time goes to, such as waiting for data.")
    ] = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a classifier by one method; `ar-adals` alone does the whole pipeline.

    AR-AdaLS cuts the training and validation images into levels by their margins, which the training's own passes
    show, and softens the labels of each level as far as its calibration on validation images asks for; the test split
    is only ever measured on. The pipeline as published, with a plain reference model by the same recipe whose
    adversarial distances cut the levels: --levels-from robustness.

    Example: robcal train --data digits --method mixup --option alpha=0.4 --epochs 30 --out runs/mixup
    """
    given = dict(locals())  # every option by its name
    from robcal.models import admit_model
    from robcal.runs.directory import load_data
    from robcal.runs.train import train_run
    from robcal.training.profile import Profile

    admit_model(model)  # only what the user wrote here is ever imported
    settings = _settings(given)
    dataset = load_data(settings)
    show_notes(dataset.notes if is_main() else ())
    notes: list[str] = []
    watched = Profile() if profile else None
    with open_reporter(quiet=quiet or not is_main()) as reporter:
        run = train_run(
            settings, out, overwrite=overwrite, dataset=dataset, notes=notes, profile=watched, trackers=tracker or (),
            reporter=reporter,
        )  # fmt: skip
    if is_main():
        show_notes(notes)
        _tell(run, settings)
        for line in watched.lines() if watched is not None else ():
            typer.echo(line)
        show_files(run.checkpoints)


def _settings(given: Mapping[str, Any]) -> TrainSettings:
    """Return the settings that the options name; those of the same name are the options themselves."""
    from robcal.methods import parse_options

    same = {field.name: given[field.name] for field in fields(TrainSettings) if field.name in given}
    options = [*(given["option"] or ()), *opt.own_options(given["context"], given["method"])]
    scores, weights = given["scores"] or (), given["weights"]
    source = given["levels_from"] or ("robustness" if scores or given["scorer"] else DEFAULT_LEVELS_FROM)
    return TrainSettings(**same | {
        "options": parse_options(given["method"], options), "scorer": given["scorer"] or "auto", "levels_from": source,
        "scores": tuple(map(str, scores)), "weights": None if weights is None else str(weights),
    })  # fmt: skip


def _tell(run: Run, settings: TrainSettings) -> None:
    """Tell how the training ended, and the command that audits the run, as a shell takes it.

    The user's own code is named again there.
    """
    from robcal.models.external import is_factory
    from robcal.runs.directory import run_title
    from robcal.runs.hard_labels import hard_label_remarks

    history = run.history()
    for remark in hard_label_remarks({settings.seed: history}):
        typer.echo(remark)
    last, factory = history[-1], ["--factory", settings.model] if is_factory(settings.model) else []
    typer.echo(
        f"validation after {last.epoch} epochs of {run_title(settings)}: accuracy {last.val_accuracy:.4f}, "
        f"ECE {last.val_ece:.4f}, NLL {last.val_nll:.4f}\n"
        f"next: {shlex.join(['robcal', 'audit', str(run.directory), *factory])}"
    )
