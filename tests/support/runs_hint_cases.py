"""Advice about run directories, scores at hand and commands, carried out; the commands that errors write are run."""

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from hint_cases import Call, Case, Steps, in_turn, robcal
from official_files import write_shards

from robcal.base.storage import load_checkpoint, save_checkpoint
from robcal.base.types import FidelityRow
from robcal.calibration.recalibration import Recalibrator
from robcal.robustness.fidelity import fidelity
from robcal.robustness.first_order import FirstOrder
from robcal.runs.directory import load_model, open_run
from robcal.runs.level_sources import assign_folds
from robcal.runs.measure import measure_run
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

DATA = ("--data", "digits", "--train-limit", "60", "--test-limit", "30")
SMALL = (*DATA, "--model", "mlp", "--epochs", "1", "--device", "cpu")
TRAIN = ("train", *SMALL, "--method", "vanilla", "--quiet")


def written(hint: str, **places: object) -> tuple[str, ...]:
    """The command that an error's advice writes, with these places in it."""
    found = re.search(r".*robcal ((?:train|score) .*?)(?:, and the same.*)?\.$", hint)
    assert found is not None, hint
    return tuple(str(places.get(word, word)) for word in shlex.split(found[1]))


def a_run(folder: Path, members: int = 1) -> Path:
    """A copy of a run that is made once; `folder` is one of several beside each other."""
    made = folder.parent / f"a run of {members}"
    if not made.exists():
        options = {"train_limit": 60, "test_limit": 30, "device": "cpu", "members": members}
        train_run(TrainSettings("digits", "mlp", "vanilla", epochs=1, **options), made)
    return Path(shutil.copytree(made, folder / "run"))


def scores_of(folder: Path, run: Path, split: str) -> Path:
    """Scores of a split."""
    out = folder / f"{split}.parquet"
    robcal("score", "--model", run, "--split", split, "--method", "first-order", "--out", out, "--quiet")()
    return out


def _trained_by(folder: Path, *files: Path, **options: object) -> Call:
    """Training by scores at hand."""
    scores = [word for file in files for word in ("--scores", file)]
    more = [word for name, value in options.items() for word in (f"--{name}", value)]
    out = folder / "by scores"
    return robcal("train", *SMALL, "--method", "ar-adals", "--levels", 2, *scores, *more, "--out", out, "--quiet")


def _examples_of_a_comparison(folder: Path) -> Steps:
    evidence = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"
    yield robcal("report", evidence, "--worst", folder / "w.csv", "--out", folder / "r.html")
    run = a_run(folder)
    yield robcal("audit", run, "--levels", 2, "--resamples", 20, "--worst", folder / "w.csv", "--quiet")


def _other_settings(folder: Path) -> Steps:
    run = a_run(folder)
    yield robcal(*TRAIN, "--seed", 1, "--out", run)
    yield lambda: (
        robcal(*TRAIN, "--seed", 1, "--out", folder / "other")(),
        robcal(*TRAIN, "--seed", 1, "--out", run, "--overwrite")(),
    )


def _taken_folder(folder: Path) -> Steps:
    (folder / "papers").mkdir()
    (folder / "papers/one.txt").touch()
    yield robcal(*TRAIN, "--out", folder / "papers")
    yield robcal(*TRAIN, "--out", folder / "run")


def _named(find: Callable[[Path], Path]) -> Callable[[Path], Steps]:
    """A folder that is no run; the error names the run that is near."""

    def steps(folder: Path) -> Steps:
        run = a_run(folder)
        hint = yield lambda: open_run(find(run))
        found = re.search(r"such as (.*)\.$", hint)
        assert found is not None
        yield lambda: open_run(Path(found[1]))

    return steps


def _inside(run: Path) -> Path:
    (run / "notes").mkdir()
    return run / "notes"


def _no_run(folder: Path) -> Steps:
    hint = yield lambda: open_run(folder / "runs")
    out = folder / "run"
    words = written(hint, DATA="digits", DIR=out)
    yield lambda: (robcal(*words, *SMALL[2:], "--method", "vanilla", "--quiet")(), open_run(out))


def _changed(change: Callable[[Path], object]) -> Callable[[Path], Steps]:
    """A run in which something was changed: a copy is put back, or the run is deleted and trained again."""

    def steps(folder: Path) -> Steps:
        run = a_run(folder)
        before = Path(shutil.copytree(run, folder / "before"))
        change(run)
        yield lambda: load_model(run)

        def both() -> None:
            shutil.rmtree(run)
            before.rename(run)
            load_model(run)
            shutil.rmtree(run)
            robcal(*TRAIN, "--out", run)()
            load_model(run)

        yield both

    return steps


