"""What the options of several commands share: types, choices, words of help, what the tab key completes; no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option
from typer.core import TyperCommand

from robcal.base import names
from robcal.base.checks import check_output, refuse
from robcal.robustness import ATTACKS

if TYPE_CHECKING:
    from robcal.base.results import Results

#: What an option takes that may be left out.
File = Path | None
Text = str | None

_KINDS = (kind.written(name) + (f" ({kind.about})" if kind.about else "") for name, kind in names.READERS.items())
DATA_HELP = f"{' | '.join(_KINDS)}; see docs/data.md"


def data_names(incomplete: str) -> list[str]:
    """Return the kinds of data, as the tab key completes them; behind the colon come files.

    >>> data_names("")[:2]
    ['digits', 'cifar10:']
    """
    return [f"{name}:" if kind.argument else name for name, kind in names.READERS.items()]


def method_names(incomplete: str) -> list[str]:
    """Return training methods; behind a "+" those that are not joined yet.

    >>> "ar-adals+mixup" in method_names("ar-adals+mi"), "ar-adals+ar-adals" in method_names("ar-adals+")
    (True, False)
    """
    joined, plus, _ = incomplete.rpartition("+")
    return [f"{joined}{plus}{name}" for name in names.METHODS if name not in joined.split("+")]


def attack_names(incomplete: str) -> list[str]:
    """Return the ways to score robustness."""
    return list(ATTACKS)


def preset_names(incomplete: str) -> list[str]:
    """Return the comparisons that come with robcal; without a match the shell offers files."""
    return list(names.preset_names())


AnyModel = Annotated[
    str,
    Option(
        help="Run directory or checkpoint of `robcal train`; TorchScript or torch.export file; or with --weights the "
        "name of a network: package.module:factory, your own code, which is imported, or one of robcal's."
    ),
]
Weights = Annotated[
    File,
    Option(help="Weights of the network that --model names: safetensors, or a state_dict of torch.save."),
]
ModelData = Annotated[
    Text,
    Option(help=DATA_HELP + "; default: the data the run was trained on.", autocompletion=data_names),
]
ImageSize = Annotated[int | None, Option(help="folder, imagenet: resize images to this side.")]

Quiet = Annotated[bool, Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an existing output.")]
Json = Annotated[bool, Option("--json", help="Write what was found as JSON, in place of tables and sentences.")]
Device = Annotated[Text, Option(help="cpu, cuda, …; default: what there is.")]

Factory = Annotated[
    list[str] | None,
    Option(
        help="Your own code that made the model, as package.module:factory. It is imported, which no file can ask for. "
        "Repeatable."
    ),
]


def admit_factories(factories: Iterable[str] | None) -> None:
    """Import the factories that the user named by --factory."""
    for name in factories or ():
        from robcal.models.external import admit_model, is_factory

        if not is_factory(name):
            refuse(
                f"--factory is {name!r}",
                "it is written package.module:factory, as --model was in training",
                "Name the function after a colon; robcal's own models need no --factory",
            )
        admit_model(name)


class MethodCommand(TyperCommand):
    """A command that takes the options of training methods as flags of its own, and whose help tells the methods."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with the methods below it; they are read from their signatures, which takes a second."""
        from robcal.methods import describe_methods

        joined = "ar-adals+mixup is both; an option that two have is written mixup.alpha."
        self.epilog = f"Training methods. Several are joined by +: {joined}\n\n{describe_methods()}"
        super().format_help(ctx, formatter)


#: For a command of `MethodCommand`: flags that are not its own are left to `own_options`.
OWN_OPTIONS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


def own_options(context: typer.Context, method: str) -> list[str]:
    """Return "NAME=VALUE" for every flag `--NAME VALUE` or `--NAME=VALUE` that the command itself does not have.

    Raises:
        UsageError: if a flag is no option of the method, has no value, or is no flag.
    """
    from robcal.methods import method_options

    known, found, rest = method_options(method), [], list(context.args)
    while rest:
        flag, _, value = rest.pop(0).partition("=")
        part, dot, option = flag.removeprefix("--").rpartition(".")
        name = part + dot + option.replace("-", "_")
        if not flag.startswith("--"):
            context.fail(f"Got unexpected extra argument ({flag})")
        if name not in known:
            flags = [flag for parameter in context.command.params for flag in parameter.opts]
            near = difflib.get_close_matches(flag, [*flags, *(f"--{one.replace('_', '-')}" for one in known)], n=1)
            context.fail(f"No such option: {flag}" + (f" Did you mean {near[0]}?" if near else ""))
        if not (value := value or (rest.pop(0) if rest else "")):
            context.fail(f"Option '{flag}' requires an argument.")
        found.append(f"{name}={value}")
    return found


def flags(options: Iterable[str]) -> str:
    """Write options as the user does."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)


def write_worst(results: Results, file: Path) -> Path:
    """Write the wrong predictions that results hold to a file for --worst, which `check_csv` has seen.

    Raises:
        InputError: if they are of a comparison that kept none.
    """
    from robcal.report.flat import wrong_of_results
    from robcal.report.render import write_page

    errs = any(method.metrics["accuracy"].value < 1 for method in results.methods if "accuracy" in method.metrics)
    if results.study is not None and errs and not any(method.worst for method in results.methods):
        refuse(
            f"--worst was given for {results.title}, whose results hold no wrong predictions",
            "a comparison keeps them where it writes a page or is asked for --worst; all are with its runs",
            "Name run directories, or audit one: robcal audit RUN --worst FILE.csv",
        )
    return write_page(lambda: wrong_of_results(results), file, overwrite=True)


def check_csv(file: Path, *, overwrite: bool) -> None:
    """Refuse a file for --worst that is no .csv file, or is there already."""
    if file.suffix != ".csv":
        refuse(f"--worst is {file}", "it names a .csv file, which lists wrong predictions", "Pass --worst FILE.csv")
    check_output(file, overwrite=overwrite)
