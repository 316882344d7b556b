"""What the pages show runs: Python, commands, and what these print; every option that a page names exists."""

import functools
import re
import shlex
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from hint_cases import robcal as command
from model_files import export, network, save_data
from tool_files import ROOT

import robcal
from robcal.base.names import READERS, DataKind
from robcal.base.types import ROBUSTNESS
from robcal.commands.cli import app
from robcal.comparison import load_plan
from robcal.methods import METHODS, method_options
from robcal.robustness import ATTACKS, AttackEntry

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages that are run here, each with the pages whose Python it goes on from.
RUN = {
    "README.md": [],
    "calibrated.md": [],
    "wrongly-sure.md": ["calibrated.md"],
    "repair.md": [],
    "train.md": [],
    "recalibration.md": [],
    "integrations.md": [],
}
#: Pages whose blocks are run by another test: below, and in test_export.py.
ELSEWHERE = {"extend.md", "export.md"}
#: Commands that take long: the file is read.
LONG = {"robcal compare mine.toml --out compare-mine": lambda folder: load_plan(str(folder / "mine.toml"))}
BLOCK = re.compile(r"^```(python|sh|text|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall(next(one for one in PAGES if one.name == page).read_text(encoding="utf-8"))


def _arrays() -> dict[str, Any]:
    """What a reader has: logits and labels of two splits, a network, and a loader."""
    draw = np.random.default_rng(0)
    labels = draw.integers(10, size=(2, 300))
    logits = 3 * draw.normal(size=(2, 300, 10)) + 5 * np.eye(10)[labels]
    model, inputs = torch.nn.Linear(4, 10), torch.from_numpy(draw.random((40, 4), dtype=np.float32))
    targets, index = torch.arange(40) % 10, torch.arange(40)
    return {
        "val_logits": logits[0],
        "val_labels": labels[0],
        "test_logits": logits[1],
        "labels": labels[1],
        "probs": np.exp(logits[1]) / np.exp(logits[1]).sum(1, keepdims=True),
        "distances": draw.random(300),
        "levels": np.arange(300) % 10,
        "hospital": np.arange(300) % 3,
        "model": model,
        "images": inputs,
        "train_loader": [(inputs, targets, index)],
        "val_images": inputs,
        "val_targets": targets,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "epochs": 2,
        "robcal": robcal,
    }


def _run_command(line: str) -> str:
    return command(*shlex.split(line)[1:])()


def _files(page: str, folder: Path, arrays: dict[str, Any]) -> None:
    """The same as files, under the names of the pages."""
    probs, labels = arrays["probs"], arrays["labels"]
    for name in ("probs", "labels", "val_logits", "val_labels", "test_logits"):
        np.save(folder / f"{name}.npy", arrays[name])
    np.save(folder / "other.npy", probs[:, ::-1])
    np.save(folder / "confidence.npy", probs.max(1))
    np.save(folder / "right.npy", probs.argmax(1) == labels)
    (folder / "predictions.csv").write_text("p0,p1,p2,label\n" + 30 * "0.5,0.25,0.25,0\n0.25,0.25,0.5,1\n")
    save_data(folder)
    if page == "repair.md":
        _run_command(
            "robcal train --data digits --model mlp --train-limit 50 --epochs 1 --method vanilla --out runs/plain"
        )
    if page == "wrongly-sure.md":
        export(network(), folder / "net.pt2")


def _words(text: str) -> str:
    """A text without its numbers and the places of its line breaks: those depend on versions and widths."""
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d*\.?\d+", "#", text)).strip()


def _joined(text: str) -> str:
    """Return a text in which a line that ends with a backslash goes on."""
    return re.sub(r"\\\n\s*", " ", text)


def _run_python(text: str, names: dict[str, Any]) -> str:
    printed = StringIO()
    with redirect_stdout(printed):
        exec(text, names)
    return printed.getvalue()


def _run(page: str, folder: Path, names: dict[str, Any]) -> None:
    """Run the blocks of a page in turn; what a block of text shows was printed since the last one."""
    printed = ""
    for kind, text in _blocks(page):
        if kind == "python":
            printed += _run_python(text, names)
        elif kind == "sh":
            for line in _joined(text).splitlines():
                printed += str(LONG[line](folder)) if line in LONG else _run_command(line)
        elif kind == "toml":
            (folder / "mine.toml").write_text(text)
        else:
            shown = [_words(piece) for piece in text.split("…")]
            assert [piece for piece in shown if piece not in _words(printed)] == []
            printed = ""


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = _arrays()
    _files(page, tmp_path, names)
    for kind, text in (block for before in RUN[page] for block in _blocks(before)):
        if kind == "python":
            _run_python(text, names)
    _run(page, tmp_path, names)


@pytest.mark.slow
def test_the_method_the_attack_and_the_data_set_of_the_page_are_known_by_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = ("own_method", "own_attack", "own_reader")
    for module, (_, text) in zip(modules, _blocks("extend.md"), strict=True):
        (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "noisy", "own_method:noisy")
    monkeypatch.setitem(ATTACKS, "newton", AttackEntry("own_attack:points", "a few Newton steps"))
    monkeypatch.setitem(READERS, "table", DataKind("own_reader:read_table", "FILE"))
    rows = np.random.default_rng(0).normal(size=(200, 3))
    labels = (rows.sum(1) > 0).astype(int)
    np.savetxt("numbers.csv", np.column_stack([rows, labels]), delimiter=",", header="a,b,c,class", comments="")
    _run_command("robcal train --data table:numbers.csv --model mlp --epochs 8 --method noisy --share .2 --out run")
    _run_command("robcal score --model run --method newton --out newton.parquet")
    _run_command("robcal score --model run --out auto.parquet")
    newton, auto = robcal.load_scores("newton.parquet"), robcal.load_scores("auto.parquet")
    assert (newton.method, set(newton.status)) == ("newton", {"verified"})
    np.testing.assert_allclose(np.median(newton.distance / auto.distance), 1, atol=0.1)
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.slow
def test_a_report_has_the_parts_that_its_page_names(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    parts = re.findall(r"^\| ([A-Z][a-z -]+) \|", page, re.MULTILINE)
    arrays = _arrays()
    audit = robcal.audit(arrays["probs"], arrays["labels"], scores=arrays["distances"], score_name=ROBUSTNESS)
    report = audit.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    headings = [re.sub(r"<.*?>", "", text).strip() for text in re.findall(r"<h2[^>]*>(.*?)</h2>", report, re.DOTALL)]
    assert len(parts) > 5
    assert headings[: len(parts)] == parts


def test_no_page_shows_python_that_is_not_run() -> None:
    shown = {page.name for page in PAGES if {kind for kind, _ in _blocks(page.name)} & {"python", "sh"}}
    assert shown - ELSEWHERE == {*RUN}


@functools.cache
def _options(name: str) -> set[str]:
    """The options of a command, and of the methods that `train` takes."""
    command = typer.main.get_command(app).commands[name]
    own = {f"--{option}" for method in METHODS for option in method_options(method)} if name == "train" else set()
    return {"--help", *own, *(flag for option in command.params for flag in option.opts + option.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_source_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w/.-])((?:[\w-]+/)+[\w-]+\.(?:py|toml))\b", page.read_text(encoding="utf-8")))
    homes = [ROOT, ROOT / "src" / "robcal"]
    assert [file for file in named if "NAME" not in file and not any((home / file).exists() for home in homes)] == []


def _unknown(text: str) -> list[tuple[str, str]]:
    """Commands and options of robcal that a text names and that do not exist."""
    text = _joined(text)
    named = re.findall(r"(?:`|^ *|\| )(?:torchrun .* -m )?robcal ([a-z]+)([^`|\n]*)", text, re.MULTILINE)
    commands = typer.main.get_command(app).commands
    return [
        (name, flag)
        for name, rest in named
        for flag in ("", *re.findall(r"(?<= )--[a-z][a-z-]*", rest))
        if name not in commands or (flag and flag not in _options(name))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_a_page_names_exist(page: Path) -> None:
    assert _unknown(page.read_text(encoding="utf-8")) == []


def test_an_unknown_option_would_be_found() -> None:
    text = "    robcal audit --probs p.npy \\\n        --nope 3\n| x | `robcal guess` |\nand `robcal train --alpha .2`"
    assert _unknown(text) == [("audit", "--nope"), ("guess", "")]
