"""What the source says of docs/method.md leads there."""

import re
from pathlib import Path

import pytest

import robcal

SOURCE = Path(robcal.__file__).parent
METHOD = Path(__file__).parents[2] / "docs" / "method.md"
REFERENCE = re.compile(r"method(?:\.md)?, sections? (\d+(?:\.\d+)?)(?:\s+and\s+(\d+(?:\.\d+)?))?")
pytestmark = pytest.mark.skipif(not METHOD.is_file(), reason="the documents are not in the wheel")


def headings():
    return re.findall(r"^#{2,3} (.*)$", METHOD.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_sections_are_numbered_in_order():
    numbers = [title.split(" ")[0] for title in headings()]
    chapters = [number for number in numbers if number.endswith(".")]
    assert chapters == [f"{k}." for k in range(1, len(chapters) + 1)]
    chapter, part = 0, 0
    for number in numbers:
        chapter, part = (chapter + 1, 0) if number.endswith(".") else (chapter, part + 1)
        assert number in (f"{chapter}.", f"{chapter}.{part}")


def test_every_reference_names_a_section_that_exists():
    sections = {title.split(" ")[0].rstrip(".") for title in headings()}
    named = {}
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"METHOD [1-9]", text), file
        named |= {(file.name, number): number for found in REFERENCE.findall(text) for number in found if number}
    assert len(named) > 30
    assert {key for key, number in named.items() if number not in sections} == set()
