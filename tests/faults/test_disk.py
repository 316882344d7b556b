"""Every command where files cannot be written: one sentence that names the file, nothing half-written, no work lost."""

import builtins
import contextlib
import errno
import io
import json
import os
import re
import resource
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from official_files import write_shards

from robcal.commands.cli import main

pytestmark = pytest.mark.slow

RECIPE = ("--data", "digits", "--model", "mlp", "--epochs", "1", "--train-limit", "160", "--test-limit", "60")
PLAN = """
title = "Full disks"
seeds = [0]
reference = []
[recipe]
data = "npz:{folder}/data.npz"
model = "mlp"
epochs = 1
levels = 3
[[methods]]
label = "Plain"
method = "vanilla"
"""

#: Command → its arguments, {inputs} made before and {out} the place that it writes to.
COMMANDS = {
    "train": ("train", *RECIPE, "--method", "ar-adals", "--levels", "3", "--out", "{out}/run"),
    "score": ("score", "--model", "{inputs}/run", "--shard-size", "25", "--method", "first-order", "--out",
              "{out}/scores.parquet"),
    "audit": ("audit", "--probs", "{inputs}/probs.npy", "--labels", "{inputs}/labels.npy", "--resamples", "20",
              "--worst", "{out}/wrong.csv", "--out", "{out}/audit.html", "--overwrite"),
    "audit of a run": ("audit", "{out}/run", "--levels", "3", "--resamples", "20"),
    "report": ("report", "{out}/run", "--no-shift", "--out", "{out}/report.html"),
    "recalibrate": ("recalibrate", "{out}/run", "--method", "temperature", "--overwrite"),
    "compare": ("compare", "{inputs}/plan.toml", "--cache", "{out}/cache", "--jobs", "1",
                "--out", "{out}/page", "--overwrite"),
    "unpack": ("unpack", "--data", "imagenet:{inputs}/shards", "--out", "{out}/pictures"),
}  # fmt: skip
CHEAP = ("score", "audit", "recalibrate", "unpack")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    torch.set_num_threads(1)
    assert command(*COMMANDS["train"], inputs=folder, out=folder) == (0, "")
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=90)
    np.save(folder / "probs.npy", probs)
    np.save(folder / "labels.npy", rng.integers(3, size=90))
    np.savez(folder / "data.npz", x_train=rng.random((160, 3)), y_train=np.arange(160) % 3)
    (folder / "plan.toml").write_text(PLAN.format(folder=folder))
    write_shards(folder / "shards")
    return folder


def command(*arguments, inputs, out):
    """The exit status and standard error of a command; whatever it raises but an exit is a failure of the test."""
    words, printed = [part.format(inputs=inputs, out=out) for part in arguments], io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(words if words[0] == "recalibrate" else [*words, "--quiet"])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    told = [line for line in printed.getvalue().splitlines() if not line.startswith("note: ")]
    return code, "\n".join(told)


def place(inputs, folder, name):
    """A folder to write to, with a run of its own where the command writes into that."""
    folder.mkdir()
    if "{out}/run" in COMMANDS[name] and name != "train":
        shutil.copytree(inputs / "run", folder / "run")
    return folder


