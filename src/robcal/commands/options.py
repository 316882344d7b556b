"""What the options of several commands share: their types, choices and words of help."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

DATA_HELP = "digits | cifar10:PATH | cifar100:PATH | svhn:PATH | imagenet:PATH | npz:FILE | folder:PATH"

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: what there is.")]

Precision = Literal["float32", "bf16"]
Scorer = Literal["auto", "first-order", "projection", "carlini-wagner"]
