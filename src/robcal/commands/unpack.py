"""`robcal unpack`: shards into pictures, before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from robcal.base.checks import refuse
from robcal.base.progress import open_reporter
from robcal.commands.options import Quiet


def unpack(
    data: Annotated[str, Option(help="imagenet:PATH, a folder of parquet shards.")],
    out: Annotated[Path, Option(help="Folder to make; a stopped unpacking goes on.")],
    quiet: Quiet = False,
) -> None:
    """Unpack ImageNet's parquet shards, which are slow to shuffle, into class folders.

    The pictures stay as they are stored; labels and splits stay the same. The folder appears when it is whole.

    Example: robcal unpack --data imagenet:shards --out pictures; then robcal train --data imagenet:pictures …
    """
    from robcal.data.unpack import unpack_pictures

    form, _, path = data.partition(":")
    if form != "imagenet" or not path:
        refuse(f"--data is {data!r}", "only imagenet:PATH comes in shards to unpack", "Pass --data imagenet:PATH")
    with open_reporter(quiet=quiet) as reporter:
        folder = unpack_pictures(path, out, reporter=reporter)
    typer.echo(f"next: --data imagenet:{folder}")
    typer.echo(str(folder))
