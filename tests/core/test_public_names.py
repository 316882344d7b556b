"""Public names: one list, a page of them that is up to date, and docs that name nothing else."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys

import pytest
from tool_files import ROOT, load_tool

import robcal

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def api():
    """tools/api.py as a module."""
    return load_tool("api")


def test_the_page_is_up_to_date(api):
    assert api.PAGE.read_text() == api.page(), "docs/api.md is not up to date: run python tools/api.py"


def test_every_public_name_is_told_in_one_sentence(api):
    for module in api.MODULES:
        for name in api.public_names(module):
            told = api.sentence(module, name)
            assert told.endswith(".") or ": " in told, (module, name, told)


def test_the_three_lists_of_the_package_agree():
    tree = ast.parse((ROOT / "src/robcal/__init__.py").read_text())
    typed = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name: typed.get(name) for name in robcal.__all__} == robcal._HOMES
    assert set(dir(robcal)) >= set(robcal.__all__)


def _public(name, modules):
    """Whether a dotted name is a public name, an attribute of one, or a module of robcal."""
    if _is_module(name):
        return True
    for module in sorted(modules, key=len, reverse=True):
        if name.startswith(f"{module}."):
            first, *rest = name.removeprefix(f"{module}.").split(".")
            if first not in modules[module]:
                return False
            found = getattr(importlib.import_module(module), first)
            return all(hasattr(found, part) for part in rest[:1])
    return False


def _is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _named(text):
    """Every dotted name below robcal in a text, but for paths and files such as docs/robcal.md."""
    return set(re.findall(r"(?<![\w./-])robcal(?:\.[A-Za-z_]\w*)+", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_only_what_is_public(page, api):
    modules = {module: api.public_names(module) for module in api.MODULES}
    wrong = [name for name in _named(page.read_text()) if not _public(name, modules)]
    assert not wrong, f"{page.name} names {wrong}, which robcal does not make public"


def test_a_private_name_would_be_found(api):
    modules = {module: api.public_names(module) for module in api.MODULES}
    for name in ("robcal.nothing", "robcal.training.loop.fit", "robcal.fit.nothing", "robcal.data.READERS"):
        assert not _public(name, modules), name
    assert _named("`robcal.audit(x)` of docs/robcal.md and a-robcal.toml") == {"robcal.audit"}


def test_importing_robcal_imports_no_other_package():
    """`import robcal` loads nothing beside itself and the standard library, so that it takes hundredths of a second."""
    code = "import sys; before = set(sys.modules); import robcal; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - {"robcal"} <= sys.stdlib_module_names
    assert [name for name in done.stdout.split() if name.startswith("robcal.")] == []
