"""Every hint of the errors about arrays is carried out on the input that causes it, and must help."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy
from array_hint_cases import CASES, LABELS, PROBS, Case, codes

import robcal
from robcal.base import array_hints, arrays, checks, errors
from robcal.base.checks import InputError
from robcal.base.user_files import read_array
from robcal.commands.cli import main
from robcal.results.audit import Audit, audit_files

#: The modules whose errors are in this table. Those of files are in test_user_files.py too.
MODULES = [
    *("robcal.base.arrays", "robcal.results.audit", "robcal.base.checks", "robcal.commands.audit"),
    *("robcal.robustness.levels", "robcal.base.user_files"),
    *(f"robcal.calibration.{name}" for name in ("binning", "conditional", "metrics", "ood", "row_order", "selective")),
    *(f"robcal.calibration.{name}" for name in ("stability", "temperature", "trends", "weighted")),
]

#: Calls of `refuse` that no test carries out → why.
NOT_EXECUTED: dict[str, str] = {}


def carried_out(case: Case, message: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arrays after the advice was taken."""
    if callable(case.mends):
        return case.mends(given, message)
    names = {"np": np, "scipy": scipy, "robcal": robcal, **given, **case.more}
    code = next(
        code for code in codes(message) if re.search(r"[\w.]+\(|\[|//|[-+/*]", code) and "=" not in code.split("(")[0]
    )
    found = eval(code, names)
    if case.mends != "rows":
        return {**given, case.mends: found}
    assert found.dtype == bool
    assert 0 < (~found).sum() < len(found)
    return {name: value[found] if isinstance(value, np.ndarray) else
            [row for row, keep in zip(value, found, strict=True) if keep] if isinstance(value, list) else value
            for name, value in given.items()}  # fmt: skip


@pytest.mark.parametrize("held", ["arrays", "lists"])
@pytest.mark.parametrize("name", CASES)
def test_the_advice_helps(name: str, held: str) -> None:
    case = CASES[name]
    given = {key: listed(value) if held == "lists" else value for key, value in case.given.items()}
    if held == "lists" and any(np.ma.isMaskedArray(value) for value in case.given.values()):
        given = {key: list(value) if np.ma.isMaskedArray(value) else value for key, value in given.items()}
    with pytest.raises(InputError) as refused:
        case.call(**given)
    message = str(refused.value)
    assert case.says in message
    made = carried_out(case, message, given)
    case.call(**made)
    if case.right is not None:
        assert isinstance(case.mends, str)
        np.testing.assert_allclose(np.asarray(made[case.mends], float), np.asarray(case.right, float), rtol=1e-12) if (
            np.asarray(case.right).dtype.kind in "biuf"
        ) else np.testing.assert_array_equal(made[case.mends], case.right)


def listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) and not np.ma.isMaskedArray(value) else value


# Files and the command line -----------------------------------------------------------------------------------------


def cli(*arguments: object) -> None:
    """`robcal audit`, raising what it refuses."""
    from robcal.commands.audit import audit as command

    options: dict[str, Any] = {
        "run": None,
        "probs": None,
        "labels": None,
        "out": None,
        "overwrite": False,
        "resamples": 20,
        "levels": 4,
    }
    names = [str(one) for one in arguments]
    given = {key.removeprefix("--"): value for key, value in zip(names[::2], names[1::2], strict=True)}
    options |= {
        key: value if key.endswith("_column") or key == "prob_columns" else Path(value) for key, value in given.items()
    }
    command(**options)


