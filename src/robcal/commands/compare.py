"""`robcal compare`: methods over seeds, and what is told of those that fail."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from robcal.base.checks import MOST_NETWORKS, refuse
from robcal.base.progress import open_reporter
from robcal.commands import options as opt
from robcal.commands.options import File, Text
from robcal.commands.terminal import columns, show_files, show_json

if TYPE_CHECKING:
    from robcal.base.jobs import Workers
    from robcal.base.results import Results


def compare(
    what: Annotated[
        str,
        Argument(
            metavar="PRESET|FILE.toml|results.json",
            help="What to compare; results: only tables.",
            autocompletion=opt.preset_names,
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the results.")],
    data: Annotated[
        Text, Option(help=opt.DATA_HELP + "; instead of the file's.", autocompletion=opt.data_names)
    ] = None,
    cache: Annotated[File, Option(help="Folder for runs, shared by several comparisons; default: --out.")] = None,
    jobs: Annotated[int | None, Option(help="Tasks side by side; default: number of cores.")] = None,
    executor: Annotated[
        Text, Option(help="submitit:slurm: tasks are jobs of a cluster; submitit:local: of this machine, to try it.")
    ] = None,
    executor_option: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE",
            help="Of the jobs, by submitit's names: slurm_partition=gpu, timeout_min=600, gpus_per_node=1; repeatable.",
        ),
    ] = None,
    seeds: Annotated[Text, Option(help="Evaluation seeds instead of the file's: 0,1,2 or 0-4.")] = None,
    shift: Annotated[
        Text, Option(help="Official corrupted files instead of our own: cifar10c:, cifar100c: or imagenetc:PATH.")
    ] = None,
    ood: Annotated[
        list[str] | None,
        Option(help="NAME=SPEC: out-of-distribution inputs, any data text of the same shape; repeatable."),
    ] = None,
    factory: opt.Factory = None,
    device: opt.Device = None,
    report: Annotated[bool, Option(help="Write report.html too.")] = True,
    worst: Annotated[
        File,
        Option(
            metavar="FILE.csv",
            help="List the wrong predictions of at most four methods' first seed in this CSV file, highest confidence "
            "first.",
        ),
    ] = None,
    fail_fast: Annotated[
        bool, Option("--fail-fast", help="Stop all at the first task that fails, with its traceback.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="List the tasks and do nothing.")] = False,
    json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compare methods over seeds: hyper-parameters chosen on validation data, one table with paired differences.

    Every run is independent and kept by the digest of its settings: a stopped comparison goes on where it was, one that
    grew makes only what is new. Everything is measured in distribution and under corruption, raw and after temperature
    scaling.

    A task that fails is told at once and takes only what needs it with it: the tables are made of what there is, mark
    what lacks seeds and say why, and the exit status is 3. The same command again tries only what is missing.

    Example: robcal compare digits --out compare-digits
    """
    given = dict(locals())  # every option by its name
    from robcal.base.jobs import available_cores
    from robcal.comparison import compare as run_comparison
    from robcal.comparison import load_plan, plan_work

    opt.admit_factories(factory)
    if worst is not None:  # the same command again replaces what it wrote
        opt.check_csv(worst, overwrite=overwrite or (out / "results.json").exists())
    if what.endswith(".json"):
        if other := [name for name in _OF_RUNS if given[name]]:
            rule = "results are only made into tables and a page again"
            fix = "Leave them out, or name the plan or the preset in place of its results"
            refuse(f"{what} and {opt.flags(other)} were given", rule, fix)
        _show(*_made_again(Path(what), out, report=report, worst=worst, overwrite=overwrite), json=json)
        return
    chosen = {name: value for name, value in (("data", data), ("device", device)) if value is not None}
    plan = load_plan(
        what,
        seeds=None if seeds is None else _seeds(seeds),
        recipe=chosen,
        shift=shift,
        ood=_named(ood or ()),
    )
    for warning in plan.warnings():
        typer.echo(f"robcal: {warning}", err=True)
    if dry_run:
        tasks = [task.describe() for task in plan_work(plan, out, cache=cache, overwrite=overwrite).tasks]
        show_json({"tasks": tasks}) if json else typer.echo("\n".join(tasks))
        return
    workers = _cluster(executor, executor_option or [], (cache or out) / "jobs", jobs)
    with open_reporter(quiet=quiet) as reporter:
        results = run_comparison(
            plan, out, cache=cache, jobs=jobs or available_cores(), workers=workers, report=report,
            examples=worst is not None, overwrite=overwrite, fail_fast=fail_fast, on_failure=_tell_failure,
            reporter=reporter,
        )  # fmt: skip
    listed = [] if worst is None else [opt.write_worst(results, worst)]
    page = [out / "report.html"] if report else []
    _show(results, [*listed, *_tables(out), out / "results.json", *page], json=json)
    if results.study is not None and results.study.missing:
        typer.echo("robcal: some tasks failed (see above); the same command tries again what is missing", err=True)
        raise typer.Exit(3)


