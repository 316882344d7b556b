"""What the options of several commands share: their types, choices and words of help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from robcal.base.checks import refuse

DATA_HELP = (
    "digits | cifar10:PATH | cifar100:PATH | svhn:PATH | imagenet:PATH (folders or parquet) | npz:FILE (x_train, "
    "y_train and optional x_val, y_val, x_test, y_test, class_names; or MedMNIST's train_images, train_labels, …) | "
    "folder:PATH (one folder a class); see docs/data.md"
)

AnyModel = Annotated[
    str,
    typer.Option(
        help="Run directory or checkpoint of `robcal train`; TorchScript or torch.export file; or with --weights the "
        "name of a network: package.module:factory, your own code, which is imported, or one of robcal's."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights of the network that --model names: safetensors, or a state_dict of torch.save."),
]
ModelData = Annotated[str | None, typer.Option(help=DATA_HELP + "; default: the data the run was trained on.")]
ImageSize = Annotated[int | None, typer.Option(help="folder, imagenet: resize images to this side.")]

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: what there is.")]

Factory = Annotated[
    list[str] | None,
    typer.Option(
        help="Your own code that made the model, as package.module:factory. It is imported, which no file can ask for. "
        "Repeatable."
    ),
]


def admit_factories(names: Iterable[str] | None) -> None:
    """Import the factories that the user named by --factory.

    Raises:
        InputError: if one is no factory's name, or cannot be imported.
    """
    for name in names or ():
        from robcal.models.external import admit_model, is_factory

        if not is_factory(name):
            refuse(
                f"--factory is {name!r}",
                "it is written package.module:factory, as --model was in training",
                "Name the function after a colon; robcal's own models need no --factory",
            )
        admit_model(name)