def _record(**values: object) -> Callable[[Path], object]:
    """Write other values to the record of a run."""

    def change(run: Path) -> None:
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**record, **values}))

    return change


def _longer(run: Path) -> None:
    settings = json.loads((run / "run.json").read_text())["settings"]
    _record(settings={**settings, "epochs": 50})(run)


def _renamed_model(file: Path) -> None:
    """Say that a checkpoint is of another network than its tensors."""
    tensors, about = load_checkpoint(file)
    file.unlink()
    save_checkpoint(tensors, {**about, "model": "cnn"}, file)


def _other_model(run: Path) -> None:
    _renamed_model(run / "model.safetensors")


def _scores_of_another(folder: Path) -> Steps:
    run, other = a_run(folder), folder / "other"
    robcal(*TRAIN, "--seed", 1, "--split-seed", 0, "--out", other)()
    audit = ("--levels", 2, "--resamples", 20, "--quiet")
    robcal("audit", other, *audit)()
    file = Path(shutil.copy(other / "scores-test.parquet", run))
    yield robcal("audit", run, *audit)
    file.unlink()
    yield robcal("audit", run, *audit)


def _ensemble(folder: Path) -> Steps:
    run = a_run(folder, members=2)
    out = folder / "s.parquet"
    yield robcal("score", "--model", run, "--out", out, "--quiet")
    yield robcal("score", "--model", run / "member-0.safetensors", "--method", "first-order", "--out", out, "--quiet")


def _lone_checkpoint(folder: Path) -> Steps:
    file = _moved_checkpoint(folder)
    _renamed_model(file)
    yield lambda: load_model(file)
    shutil.copy(folder / "run/model.safetensors", file)
    yield lambda: load_model(file)


def _diverged(folder: Path) -> Steps:
    file = _moved_checkpoint(folder)
    tensors, about = load_checkpoint(file)
    before = file.read_bytes()
    file.unlink()
    save_checkpoint({name: tensor * float("nan") for name, tensor in tensors.items()}, about, file)
    yield lambda: load_model(file)

    def mended() -> None:
        file.write_bytes(before)
        load_model(file)
        robcal(*TRAIN, "--learning-rate", 0.01, "--out", folder / "again")()
        load_model(folder / "again")

    yield mended


def _of_test(folder: Path) -> Steps:
    run = a_run(folder)
    test, val = scores_of(folder, run, "test"), scores_of(folder, run, "val")
    hint = yield _trained_by(folder, test, val)
    train = folder / "train.parquet"
    words = written(hint, RUN=run, **{"FILE.parquet": train})
    yield lambda: (robcal(*words, "--method", "first-order", "--quiet")(), _trained_by(folder, train, val)())


def _of_one(folder: Path) -> Steps:
    run = a_run(folder)
    train = scores_of(folder, run, "train")
    hint = yield _trained_by(folder, train)
    val = folder / "val.parquet"
    words = written(hint, RUN=run, **{"FILE.parquet": val})
    yield lambda: (robcal(*words, "--method", "first-order", "--quiet")(), _trained_by(folder, train, val)())


def _of_other_data(folder: Path) -> Steps:
    run = a_run(folder)
    train, val = scores_of(folder, run, "train"), scores_of(folder, run, "val")
    hint = yield _trained_by(folder, train, val, **{"split-seed": 5})
    words = written(hint, RUN=run)
    again = tuple("val" if word == "train" else str(val) if word == str(train) else word for word in words)
    first_order = ("--method", "first-order", "--quiet")
    yield lambda: (
        robcal(*words, *first_order)(),
        robcal(*again, *first_order)(),
        _trained_by(folder, train, val, **{"split-seed": 5})(),
    )


def _unfinished(folder: Path) -> Steps:
    run = a_run(folder)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "complete": False}))
    yield lambda: measure_run(open_run(run), shift=False, scores=False)
    yield lambda: (robcal(*TRAIN, "--out", run)(), measure_run(open_run(run), shift=False, scores=False))


def _one_run_twice(folder: Path) -> Steps:
    from robcal.runs.collect import report_runs

    run = a_run(folder)
    yield lambda: report_runs([run, run], shift=False)
    yield lambda: report_runs([run], shift=False)


def _compared(folder: Path, *words: object) -> Call:
    file = folder / "plan.toml"
    file.write_text(
        'seeds = [0]\n[recipe]\ndata = "digits"\nmodel = "mlp"\nepochs = 1\n'
        '[[methods]]\nlabel = "Plain"\nmethod = "vanilla"\n'
    )
    return robcal("compare", file, "--out", folder / "out", "--dry-run", "--quiet", *words)