#: Options of what is done before there are results.
_OF_RUNS = (
    "data", "cache", "jobs", "executor", "executor_option", "seeds", "shift", "ood", "device", "fail_fast", "dry_run",
)  # fmt: skip


def _made_again(
    file: Path, out: Path, *, report: bool, worst: Path | None, overwrite: bool
) -> tuple[Results, list[Path]]:
    """Write what is made of results.json alone, and name it."""
    from robcal.comparison import load_comparison, write_tables
    from robcal.report import write_report

    results = load_comparison(file)
    written = [] if worst is None else [opt.write_worst(results, worst)]
    write_tables(results, out)
    written += _tables(out)
    if report and (overwrite or not (out / "report.html").exists()):
        written.append(write_report(results, out / "report.html", overwrite=True))
    return results, written


def _tables(out: Path) -> list[Path]:
    from robcal.report.study_text import TABLES

    return [out / name for name in TABLES]


def _show(results: Results, files: list[Path], *, json: bool) -> None:
    """Tell the tables and the files that were written."""
    from robcal.comparison import text_tables

    if json:
        show_json(results, files)
    else:
        typer.echo(f"{text_tables(results, width=columns())}\n")
        show_files(files)


def _cluster(executor: str | None, options: list[str], folder: Path, jobs: int | None) -> Workers | None:
    """Return what hands the tasks to a cluster, if one is asked for."""
    from robcal.comparison.cluster import open_cluster

    if executor is None and options:
        refuse(
            "--executor-option was given without --executor",
            "it is of jobs",
            "Pass --executor submitit:local, or submitit:slurm",
        )
    if executor is None:
        return None
    if executor not in ("submitit", "submitit:slurm", "submitit:local"):
        refuse(
            f"--executor is {executor!r}",
            "it is submitit:slurm or submitit:local",
            "Pass one of these, or leave --executor out to use this machine's cores",
        )
    return open_cluster(executor.partition(":")[2] or "slurm", folder, options=options, jobs=jobs)


def _tell_failure(line: str) -> None:
    """Tell of a failure on standard error, above any bars that are drawn there."""
    print(f"robcal: {line}", file=sys.stderr, flush=True)


def _named(texts: Iterable[str]) -> dict[str, str]:
    """Read NAME=SPEC of every set of inputs."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, spec = text.partition("=")
        if not name or not spec:
            refuse(f"--ood is {text!r}", "it is written NAME=SPEC", "For example --ood svhn=svhn:PATH")
        if name in found:
            rule = "tables tell sets of inputs apart by their names"
            refuse(f"--ood names {name!r} twice", rule, f"Call one of them otherwise: --ood {name}2={spec}")
        found[name] = spec
    return found


def _seeds(text: str) -> list[int]:
    """Read 0,1,2 or 0-4, or both."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        ends = first, last or first
        if not all(map(str.isdecimal, ends)) or not 0 <= int(ends[1]) - int(first) < MOST_NETWORKS:
            rule = f"seeds are whole numbers or ranges that rise, of {MOST_NETWORKS:,} at most"
            refuse(f"--seeds is {text!r}", rule, "Write --seeds 0,1,2 or 0-4")
        found += range(int(first), int(ends[1]) + 1)
    return found