def at_the_command_line(folder: Path) -> Iterator[tuple[Callable[[], Any], Callable[[str], Any], str]]:
    """Calls that are refused, what to do with the message, and a piece of it."""
    np.save(folder / "p.npy", PROBS)
    np.save(folder / "y.npy", LABELS)
    np.savez(folder / "two.npz", probs=PROBS, labels=LABELS)
    (folder / "mixed.csv").write_text("name,a,b\nx,0.5,0.5\ny,0.25,0.75\n")
    (folder / "index.csv").write_text("Unnamed: 0\n0\n1\n")
    (folder / "model.onnx").write_bytes(b"x")
    (folder / "short.npy").write_bytes((folder / "p.npy").read_bytes()[:100])
    (folder / "there.html").write_text("kept")
    read, files = read_array, audit_files
    good = {"probs": folder / "p.npy", "labels": folder / "y.npy", "resamples": 20}

    def named(message: str) -> Any:
        return read(Path(re.search(r"(\S+\.(?:npz|csv):\w+(?:,\w+)*)", message)[1]), "the array")  # type: ignore[index]

    def over(message: str) -> Any:
        (folder / "new.html").unlink(missing_ok=True)
        return cli(*out, folder / "new.html")

    def saved(message: str) -> Any:
        exec(re.search(r"np\.save\([^)]*\)", message)[0], {"np": np, "array": PROBS, "probs": PROBS})  # type: ignore[index]
        return read(next(file for file in Path().glob("*.npy")), "the array")

    def closed() -> Any:
        with mock.patch("os.access", return_value=False):
            return checks.check_output(folder / "closed.html", overwrite=False)

    def pipe() -> Any:
        if not (folder / "pipe.npy").exists():
            os.mkfifo(folder / "pipe.npy")
        return read(folder / "pipe.npy", "the array")

    two = ("--probs", folder / "p.npy", "--labels", folder / "y.npy")
    out = (*two, "--out")
    yield (
        lambda: robcal.audit(PROBS, LABELS, resamples=20, validation=(PROBS,)),
        lambda _: robcal.audit(PROBS, LABELS, resamples=20, validation=(PROBS, LABELS)),
        "validation=(val_probs, val_labels)",
    )
    yield (
        lambda: robcal.audit(PROBS, LABELS, resamples=20, validation=(PROBS[:, :2] * 0 + 0.5, LABELS % 2)),
        lambda _: robcal.audit(PROBS, LABELS, resamples=20, validation=(PROBS, LABELS)),
        "the same classifier",
    )
    table = ("--run", folder / "t.csv", "--prob_columns")
    (folder / "t.csv").write_text("p0,p1,label\n" + "0.5,0.5,1\n0.25,0.75,0\n" * 10)
    yield (
        lambda: cli(*table, "p0,p1"),
        lambda _: cli(*table, "p0,p1", "--label_column", "label"),
        "--label-column label",
    )
    top = ("--confidence", folder / "c.npy")
    np.save(folder / "c.npy", PROBS.max(1))
    np.save(folder / "r.npy", (LABELS == 1).astype(int))
    right = ("--correct", folder / "r.npy")
    yield lambda: cli(*top), lambda _: cli(*top, *right), "Pass --correct FILE"
    yield lambda: cli(*top, *right, "--against", folder / "p.npy"), lambda _: cli(*two), "--probs and --labels in place"
    np.save(folder / "s.npy", PROBS[:, 0])
    scored = (*table, "p0,p1", "--label_column", "label", "--score_column", "p0")
    yield lambda: cli(*scored, "--scores", folder / "s.npy"), lambda _: cli(*scored), "Drop one of them"
    yield lambda: cli(*two, "--score_column", "p0"), lambda _: cli(*scored), "robcal audit TABLE.csv"
    yield lambda: cli(*two, *right), lambda _: cli(*two), "Drop --correct"
    yield lambda: cli(*two, "--val_scores", folder / "s.npy"), lambda _: cli(*two), "or drop them"
    validated = (*two, "--val_probs", folder / "p.npy")
    yield lambda: cli(*validated), lambda _: cli(*validated, "--val_labels", folder / "y.npy"), "Pass all of them"
    yield lambda: read(folder / "two.npz", "the array"), named, "Name it"
    yield lambda: read(folder / "mixed.csv", "the array"), named, "Name the columns"
    yield lambda: read(folder / "mixed.csv:c", "the array"), lambda _: read(folder / "mixed.csv:a", "it"), "it has"
    yield lambda: read(folder / "index.csv", "the array"), saved, "np.save"
    yield lambda: read(folder / "model.onnx", "the array"), saved, "np.save('probs.npy', probs)"
    yield lambda: read(folder / "short.npy", "the array"), saved, "np.save"
    yield lambda: files(**good | {"probs": folder / "q.npy"}), lambda _: files(**good), "Check the spelling"
    yield lambda: cli(), lambda _: shown("--help"), "robcal audit --help"
    yield lambda: cli(*two[:2]), lambda _: cli(*two), "--labels FILE"
    yield lambda: cli("--run", folder / "p.npy"), lambda _: cli(*two), "--probs"
    yield lambda: cli("--run", folder, "--labels", folder / "y.npy"), lambda _: cli(*two), "pass --probs and --labels"
    yield lambda: cli(*two, "--worst", "w.txt"), lambda _: cli(*two, "--worst", "w.csv"), "--worst FILE.csv"
    results = files(**good).results
    yield lambda: Audit(results).worst(), lambda _: robcal.audit(PROBS, LABELS, resamples=20).worst(), "robcal.audit"
    yield lambda: cli(*out, folder / "there.html"), over, "another name"
    yield closed, over, "Give yourself the right"
    yield pipe, lambda _: read(folder / "p.npy", "the array"), "Write what comes out of it to a file"
    yield lambda: read(folder / f"{'x' * 300}.npy", "it"), lambda _: read(folder / "p.npy", "it"), "Check the path"
    yield lambda: checks.check_file(folder, "it"), lambda _: read(folder / "p.npy", "it"), "Name a file inside it"
    yield lambda: checks.check_output(folder, overwrite=True), over, "Name a file inside it"
    yield lambda: cli(*out, folder / "p.npy" / "o.html"), over, "another place"


