"""Arrays in the files that users have: .npy, .npz, CSV, JSON lines and parquet; nothing in them is ever executed.

A file with several arrays or columns is read whole where that can be meant, and `FILE:NAME` or `FILE:NAME,NAME,…` names
those that are meant.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from robcal.base.checks import FloatArray, as_numbers, is_there, refuse
from robcal.base.extras import import_extra
from robcal.base.files import reading
from robcal.base.npy import map_npy, npz_arrays, npz_headers, read_npy
from robcal.base.storage import check_table
from robcal.base.text_tables import MISSING, json_columns, named, nfc, text_columns

AnyArray = npt.NDArray[Any]
#: Suffixes of text with columns; the separator is found in the first line.
TEXTS = (".csv", ".tsv", ".txt")
RULE = "the file must be whole, and what its suffix says"
TABLES = (*TEXTS, ".jsonl", ".parquet")
READABLE = (".npy", ".npz", *TABLES)

#: Suffixes of files that hold a model → how it comes to predictions is the user's business.
MODELS = (".onnx", ".pt", ".pth", ".pt2", ".ckpt", ".h5", ".keras", ".pkl", ".pickle", ".joblib", ".safetensors",
          ".tflite", ".pb", ".bin")  # fmt: skip

_CHOICE = re.compile(r"(?P<file>.+\.(?:npz|csv|tsv|txt|jsonl|parquet)):(?P<names>.+)")


def read_array(path: Path, what: str, *, mapped: bool = False) -> AnyArray:
    """Read an array, (N,) of one column, (N, K) of several, from a file, or the columns of FILE:NAME,NAME,….

    A first column without a name, an index, is left out. `mapped` leaves a .npy file on disk, read-only.
    """
    file, names = _chosen(path)
    if file.suffix == ".npz":
        return _of_archive(file, names, what)
    if file.suffix in TABLES:
        return _joined(_columns(file, names, what), file, what)
    if file.suffix != ".npy":
        _refuse_kind(file, what)
    return (map_npy if mapped else read_npy)(file, what, rule=RULE, fix=lambda reason: _fix(file, reason))


def read_scores(path: Path, column: str | None = None) -> FloatArray:
    """Read one number an example, float64: of a table its `column`; default "distance", or the only one."""
    file, names = _chosen(path)
    if file.suffix in TABLES and not names:
        columns = _columns(file, [], "the scores")
        wanted = (column and nfc(column)) or (next(iter(columns)) if len(columns) == 1 else "distance")
        if wanted not in columns:
            _refuse_names([wanted], columns, file, "--column")
        return as_numbers(columns[wanted], f"column {wanted!r} of {file}")
    return as_numbers(read_array(path, "the scores"), f"what {path} holds")


def read_labels(path: Path, columns: Sequence[str] = ()) -> AnyArray:
    """Read the true class of each example: its index, or the name of its column, such as `cat` of `cat` or `p_cat`."""
    labels, columns = read_array(path, "the labels"), [nfc(name) for name in columns]
    if labels.dtype.kind in "iu":
        _refuse_other_numbers(path, labels, columns)
    if not columns or labels.dtype.kind != "U":
        return labels
    starts = {found[0] for name in columns if (found := re.match(r"[A-Za-z0-9]*[^A-Za-z0-9]|", name))}
    start = starts.pop() if len(starts) == 1 else ""
    index = {name.removeprefix(start): number for number, name in enumerate(columns)}
    index |= {name: number for number, name in enumerate(columns)}
    given = [nfc(name) for name in labels.tolist()]
    if unknown := sorted(set(given) - set(index)):
        refuse(
            f"{path} holds {', '.join(map(repr, unknown[:3]))}, and the probabilities are of {', '.join(columns)}",
            "a label is the index of a column of the probabilities, counted from 0, or the name of one",
            "Call the columns of the probabilities in the first line of the table as its labels call the classes",
        )
    return np.array([index[name] for name in given])


def _refuse_other_numbers(path: Path, labels: AnyArray, columns: Sequence[str]) -> None:
    """Refuse labels that may be meant as the numbers in the columns' names, which are not the columns' indices."""
    found = [name for name in map(re.compile(r"(\D*)(\d+)").fullmatch, columns) if name]
    numbers = [int(name[2]) for name in found]
    alike = len(found) == len(set(columns)) == len(columns) > 1 and len({name[1] for name in found}) == 1
    if not alike or numbers == list(range(len(numbers))) or not np.isin(labels, numbers).all():
        return
    in_order = ",".join(columns[n] for n in np.argsort(numbers))
    refuse(
        f"the labels of {path} are numbers, and the columns of the probabilities are called {', '.join(columns)}",
        "a label is the index of a column, counted from 0, and here it may be the number in the name of another",
        f"Name the columns in the order of the classes: --prob-columns {in_order}"
        if sorted(numbers) == list(range(len(numbers)))
        else "Number the labels and the columns from 0",
    )


def named_column(path: Path, column: str | None = None) -> tuple[Path, str | None]:
    """Return the file that `read_scores` reads, and what the column is called there; None where it has no name."""
    file, names = _chosen(path)
    name = names[0] if len(names) == 1 else None
    if file.suffix in TABLES and not names:
        columns = list(_columns(file, [], "the scores"))
        name = column or (columns[0] if len(columns) == 1 else "distance")
    return file, None if name is None or name.isdigit() else name


def title_of(path: Path) -> str:
    """Return what to call the array of a file: the column that is named, else the file's name without suffix."""
    file, names = _chosen(path)
    return names[0] if len(names) == 1 else file.stem


