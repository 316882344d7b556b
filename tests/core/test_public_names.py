"""Public names: one list a module, each told in a sentence, and docs that name nothing else."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tool_files import ROOT

import robcal

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Files that docs/extend.md tells to write.
EXAMPLES = {"robcal.methods.noisy", "robcal.robustness.newton", "robcal.data.table"}
#: The public modules: those that docs/api.md has pages made of.
MODULES = re.findall(r"^   (robcal[\w.]*)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)


def _file(module):
    place = ROOT / "src" / Path(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _body(module):
    """The statements of a module, read and not imported: optional libraries take seconds."""
    return ast.parse(_file(module).read_text()).body


def _public_names(module):
    [names] = [node.value for node in _body(module) if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    return ast.literal_eval(names)


def _sentence(module, name):
    """The first line that documents a name: of its docstring, or of the `#:` comment above a constant."""
    for node in ast.walk(ast.Module(_body(module), [])):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            return _sentence(str(node.module), name)
    return re.search(rf"^#: (.*)(?:\n#: .*)*\n{name}\b", _file(module).read_text(), re.MULTILINE)[1]


@pytest.fixture(scope="module")
def public():
    """Module → its public names."""
    return {module: _public_names(module) for module in MODULES}


def test_every_public_name_is_told_in_one_sentence(public):
    assert len(public) > 10
    for module, names in public.items():
        for name in names:
            told = _sentence(module, name)
            assert told.endswith(".") or ": " in told, (module, name, told)


def test_the_page_tells_what_each_module_is_for():
    table = (ROOT / "docs" / "api.md").read_text().partition("```{eval-rst}")[0]
    assert [module for module in MODULES if f"`{module}`" not in table] == []


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
def test_pages_name_only_what_is_public(page, public):
    wrong = [name for name in _named(page.read_text()) - EXAMPLES if not _public(name, public)]
    assert not wrong, f"{page.name} names {wrong}, which robcal does not make public"


def test_a_private_name_would_be_found(public):
    for name in ("robcal.nothing", "robcal.training.loop.fit", "robcal.fit.nothing", "robcal.data.READERS"):
        assert not _public(name, public), name
    assert _named("`robcal.audit(x)` of docs/robcal.md and a-robcal.toml") == {"robcal.audit"}


def test_importing_robcal_imports_no_other_package():
    """`import robcal` loads nothing beside itself and the standard library, so that it takes hundredths of a second."""
    code = "import sys; before = set(sys.modules); import robcal; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - {"robcal"} <= sys.stdlib_module_names
    assert [name for name in done.stdout.split() if name.startswith("robcal.")] == []
