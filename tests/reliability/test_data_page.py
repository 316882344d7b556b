"""docs/data.md and the help of the commands say what is read."""

import re
from pathlib import Path

import pytest

from robcal.base.names import READERS
from robcal.base.results import MethodResult, Results, Study
from robcal.commands.cli import main
from robcal.data.npz import LAYOUTS, PARTS
from robcal.data.pictures import FORMATS
from robcal.report.study_notes import notes

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_names_every_reader_key_and_format() -> None:
    for name, reader in READERS.items():
        assert f"`{name}:{reader.argument}`" in PAGE or f"`{name}`" in PAGE
    for layout in LAYOUTS:
        for part in PARTS:
            assert all(f"`{key}`" in PAGE for key in layout.keys(part))
    listed = re.search(r"registers for (.*?) \(", PAGE, re.DOTALL)
    assert listed is not None
    names = {name.strip().upper().replace(" ", "") for name in re.split(r",|\band\b", listed[1])}
    assert names == set(FORMATS)


def test_the_help_of_train_says_the_keys(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    shown = " ".join(re.sub(r"[│─╭╮╰╯]", " ", capsys.readouterr().out).split())
    assert all(key in shown for key in ("x_train", "y_train", "class_names", "train_images"))
    assert "docs/data.md" in shown


def test_a_comparison_says_what_the_data_set_says() -> None:
    results = Results("t", {"notes": ["column 3 is constant"]}, (MethodResult("a", "A"),), study=Study({}))
    assert "Data: column 3 is constant." in notes(results)
