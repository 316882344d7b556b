"""Without any extra, arrays are audited and recalibrated, and errors name the extra that something needs."""

import os
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from packaging.requirements import Requirement
from tool_files import ROOT

#: What comes with extras only: the packages are made invisible to imports and to what looks versions up.
BLOCKED = """
import sys
from importlib.machinery import PathFinder

ABSENT = (
    "torch", "accelerate", "scipy", "sklearn", "scikit-learn", "PIL", "pillow", "pyarrow", "matplotlib",
    "pandas", "joblib", "torchmetrics", "evaluate", "datasets", "probmetrics", "numba",
)

class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        return (found for found in super().find_distributions(*context) if found.name not in ABSENT)

sys.meta_path[:] = [Core if finder is PathFinder else finder for finder in sys.meta_path]
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the logits and labels of 400 examples, as files."""
    place, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    logits = rng.normal(size=(400, 3)) * 3
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    arrays = {"logits": logits, "probs": probs, "labels": rng.integers(0, 3, 400), "scores": rng.uniform(size=400)}
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
        np.savetxt(place / f"{name}.csv", array, delimiter=",", fmt="%d" if name == "labels" else "%.17g")
    return place


def _child(folder, code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


COMMAND = "from robcal.commands.cli import main\nmain(sys.argv[1:])"


def test_arrays_are_audited_and_recalibrated(folder):
    code = """
import numpy as np, robcal
logits, probs, labels, scores = (np.load(f"{name}.npy") for name in ("logits", "probs", "labels", "scores"))
audit = robcal.audit(probs, labels, scores=scores)
audit.to_html("report.html")
recalibrator = robcal.Recalibrator().fit(logits, labels)
recalibrator.save("fitted.json")
again = robcal.load_recalibrator("fitted.json").predict_proba(logits)
assert np.allclose(again, recalibrator.predict_proba(logits))
assert robcal.negative_log_likelihood(again, labels) < robcal.negative_log_likelihood(probs, labels)
assert len(audit.levels) > 1 and "html" in open("report.html").read()
print("torch" in sys.modules)
"""
    assert _child(folder, code).stdout == "False\n"


def test_files_are_audited_on_the_command_line(folder):
    """The page has its tables, and says of every figure what it is drawn by."""
    files = ["--probs", "probs.csv", "--labels", "labels.csv", "--scores", "scores.csv", "--out", "page.html"]
    done = _child(folder, COMMAND, "audit", *files)
    assert done.returncode == 0, done.stderr
    page = (folder / "page.html").read_text()
    assert page.count("<table") > 4
    assert page.count("is drawn by matplotlib, which is not installed: pip install 'robcal[report]'") > 2


def test_the_error_of_a_parquet_file_names_the_extra(folder):
    (folder / "probs.parquet").touch()
    done = _child(folder, COMMAND, "audit", "--probs", "probs.parquet", "--labels", "labels.npy")
    assert done.returncode == 2
    assert "pip install 'robcal[parquet]'" in done.stderr


def test_files_are_recalibrated_on_the_command_line(folder):
    files = ["--logits", "logits.npy", "--labels", "labels.npy", "--out", "fitted-by-command.json"]
    done = _child(folder, COMMAND, "recalibrate", *files)
    assert done.returncode == 0, done.stderr


def test_the_error_of_a_name_that_needs_torch_names_the_extra(folder):
    names = ["score", "ARAdaLS", "fit", "load_dataset", "make_method", "train_run"]
    code = f"""
import robcal
for name in {names}:
    try:
        getattr(robcal, name)("digits")
    except robcal.InputError as error:
        print(error)
"""
    lines = _child(folder, code).stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [f"robcal.{name}" for name in names]
    assert all("pip install 'robcal[train]'" in line for line in lines)


def test_the_error_of_a_command_that_needs_torch_names_the_extra(folder):
    commands = [["demo"], ["train", "--data", "digits", "--out", "run"], ["compare", "digits", "--out", "table"]]
    code = f"""
from robcal.commands.cli import main
for arguments in {commands}:
    try:
        main(arguments)
    except SystemExit as stop:
        print(stop.code)
"""
    done = _child(folder, code)
    assert done.stdout.split() == ["2", "2", "2"]
    assert done.stderr.count("pip install 'robcal[train]'") == 3


def test_the_extra_installs_what_the_core_leaves_out():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {Requirement(entry).name for entry in project["dependencies"]}
    extras = {name: {Requirement(entry).name for entry in group}
              for name, group in project["optional-dependencies"].items()}  # fmt: skip
    assert extras["train"] == {"robcal", "torch", "accelerate", "scikit-learn", "scipy", "pillow"}
    assert {name for entry in project["optional-dependencies"]["train"] for name in Requirement(entry).extras} == {
        "parquet", "report"
    }  # fmt: skip
    assert not core & {*extras["train"], *extras["parquet"], *extras["report"]}