def _seeds(folder: Path) -> Steps:
    hint = yield _compared(folder, "--seeds", "three")
    found = re.search(r"--seeds (\S+) or (\S+)\.$", hint)
    assert found is not None
    yield lambda: [_compared(folder, "--seeds", text)() for text in found.groups()]


def _ood(folder: Path) -> Steps:
    hint = yield _compared(folder, "--ood", "digits")
    name = re.search(r"--ood (\w+)=", hint)
    assert name is not None
    yield _compared(folder, "--ood", f"{name[1]}=digits")


def _results_in_place_of_a_plan(folder: Path) -> Steps:
    yield robcal("compare", folder / "results.json", "--out", folder / "out", "--dry-run")
    yield _compared(folder)


def _ood_twice(folder: Path) -> Steps:
    hint = yield _compared(folder, "--ood", "a=digits", "--ood", "a=digits")
    other = re.search(r"--ood (\S+=\w+)", hint)
    assert other is not None
    yield _compared(folder, "--ood", "a=digits", "--ood", other[1])


def _factory(folder: Path) -> Steps:
    run = a_run(folder)
    (folder / "own_hint_nets.py").write_text("def net(num_classes): pass\n")
    here = Path.cwd()
    os.chdir(folder)
    try:
        words = ("audit", run, "--levels", 2, "--resamples", 20, "--quiet")
        yield robcal(*words, "--factory", "own_hint_nets")
        yield lambda: (robcal(*words)(), robcal(*words, "--factory", "own_hint_nets:net")())
    finally:
        os.chdir(here)
        os.environ.pop("ROBCAL_FACTORIES", None)


def _suffix(folder: Path) -> Steps:
    words = ("score", "--model", a_run(folder), "--method", "first-order", "--quiet", "--out")
    hint = yield robcal(*words, folder / "scores.csv")
    found = re.search(r"--out (\S+)\.$", hint)
    assert found is not None
    yield robcal(*words, found[1])


def _moved_checkpoint(folder: Path) -> Path:
    return Path(shutil.copy(a_run(folder) / "model.safetensors", folder / "alone.safetensors"))


CUT = ("--data", "digits")


def quick_fidelity() -> contextlib.AbstractContextManager[object]:
    """Put one attack in place of the references, and draw few resamples: figures are not what the advice is about."""
    return mock.patch.multiple(
        "robcal.runs.fidelity",
        reference_attacks=lambda **_: {"first-order": FirstOrder()},
        fidelity=functools.partial(fidelity, resamples=20),
    )


def _fidelity(*words: object) -> Call:
    """The command without the attacks."""

    def call() -> None:
        rows = (FidelityRow("first-order", "candidate", {}),)
        with mock.patch("robcal.runs.fidelity.measure_fidelity", return_value=rows):
            robcal("fidelity", *words, "--quiet")()

    return call


def _no_place(folder: Path) -> Steps:
    words = ("--model", _moved_checkpoint(folder), *CUT)
    yield _fidelity(*words)
    yield _fidelity(*words, "--out", folder / "FILE.json")


def _no_data(folder: Path) -> Steps:
    out = ("--method", "first-order", "--out", folder / "s.parquet", "--quiet")
    words = ("score", "--model", _moved_checkpoint(folder), *out)
    yield robcal(*words)
    yield robcal(*words, *CUT)


def _two_names(folder: Path) -> Steps:
    run = a_run(folder)
    one = scores_of(folder, run, "test")
    (folder / "b").mkdir()
    two = Path(shutil.copy(one, folder / "b/test.parquet"))
    words = ("--model", run, "--out", folder / "f.json", "--scores", one)
    yield _fidelity(*words, "--scores", two)
    yield _fidelity(*words, "--scores", two.rename(folder / "b/other.parquet"))


def _shards(folder: Path) -> Steps:
    write_shards(folder)
    words = ("unpack", "--out", folder / "pictures", "--quiet", "--data")
    yield robcal(*words, folder)
    yield robcal(*words, f"imagenet:{folder}")


def _recalibrated(wrong: tuple[str, ...], right: tuple[str, ...]) -> Callable[[Path], Steps]:
    """`robcal recalibrate` of arrays or a run, by names of files."""

    def steps(folder: Path) -> Steps:
        rng = np.random.default_rng(0)
        labels = np.arange(200) % 2
        np.save(folder / "z.npy", rng.normal(size=(200, 2)) + 2 * np.eye(2)[labels])
        np.save(folder / "y.npy", labels)
        run = a_run(folder) if "run" in (*wrong, *right) else None
        places = {name: folder / name for name in ("z.npy", "y.npy", "r.json", "p.npy")} | {"run": run}
        first, second = ([places.get(word, word) for word in words] for words in (wrong, right))
        yield robcal("recalibrate", *first, "--method", "temperature")
        yield robcal("recalibrate", *second, "--method", "temperature", "--overwrite")

    return steps


