"""`--json` on every command that prints a table, the exit statuses that docs/commands.md lists, and completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hint_cases import robcal as command
from model_files import save_data
from typer.testing import CliRunner

import robcal
from robcal.commands.cli import app

DOCS = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a run, and files of predictions."""
    made = tmp_path_factory.mktemp("json")
    data = save_data(made)
    train = ("train", "--data", data, "--method", "vanilla", "--epochs", 1, "--model", "mlp", "--device", "cpu")
    command(*train, "--out", made / "run", "--quiet")()
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    np.save(made / "p.npy", probs)
    np.save(made / "y.npy", np.arange(60) % 3)
    return made


EVIDENCE = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"
#: Words of a command → keys of what it tells, beside "files".
COMMANDS = {
    "score --model {0}/run --method first-order --out {0}/s.parquet --device cpu": {"examples", "median_distance"},
    "fidelity --model {0}/run --method first-order --sample 10 --levels 2 --iterations 20 --restarts 1": {"rows"},
    "audit {0}/run --levels 2 --resamples 20": {"methods", "dataset", "notes"},
    "audit --probs {0}/p.npy --labels {0}/y.npy --against {0}/p.npy --resamples 20": {"methods", "against"},
    "recalibrate {0}/run --method temperature": {"method", "comparison"},
    "export {0}/run --out {0}/net.safetensors --format safetensors": {"recalibration", "difference"},
    "report {0}/run --no-shift --out {0}/report.html": {"methods"},
    "compare {1} --out {0}/tables": {"methods", "study"},
    "compare digits --dry-run --out {0}/none": {"tasks"},
}


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS)
def test_standard_output_is_one_json_object(words: str, folder: Path) -> None:
    quiet = [] if words.startswith(("recalibrate", "export")) else ["--quiet"]
    told = json.loads(command(*words.format(folder, EVIDENCE).split(), "--json", "--overwrite", *quiet)())
    assert COMMANDS[words] <= told.keys()
    for file in told["files"]:
        assert Path(file).exists()
    assert told["files"] or "--probs" in words or "--dry-run" in words


@pytest.mark.slow
def test_the_numbers_are_those_of_the_library(folder: Path) -> None:
    words = ("audit", "--probs", folder / "p.npy", "--labels", folder / "y.npy", "--resamples", 50, "--json")
    found = json.loads(command(*words)())
    expected = robcal.audit(np.load(folder / "p.npy"), np.load(folder / "y.npy"), resamples=50)
    assert found["methods"][0]["metrics"]["ece"]["value"] == expected.metrics["ece"].value


def test_every_command_with_a_table_takes_json() -> None:
    """Those that docs/commands.md names, and no other."""
    taking = {
        name.name or name.callback.__name__
        for name in app.registered_commands
        if "--json"
        in CliRunner().invoke(app, [name.name or name.callback.__name__, "--help"], terminal_width=200).output
    }
    assert taking == {"demo", "score", "fidelity", "audit", "recalibrate", "export", "report", "compare"}
    (sentence,) = (part for part in DOCS.split("\n\n") if "take `--json`" in part)
    assert all(f"`{name}`" in sentence for name in taking)


@pytest.mark.slow
def test_exit_statuses_are_those_of_the_page(tmp_path: Path) -> None:
    """1 and 130 have tests of their own; here, as a shell sees them."""

    def status(*words: str) -> int:
        done = subprocess.run([sys.executable, "-m", "robcal", *words], capture_output=True, cwd=tmp_path, check=False)
        return done.returncode

    assert "| 2 | bad input" in DOCS
    assert [status("--version"), status("audit", "nowhere"), status("audit", "--no-such-option")] == [0, 2, 2]


@pytest.mark.slow
def test_shells_complete_names_of_commands() -> None:
    asked = {"_ROBCAL_COMPLETE": "complete_bash", "COMP_WORDS": "robcal rec", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'robcal'; from robcal.commands.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["recalibrate"], done.stderr
