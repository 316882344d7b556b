"""What the options of several commands share: their types, choices and words of help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from robcal.base.checks import refuse

DATA_HELP = (
    "digits | cifar10:PATH | cifar100:PATH | svhn:PATH | imagenet:PATH (folders or parquet) | npz:FILE (x_train, "
    "y_train and optional x_val, y_val, x_test, y_test, class_names; or MedMNIST's train_images, train_labels, …) | "
    "folder:PATH (one folder a class); see docs/data.md"
)

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