def _foreign_recalibrator(folder: Path) -> Steps:
    """A recalibrator that was fitted on other logits, in the directory of a run."""
    run, rng = a_run(folder), np.random.default_rng(0)
    fitted = Recalibrator("temperature").fit(rng.normal(size=(100, 10)), np.arange(100) % 10)
    fitted.save(run / "recalibrator.json")
    words = ("export", run, "--format", "safetensors", "--out", folder / "net.safetensors")
    hint = yield robcal(*words)
    robcal(*hint.partition("robcal ")[2].partition(";")[0].split(), "--method", "temperature")()
    yield robcal(*words)


ARRAYS, OUT = ("--logits", "z.npy", "--labels", "y.npy"), ("--out", "r.json")

CASES = [
    Case("a run of other settings", "Pass --overwrite to replace it, or choose another --out", _other_settings),
    Case("the examples of a comparison", "audit RUN --worst FILE.csv", _examples_of_a_comparison),
    Case("a folder of other things", "Choose another --out", _taken_folder),
    Case("the folder around a run", "Name one, such as", _named(lambda run: run.parent)),
    Case("a folder inside a run", "Name one, such as", _named(_inside)),
    Case("no run at all", "or make it: robcal train", _no_run),
    Case("a record that holds no settings", "Put back a copy", _changed(_record(settings=None))),
    Case("a record of other keys", "Put back a copy", _changed(_record(settings={"colour": "blue"}))),
    Case("a record that was changed", "Put back a copy", _changed(_longer)),
    Case("a network that was changed", "Put back a copy", _changed(_other_model)),
    Case("a network that is missing", "Put back a copy", _changed(lambda run: (run / "model.safetensors").unlink())),
    Case("scores of another network", "Delete .*; the same command makes it anew", _scores_of_another),
    Case("the run of an ensemble", "Name a member-K.safetensors", _ensemble),
    Case("a checkpoint of another network", "Copy it from its run directory again", _lone_checkpoint),
    Case("a checkpoint of NaN", "train again with a lower --learning-rate, or take", _diverged),
    Case("scores of the test split", "Make them: robcal score", _of_test),
    Case("scores of one split", "Make it: robcal score .* --split val", _of_one),
    Case("scores of other data", "Score it again: robcal score", _of_other_data),
    Case(
        "more folds than examples",
        "Pass --folds 3 or fewer",
        in_turn(lambda: assign_folds(np.arange(3), 4, 0), lambda: assign_folds(np.arange(3), 3, 0)),
    ),
    Case("a run that is not finished", "Start its `robcal train` again", _unfinished),
    Case("one run twice", "Name each seed once", _one_run_twice),
    Case("seeds in words", "Write --seeds 0,1,2 or 0-4", _seeds),
    Case("OOD inputs without a name", "For example --ood svhn=", _ood),
    Case("options of runs with results", "name the plan or the preset in place", _results_in_place_of_a_plan),
    Case("OOD inputs of one name", "Call one of them otherwise", _ood_twice),
    Case("a factory without its function", "Name the function after a colon", _factory),
    Case("scores of another ending", r"Pass --out .*scores\.parquet", _suffix),
    Case("fidelity of a lone checkpoint", r"Pass --out FILE\.json", _no_place),
    Case("a lone checkpoint without its data", "Pass --data, as in training", _no_data),
    Case("two scores of one name", "Rename one of the files", _two_names),
    Case("shards without their form", "Pass --data imagenet:PATH", _shards),
    Case("a recalibrator without its file", "Pass --out recalibrator.json", _recalibrated(ARRAYS, (*ARRAYS, *OUT))),
    Case("the recalibrator of another run", "Fit it again: robcal recalibrate", _foreign_recalibrator),
    Case("nothing to recalibrate", "Name a run directory, or pass", _recalibrated(OUT, (*ARRAYS, *OUT))),
    Case("two to recalibrate", "Keep one", _recalibrated(("run", *ARRAYS, *OUT), ("run", *OUT))),
    Case("logits without labels", "Pass the true classes", _recalibrated((*ARRAYS[:2], *OUT), (*ARRAYS, *OUT))),
    Case(
        "probabilities without a place",
        "Pass both, or neither",
        _recalibrated((*ARRAYS, *OUT, "--apply", "z.npy"), (*ARRAYS, *OUT, "--apply", "z.npy", "--out-probs", "p.npy")),
    ),
]
