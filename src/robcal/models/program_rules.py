"""What a program in a file may consist of, looked at before torch loads it: operators of torch, and nothing else.

Neither kind of program is harmless as it comes. `torch.export.load` unpickles example inputs and constants, evaluates
expressions of sizes as Python, looks operators up as attributes of the module torch, and imports what the type of a
container names: each lets a crafted file run any code. A TorchScript program is read by torch's own reader, without
Python; but its operators include some that write files and call other machines. So every text of a program that torch
would turn into more than a name is compared with what an export writes; all else is refused. The archive is read by the
reader that torch loads it with, so that both see the same members.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import math
import re
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from robcal.base.npy import check_packing


class ForbiddenError(ValueError):
    """A program holds more than operators; the text says what."""


#: Members of an archive of torch.export that hold data or names; compiled code and pickled objects do not belong.
_MEMBERS = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/[\w.]+|models/[\w.-]+\.json|extra/.*"
    r"|data/(weights|constants)/((weight|tensor)_\d+|[\w.-]+_config\.json)|data/sample_inputs/[\w.-]+\.pt)"
)

#: Members of such an archive of torch before 2.8.
_FORMER = (
    *("serialized_exported_program.json", "serialized_state_dict.pt", "serialized_constants.pt"),
    *("serialized_example_inputs.pt", "version"),
)

#: Operators that an exported graph may call: torch's own on tensors and sizes, Python's on numbers, and branches.
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop|scan)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|and_|or_|not_|xor|eq|ne|lt|le|gt|ge|getitem)"
    r"|torch\.(sym_\w+|_sym_sqrt)|math\.(ceil|floor|trunc|sqrt)"
)

#: Operators of torch that touch files or other machines; `save` too where TorchScript calls it.
_REACHING_OUT = ("from_file", "rpc_sync", "rpc_async", "rpc_remote")

#: Functions in expressions of sizes.
_FUNCTIONS = re.compile(
    r"Symbol|Integer|Float|Rational|Mul|Add|Pow|Min|Max|Abs|Mod|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|FloorDiv|CeilDiv|CleanDiv"
    r"|ModularIndexing|Where|PythonMod|CeilToInt|FloorToInt|TruncToInt|ToFloat|IntTrueDiv|FloatTrueDiv|RoundToInt"
    r"|PowByNatural|FloatPow|L|oo|int_oo|[suz]\d+"
)
_NODES = (
    *(ast.Expression, ast.Call, ast.Name, ast.Constant, ast.keyword, ast.Load, ast.BinOp, ast.UnaryOp, ast.operator),
    *(ast.unaryop, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.Subscript),
)
_NAME = re.compile(r"[\w.\-+:]*")

#: Containers of inputs and outputs.
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_archive(path: Path) -> None:
    """Refuse an archive with a damaged member, and one that would be far larger in memory than it is."""
    with zipfile.ZipFile(path) as archive:
        check_packing(sum(info.file_size for info in archive.infolist()), path.stat().st_size, str(path))
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} does not fit its checksum")


def check_exported(path: Path) -> None:
    """Refuse, by a ForbiddenError, an archive of torch.export that holds more than operators, sizes and tensors."""
    if importlib.util.find_spec("torch.export.pt2_archive") is None:
        _check_former(path)
        return
    reader = torch._C.PyTorchFileReader(str(path))
    for member in reader.get_all_records():
        if not _MEMBERS.fullmatch(member):
            raise ForbiddenError(f"it holds {member!r}, which is no part of an exported graph")
        if member.endswith("_config.json"):
            _check_payloads(json.loads(reader.get_record(member)), reader, member.rpartition("/")[0])
        elif member.startswith("models/"):
            _check_values("", json.loads(reader.get_record(member)))


def _check_former(path: Path) -> None:
    """Refuse the same in an archive of torch before 2.8, which reads it with Python's own module."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member not in _FORMER:
                raise ForbiddenError(f"it holds {member!r}, which is no part of an exported graph")
        _check_values("", json.loads(archive.read(_FORMER[0])))


def _check_payloads(config: Any, reader: Any, folder: str) -> None:
    """Refuse pickled objects, and tensors without data: torch makes room for whatever size these declare."""
    for name, about in config["config"].items():
        if about.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(about.get("path_name"))):
            raise ForbiddenError(f"{name} is a pickled object")
        sizes = [int(size["as_int"]) for size in about["tensor_meta"]["sizes"]]
        if math.prod(sizes) and not len(reader.get_record(f"{folder}/{about['path_name']}")):
            raise ForbiddenError(f"{name} has {sizes} numbers, of which none is stored")


def _check_values(key: str, value: Any) -> None:
    """Compare every text below `value` with what may stand behind its key."""
    if isinstance(value, Mapping):
        if key in _EMPTY and value:
            raise ForbiddenError(f"it holds {key}")
        for name, inner in value.items():
            _check_name(name)
            _check_values(name, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(key, inner)
    elif isinstance(value, str):
        _RULES.get(key, _check_name)(value)


def _check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise ForbiddenError(f"{text[:60]!r} is no name")


def _check_target(text: str) -> None:
    if not _TARGETS.fullmatch(text) or any(name in text for name in _REACHING_OUT):
        raise ForbiddenError(f"it calls {text[:60]!r}")


def _check_expression(text: str) -> None:
    """Allow sums, products, comparisons and the functions of sizes; no other name, attribute or text."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        named = isinstance(node, ast.Name) and not _FUNCTIONS.fullmatch(node.id)
        texted = isinstance(node, ast.Constant) and isinstance(node.value, str) and not _NAME.fullmatch(node.value)
        sized = isinstance(node, ast.Attribute) and node.attr in ("size", "stride", "storage_offset")
        if named or texted or not (sized or isinstance(node, _NODES)):
            raise ForbiddenError(f"a size is {text[:60]!r}")


def _check_containers(text: str) -> None:
    """Look at the types of containers that a specification of inputs names: importing them would run code."""
    waiting = list(json.loads(text))[1:]
    while waiting:
        part = waiting.pop()
        if part.get("type") not in _CONTAINERS:
            raise ForbiddenError(f"an input is a {str(part.get('type'))[:60]}")
        waiting.extend(part.get("children_spec", ()))


#: Parts that stay empty in graphs of tensors.
_EMPTY = ("custom_obj_values", "treespec_namedtuple_fields")

_RULES: Mapping[str, Callable[[str], object]] = {
    "target": _check_target,
    "as_operator": _check_target,
    "expr_str": _check_expression,
    "guards_code": _check_expression,
    "in_spec": _check_containers,
    "out_spec": _check_containers,
    **dict.fromkeys(("as_string", "stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack"), str),  # any text
}


def check_script(path: Path) -> None:
    """Refuse, by a ForbiddenError, a TorchScript archive that names an operator on files or other machines."""
    reader = torch._C.PyTorchFileReader(str(path))
    for member in reader.get_all_records():
        if member.startswith("code/") and member.endswith(".py"):
            for before, word in _words(reader.get_record(member).decode()):
                if word in _REACHING_OUT or (word == "save" and before == "."):
                    raise ForbiddenError(f"it calls {word!r}, which reaches out to files or other machines")


def _words(code: str) -> Iterator[tuple[str, str]]:
    """Yield names and texts of one word of a piece of code, each with the token before it ("." for a text)."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NAME:
            yield before, token.string
        elif token.type == tokenize.STRING:
            yield ".", str(ast.literal_eval(token.string))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.string
