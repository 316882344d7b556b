"""Advice about files of arrays and `robcal audit`, carried out."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from array_hint_cases import LABELS, PROBS
from hint_cases import Case, Steps, in_turn, robcal
from runs_hint_cases import a_run

from robcal import audit
from robcal.base import checks
from robcal.base.user_files import read_array
from robcal.runs.audit import Audit

TABLE = "p0,p1,label\n" + "0.5,0.5,1\n0.25,0.75,0\n" * 10


def _write(folder: Path) -> None:
    """Write the files that cases name."""
    for name, array in {
        "p": PROBS, "y": LABELS, "c": PROBS.max(1), "r": (LABELS == 1).astype(int), "s": PROBS[:, 0]
    }.items():  # fmt: skip
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "two.npz", probs=PROBS, labels=LABELS)
    for name, text in {
        "mixed.csv": "name,a,b\nx,0.5,0.5\ny,0.25,0.75\n",
        "ragged.csv": "a,b\n0.5,0.5\n0.25\n",
        "index.csv": "Unnamed: 0\n0\n1\n",
        "t.csv": TABLE,
        "names.csv": "p0,p1,label\n" + "0.5,0.5,cat\n0.25,0.75,dog\n" * 10,
        "called.csv": "cat,dog,label\n" + "0.5,0.5,cat\n0.25,0.75,dog\n" * 10,
        "turned.csv": "p2,p1,label\n" + "0.5,0.5,1\n0.25,0.75,2\n" * 10,
        "counted.csv": "p1,p0,label\n" + "0.5,0.5,1\n0.25,0.75,0\n" * 10,
        "percent.csv": "a,b\n50%,50%\n25%,75%\n",
        "model.onnx": "x",
        "there.html": "kept",
    }.items():
        (folder / name).write_text(text)
    (folder / "short.npy").write_bytes((folder / "p.npy").read_bytes()[:100])


def _command(wrong: str, *right: str) -> Callable[[Path], Steps]:
    """`robcal audit` with words that are refused, and with all that the advice asks for; words with a dot are files."""

    def steps(folder: Path) -> Steps:
        _write(folder)

        def call(words: str) -> None:
            places = [folder / word if re.search(r"\.|^HERE$", word) else word for word in words.split()]
            robcal("audit", *places, "--levels", 4, "--resamples", 20, "--quiet")()

        yield lambda: call(wrong)
        yield lambda: [call(words) for words in right]

    return steps


def _read(wrong: str, advice: Callable[[Path, str], Any]) -> Callable[[Path], Steps]:
    """An array that cannot be read, and what the advice makes of it."""

    def steps(folder: Path) -> Steps:
        _write(folder)
        message = yield lambda: read_array(folder / wrong, "the array")
        yield lambda: advice(folder, message)

    return steps


def _named(folder: Path, message: str) -> None:
    found = re.search(r"(\S+\.(?:npz|csv):\w+(?:,\w+)*)", message)
    assert found is not None
    read_array(Path(found[1]), "the array")


def _other(folder: Path, message: str) -> None:
    read_array(folder / "p.npy", "the array")


def _saved(folder: Path, message: str) -> None:
    found = re.search(r"np\.save\('([^']*)', \w+\)", message)
    assert found is not None
    exec(found[0].replace(found[1], str(folder / found[1])), {"np": np, "array": PROBS, "probs": PROBS})
    read_array(folder / found[1], "the array")


def _tensor(folder: Path) -> Steps:
    torch.save(torch.from_numpy(PROBS), folder / "t.pt")
    message = yield lambda: read_array(folder / "t.pt", "the array")
    code = re.search(r"np\.save\(.*\)", message)
    assert code is not None

    def mended() -> None:
        with contextlib.chdir(folder):
            exec(code[0], {"np": np, "torch": torch})
        read_array(folder / "t.npy", "the array")

    yield mended


def _model(folder: Path) -> Steps:
    (folder / "model.xyz").write_bytes(b"x")
    message = yield robcal("audit", folder / "model.xyz", "--quiet")
    codes, words = re.findall(r"np\.save\('\w+\.npy', \w+\)", message), re.search(r"robcal (audit .*)\.$", message)
    assert words is not None

    def mended() -> None:
        with contextlib.chdir(folder):
            for code in codes:
                exec(code, {"np": np, "probs": PROBS, "labels": LABELS})
            robcal(*words[1].split(), "--levels", 4, "--resamples", 20, "--quiet")()

    yield mended


def _checkpoint(folder: Path) -> Steps:
    run = a_run(folder)
    options = ("--levels", 2, "--resamples", 20, "--quiet")
    message = yield robcal("audit", run / "model.safetensors", *options)
    words = re.search(r"robcal (audit .*)\.$", message)
    assert words is not None
    yield robcal(*words[1].split(), *options)


def _pipe(folder: Path) -> Steps:
    _write(folder)
    os.mkfifo(folder / "pipe.npy")
    yield lambda: read_array(folder / "pipe.npy", "the array")
    yield lambda: read_array(folder / "p.npy", "the array")


def _closed(folder: Path) -> Steps:
    with mock.patch("os.access", return_value=False):  # the rights of a folder do not bind a test that runs as root
        yield lambda: checks.check_output(folder / "new.html", overwrite=False)
    yield lambda: checks.check_output(folder / "new.html", overwrite=False)


def _ragged(folder: Path) -> Steps:
    _write(folder)
    yield lambda: read_array(folder / "ragged.csv", "the array")
    (folder / "ragged.csv").write_text("a,b\n0.5,0.5\n0.25,0.75\n")
    yield lambda: read_array(folder / "ragged.csv", "the array")


def _utf_16(folder: Path) -> Steps:
    _write(folder)
    text = (folder / "mixed.csv").read_text()
    (folder / "mixed.csv").write_text(text, encoding="utf-16")
    yield lambda: read_array(folder / "mixed.csv:a", "the array")
    (folder / "mixed.csv").write_text(text, encoding="utf-8-sig")
    yield lambda: read_array(folder / "mixed.csv:a", "the array")


def _absent(folder: Path) -> Steps:
    _write(folder)
    yield lambda: read_array(folder / "q.npy", "the probabilities")
    yield lambda: read_array(folder / "p.npy", "the probabilities")


def _audit(**options: Any) -> Audit:
    return audit(PROBS, LABELS, resamples=20, **options)


TWO, SCORED, TOP = "--probs p.npy --labels y.npy", "t.csv --prob-columns p0,p1", "--confidence c.npy --correct r.npy"
LABELLED = f"{SCORED} --label-column label"
VALIDATED = f"{TWO} --val-probs p.npy --val-labels y.npy"

CASES = [
    Case(
        "names of classes that no column of a table has",
        "Call the columns of the probabilities",
        _command(
            "names.csv --prob-columns p0,p1 --label-column label",
            "called.csv --prob-columns cat,dog --label-column label",
        ),
    ),
    Case(
        "labels that are numbers of columns in another order",
        r"Name the columns in the order of the classes: --prob-columns p0,p1\.",
        _command("counted.csv --prob-columns p1,p0 --label-column label", LABELLED.replace("t.csv", "counted.csv")),
    ),
    Case(
        "labels that are numbers of columns from 1",
        "Number the labels and the columns from 0",
        _command("turned.csv --prob-columns p2,p1 --label-column label", LABELLED),
    ),
    Case(
        "a column that is named twice",
        "Name each once",
        _command("t.csv --prob-columns p0,p0,p1 --label-column label", LABELLED),
    ),
    Case(
        "percentages with their sign",
        r"a holds '50%' in row 0\. Write numbers with a decimal point, and without signs",
        _read("percent.csv", _other),
    ),
    Case(
        "a validation without labels",
        r"validation=\(val_probs, val_labels\)",
        in_turn(lambda: _audit(validation=(PROBS,)), lambda: _audit(validation=(PROBS, LABELS))),
    ),
    Case(
        "a validation without scores",
        r"validation=\(val_probs, val_labels, val_scores\)",
        in_turn(
            lambda: _audit(scores=PROBS[:, 0], num_levels=2, validation=(PROBS, LABELS)),
            lambda: _audit(scores=PROBS[:, 0], num_levels=2, validation=(PROBS, LABELS, PROBS[:, 0])),
        ),
    ),
    Case(
        "a validation of other classes",
        "the same classifier",
        in_turn(
            lambda: _audit(validation=(PROBS[:, :2] * 0 + 0.5, LABELS % 2)),
            lambda: _audit(validation=(PROBS, LABELS)),
        ),
    ),
    Case(
        "the worst rows of results that were read",
        "robcal.audit",
        in_turn(lambda: Audit(_audit().results).worst(), lambda: _audit().worst()),
    ),
    Case("a table without its labels", "--label-column label", _command(SCORED, LABELLED)),
    Case("confidences alone", "Pass --correct FILE", _command("--confidence c.npy", TOP)),
    Case("confidences against a model", "--probs and --labels in place", _command(f"{TOP} --against p.npy", TWO)),
    Case(
        "two scores",
        "Drop one of them",
        _command(f"{LABELLED} --score-column p0 --scores s.npy", f"{LABELLED} --score-column p0"),
    ),
    Case(
        "a column of no table",
        "robcal audit TABLE.csv",
        _command(f"{TWO} --score-column p0", f"{LABELLED} --score-column p0"),
    ),
    Case("probabilities and what is right", "Drop it, or pass --confidence", _command(f"{TWO} --correct r.npy", TWO)),
    Case(
        "options of a model beside predictions", "Leave them out, or use --model", _command(f"{TWO} --split val", TWO)
    ),
    Case(
        "a part of the validation",
        "or drop them",
        _command(f"{TWO} --val-scores s.npy", TWO, VALIDATED),
    ),
    Case("validation labels that are missing", "Pass all of them", _command(f"{TWO} --val-probs p.npy", VALIDATED)),
    Case("nothing to audit", "robcal audit --help", _command("", "--help")),
    Case("probabilities alone", "--labels FILE", _command("--probs p.npy", TWO)),
    Case("an array as a run", "--probs", _command("p.npy", TWO)),
    Case("a model as a run", "Run the model on test inputs and save what it says", _model),
    Case("a network of a run", "Pass the directory: robcal audit", _checkpoint),
    Case("a run and labels", "pass --probs and --labels", _command("HERE --labels y.npy", TWO)),
    Case("the worst rows as text", r"--worst FILE\.csv", _command(f"{TWO} --worst w.txt", f"{TWO} --worst w.csv")),
    Case(
        "an output that exists",
        "another name",
        _command(f"{TWO} --out there.html", f"{TWO} --out new.html", f"{TWO} --out there.html --overwrite"),
    ),
    Case("an output below a file", "another place", _command(f"{TWO} --out p.npy/o.html", f"{TWO} --out o.html")),
    Case("an output that is closed", "Give yourself the right", _closed),
    Case(
        "an output that is a folder",
        "Name a file inside it",
        lambda folder: in_turn(
            lambda: checks.check_output(folder, overwrite=True),
            lambda: checks.check_output(folder / "new.html", overwrite=True),
        )(folder),
    ),
    Case(
        "a folder as a file",
        "Name a file inside it",
        lambda folder: in_turn(
            lambda: checks.check_file(folder, "it"),
            lambda: checks.check_file(Path(__file__), "it"),
        )(folder),
    ),
    Case("several arrays in a file", "Name it", _read("two.npz", _named)),
    Case("several columns", "Name the columns", _read("mixed.csv", _named)),
    Case(
        "a column that is absent",
        "it has",
        _read("mixed.csv:c", lambda folder, _: _named(folder, f"{folder}/mixed.csv:a")),
    ),
    Case("an index alone", "np.save", _read("index.csv", _saved)),
    Case("a model as probabilities", r"np.save\('probs.npy', probs\)", _read("model.onnx", _saved)),
    Case("a tensor", r"np\.save\('t\.npy', torch\.load\('t\.pt'\)\.numpy\(\)\)", _tensor),
    Case("an array cut short", "np.save", _read("short.npy", _saved)),
    Case("an array that is absent", "Check the spelling", _absent),
    Case("lines of several lengths", "Give each line as many entries", _ragged),
    Case("text in UTF-16", "Save the text in UTF-8", _utf_16),
    Case("a pipe", "Write what comes out of it to a file", _pipe),
    Case("a name that is too long", "Check the path", _read(f"{'x' * 300}.npy", _other)),
]