def _chosen(path: Path) -> tuple[Path, list[str]]:
    """Return the file, and what of it is meant (nothing: all)."""
    found = _CHOICE.fullmatch(str(path))
    if is_there(path) or found is None:
        return path, []
    return Path(found["file"]), [nfc(name) for name in found["names"].split(",")]


def _of_archive(file: Path, names: list[str], what: str) -> AnyArray:
    """Return the one array of a .npz file, or the one named; the others are not read."""
    with _reading(file, what):
        held = npz_headers(file)
    wanted = names or list(held)
    if len(wanted) != 1 or wanted[0] not in held:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in held.items())
        fix = f"Name it: {file}:{next(iter(held))}, for example" if held else _save(file)
        refuse(f"{file} holds {shapes or 'nothing'}", f"one array holds {what}", fix)
    with _reading(file, what):
        return npz_arrays(file, wanted)[wanted[0]]


def _columns(file: Path, names: list[str], what: str) -> dict[str, AnyArray]:
    """Return the columns of a table by name, or those of them that are named; without an index column."""
    with _reading(file, what):
        found = {".parquet": _of_parquet, ".jsonl": json_columns}.get(file.suffix, _of_text)(file)
    columns = {name: values for name, values in found.items() if name not in ("", "Unnamed: 0", "__index_level_0__")}
    if missing := [name for name in names if name not in columns]:
        _refuse_names(missing, columns, file, f"{file}:NAME")
    if len(set(names)) < len(names):
        refuse(f"{file}:{','.join(names)} names a column twice", "columns of an array are others", "Name each once")
    if not columns:
        refuse(f"{file} has an index and no other columns", f"it must hold {what}", _save(file))
    return {name: columns[name] for name in names} if names else columns


def _joined(columns: Mapping[str, AnyArray], file: Path, what: str) -> AnyArray:
    """Join one column as (N,), several as (N, K); columns that cannot belong to one array are refused."""
    if len(columns) == 1:
        return next(iter(columns.values()))
    fractions = [name for name, values in columns.items() if values.dtype.kind == "f"]
    others = [name for name, values in columns.items() if not _may_stand_with(values, bool(fractions))]
    if others:
        rest = ",".join(name for name in columns if name not in others)
        texts = [_text_in(name, columns[name]) for name in others if columns[name].dtype.kind not in "iub"]
        refuse(
            f"{file} has the columns {', '.join(columns)}, of which {', '.join(others)} cannot belong to {what}",
            "they must be numbers of one kind" + (f", and {texts[0]}" if texts else ""),
            f"Name the columns that are meant: {file}:{rest}"
            if rest
            else "Write numbers with a decimal point, and without signs such as %",
        )
    return np.column_stack(list(columns.values()))


def _text_in(name: str, values: AnyArray) -> str:
    """Say which entry of a column is the first that is no number."""
    entries = [str(one) if values.dtype.kind != "O" else one for one in values.tolist()]
    texts = [row for row, one in enumerate(entries) if isinstance(one, str)]
    row = next((row for row in texts if not _is_number(entries[row], ".")), next(iter(texts), 0))
    return f"{name} holds {entries[row]!r} in row {row}"


def _may_stand_with(values: AnyArray, fractions: bool) -> bool:
    """Tell whether a column may be one of several that make an array: a number, and no counter or label."""
    return values.dtype.kind in "fb" or (
        values.dtype.kind in "iu" and (not fractions or bool(np.isin(values, (0, 1)).all()))
    )


