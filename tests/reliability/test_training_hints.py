"""Every hint of every error of training, its settings, files and commands is carried out, and must help."""

import ast
import functools
from pathlib import Path

import pytest
from hint_cases import Case, calls_of_refuse, carry_out, code_in, raised_in
from network_hint_cases import NETWORK_CASES
from runs_hint_cases import RUNS_CASES
from settings_hint_cases import SETTINGS_CASES
from smoother_hint_cases import SMOOTHER_CASES

import robcal

PACKAGE = Path(robcal.__file__).parent

CASES = [*SMOOTHER_CASES, *NETWORK_CASES, *SETTINGS_CASES, *RUNS_CASES]

#: Files and folders whose errors are in the table.
COVERED = (
    "smoothing/", "methods/", "models/", "training/", "runs/train.py", "runs/directory.py", "runs/level_sources.py",
    "runs/cross_fit.py", "runs/measure.py", "comparison/plan_file.py", "commands/compare.py",
    "commands/options.py", "commands/recalibrate.py", "commands/score.py", "commands/train.py", "commands/unpack.py",
)  # fmt: skip

#: Errors that are elsewhere, or whose advice a test cannot carry out: (file, function) → why.
NOT_CARRIED_OUT: dict[tuple[str, str], str] = {
    ("comparison/plan_file.py", "_method"): "a bound on the size of a grid: test_hostile_files.py",
    ("comparison/plan_file.py", "load_plan"): "the shape of a crafted file: test_hostile_files.py",
    ("models/__init__.py", "build_model"): "a bound on the size of a network: test_hostile_files.py",
    ("models/resnet.py", "wide_resnet"): "a bound on the size of a network: test_hostile_files.py",
    ("runs/directory.py", "_check_tensors"): "weights of a crafted file: test_hostile_files.py",
    ("training/settings.py", "_check_numbers"): "a bound on declared numbers: test_hostile_files.py",
}


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """Carries out a case, once: the folders of all cases stand beside each other, so that they can share a run."""
    folder = tmp_path_factory.mktemp("hints")

    @functools.cache
    def once(number: int) -> Exception:
        (folder / str(number)).mkdir(exist_ok=True)
        return carry_out(CASES[number], folder / str(number))

    return once


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_the_hint_helps(number: int, carried_out) -> None:
    for code in code_in(str(carried_out(number))):
        if not code.startswith("robcal "):
            ast.parse(code)


def test_every_error_is_in_the_table(carried_out) -> None:
    """By the line that raised it: an error that no case reaches is named here."""
    reached = {raised_in(carried_out(number)) for number in range(len(CASES))}
    missing = set()
    for file, function, first, last in calls_of_refuse(PACKAGE):
        name = file.relative_to(PACKAGE).as_posix()
        if name.startswith(COVERED) and not any(at == str(file) and first <= line <= last for at, line in reached):
            missing.add((name, function))
    assert sorted(missing - set(NOT_CARRIED_OUT)) == []
    assert set(NOT_CARRIED_OUT) <= missing


def test_names_of_cases_tell_them_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_cases_are_cases() -> None:
    assert all(isinstance(case, Case) and case.message for case in CASES)
