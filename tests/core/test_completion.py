"""What the tab key offers for values, asked as the shells ask: by typer's variables of the environment."""

import os
import subprocess
import sys

import pytest

from robcal.base.names import READERS
from robcal.commands.cli import main
from robcal.comparison import preset_names
from robcal.methods import METHODS
from robcal.robustness import ATTACKS


@pytest.fixture
def offered(monkeypatch, capsys):
    """Words of a command line, the last one unfinished → what bash is given to choose from."""

    def ask(*words):
        asked = {"_ROBCAL_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main([])
        return capsys.readouterr().out.split()

    return ask


KINDS = [f"{name}:" if reader.argument else name for name, reader in READERS.items()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--method", ""), [*METHODS]),
        (("train", "--method", "ad"), ["adals", "adversarial-training"]),
        (("train", "--data", ""), KINDS),
        (("train", "--data", "ci"), ["cifar10:", "cifar100:"]),
        (("train", "--data", "folder:/x"), []),  # files come next, which the shell knows better
        (("train", "--scorer", ""), [*ATTACKS]),
        (("train", "--levels-from", ""), ["robustness", "cross-fit", "margin", "loss", "running"]),
        (("score", "--method", ""), [*ATTACKS]),
        (("fidelity", "--method", "auto", "--method", "pro"), ["projection"]),
        (("score", "--data", ""), KINDS),
        (("audit", "--data", ""), KINDS),
        (("compare", "digits", "--data", ""), KINDS),
        (("compare", ""), [*preset_names()]),
        (("recalibrate", "--method", "d"), ["dirichlet", "dirichlet+score-temperature"]),
        (("export", "run", "--format", ""), ["safetensors", "pt2", "onnx"]),
    ],
)
def test_values_are_completed(offered, words, expected):
    assert offered("robcal", *words) == expected


def test_behind_a_plus_the_methods_that_are_not_joined_yet_are_offered(offered):
    others = [name for name in METHODS if name not in ("ar-adals", "mixup")]
    assert offered("robcal", "train", "--method", "ar-adals+mixup+") == [f"ar-adals+mixup+{name}" for name in others]
    assert offered("robcal", "train", "--method", "ar-adals+mi") == ["ar-adals+mixup"]


def test_the_answer_imports_nothing_large():
    code = (
        "import sys\nfrom robcal.commands.cli import main\n"
        "try:\n    main([])\nexcept SystemExit:\n    pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'torch', 'scipy', 'sklearn', 'pyarrow', 'jinja2'})"
    )
    asked = {"_ROBCAL_COMPLETE": "complete_bash", "COMP_WORDS": "robcal train --method swa", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["swag"]