def tree(folder):
    """What is in a folder, by relative name; locks hold nothing."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if not name.endswith(".lock")}


class FullDisk:
    """No file and no folder can be made below `folder`, after so many that can."""

    def __init__(self, folder, allowed, code=errno.ENOSPC):
        self.folder, self.left, self.code = str(folder), allowed, code

    def check(self, path):
        if str(path).startswith(self.folder):
            self.left -= 1
            if self.left < 0:
                raise OSError(self.code, os.strerror(self.code), str(path))

    def __enter__(self):
        self.patches = contextlib.ExitStack()
        for module, name, creates in (
            (os, "mkdir", lambda path, *_, **__: not Path(path).exists()),
            (os, "open", lambda path, flags, *_, **__: flags & os.O_CREAT and not Path(path).exists()),
            (io, "open", _writes),
            (builtins, "open", _writes),
        ):
            self.patches.enter_context(mock.patch.object(module, name, self._checked(getattr(module, name), creates)))
        return self

    def __exit__(self, *_):
        self.patches.close()

    def _checked(self, real, creates):
        def call(path, *more, **named):
            if creates(path, *more, **named):
                self.check(path)
            return real(path, *more, **named)

        return call


def _writes(path, mode="r", *_, **__):
    return isinstance(path, str | os.PathLike) and set(mode) & set("wax")


@contextlib.contextmanager
def largest_file(size):
    """A file that grows beyond `size` fails as on a full disk, in whatever library writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_refusal(code, told, folder):
    """One sentence that names what cannot be written; a comparison has one for each task that fails."""
    lines = [line for line in told.splitlines() if not line.endswith("tries again what is missing")]
    assert code == 2 or (code == 3 and len(lines) < len(told.splitlines())), told
    assert len(lines) == 1 or "robcal: failed: " in told, told
    assert all(line.startswith("robcal: ") and str(folder) in line for line in lines), told
    assert "Traceback" not in told
    assert not list(folder.rglob("*.tmp")), told


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """What each command leaves on a disk with room."""
    made = {}

    def of(name):
        if name not in made:
            folder = place(inputs, tmp_path_factory.mktemp("whole") / "out", name)
            assert command(*COMMANDS[name], inputs=inputs, out=folder) == (0, "")
            made[name] = tree(folder)
        return made[name]

    return of


def assert_same(found, wanted):
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if untimed(name, found[name]) != untimed(name, wanted[name])] == []


def untimed(name, data):
    """What a file holds besides what a comparison measured of time."""
    if name == "page/results.json":
        return re.sub(rb'"(inference_)?seconds": \[[^]]*\]|"seal": "[0-9a-f]*"', b"", data)
    return b"" if name.startswith("page/") or name.endswith(("seconds.json", "inference.json")) else data


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_after_some_files_loses_nothing(name, inputs, expected, tmp_path):
    """Each time a few more files can be made, until there is room for all; cheap commands begin anew each time."""
    wanted, refused = expected(name), 0
    for allowed in (0, 1, 2, 3, 4, 6, 9, 14, 25, 80) if name in CHEAP else (0, 2, 5, 80):
        folder = tmp_path / "out"
        if not folder.exists():
            place(inputs, folder, name)
        with FullDisk(folder, allowed):
            code, told = command(*COMMANDS[name], inputs=inputs, out=folder)
        if not code:
            break
        check_refusal(code, told, folder)
        refused += 1
        if name in CHEAP:
            assert command(*COMMANDS[name], inputs=inputs, out=folder) == (0, ""), allowed
            assert_same(tree(folder), wanted)
            shutil.rmtree(folder)
    assert refused
    assert code == 0
    assert_same(tree(folder), wanted)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_in_the_middle_of_a_file_loses_nothing(name, inputs, expected, tmp_path):
    folder = place(inputs, tmp_path / "out", name)
    wanted = expected(name)
    before = tree(folder)
    largest = max(len(data) for file, data in wanted.items() if before.get(file) != data)
    for size in (0, 100, largest - 1):
        with largest_file(size):
            code, told = command(*COMMANDS[name], inputs=inputs, out=folder)
        check_refusal(code, told, folder)
    assert command(*COMMANDS[name], inputs=inputs, out=folder) == (0, "")
    assert_same(tree(folder), wanted)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_no_files_is_told_and_left_as_it_was(name, code, inputs, tmp_path):
    folder = place(inputs, tmp_path / "out", name)
    before = tree(folder)
    with FullDisk(folder, 0, code):
        status, told = command(*COMMANDS[name], inputs=inputs, out=folder)
    check_refusal(status, told, folder)
    assert tree(folder) == before