def shown(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["audit", *arguments])
    assert not stop.value.code


def test_the_advice_about_files_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for bad, mend, says in at_the_command_line(tmp_path):
        with pytest.raises(InputError) as refused:
            bad()
        assert says in str(refused.value)
        mend(str(refused.value))


# The law ------------------------------------------------------------------------------------------------------------


def sites(module: Any, what: Callable[[ast.AST], bool]) -> dict[tuple[str, int], int]:
    """(file, line) → last line, of the nodes of a module that are meant."""
    file = inspect.getfile(module)
    return {(file, node.lineno): node.end_lineno for node in ast.walk(ast.parse(Path(file).read_text())) if what(node)}  # type: ignore[attr-defined]


def is_refusal(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "refuse"


@contextmanager
def recorded(found: set[tuple[str, int]]) -> Iterator[None]:
    """Record from where `refuse` is called, and which lines of the hints run."""

    def trace(frame: Any, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if file == errors.__file__ and frame.f_code.co_name == "refuse" and event == "call":
            found.add((frame.f_back.f_code.co_filename, frame.f_back.f_lineno))
        if file == array_hints.__file__:
            found.add((file, frame.f_lineno))
        return trace if file in (array_hints.__file__, arrays.__file__) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_every_refusal_and_every_hint_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    lines: set[tuple[str, int]] = set()
    calls = [lambda case=case: case.call(**case.given) for case in CASES.values()]
    with recorded(lines):
        for call in [*calls, *(bad for bad, _, _ in at_the_command_line(tmp_path))]:
            with pytest.raises(InputError):
                call()
    wanted = {**sites(array_hints, lambda node: isinstance(node, ast.Return))}
    for name in MODULES:
        wanted |= sites(__import__(name, fromlist=["x"]), is_refusal)
    missed = [
        f"{Path(file).relative_to(Path(robcal.__file__).parent)}:{start}"
        for (file, start), end in wanted.items()
        if not any((file, line) in lines for line in range(start, (end or start) + 1))
    ]
    assert [site for site in missed if site not in NOT_EXECUTED] == [], "add the input that causes it to CASES"