def _of_parquet(file: Path) -> dict[str, AnyArray]:
    pq = import_extra("pyarrow.parquet", "parquet", f"a parquet file ({file})")
    check_table(file)
    table = pq.ParquetFile(file).read()
    return named(table.column_names, [_plain(column) for column in table.itercolumns()])


def _of_text(file: Path) -> dict[str, AnyArray]:
    """Read columns of text by the names in its first line, or by number if that line is data."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        first, more = stream.readline().rstrip("\r\n"), stream.readline()
    separator = _separator(re.sub('"[^"]*"', "", first))
    if separator == " ":
        return named((), list(np.loadtxt(file, ndmin=2, encoding="utf-8-sig").T))
    fields = [field.strip() for field in next(csv.reader([first.removeprefix("# ")], delimiter=separator), [""])]
    if not more and not any(_is_number(field, ".") for field in fields):
        raise ValueError("it has no rows")
    point = "," if separator == ";" and "," in more else "."
    below = text_columns(file, separator, point, skip=1) if more else []
    if more and len(below) != len(fields):
        raise ValueError(f"its first line has {len(fields)} entries, the next has {len(below)}")
    if more and _are_names(fields, below, point):
        return named(fields, below)
    return named((), text_columns(file, separator, point))


def _separator(line: str) -> str:
    """Return the character between columns; a comma where there is one column only."""
    found = next((mark for mark in (";", "\t", ",") if mark in line), "")
    spaced = not found and len(line.split()) > 1 and all(_is_number(field, ".") for field in line.split())
    return " " if spaced else found or ","


def _are_names(fields: list[str], below: list[AnyArray], point: str) -> bool:
    """Tell whether the first line names the columns below it: it does not where each field could stand in its column.

    0, 1, 2, … above fractions, or after an empty field, are names: pandas writes them where there are no others.
    """
    rest = fields[1:] if fields[0] == "" else fields
    if rest == [str(number) for number in range(len(rest))]:
        return fields[0] == "" or all(column.dtype.kind == "f" for column in below)

    def could_stand(field: str, column: AnyArray) -> bool:
        if column.dtype.kind == "U":
            return field in column
        return field.lower() in ("true", "false") if column.dtype.kind == "b" else _is_number(field, point)

    return not all(map(could_stand, fields, below))


def _is_number(field: str, point: str) -> bool:
    """Tell whether it is a number, or says that one is missing."""
    try:
        float(field.replace(point, "."))
    except ValueError:
        return field.lower() in MISSING
    return True


def _plain(column: Any) -> AnyArray:
    """Return a column of pyarrow as numpy: numbers, booleans or strings."""
    array = (column.cast("float64") if str(column.type).startswith("decimal") else column).to_numpy()
    texts = array.dtype.kind == "O" and all(isinstance(value, str) for value in array)
    return array.astype(np.str_) if texts else np.asarray(array)


def _refuse_names(missing: list[str], columns: Mapping[str, Any], file: Path, how: str) -> NoReturn:
    given = f"{file} has no column {', '.join(map(repr, missing))}"
    refuse(given, f"it has {', '.join(columns)}", f"Name one of these with {how}")


def _refuse_kind(file: Path, what: str) -> NoReturn:
    fix = _save(file)
    if file.suffix in (".pt", ".pth"):
        fix = f"Save the tensor as an array: np.save('{file.stem}.npy', torch.load('{file.name}').numpy())"
    elif file.suffix in MODELS:
        fix = "If it is a model, run it on the test inputs, and save what it predicts: np.save('probs.npy', probs)"
    refuse(f"the file of {what} is {file.name}", f"it must be one of the kinds {', '.join(READABLE)}", fix)


def _save(file: Path) -> str:
    return f"Save the array: np.save('{file.stem}.npy', array)"


def _reading(file: Path, what: str) -> contextlib.AbstractContextManager[None]:
    return reading(file, what, rule=RULE, fix=lambda reason: _fix(file, reason))


def _fix(file: Path, reason: str) -> str:
    """Return what to do with a file that is not read for a reason."""
    if "Python objects" in reason:
        return f"Save numbers: np.save('{file.stem}.npy', np.array(array.tolist()))"
    if file.suffix == ".npy" and "no .npy file" in reason:
        return f"Give it the suffix of what it is, one of {', '.join(READABLE)}; or save the array with np.save"
    if "codec can't decode" in reason:
        return "Save the text in UTF-8, which spreadsheets call CSV UTF-8"
    if file.suffix in TEXTS and "entries" in reason:
        return "Give each line as many entries as the first, and leave out lines above the names"
    return _save(file)
