"""The first line of the docstring of a function says what it does: it begins with a verb and ends as a sentence."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import robcal

PACKAGE = Path(robcal.__file__).parent

#: How lines begin that name a thing, and have no verb of their own.
NOUN_PHRASE = re.compile(r"(The|A|An|What|Whether|How|Where|Which|One|Everything|Something)\b|[^A-Z]")


def first_lines(package: Path) -> Iterator[tuple[str, str]]:
    """Place and first line of the docstring of each public function; properties are named as what they are."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                said = ast.get_docstring(node)
                if said and not any("property" in ast.unparse(one) for one in node.decorator_list):
                    yield f"src/robcal/{file.relative_to(package)}:{node.lineno}", said.splitlines()[0]


def test_functions_say_what_they_do() -> None:
    lines = list(first_lines(PACKAGE))
    assert len(lines) > 500
    wrong = [f"{place}: {line}" for place, line in lines if NOUN_PHRASE.match(line) or line[-1] not in ".?!:"]
    assert wrong == [], "begin the first line with a verb, such as Return, Read, Write, Refuse, Tell or Draw"


def test_the_law_sees_a_line_without_a_verb(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text('def good():\n    """Return it."""\n\ndef bad():\n    """The thing."""\n')
    assert [bool(NOUN_PHRASE.match(line)) for _, line in first_lines(tmp_path)] == [False, True]


def test_each_argument_and_attribute_has_a_line_of_its_own() -> None:
    """Several names before one colon are no entry for Sphinx, which takes each for the name of a class."""
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                said = ast.get_docstring(node) or ""
                wrong += [f"{file.name}: {line}" for line in re.findall(r"^    \w+(?:, \w+)+: .*", said, re.MULTILINE)]
    assert wrong == []
