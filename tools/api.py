"""Write docs/api.md: every public name with the first line of its docstring.

The files are read, not imported, so that no optional library is needed: python tools/api.py
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"

#: The public modules, in the order of the page, each with what it is for.
MODULES = {
    "robcal": "What most users need. `import robcal` imports nothing else; a name is imported when it is first used.",
    "robcal.calibration": "Metrics, intervals and tests for arrays.",
    "robcal.metrics": "The same for training loops that use torchmetrics (`pip install 'robcal[metrics]'`).",
    "robcal.data": "Data sets.",
    "robcal.models": "Networks by name.",
    "robcal.methods": "Methods of training; [development.md](development.md) says how to add one.",
    "robcal.comparison": "Methods x seeds in one table, as `robcal compare` makes it.",
    "robcal.report": "Results as a page and as text.",
    "robcal.integrations.lightning": "For Lightning (`pip install 'robcal[lightning]'`).",
    "robcal.integrations.transformers": "For Hugging Face's Trainer (`pip install 'robcal[transformers]'`).",
    "robcal.integrations.sklearn": "For scikit-learn.",
    "robcal.integrations.text": "For models of text.",
    "robcal.integrations.lm_eval": "For samples of lm-evaluation-harness.",
    "robcal.integrations": "For Hugging Face's evaluate (`pip install 'robcal[evaluate]'`).",
}

HEAD = """# Public names

`make docs` writes this page from the docstrings. What it does not list is private and may change in any version.
"""


def source(module: str) -> Path:
    """Return the file of a module of robcal."""
    place = ROOT / "src" / Path(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@functools.cache
def syntax(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(source(module).read_text())


def public_names(module: str) -> list[str]:
    """Return the names in `__all__` of a module, or the names without underscore that it defines."""
    body = syntax(module).body
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    found = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return sorted((name for name in found if not name.startswith("_")), key=str.lower)


def sentence(module: str, name: str) -> str:
    """Return the first line that documents a name: of its docstring, or of the `#:` comment above a constant.

    Raises:
        LookupError: if the module has no such name, or nothing documents it.
    """
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            return sentence(str(node.module), name)
    if comment := re.search(rf"^#: (.*)(?:\n#: .*)*\n{name}\b", source(module).read_text(), re.MULTILINE):
        return comment[1]
    raise LookupError(f"{module}.{name} has no docstring")


def lines() -> Iterator[str]:
    """Yield the lines of the page."""
    yield HEAD
    for module, purpose in MODULES.items():
        yield f"## `{module}`\n\n{purpose}\n\n| name | |\n|---|---|"
        for name in public_names(module):
            told = sentence(module, name).replace("|", "\\|")
            yield f"| `{name}` | {told} |"
        yield ""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join(lines()).rstrip() + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    PAGE.write_text(page())
