"""`robcal compare`: do all tasks, compute all outcomes, write everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from robcal.base.checks import refuse
from robcal.base.files import reading
from robcal.base.jobs import Failure, Workers, run_tasks
from robcal.base.progress import SILENT, Reporter, parts_of
from robcal.base.results import Missing, Results
from robcal.base.storage import load_json, load_results, save_results
from robcal.comparison.assemble import results
from robcal.comparison.doing import dataset_of, outside_split, run_task, shift_images
from robcal.comparison.outcomes import Outcome, outcomes_of
from robcal.comparison.plan import Plan
from robcal.comparison.summary import Measurements
from robcal.comparison.tasks import Outside, Place, ShiftPlan, Work
from robcal.report import write_report
from robcal.report.study_text import text_tables, write_tables


def plan_work(plan: Plan, out: Path, *, cache: Path | None = None, overwrite: bool = False) -> Work:
    """Return the tasks of a comparison, without doing any; the data is opened, so that it is checked.

    Args:
        plan: what to compare.
        out: folder of the results; runs are kept below it unless `cache` names another place.
        cache: folder that several comparisons share.
        overwrite: replace runs made on other data.

    Raises:
        InputError: if the data cannot be read, or `out` holds another comparison.
    """
    if not overwrite and (out / "results.json").exists():
        other = load_json(out / "results.json", "the results")
        about = other.get("study", other) if isinstance(other, dict) else {}
        if not isinstance(about, dict) or about.get("plan_digest") != plan.digest():
            refuse(
                f"{out} holds the results of another comparison",
                "one folder holds one comparison",
                "Pass --overwrite to replace the results (finished runs stay), or choose another --out",
            )
    settings, place, kinds = plan.plain(plan.seeds[0]), Place(cache or out), tuple[str, ...]()
    dataset_of(settings)
    for name, spec in plan.ood.items():
        outside_split(settings, Outside(name, spec, plan.ood_limit))
    if plan.shift_limit != 0:
        source = shift_images(settings, ShiftPlan(plan.shift_limit, plan.shift), place).source
        kinds = () if source.stored else source.kinds
    return Work(plan, place, kinds=kinds, overwrite=overwrite)


def load_comparison(path: Path) -> Results:
    """Read results.json of a comparison.

    Raises:
        InputError: if the file is missing or is of another kind.
    """
    results = load_results(path)
    if results.study is None:
        fix = "Name the results.json of a comparison, or make one: robcal compare FILE.toml --out DIR"
        refuse(f"{path} is no comparison", "it must be results.json of `robcal compare`", fix)
    with reading(path, "the results of a comparison", fix="Start `robcal compare` again: finished work is kept"):
        text_tables(results)  # whatever lacks is found before anything is written
    return results


def compare(
    plan: Plan,
    out: Path,
    *,
    cache: Path | None = None,
    jobs: int = 1,
    workers: Workers | None = None,
    report: bool = True,
    examples: bool = False,
    overwrite: bool = False,
    fail_fast: bool = False,
    on_failure: Callable[[str], None] = lambda line: None,
    reporter: Reporter = SILENT,
) -> Results:
    """Train, choose, score and measure everything a plan names, and put it side by side.

    Everything finished is on disk: a comparison that was stopped goes on where it was, one that grew makes what is new.
    A task that fails takes with it what needs it and nothing else; the results say what they lack and why ("missing"),
    and the next start tries that again.

    Args:
        plan: what to compare.
        out: folder; gets results.json, table.txt, table.md, table.csv and figure.svg.
        cache: folder of the runs, default `out`; several comparisons may share it.
        jobs: tasks side by side.
        workers: what does the tasks in place of `jobs` processes of this machine: see `robcal.comparison.cluster`.
        report: write report.html too; it and the results hold the wrong predictions of at most four methods then.
        examples: the results hold these without a page too.
        overwrite: replace the results of another comparison, and runs made on other data.
        fail_fast: stop at the first task that fails.
        on_failure: called at once with a line on each task that fails.
        reporter: shows progress.

    Returns:
        What results.json holds.

    Raises:
        InputError: on a plan that does not fit the data, or if nothing at all could be measured.
        Exception: with `fail_fast`, what the first failing task raises.
        KeyboardInterrupt: on Ctrl-C; finished work is kept.
    """
    work = plan_work(plan, out, cache=cache, overwrite=overwrite)
    missing = _do(work, jobs=jobs, workers=workers, fail_fast=fail_fast, on_failure=on_failure, reporter=reporter)
    found, missing = _measure(work, missing, jobs=jobs, fail_fast=fail_fast, on_failure=on_failure, reporter=reporter)
    if not any(one.by_seed for one in found.values()):
        refuse(
            f"nothing could be measured: {missing[0].task} failed: {missing[0].reason.rstrip('.')}",
            "a table needs at least one run",
            "Fix the cause and start again; finished work is kept",
        )
    made = results(work, found, missing, examples=report or examples)
    save_results(made, out / "results.json")
    write_tables(made, out)
    if report:
        write_report(made, out / "report.html", overwrite=True)
    return made


def _do(
    work: Work,
    *,
    jobs: int,
    workers: Workers | None,
    fail_fast: bool,
    on_failure: Callable[[str], None],
    reporter: Reporter,
) -> list[Missing]:
    """Do all tasks; return what those that failed or were skipped take from the entries."""

    def failed(number: int, failure: Failure) -> None:
        on_failure(_failure_line(work, number, failure))

    ended = run_tasks(
        run_task, work.tasks, work.needs, jobs=jobs, workers=workers, reporter=parts_of(reporter),
        done=reporter.task("tasks of the comparison", len(work.tasks)), failed=None if fail_fast else failed,
    )  # fmt: skip
    return [
        Missing(label, seed, part, work.tasks[failure.cause].describe(), failure.reason)
        for (label, seed), parts in work.parts.items()
        for part, failure in _failed(parts, ended).items()
    ]


def _failure_line(work: Work, number: int, failure: Failure) -> str:
    """Return one line on a task that failed, and how many others cannot be done without it."""
    lost = {number}
    for other, needs in enumerate(work.needs):
        if lost & set(needs):
            lost.add(other)
    skipped = f" ({len(lost) - 1} tasks that need it are skipped)" if len(lost) > 1 else ""
    return f"failed: {work.tasks[number].describe()}: {failure.reason}{skipped}"


def _failed(parts: Mapping[str, Sequence[int]], ended: Sequence[object]) -> dict[str, Failure]:
    """Return the parts of one entry that lack a task; if the run itself is lacking, that says all."""
    found: dict[str, Failure] = {}
    for part, numbers in parts.items():
        for failure in (one for number in numbers if isinstance(one := ended[number], Failure)):
            found.setdefault(part, failure)
    return {"all": found["all"]} if "all" in found else found


def _measure(
    work: Work,
    missing: Sequence[Missing],
    *,
    jobs: int,
    fail_fast: bool,
    on_failure: Callable[[str], None],
    reporter: Reporter,
) -> tuple[dict[str, Measurements], list[Missing]]:
    """Return the outcomes of every label, from what the finished tasks left on disk; and what is missing after that."""
    lost: dict[tuple[str, int], set[str]] = {}
    for one in missing:
        lost.setdefault((one.label, one.seed), set()).add(one.part)
    entries = [
        work.job(entry, parts)
        for entry in work.entries
        if "all" not in (parts := lost.get((entry.label, entry.seed), set()))
    ]
    made = run_tasks(
        outcomes_of, entries, jobs=jobs if len(entries) > 8 else 1, reporter=reporter,
        done=reporter.task("outcomes", len(entries)), failed=None if fail_fast else lambda number, failure: None,
    )  # fmt: skip
    by_label: dict[str, dict[int, tuple[Outcome, Outcome]]] = {label: {} for label in work.plan.labels}
    more: dict[tuple[str, int], Missing] = {}
    for job, pair in zip(entries, made, strict=True):
        label, seed = job.entry.label, job.entry.seed
        if isinstance(pair, Failure):
            more[label, seed] = Missing(label, seed, "all", f"outcomes: {label} seed {seed}", pair.reason)
            on_failure(f"failed: {more[label, seed].task}: {pair.reason}")
        else:
            by_label[label][seed] = pair
    kept = [one for one in missing if (one.label, one.seed) not in more]
    return {label: Measurements(label, by_seed) for label, by_seed in by_label.items()}, [*kept, *more.values()]
