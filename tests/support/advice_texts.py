"""Every piece of text that a hint of an error message may hold, read from the source."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Shorter pieces of text stand in messages by chance.
SHORTEST = 12


@dataclass(frozen=True)
class Inside:
    """The function in which an expression stands, and the file; whether it is put into a text there (`{…}`)."""

    function: ast.FunctionDef
    file: Path
    quoted: bool = False


class Advice:
    """The `fix` arguments of `refuse` in a package, followed through names, parameters and functions.

    By name: public functions of one name count as one, private ones are those of their file.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self.functions: dict[str, list[Inside]] = defaultdict(list)
        self.calls: dict[str, list[tuple[ast.Call, Inside]]] = defaultdict(list)
        self.constants: dict[tuple[Path, str], ast.expr] = {}
        for file in sorted(package.rglob("*.py")):
            self._read(file, ast.parse(file.read_text(encoding="utf-8")))

    def _read(self, file: Path, tree: ast.Module) -> None:
        self.constants |= {(file, name): value for node in tree.body for name, value in _assigned(node)}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                inside = Inside(function, file)
                self.functions[function.name].append(inside)
                for node in ast.walk(function):
                    if isinstance(node, ast.Call):
                        self.calls[last_name(node.func)].append((node, inside))

    def texts(self) -> set[tuple[str, int, str]]:
        """File (in the package), line and text of every piece of every hint."""
        return {
            (inside.file.relative_to(self.package).as_posix(), piece.lineno, piece.value.strip())
            for call, caller in self.calls["refuse"]
            for node in _argument(call, 2, "fix")
            for piece, inside in self._pieces(node, caller, set())
            if len(piece.value.strip()) >= SHORTEST
        }

    def _pieces(self, node: ast.AST, inside: Inside, seen: set[int]) -> Iterator[tuple[ast.Constant, Inside]]:
        """The texts in an expression, and in what its names and functions stand for."""
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, inside
        for part, where in self._parts(node, inside):
            yield from self._pieces(part, where, seen)

    def _parts(self, node: ast.AST, inside: Inside) -> Iterator[tuple[ast.AST, Inside]]:
        if isinstance(node, ast.Name):
            yield from self._values(node.id, inside)
        elif isinstance(node, ast.Call):
            for called in self.functions[name := last_name(node.func)]:
                if called.file == inside.file or not name.startswith("_"):
                    returns = [step.value for step in ast.walk(called.function) if isinstance(step, ast.Return)]
                    yield from ((value, called) for value in returns if value is not None)
        elif isinstance(node, ast.Lambda):
            yield node.body, inside
        elif isinstance(node, ast.IfExp):
            yield from ((way, inside) for way in (node.body, node.orelse))
        elif isinstance(node, ast.BinOp | ast.JoinedStr):
            yield from ((part, inside) for part in ast.iter_child_nodes(node))
        elif isinstance(node, ast.FormattedValue):
            yield node.value, Inside(inside.function, inside.file, quoted=True)

    def _values(self, name: str, inside: Inside) -> Iterator[tuple[ast.AST, Inside]]:
        """What a name is given in its function, in its module, or as an argument that is a hint as a whole."""
        for node in ast.walk(inside.function):
            yield from ((value, inside) for target, value in _assigned(node) if target == name)
        if (inside.file, name) in self.constants:
            yield self.constants[inside.file, name], inside
        parameters = [argument.arg for argument in inside.function.args.args if argument.arg != "self"]
        if name in parameters and not inside.quoted:
            for call, caller in self.calls[inside.function.name]:
                if caller.file == inside.file or not inside.function.name.startswith("_"):
                    yield from ((value, caller) for value in _argument(call, parameters.index(name), name))


def last_name(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return getattr(node, "id", getattr(node, "attr", ""))


def _assigned(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """Names and the expression that a statement assigns to them."""
    if isinstance(node, ast.Assign):
        return [(last_name(target), node.value) for target in node.targets]
    if isinstance(node, ast.AnnAssign | ast.AugAssign) and node.value is not None:
        return [(last_name(node.target), node.value)]
    return []


def _argument(call: ast.Call, place: int, name: str) -> list[ast.expr]:
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return named or call.args[place : place + 1]
