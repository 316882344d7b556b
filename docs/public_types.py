"""The classes that public functions return or take without being public names: found by their annotations."""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = """Types
=====

What public functions return, and what some of them take. Read the attributes; which module a class stands in may
change in any version.
"""


def public_objects(page: Path) -> Iterator[Any]:
    """Yield everything in `__all__` of the modules that docs/api.md lists."""
    for module in re.findall(r"^   (robcal[\w.]*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        loaded = importlib.import_module(module)
        yield from (getattr(loaded, name) for name in loaded.__all__)


def annotations(thing: Any) -> Iterator[Any]:
    """Yield the annotations of a function, or of the fields and public methods of a class."""
    members = vars(thing).items() if inspect.isclass(thing) else ()
    inside = [getattr(member, "fget", member) for name, member in members if name == "__init__" or name[0] != "_"]
    for one in (thing, *inside):
        try:
            yield from typing.get_type_hints(inspect.unwrap(one)).values()
        except (NameError, TypeError, AttributeError, ValueError):  # imported for type checkers only; no annotations
            continue


def classes(annotation: Any) -> Iterator[type]:
    """Yield the classes of robcal in an annotation."""
    if inspect.isclass(annotation) and annotation.__module__.startswith("robcal."):
        yield annotation
    for part in annotation if isinstance(annotation, list) else typing.get_args(annotation):
        yield from classes(part)


def public_types(page: Path) -> list[type]:
    """Return the classes, of these objects and of each other, that are none of the objects."""
    public = list(public_objects(page))
    todo, found = list(public), set[type]()
    while todo:
        new = {one for annotation in annotations(todo.pop()) for one in classes(annotation)} - found
        new = {one for one in new if not any(one is known for known in public)}
        found |= new
        todo += new
    return sorted(found, key=lambda one: (one.__name__, one.__module__))


def write(page: Path, out: Path) -> None:
    """Write the page of these classes, unless it stands there already."""
    parts = [f".. autoclass:: {one.__module__}.{one.__qualname__}\n   :members:\n" for one in public_types(page)]
    text = "\n".join([HEAD, *parts])
    if not out.is_file() or out.read_text(encoding="utf-8") != text:
        out.parent.mkdir(exist_ok=True)
        out.write_text(text, encoding="utf-8")
