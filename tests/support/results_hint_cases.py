"""Advice about runs side by side, comparisons, their pages and fidelity, carried out."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from array_hint_cases import LABELS, PROBS
from hint_cases import Call, Case, Steps, in_turn, robcal
from runs_hint_cases import TRAIN, a_run, quick_fidelity, scores_of

from robcal import audit
from robcal.base.results import Results
from robcal.base.storage import load_scores, save_json, save_results
from robcal.report import text_table, write_report
from robcal.runs.collect import report_runs
from robcal.runs.directory import load_data, load_model, open_run
from robcal.runs.fidelity import measure_fidelity


@functools.cache
def _results() -> Results:
    return audit(PROBS, LABELS, resamples=20).results


def _page(**changes: Any) -> Callable[[Path], Steps]:
    """Results that make no page, and those that do."""

    def steps(folder: Path) -> Steps:
        yield lambda: write_report(dataclasses.replace(_results(), **changes), folder / "wrong.html")
        yield lambda: write_report(_results(), folder / "right.html")

    return steps


def _two_names(folder: Path) -> Steps:
    (one,) = _results().methods
    two = [
        dataclasses.replace(_results(), methods=(one, dataclasses.replace(one, name=name))) for name in (one.name, "b")
    ]
    yield lambda: write_report(two[0], folder / "wrong.html")
    yield lambda: write_report(two[1], folder / "right.html")


# Runs side by side ---------------------------------------------------------------------------------------------------


def _smoothed(folder: Path, seed: int) -> Path:
    """A run of another method, made once."""
    out = folder.parent / f"a smoothed run of seed {seed}"
    if not out.exists():
        robcal(*TRAIN[:-2], "label-smoothing", "--quiet", "--seed", seed, "--split-seed", 0, "--out", out)()
    return out


def _side_by_side(*runs: Path) -> Call:
    return lambda: report_runs(list(runs), shift=False)


def _other_data(folder: Path) -> Steps:
    run, rng, y = a_run(folder), np.random.default_rng(0), np.arange(60) % 2
    np.savez(
        folder / "d.npz", x_train=rng.normal(size=(60, 3)), y_train=y, x_test=rng.normal(size=(30, 3)), y_test=y[:30]
    )
    words = ("--model", "mlp", "--epochs", 1, "--method", "vanilla", "--quiet", "--out", folder / "other")
    robcal("train", "--data", f"npz:{folder / 'd.npz'}", *words)()
    yield _side_by_side(run, folder / "other")
    yield _side_by_side(run, _smoothed(folder, 0))


def _other_seeds(folder: Path) -> Steps:
    yield _side_by_side(a_run(folder), _smoothed(folder, 1))
    yield _side_by_side(folder / "run", _smoothed(folder, 0))


# Comparisons ---------------------------------------------------------------------------------------------------------


def _plan(folder: Path, learning_rate: float = 0.05) -> Path:
    file = folder / "plan.toml"
    file.write_text(
        "seeds = [0]\nshift_limit = 0\nscore_limit = 0\n"
        f'[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\nlearning_rate = {learning_rate}\n'
        'train_limit = 60\ntest_limit = 30\ndevice = "cpu"\n'
        '[[methods]]\nlabel = "Plain"\nmethod = "vanilla"\n'
    )
    return file


def _compared(plan: Path, out: Path, *words: object) -> Call:
    return robcal("compare", plan, "--out", out, "--jobs", 1, "--no-report", "--quiet", *words)


def _finished(folder: Path) -> Path:
    """The results of a comparison that is made once."""
    out = folder.parent / "a comparison"
    if not out.exists():
        _compared(_plan(folder), out)()
    return out / "results.json"


def _another_comparison(folder: Path) -> Steps:
    out = folder / "out"
    save_json({"plan_digest": "another"}, out / "results.json")
    yield _compared(_plan(folder), out, "--dry-run")
    yield lambda: (
        _compared(_plan(folder), out, "--dry-run", "--overwrite")(),
        _compared(_plan(folder), folder / "other", "--dry-run")(),
    )


def _nothing_measured(folder: Path) -> Steps:
    yield _compared(_plan(folder, 1e30), folder / "out")
    yield _compared(_plan(folder), folder / "out")


def _no_comparison(folder: Path) -> Steps:
    file = save_results(_results(), folder / "results.json")
    yield robcal("compare", file, "--out", folder / "tables", "--no-report")
    yield robcal("compare", _finished(folder), "--out", folder / "tables", "--no-report")


# Fidelity ------------------------------------------------------------------------------------------------------------


def _measured(folder: Path, methods: tuple[str, ...] = ("first-order",), **at_hand: Any) -> Call:
    run = open_run(folder / "run")
    few: dict[str, Any] = {"sample": 10, "num_levels": 2, "overwrite": True}

    def call() -> None:
        model, _ = load_model(run.directory)
        data = load_data(run.settings)
        with quick_fidelity():
            measure_fidelity(model, data, "test", folder / "f.json", methods=methods, at_hand=at_hand, **few)

    return call


def _no_method(folder: Path) -> Steps:
    file = scores_of(folder, a_run(folder), "test")
    yield _measured(folder, ())
    yield lambda: (_measured(folder)(), _measured(folder, (), mine=load_scores(file))())


def _one_name(folder: Path) -> Steps:
    scores = load_scores(scores_of(folder, a_run(folder), "test"))
    yield _measured(folder, **{"first-order": scores})
    yield _measured(folder, mine=scores)


def _of_labels(folder: Path) -> Steps:
    scores = load_scores(scores_of(folder, a_run(folder), "test"))
    yield _measured(folder, mine=dataclasses.replace(scores, reference="label"))
    yield _measured(folder, mine=scores)


CASES = [
    Case("a page without methods", "Measure one first: robcal report RUN", _page(methods=())),
    Case("a table without methods", "Measure one first: robcal report RUN", in_turn(
        lambda: text_table(dataclasses.replace(_results(), methods=())), lambda: text_table(_results()),
    )),
    Case("a page of two methods of one name", "Rename one", _two_names),
    Case("runs on other data", "Compare runs of the same --data and --test-limit", _other_data),
    Case("runs of other seeds", "Train both with the same seeds", _other_seeds),
    Case("a folder of another comparison", "or choose another --out", _another_comparison),
    Case("a comparison of nothing", "Fix the cause and start again", _nothing_measured),
    Case("results of no comparison", "Name the results.json of a comparison", _no_comparison),
    Case("fidelity of no method", "Pass --method or --scores", _no_method),
    Case("fidelity of two of one name", "Rename the file", _one_name),
    Case("fidelity of scores of labels", "Score with reference='prediction'", _of_labels),
]  # fmt: skip