@pytest.mark.parametrize("name", ["train", "score", "audit", "compare", "unpack"])
def test_a_file_where_a_folder_should_be_is_told(name, inputs, tmp_path):
    folder = tmp_path / "out"
    folder.write_text("a file")
    status, told = command(*COMMANDS[name], inputs=inputs, out=folder)
    assert status == 2, told
    assert "Traceback" not in told
    assert told.startswith("robcal: ")
    assert str(folder) in told
    assert folder.read_text() == "a file"


#: Command → one path that is too long for any system, in each place that takes one.
LONG = "x" * 300
LONG_PATHS = [
    ("train", *RECIPE, "--method", "vanilla", "--out", f"{{out}}/{LONG}"),
    ("train", *RECIPE[2:], "--method", "vanilla", "--data", f"npz:{{out}}/{LONG}", "--out", "{out}/run"),
    ("train", *RECIPE[2:], "--method", "vanilla", "--data", f"cifar10:{{out}}/{LONG}", "--out", "{out}/run"),
    ("train", *RECIPE, "--method", "ar-adals", "--scores", f"{{out}}/{LONG}", "--out", "{out}/run"),
    ("score", "--model", f"{{out}}/{LONG}", "--out", "{out}/s.parquet"),
    ("score", "--model", "{inputs}/run", "--out", f"{{out}}/{LONG}.parquet"),
    ("audit", f"{{out}}/{LONG}"),
    ("audit", "--probs", f"{{out}}/{LONG}.npy", "--labels", "{inputs}/labels.npy"),
    ("audit", "--probs", "{inputs}/probs.npy", "--labels", f"{{out}}/{LONG}.csv"),
    ("audit", "--probs", "{inputs}/probs.npy", "--labels", "{inputs}/labels.npy", "--out", f"{{out}}/{LONG}"),
    ("audit", "--probs", "{inputs}/probs.npy", "--labels", "{inputs}/labels.npy", "--worst", f"{{out}}/{LONG}.csv"),
    ("report", f"{{out}}/{LONG}", "--out", "{out}/r.html"),
    ("report", "{inputs}/run", "--out", f"{{out}}/{LONG}"),
    ("recalibrate", f"{{out}}/{LONG}"),
    ("recalibrate", "{inputs}/run", "--method", "temperature", "--out", f"{{out}}/{LONG}"),
    ("compare", f"{{out}}/{LONG}", "--out", "{out}/page"),
    ("compare", "{inputs}/plan.toml", "--jobs", "1", "--out", f"{{out}}/{LONG}"),
    ("compare", "{inputs}/plan.toml", "--jobs", "1", "--cache", f"{{out}}/{LONG}", "--out", "{out}/page"),
    ("unpack", "--data", f"imagenet:{{out}}/{LONG}", "--out", "{out}/pictures"),
    ("unpack", "--data", "imagenet:{inputs}/shards", "--out", f"{{out}}/{LONG}"),
]


@pytest.mark.parametrize("arguments", LONG_PATHS, ids=lambda words: " ".join(w.replace(LONG, "LONG") for w in words))
def test_a_path_that_no_system_takes_is_told(arguments, inputs, tmp_path):
    status, told = command(*arguments, inputs=inputs, out=tmp_path)
    assert status == 2, told
    assert "Traceback" not in told
    assert all(line.startswith("robcal: ") for line in told.splitlines()), told
    assert LONG[:100] in told
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_a_killed_run_left_is_removed_by_the_next(inputs, expected, tmp_path):
    wanted = expected("train")
    (tmp_path / "run").mkdir()
    shutil.copy(inputs / "run" / "run.json", tmp_path / "run" / "run.json")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "complete": False}))
    for name in (".state.pt.abc.tmp", ".history.json.abc.tmp", ".other.abc.tmp"):
        (tmp_path / "run" / name).write_text("half")
    assert command(*COMMANDS["train"], inputs=inputs, out=tmp_path) == (0, "")
    assert_same(tree(tmp_path), wanted)
